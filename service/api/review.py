"""The lists of `GET /models/{name}/interpretation/review`, page by page.

A version never changes, so a page is a place in a list; a cursor names both, and one of another list is refused.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Any, get_args

from pydantic import BaseModel, Field

from models.recipe import Task  # noqa: TC001 - pydantic reads the annotation
from models.review import ID_PREFIX, By, Question, answer, by_id, thumbnail_name
from models.review_schema import (
    MeasuredImage,
    MultiLabelReview,
    RegressionReview,
    ReviewedImage,
    SingleLabelReview,
    Suspect,
    TaggedImage,
)
from service.errors import BadRequestError

if TYPE_CHECKING:
    from models.review_schema import Review
    from service.published import Published

__all__ = ["By", "ReviewPage", "review_page"]

QUESTIONS: tuple[str, ...] = get_args(Question)
TAG_LISTS = ("most_sure", "unsure", "false_alarms", "missed")
LISTS: dict[Task, tuple[str, ...]] = {
    "single_label": (*QUESTIONS, "top_losses", "suspects"),
    "multi_label": TAG_LISTS,
    "regression": ("largest_errors",),
}
# They are a label's own; the other lists are of all images, and a label narrows them down.
OF_A_LABEL = frozenset((*QUESTIONS, *TAG_LISTS))
_MOST_NAMED = 5
Thumbnail = Annotated[str | None, Field(description="where to get it in small; null where the version has no picture of it")]


class ReviewedItem(ReviewedImage):
    """With one label an image."""

    thumbnail: Thumbnail
    below_threshold: bool | None = Field(
        description="confidently_wrong: listed though not confident, for want of worse; else null"
    )


class SuspectItem(Suspect):
    """An image whose label may be wrong."""

    thumbnail: Thumbnail


class TaggedItem(TaggedImage):
    """With any number of labels an image."""

    thumbnail: Thumbnail
    p: float = Field(description="calibrated probability of the label that the list is of")


class MeasuredItem(MeasuredImage):
    """With a number an image."""

    thumbnail: Thumbnail


Items = list[ReviewedItem] | list[SuspectItem] | list[TaggedItem] | list[MeasuredItem]
_KINDS: dict[str, type[BaseModel]] = {
    **dict.fromkeys((*QUESTIONS, "top_losses"), ReviewedItem),
    "suspects": SuspectItem,
    **dict.fromkeys(TAG_LISTS, TaggedItem),
    "largest_errors": MeasuredItem,
}


class ReviewPage(BaseModel):
    """A part of one list, in its order."""

    name: str
    version: int
    task: Task
    list: str
    label: str | None
    by: By
    total: int | None = Field(description="how many the list has; null where the version has no such list")
    items: Items | None
    next_cursor: str | None = Field(description="for the next page; null on the last one")
    unavailable: dict[str, str]


def review_page(published: Published, listed: str, label: str | None, by: By, limit: int, cursor: str | None) -> ReviewPage:
    """Answer one page.

    Args:
        published: The version.
        listed: Which list.
        label: Whose, or None for a list that is of all images.
        by: Whether that is what the model says or what the image has.
        limit: How many images at most.
        cursor: Where the page before ended.

    Raises:
        BadRequestError: If list, label or cursor is unknown.
    """
    manifest, review = published.manifest, published.review
    _check(published, listed, label)
    rows = None if review is None else _rows(review, listed, label, by)
    place = hashlib.sha256(repr((manifest.sha256, listed, label, by)).encode()).hexdigest()[:12]
    start = 0 if cursor is None else _start(cursor, place, len(rows or ()))
    shown = None if rows is None else rows[start : start + limit]
    end = start + limit
    return ReviewPage(
        name=manifest.name,
        version=manifest.version,
        task=manifest.task,
        list=listed,
        label=label,
        by=by,
        total=None if rows is None else len(rows),
        items=None if shown is None else [_item(published, listed, row) for row in shown],
        next_cursor=f"{place}.{end}" if rows is not None and end < len(rows) else None,
        unavailable={**published.missing, **(review.unavailable if review is not None else {})},
    )


def _check(published: Published, listed: str, label: str | None) -> None:
    manifest = published.manifest
    known = LISTS[manifest.task]
    if listed not in known:
        raise BadRequestError(f"list is {listed!r:.80}, expected one of {', '.join(known)} with task {manifest.task}")
    if label is None and listed in OF_A_LABEL:
        raise BadRequestError(f"{listed} is a list of one label; say which, with label=")
    if label is not None and label not in manifest.labels:
        some = ", ".join(manifest.labels[:_MOST_NAMED])
        raise BadRequestError(f"label is {label!r:.80}, and {manifest.name} has no such label; some that it has: {some:.400}")


def _rows(review: Review, listed: str, label: str | None, by: By) -> list[dict[str, Any]] | None:
    """The whole list as JSON types; None where the version has none."""
    if isinstance(review, RegressionReview):
        measured = by_id(review.images)
        return [measured[image_id].model_dump() for image_id in review.largest_errors]
    if isinstance(review, MultiLabelReview):
        tagged = by_id(review.images)
        entry = next((entry for entry in review.per_label if entry.scores.label == label), None)
        return None if entry is None else [tagged[one.id].model_dump() | {"p": one.p} for one in getattr(entry, listed)]
    if listed == "suspects":
        return _suspects(review, label, by)
    if listed == "top_losses":
        described = by_id(review.images)
        rows = [described[image_id].model_dump() | {"below_threshold": None} for image_id in review.top_losses]
        return [row for row in rows if label in (None, row[by])]
    return _question(review, listed, label, by)


def _question(review: SingleLabelReview, listed: str, label: str | None, by: By) -> list[dict[str, Any]] | None:
    question: Question = next(one for one in get_args(Question) if one == listed)
    try:
        rows = answer(review, label or "", question, by)
    except KeyError:
        # A review without held-out images asks nothing, and says so in `unavailable`.
        return None
    return None if rows is None else [{"below_threshold": None} | row for row in rows]


def _suspects(review: SingleLabelReview, label: str | None, by: By) -> list[dict[str, Any]] | None:
    if review.suspects is None:
        return None
    rows = [suspect.model_dump() for suspect in review.suspects.listed]
    return [row for row in rows if label in (None, row["label" if by == "actual" else "suggested"])]


def _item(published: Published, listed: str, row: dict[str, Any]) -> Any:
    manifest = published.manifest
    thumbnail = None
    if thumbnail_name(row["id"]) in manifest.files:
        digits = row["id"].removeprefix(ID_PREFIX)
        thumbnail = f"/models/{manifest.name}/interpretation/thumbnails/{digits}?version={manifest.version}"
    return _KINDS[listed].model_validate(row | {"thumbnail": thumbnail})


def _start(cursor: str, place: str, length: int) -> int:
    given, _, start = cursor.partition(".")
    if given != place or not start.isdecimal() or len(start) > len(str(length)) or not 0 < int(start) < length:
        raise BadRequestError(f"cursor {cursor!r:.80} is not of this list and version; begin again without one")
    return int(start)
