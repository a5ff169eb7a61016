"""What a page is made from: the files of an artifact, or the review of a version on other data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.confidence.schema import Confidence
    from models.manifest import Manifest
    from models.review_schema import Review
    from training.history import History
    from training.page.parts import Pictures


@dataclass(frozen=True)
class Source:
    """Everything that a page says comes from here.

    Attributes:
        manifest: The version's card.
        confidence: What it says of its calibration.
        review: None where it was published without one.
        history: None where training was not recorded, or does not matter.
        pictures: Thumbnails.
        other_data: Where it was scored, if that is not the data that it was made from.
    """

    manifest: Manifest
    confidence: Confidence
    review: Review | None
    history: History | None
    pictures: Pictures
    other_data: str | None = None
