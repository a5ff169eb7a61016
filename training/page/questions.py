"""The lists of each label: what it is sure of, unsure of, sure of but wrong, and what is strange to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.confidence.familiarity import verdict
from models.review import by_id, weakest_first
from training.page.parts import Album, Card, Fold, Part, Text, counted, percent
from training.thumbnails import MOST_SHOWN_LABELS

if TYPE_CHECKING:
    from models.review_schema import LabelReview, ReviewedImage, SingleLabelReview
    from training.page.parts import Pictures
    from training.page.source import Source

# Pictures of one list, where few labels are shown; and of all lists of a kind together, where many are.
_LONGEST_LIST, _MOST_OF_A_KIND = 12, 300


def questions(source: Source, review: SingleLabelReview) -> tuple[Part, ...]:
    """The weakest label first, a fold each."""
    described = by_id(review.images)
    order = weakest_first(review.per_label)[:MOST_SHOWN_LABELS]
    length = min(_LONGEST_LIST, max(1, _MOST_OF_A_KIND // len(order)))
    which = f"Images that it was not trained on ({', '.join(review.held_out)})"
    which = f"Every image of “{source.other_data}”" if source.other_data else which
    how = "Probabilities are calibrated; pictures are what the network saw, cropped and scaled."
    parts: list[Part] = [Text(f"{which}, the weakest label first. {how}")]
    if len(order) < len(review.labels):
        parts.append(Text(f"The {len(order)} weakest of {len(review.labels)} labels; all of them are in review.json."))
    if "unfamiliar" in review.unavailable:
        parts.append(Text(f"Which of them are strange is not known: {review.unavailable['unfamiliar']}.", is_note=True))
    for place, index in enumerate(order):
        parts.append(_of_label(review.questions[index], described, source.pictures, length, is_open=place == 0))
    return tuple(parts)


def _of_label(entry: LabelReview, described: dict[str, ReviewedImage], pictures: Pictures, length: int, *, is_open: bool) -> Fold:
    label, threshold = f"“{entry.label}”", percent(entry.threshold)
    mark = f"under {threshold}"

    def album(title: str, note: str, ids: tuple[str, ...], threshold: float = 0.0) -> Album:
        images = [described[image_id] for image_id in ids[:length]]
        cards = tuple(card(image, pictures, mark if image.p_predicted < threshold else "") for image in images)
        return Album(title, note, cards)

    strange = entry.predicted.unfamiliar
    return Fold(
        entry.label,
        f"{counted(entry.predicted.over_threshold, 'confident false alarm')}, "
        f"{counted(entry.actual.over_threshold, 'confident miss', 'confident misses')}",
        (
            album(f"Sure, and right: {label}", "The most probable first.", entry.predicted.most_confident),
            album(f"Unsure: called {label}, hardly", "The least probable first, right or not.", entry.predicted.least_confident),
            album(
                f"Sure, but wrong: called {label}, and is not",
                f"{counted(entry.predicted.over_threshold, 'error')} at {threshold} or more. That is where confidence begins for "
                "this label: the median of what it gets right, or 90 %, whichever is higher.",
                entry.predicted.confidently_wrong,
                entry.threshold,
            ),
            album(
                f"Sure, but wrong: is {label}, and was called something else",
                f"{counted(entry.actual.over_threshold, 'error')} at {threshold} or more.",
                entry.actual.confidently_wrong,
                entry.threshold,
            ),
            *(() if strange is None else (_strange(label, [described[image_id] for image_id in strange[:length]], pictures),)),
        ),
        is_open,
    )


def _strange(label: str, images: list[ReviewedImage], pictures: Pictures) -> Album:
    """What was called so, the strangest first; marked where the service would say so."""

    def mark(p_familiar: float | None) -> str:
        named = "familiar" if p_familiar is None else verdict(p_familiar)
        return "" if named == "familiar" else named

    return Album(
        f"Strange: called {label}, and least like what it learnt from",
        "The strangest first, right or not. Of images like the data one in 20 is unusual, and one in 100 unknown.",
        tuple(card(image, pictures, mark(image.p_familiar)) for image in images),
    )


def card(image: ReviewedImage, pictures: Pictures, mark: str = "") -> Card:
    """One image: what it was called, and what it is."""
    is_wrong = image.actual != image.predicted
    return Card(
        source=pictures.source(image.id),
        first=f"{image.predicted} {percent(image.p_predicted)}",
        second=f"is {image.actual} {percent(image.p_actual)}" if is_wrong else "right",
        path=image.path,
        is_wrong=is_wrong,
        mark=mark,
    )
