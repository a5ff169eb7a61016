"""What a page says of a model with any number of labels an image, or with a number."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from models.dataset import SPLITS
from models.review import by_id, weakest_first
from training import plots
from training.page.course import plot
from training.page.facts import findings
from training.page.parts import (
    NBSP,
    Album,
    Beside,
    Card,
    Fold,
    Part,
    Section,
    Table,
    Text,
    Tile,
    between,
    counted,
    number,
    percent,
    points,
    ranged,
    sentence,
)
from training.thumbnails import MOST_SHOWN_LABELS

if TYPE_CHECKING:
    from models.review_schema import Listed, MultiLabelReview, RegressionReview, TaggedImage, TagReview
    from training.page.parts import Pictures
    from training.page.source import Source

_LONGEST_LIST, _MOST_OF_A_KIND = 12, 300
_NOTHING_HELD_OUT = "Nothing was held out from training, so nobody knows how good it is on new images."


def lead_multi_label(review: MultiLabelReview, other_data: str | None) -> str:
    """How good, in one sentence."""
    if review.judged_on is None:
        return _NOTHING_HELD_OUT
    scores = review.scores[review.judged_on]
    where = f"“{other_data}”" if other_data else f"the {review.judged_on} split"
    return (
        f"Of {counted(scores.images, 'image')} of {where}, every label is right at once on {percent(scores.exact.value)} "
        f"({between(scores.exact)} allowing for chance); mean average precision {percent(scores.mean_average_precision)}."
    )


def tiles_multi_label(review: MultiLabelReview) -> list[Tile]:
    """The numbers of the first screen."""
    if review.judged_on is None:
        return []
    scores = review.scores[review.judged_on]
    return [
        Tile("mean average precision", percent(scores.mean_average_precision), "over the labels"),
        Tile("mean F1", percent(scores.macro_f1), "over the labels, at their thresholds"),
        Tile("all labels right", percent(scores.exact.value), between(scores.exact)),
        Tile("calibration error", f"{points(scores.ece)} points", "over every decision about a label"),
    ]


def sections_multi_label(source: Source, review: MultiLabelReview) -> list[Section]:
    """The data, the labels, and their images."""
    rows = [
        (
            split,
            f"{s.images:,}",
            points(s.mean_average_precision),
            points(s.macro_f1),
            ranged(s.exact),
            f"{s.nll:.3f}",
            points(s.ece),
        )
        for split in SPLITS
        if (s := review.scores.get(split)) is not None
    ]
    head = ("split", "images", "mAP", "mean F1", "all right", "NLL", "ECE")
    table = Table("In per cent, with 95 % intervals; NLL in nats.", head, tuple(rows))
    found = [Section("data", "Data and scores", (table, *_notes(review), *findings(source)))]
    if review.per_label:
        found += [
            Section("labels", "Label by label", (_tag_table(review),)),
            Section("questions", "Sure, unsure, and wrong", _tag_questions(review, source.pictures)),
        ]
    return found


def _tag_table(review: MultiLabelReview) -> Table:
    rows = []
    for entry in (review.per_label[index] for index in weakest_first([one.scores for one in review.per_label])):
        scores = entry.scores
        precision = "\N{EN DASH}" if entry.average_precision is None else points(entry.average_precision)
        rows.append(
            (
                scores.label,
                f"{scores.actual:,}",
                points(entry.threshold),
                precision,
                ranged(scores.precision),
                ranged(scores.recall),
                ranged(scores.f1),
            )
        )
    caption = f"On {review.judged_on}, the weakest first; in per cent, with 95 % intervals. AP is average precision."
    return Table(caption, ("label", "images", "threshold", "AP", "precision", "recall", "F1"), tuple(rows))


def _tag_questions(review: MultiLabelReview, pictures: Pictures) -> tuple[Part, ...]:
    described = by_id(review.images)
    order = weakest_first([entry.scores for entry in review.per_label])[:MOST_SHOWN_LABELS]
    length = min(_LONGEST_LIST, max(1, _MOST_OF_A_KIND // len(order)))
    intro = f"Images that it was not trained on ({', '.join(review.held_out)}), the weakest label first."
    return Text(intro), *(
        _tag_question(review.per_label[index], described, pictures, length, is_open=place == 0)
        for place, index in enumerate(order)
    )


def _tag_question(entry: TagReview, described: dict[str, TaggedImage], pictures: Pictures, length: int, *, is_open: bool) -> Fold:
    label = f"“{entry.scores.label}”"

    def album(title: str, note: str, listed: tuple[Listed, ...]) -> Album:
        return Album(title, note, tuple(_tag_card(entry, one, described[one.id], pictures) for one in listed[:length]))

    return Fold(
        entry.scores.label,
        f"selected from {percent(entry.threshold)} on",
        (
            album(f"Sure, and right: has {label}", "The most probable first.", entry.most_sure),
            album("Unsure", "Nearest to the threshold.", entry.unsure),
            album(f"Wrong: has no {label}, and was said to", "The most probable first.", entry.false_alarms),
            album(f"Wrong: has {label}, and it was missed", "The least probable first.", entry.missed),
        ),
        is_open,
    )


def _tag_card(entry: TagReview, one: Listed, image: TaggedImage, pictures: Pictures) -> Card:
    label = entry.scores.label
    return Card(
        source=pictures.source(image.id),
        first=f"{label} {percent(one.p)}",
        second=f"has {', '.join(image.actual) or 'no label'}",
        path=image.path,
        is_wrong=(label in image.actual) != (one.p >= entry.threshold),
    )


def lead_regression(review: RegressionReview, other_data: str | None) -> str:
    """How good, in one sentence."""
    if review.judged_on is None:
        return _NOTHING_HELD_OUT
    scores = review.scores[review.judged_on]
    where = f"“{other_data}”" if other_data else f"the {review.judged_on} split"
    return (
        f"On {counted(scores.images, 'image')} of {where} it is {_with_unit(scores.mae, review)} off on average, and explains "
        f"{percent(max(scores.r2, 0.0))} of what makes them differ (R2 {scores.r2:.3f})."
    )


def tiles_regression(review: RegressionReview) -> list[Tile]:
    """The numbers of the first screen."""
    if review.judged_on is None:
        return []
    scores = review.scores[review.judged_on]
    low, *_, high = scores.quantiles
    return [
        Tile("mean error", _with_unit(scores.mae, review), "absolute"),
        Tile("R2", f"{scores.r2:.3f}", "0 is no better than always saying the mean"),
        Tile("nine of ten errors", f"{number(low)} to {number(high)}", "predicted less actual, 5 to 95 % quantile"),
        Tile("bias", _with_unit(scores.bias, review), "mean of predicted less actual"),
    ]


def sections_regression(source: Source, review: RegressionReview) -> list[Section]:
    """The data, predicted against actual, and the largest errors."""
    rows = [
        (split, f"{s.images:,}", number(s.mae), number(s.rmse), f"{s.r2:.3f}", number(s.bias))
        for split in SPLITS
        if (s := review.scores.get(split)) is not None
    ]
    unit = f"In {review.unit}." if review.unit else "In the number's own unit."
    table = Table(unit, ("split", "images", "mean error", "RMSE", "R2", "bias"), tuple(rows))
    found = [Section("data", "Data and scores", (table, *_notes(review), *findings(source)))]
    if review.points:
        found.append(Section("errors", "Predicted against actual", (_number_plots(review),)))
    if review.largest_errors:
        note = "Of all images that it was not trained on" + (f", in {review.unit}." if review.unit else ".")
        cards = tuple(_measured_cards(review, source.pictures))
        found.append(Section("losses", "Largest errors", (Album("The worst first", note, cards),)))
    return found


def _number_plots(review: RegressionReview) -> Beside:
    where = f"{counted(len(review.points), 'image')} of {review.judged_on}"
    return Beside(
        (
            plot(
                "predicted",
                f"Predicted against actual, {where}.",
                "On the dotted line it is right.",
                partial(plots.predicted_against_actual, review),
            ),
            plot(
                "residuals",
                f"How often which error occurs, {where}.",
                "Errors; left of 0 it says too little.",
                partial(plots.residuals, review),
            ),
        )
    )


def _measured_cards(review: RegressionReview, pictures: Pictures) -> list[Card]:
    described = by_id(review.images)
    return [
        Card(
            source=pictures.source(image.id),
            first=f"said {number(image.predicted)}",
            second=f"is {number(image.actual)}",
            path=image.path,
            is_wrong=True,
        )
        for image in (described[image_id] for image_id in review.largest_errors)
    ]


def _with_unit(value: float, review: RegressionReview) -> str:
    return number(value) + (f"{NBSP}{review.unit}" if review.unit else "")


def _notes(review: MultiLabelReview | RegressionReview) -> list[Part]:
    return [Text(sentence(text), is_note=True) for text in review.unavailable.values()]
