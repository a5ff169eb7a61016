"""What a page says of a model with one label an image."""

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
    percent,
    points,
    ranged,
    sentence,
)
from training.page.questions import card, questions
from training.plots import MOST_PLOTTED_LABELS

if TYPE_CHECKING:
    from models.review_schema import SingleLabelReview
    from training.page.parts import Pictures
    from training.page.source import Source

_MOST_PAIRS = 15
_FIRST_ROWS = 20
_FIRST_CARDS, _MOST_SUSPECTS = 24, 60
_DASH = "\N{EN DASH}"
# Reasons that are given where the list would stand.
_OF_LISTS = ("suspects", "unfamiliar")


def lead(review: SingleLabelReview, other_data: str | None) -> str:
    """How good, in one sentence."""
    if review.judged_on is None:
        return "Nothing was held out from training, so nobody knows how good it is on new images."
    right = review.scores[review.judged_on].accuracy
    where = f"“{other_data}”" if other_data else f"the {review.judged_on} split"
    said = f"Right on {right.count:,} of {counted(right.of, 'image')} of {where}: {percent(right.value)}"
    chance = f" ({between(right)} allowing for chance)."
    if review.judged_on == "test":
        return said + chance
    return said + chance + f" {review.judged_on.capitalize()} helped to make it, so expect somewhat less."


def sentences(review: SingleLabelReview, other_data: str | None) -> list[str]:
    """Where it is weakest, and how far what it states can be believed."""
    if review.judged_on is None:
        return []
    scores = review.scores[review.judged_on]
    where = "Here" if other_data else f"On {review.judged_on}"
    gap = f"{where}, what it states and how often it is right are {points(scores.ece)}{NBSP}points apart"
    by_chance = f"{points(scores.ece_by_chance)}{NBSP}points"
    if scores.ece <= scores.ece_by_chance:
        gap += f", which is no more than chance may make of so few images ({by_chance})."
    else:
        gap += f", which is more than chance explains ({by_chance}): take its probabilities with care."
    return [gap, *_weakest(review)]


def _weakest(review: SingleLabelReview) -> list[str]:
    index = weakest_first(review.per_label)[0]
    scores = review.per_label[index]
    if scores.f1 is None or not review.most_confused():
        return []
    said = f"It is weakest on “{scores.label}” (F1 {percent(scores.f1.value)})"
    taken = next((pair for pair in review.most_confused() if pair.actual == scores.label), None)
    if taken is None:
        return [said + "."]
    return [f"{said}, which it takes for “{taken.predicted}” {taken.count:,} times in {scores.actual:,}."]


def tiles(review: SingleLabelReview) -> list[Tile]:
    """The numbers of the first screen."""
    if review.judged_on is None:
        return []
    scores = review.scores[review.judged_on]
    calibration = f"{points(scores.ece_raw)} before calibration"
    return [
        Tile("accuracy", percent(scores.accuracy.value), between(scores.accuracy)),
        Tile("error rate", percent(scores.error_rate), counted(scores.accuracy.of - scores.accuracy.count, "image")),
        Tile("probability of the true label", percent(scores.typical_p_actual), f"geometric mean; NLL {scores.nll:.3f}"),
        Tile("calibration error", f"{points(scores.ece)} points", calibration),
    ]


def sections(source: Source, review: SingleLabelReview) -> list[Section]:
    """Everything from the data to the suspected labels."""
    found = [Section("data", "Data and scores", (*_scores(review), *findings(source)))]
    if review.judged_on is not None:
        found += [
            Section("confusion", "What is taken for what", _confusion(review)),
            Section("labels", "Label by label", _label_table(review)),
            Section("questions", "Sure, unsure, and sure but wrong", questions(source, review)),
            Section("losses", "Largest losses", _losses(review, source.pictures)),
        ]
    found.append(Section("suspects", "Labels that may be wrong", _suspects(review, source.pictures)))
    if review.reliability is not None:
        found.append(Section("reliability", "What its probabilities are worth", _reliability(review)))
    return found


def _scores(review: SingleLabelReview) -> list[Part]:
    rows = []
    for split in SPLITS:
        if split in review.scores:
            scores = review.scores[split]
            rows.append(
                (
                    split,
                    f"{scores.images:,}",
                    ranged(scores.accuracy),
                    points(scores.error_rate),
                    f"{scores.nll:.3f}",
                    points(scores.typical_p_actual),
                    points(scores.ece_raw),
                    points(scores.ece),
                )
            )
    head = ("split", "images", "accuracy", "error", "NLL", "typical p", "ECE raw", "ECE")
    caption = (
        "In per cent, with 95 % intervals; NLL in nats. Typical p is exp(-NLL), the geometric mean of what the true label was "
        "given; ECE is the calibration error over 15 bins."
    )
    notes: list[Part] = [Table(caption, head, tuple(rows))]
    if "train" in review.scores:
        notes.append(Text("The train row is of images that it learnt from: it says how much was memorised, not how good it is."))
    return notes + [Text(sentence(text), is_note=True) for key, text in review.unavailable.items() if key not in _OF_LISTS]


def _confusion(review: SingleLabelReview) -> tuple[Part, ...]:
    pairs = review.most_confused()
    rows = tuple((p.actual, p.predicted, f"{p.count:,}", points(p.rate_of_actual)) for p in pairs[:_MOST_PAIRS])
    caption = f"The most frequent confusions on {review.judged_on}; the rate is of all images of the actual label, in per cent."
    table: Part = Table(caption, ("actual", "taken for", "images", "rate"), rows, text_columns=frozenset({0, 1}))
    if not pairs:
        table = Text(f"Nothing was confused on {review.judged_on}.")
    if len(review.labels) > MOST_PLOTTED_LABELS:
        many = f"The matrix of {len(review.labels)} labels is in review.json; a plot of it could not be read."
        return table, Text(many, is_note=True)
    shown = plot(
        "confusion",
        f"Confusion matrix of {len(review.labels)} labels on {review.judged_on}; the table beside it has the largest errors.",
        f"Rows are what an image is, columns what it was taken for; shaded by share of the row. On {review.judged_on}.",
        partial(plots.confusion, review.confusion_matrix(), review.labels),
        width_px=max(460, 22 * len(review.labels)),
    )
    return (Beside((shown, table)),)


def _label_table(review: SingleLabelReview) -> tuple[Part, ...]:
    ordered = (review.per_label[index] for index in weakest_first(review.per_label))
    rows = [(s.label, f"{s.actual:,}", ranged(s.precision), ranged(s.recall), ranged(s.f1)) for s in ordered]
    head = ("label", "images", "precision", "recall", "F1")
    caption = f"On {review.judged_on}, the weakest first; in per cent, with 95 % intervals (Wilson; F1 as docs/report.md says)."
    parts: list[Part] = [Table(caption, head, tuple(rows[:_FIRST_ROWS]))]
    if len(rows) > _FIRST_ROWS:
        parts.append(Fold(f"{len(rows) - _FIRST_ROWS} more labels", "", (Table(caption, head, tuple(rows[_FIRST_ROWS:])),)))
    return tuple(parts)


def _losses(review: SingleLabelReview, pictures: Pictures) -> tuple[Part, ...]:
    described = by_id(review.images)
    cards = tuple(card(described[image_id], pictures) for image_id in review.top_losses)
    note = "Images to which it gave the true label the least probability, of all that were held out."
    return _in_two("The worst first", note, cards)


def _in_two(title: str, note: str, cards: tuple[Card, ...]) -> tuple[Part, ...]:
    first = Album(title, note, cards[:_FIRST_CARDS])
    if len(cards) <= _FIRST_CARDS:
        return (first,)
    rest = Album("", "", cards[_FIRST_CARDS:])
    return first, Fold(f"{len(cards) - _FIRST_CARDS} more", "", (rest,))


def _suspects(review: SingleLabelReview, pictures: Pictures) -> tuple[Part, ...]:
    found = review.suspects
    if found is None:
        return (Text(sentence(review.unavailable["suspects"]), is_note=True),)
    method = (
        f"{found.method} It agrees with {percent(found.accuracy)} of the labels of {counted(found.images, 'image')}; the less "
        "it agrees, the less it is to be believed. These are candidates for a look, not errors that are known."
    )
    if not found.listed:
        return (Text(f"No label looks wrong. {method}"),)
    cards = tuple(
        Card(
            source=pictures.source(suspect.id),
            first=f"labelled {suspect.label} {percent(suspect.p_label)}",
            second=f"looks like {suspect.suggested} {percent(suspect.p_suggested)}",
            path=suspect.path,
        )
        for suspect in found.listed[:_MOST_SUSPECTS]
    )
    shown = f"{counted(found.found, 'label')} in doubt, the most doubtful first"
    if found.found > len(cards):
        kept = "all" if found.found == len(found.listed) else f"{len(found.listed)}"
        shown += f"; the first {len(cards)} are here, {kept} in review.json"
    return Text(method), *_in_two(f"{shown}.", "", cards)


def _reliability(review: SingleLabelReview) -> tuple[Part, ...]:
    found = review.reliability
    assert found is not None  # noqa: S101 - asked by the caller
    shown = plot(
        "reliability",
        f"Share right against stated probability in 15 bins on {review.judged_on}; the table has the numbers.",
        "On the dotted line it is right as often as it says; below it is too sure. Bars are 95 % intervals.",
        partial(plots.reliability, found),
    )
    rows = tuple(
        (f"{100 * one.low:.0f}{_DASH}{100 * one.high:.0f}", f"{one.images:,}", points(one.stated), ranged(one.right))
        for one in found.calibrated
        if one.stated is not None
    )
    caption = f"Calibrated probabilities on {review.judged_on}, in per cent; bins without an image are left out."
    return (Beside((shown, Table(caption, ("stated", "images", "mean stated", "right"), rows))),)
