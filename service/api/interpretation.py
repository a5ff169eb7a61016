"""`GET /models/{name}/interpretation` and below: what a version is sure and unsure of, on images that it was held back from.

Read from the files that it was published with (`service.published`). What a version lacks is null, and `unavailable` says
why; only what nobody has, such as an unknown label, is an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from models.confidence.schema import Confidence  # noqa: TC001 - pydantic reads the annotation
from models.dataset import Split  # noqa: TC001 - pydantic reads the annotation
from models.recipe import Task  # noqa: TC001 - pydantic reads the annotation
from models.review_schema import (
    Confused,
    LabelScores,
    MultiLabelReview,
    NumberScores,
    Reliability,
    Scores,
    SingleLabelReview,
    TagScores,
)
from service.api.answer import bytes_of
from service.api.review import By, ReviewPage, review_page
from service.published import Overfit  # noqa: TC001 - pydantic reads the annotation

if TYPE_CHECKING:
    from service.engine import EngineRef
    from service.published import Published

# A matrix of more labels is larger than anybody's screen, and tens of megabytes.
MOST_LABELS = 300
_DIGITS = 6
# A report has no script and loads nothing, so nothing that got into it by an odd label or file name may do either.
REPORT_HEADERS = {
    "content-security-policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; sandbox",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
Normalize = Literal["none", "actual", "predicted"]
Version = Annotated[int | None, Query(ge=1, le=999_999_999, description="a number; without it the one in production")]


class VersionCard(BaseModel):
    """Which version is spoken of."""

    name: str
    version: int
    task: Task


class About(BaseModel):
    """Of every answer: which version, and why a part of it is null."""

    model: VersionCard
    unavailable: dict[str, str] = Field(description="what the version lacks, and why")


class Interpretation(About):
    """Everything that is known of a version as a whole."""

    judged_on: Split | None = Field(description="the split that tables and plots are of")
    splits: dict[str, int] | None = Field(description="how many images each split had")
    scores: dict[Split, Scores] | dict[Split, TagScores] | dict[Split, NumberScores] | None
    per_label: tuple[LabelScores, ...] | None = Field(description="null with regression")
    confidence: Confidence | None = Field(description="calibration, expected accuracy, acceptance, self-tests")
    overfit: Overfit | None
    findings: tuple[str, ...] | None = Field(description="what to know first, as sentences")


class ConfusionMatrix(About):
    """How often images of one label were taken for another."""

    split: Split | None
    normalize: Normalize
    labels: tuple[str, ...]
    matrix: list[list[float | None]] | None = Field(
        description="rows: the actual label; columns: the predicted one. Shares are null where there is nothing to share out"
    )


class MostConfused(About):
    """The pairs of labels that are taken for one another, the most frequent first."""

    split: Split | None
    pairs: list[Confused] | None


class ReliabilityAnswer(About):
    """What was stated against how often it was right."""

    split: Split | None
    reliability: Reliability | None


def interpretation_router(engine: EngineRef) -> APIRouter:
    """The routes, over an engine that exists when they are called."""
    router = APIRouter(prefix="/models/{name}", tags=["interpretation"])
    _add_tables(router, engine)

    @router.get("/interpretation/review", summary="Images that a version is sure of, unsure of, and wrong about")
    def review(
        name: str,
        listed: Annotated[
            str,
            Query(
                alias="list",
                description="single_label: most_confident, least_confident, confidently_wrong, unfamiliar, top_losses, suspects; "
                "multi_label: most_sure, unsure, false_alarms, missed; regression: largest_errors",
            ),
        ],
        label: Annotated[str | None, Query(description="of the model; the lists of one label need it")] = None,
        by: Annotated[By, Query(description="whether `label` is what the model says or what the image has")] = "predicted",
        limit: Annotated[int, Query(ge=1, le=100)] = 25,
        cursor: Annotated[str | None, Query(description="`next_cursor` of the page before")] = None,
        version: Version = None,
    ) -> ReviewPage:
        return review_page(engine.get().published.get(name, version), listed, label, by, limit, cursor)

    @router.get("/interpretation/thumbnails/{image_id}", summary="A listed image in small", **bytes_of("image/jpeg"))
    def thumbnail(name: str, image_id: str, version: Version = None) -> Response:
        data = engine.get().published.thumbnail(name, version, image_id)
        return Response(data, media_type="image/jpeg", headers={"x-content-type-options": "nosniff"})

    @router.get("/versions/{version}/report", summary="A version's report, for people", **bytes_of("text/html"))
    def report(name: str, version: Annotated[int, Path(ge=1, le=999_999_999)]) -> Response:
        data = engine.get().published.report(name, version)
        return Response(data, media_type="text/html; charset=utf-8", headers=REPORT_HEADERS)

    return router


def _add_tables(router: APIRouter, engine: EngineRef) -> None:
    @router.get("/interpretation", summary="How good a version is, how far to believe it, and what it was checked for")
    def interpretation(name: str, version: Version = None) -> Interpretation:
        return _interpretation(engine.get().published.get(name, version))

    @router.get("/interpretation/confusion-matrix", summary="Actual labels against predicted ones")
    def confusion_matrix(name: str, normalize: Normalize = "none", version: Version = None) -> ConfusionMatrix:
        return _confusion_matrix(engine.get().published.get(name, version), normalize)

    @router.get("/interpretation/most-confused", summary="Pairs of labels that are taken for one another")
    def most_confused(name: str, min_val: Annotated[int, Query(ge=1)] = 1, version: Version = None) -> MostConfused:
        published = engine.get().published.get(name, version)
        review, about = _single_label(published, "most_confused")
        split = review.judged_on if review is not None else None
        pairs = review.most_confused(min_val) if review is not None and split is not None else None
        return MostConfused(**about, split=split, pairs=pairs)

    @router.get("/interpretation/reliability", summary="Stated probabilities against how often they were right")
    def reliability(name: str, version: Version = None) -> ReliabilityAnswer:
        review, about = _single_label(engine.get().published.get(name, version), "reliability")
        if review is None:
            return ReliabilityAnswer(**about, split=None, reliability=None)
        return ReliabilityAnswer(**about, split=review.judged_on, reliability=review.reliability)


def _interpretation(published: Published) -> Interpretation:
    review, confidence, manifest = published.review, published.confidence, published.manifest
    about = _about(published)
    about["unavailable"] |= confidence.unavailable if confidence is not None else {}
    return Interpretation(
        **about,
        judged_on=review.judged_on if review is not None else None,
        splits=dict(manifest.dataset.splits) if manifest.dataset is not None else None,
        scores=review.scores if review is not None else None,
        per_label=_per_label(published),
        confidence=confidence,
        overfit=published.overfit,
        findings=review.findings if review is not None else None,
    )


def _per_label(published: Published) -> tuple[LabelScores, ...] | None:
    review = published.review
    if isinstance(review, MultiLabelReview):
        return tuple(entry.scores for entry in review.per_label)
    return review.per_label if isinstance(review, SingleLabelReview) else None


def _confusion_matrix(published: Published, normalize: Normalize) -> ConfusionMatrix:
    review, about = _single_label(published, "matrix")
    labels = published.manifest.labels
    if len(labels) > MOST_LABELS:
        about["unavailable"]["matrix"] = f"of more than {MOST_LABELS} labels; most-confused lists the cells that are not 0"
    split = review.judged_on if review is not None else None
    cells = None
    if review is not None and split is not None and len(labels) <= MOST_LABELS:
        cells = _normalized(review, normalize)
    return ConfusionMatrix(**about, split=split, normalize=normalize, labels=labels, matrix=cells)


def _normalized(review: SingleLabelReview, normalize: Normalize) -> list[list[float | None]]:
    counts = review.confusion_matrix()
    if normalize == "none":
        return [[float(count) for count in row] for row in counts.tolist()]
    totals = counts.sum(axis=1 if normalize == "actual" else 0, keepdims=True).repeat(
        len(counts), 1 if normalize == "actual" else 0
    )
    return [
        [round(count / total, _DIGITS) if total else None for count, total in zip(row, of, strict=True)]
        for row, of in zip(counts.tolist(), totals.tolist(), strict=True)
    ]


def _single_label(published: Published, what: str) -> tuple[SingleLabelReview | None, dict[str, Any]]:
    """The review, where it has such tables at all, and what every answer begins with."""
    about = _about(published)
    if isinstance(published.review, SingleLabelReview):
        return published.review, about
    task = published.manifest.task
    if task != "single_label":
        about["unavailable"][what] = f"belongs to one label an image, and the task is {task}"
    return None, about


def _about(published: Published) -> dict[str, Any]:
    manifest = published.manifest
    card = VersionCard(name=manifest.name, version=manifest.version, task=manifest.task)
    of_review = published.review.unavailable if published.review is not None else {}
    return {"model": card, "unavailable": {**published.missing, **of_review}}
