"""Reading and writing `review.json`, and the questions that it answers. What it holds is `models.review_schema`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from models.errors import ArtifactError, describe
from models.review_schema import MeasuredImage, Review, ReviewedImage, SingleLabelReview, TaggedImage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from models.review_schema import LabelScores

REVIEW = "review.json"
THUMBNAILS = "thumbnails"
ID_PREFIX = "sha256:"
# An error is confident from this calibrated probability on, or from what is usual for the label where that is higher.
CONFIDENT = 0.9

Question = Literal["most_confident", "least_confident", "confidently_wrong", "unfamiliar"]
By = Literal["predicted", "actual"]
Item = TypeVar("Item", ReviewedImage, TaggedImage, MeasuredImage)
_ADAPTER: TypeAdapter[Review] = TypeAdapter(Annotated[Review, Field(discriminator="task")])


def parse_review(data: bytes) -> Review:
    """Read `review.json`.

    Raises:
        ArtifactError: If a key is missing, unknown or out of range.
    """
    try:
        return _ADAPTER.validate_json(data)
    except ValidationError as err:
        raise ArtifactError(f"{describe(err, 'review.{}'.format)}\nread it with the candor that wrote it") from err


def read_review(folder: Path) -> Review | None:
    """The review of the artifact in `folder`; None where it was published without one.

    Raises:
        ArtifactError: If it is not valid.
    """
    try:
        return parse_review((folder / REVIEW).read_bytes())
    except FileNotFoundError:
        return None


def review_bytes(review: Review) -> bytes:
    """What stands in `review.json`: on one line, since it may list tens of thousands of images."""
    return review.model_dump_json().encode() + b"\n"


def by_id(images: Sequence[Item]) -> dict[str, Item]:
    """The described images by their id."""
    return {image.id: image for image in images}


def weakest_first(scores: Sequence[LabelScores]) -> list[int]:
    """The indices of the labels by F1, the lowest first; those that nothing is known of come last."""
    return sorted(range(len(scores)), key=lambda index: 2.0 if (f1 := scores[index].f1) is None else f1.value)


def thumbnail_name(image_id: str) -> str:
    """Where an image's thumbnail lies in the artifact, if it has one: `thumbnails/<digits>.jpg`."""
    return f"{THUMBNAILS}/{image_id.removeprefix(ID_PREFIX)}.jpg"


def answer(review: SingleLabelReview, label: str, question: Question, by: By) -> list[dict[str, Any]] | None:
    """One list as JSON types, in order: each image described, and with `confidently_wrong` whether it is `below_threshold`.

    None where the review has no such list, and its `unavailable` says why.

    Raises:
        KeyError: If the model has no such label.
    """
    asked = {entry.label: entry for entry in review.questions}[label]
    described = by_id(review.images)
    ids: tuple[str, ...] | None = getattr(getattr(asked, by), question)
    if ids is None:
        return None
    rows = [described[image_id].model_dump(mode="json") for image_id in ids]
    if question == "confidently_wrong":
        return [row | {"below_threshold": row["p_predicted"] < asked.threshold} for row in rows]
    return rows
