"""`report.html`: everything that is known of a version, on one page that needs no network and no script.

Made from the artifact's own files, so that it can be made again at any time. Plots also lie beside it as PNG.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import ValidationError

from models.artifact import read_confidence, read_manifest
from models.errors import ArtifactError, describe
from models.review import REVIEW, THUMBNAILS, read_review, review_bytes, thumbnail_name
from training.history import HISTORY, History
from training.page.build import build
from training.page.parts import Pictures
from training.page.source import Source

if TYPE_CHECKING:
    from collections.abc import Mapping

    from models.confidence.schema import Confidence
    from models.manifest import Manifest
    from models.review_schema import Review
    from training.page.parts import Page

REPORT = "report.html"
PLOTS = "plots"
_TEMPLATES = Path(__file__).parent / "page"


def write_review(folder: Path, review: Review, thumbnails: Mapping[str, bytes]) -> None:
    """Write `review.json` and `thumbnails/*.jpg` into an artifact that is not sealed yet.

    Args:
        folder: The artifact's folder, which exists.
        review: As `interpret` made it.
        thumbnails: JPEG by image id, as `make_thumbnails` made them.
    """
    (folder / REVIEW).write_bytes(review_bytes(review))
    (folder / THUMBNAILS).mkdir(exist_ok=True)
    for image_id, data in thumbnails.items():
        (folder / thumbnail_name(image_id)).write_bytes(data)


def write_report(folder: Path, manifest: Manifest) -> None:
    """Write `report.html` and `plots/*.png` into an artifact that is not sealed yet, from the other files in it.

    Args:
        folder: The artifact's folder, with `confidence.json` and, where there are any, `review.json`, `history.json` and
            `thumbnails/`.
        manifest: Its card, with the version that it is going to be.

    Raises:
        ArtifactError: If one of them is not valid.
    """
    page = build(_source(folder, manifest))
    (folder / REPORT).write_text(render(page), encoding="utf-8")
    (folder / PLOTS).mkdir(exist_ok=True)
    for plot in page.plots():
        (folder / PLOTS / f"{plot.name}.png").write_bytes(plot.light)


def render_from_artifact(path: Path) -> str:
    """The page of a published version, made again from its files; nothing is written.

    Raises:
        ArtifactError: If there is no artifact, or one of its files is not valid.
        ManifestError: If its manifest is not valid.
    """
    return render(build(_source(path, read_manifest(path))))


def render_evaluation(
    manifest: Manifest, confidence: Confidence, review: Review, thumbnails: Mapping[str, bytes], data: str
) -> str:
    """The page of a version's scores on other data, which go by the name `data`."""
    return render(build(Source(manifest, confidence, review, None, Pictures(thumbnails.get), other_data=data)))


def render(page: Page) -> str:
    """Lay a page out as HTML; every text is escaped."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("report.html.j2").render(page=page).lstrip()


def _source(folder: Path, manifest: Manifest) -> Source:
    def read(image_id: str) -> bytes | None:
        try:
            return (folder / thumbnail_name(image_id)).read_bytes()
        except FileNotFoundError:
            return None

    return Source(manifest, read_confidence(folder), read_review(folder), _read_history(folder), Pictures(read))


def _read_history(folder: Path) -> History | None:
    try:
        return History.model_validate_json((folder / HISTORY).read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as err:
        raise ArtifactError(f"{describe(err, 'history.{}'.format)}\nread it with the candor that wrote it") from err
