"""What a trained model is sure and unsure of: outputs in, a `Review` out.

Owns the lists of each label, confusion and top losses, with one label an image; the other tasks are in
`interpret_tasks`, suspected label errors in `suspects`. Lists are drawn from images that the model was not trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from models.metrics import confusion_matrix
from models.review import CONFIDENT, By
from models.review_schema import LabelReview, Lists, Reliability, ReviewedImage, SingleLabelReview
from training.interpret_tasks import interpret_multi_label, interpret_regression
from training.judge import Judged, bins, judge, label_scores, scores
from training.subject import list_length, name_images, of_each_group, rounded
from training.suspects import suspects

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from models.dataset import Item, Split
    from models.review_schema import Review
    from training.subject import Subject

    Rows = npt.NDArray[np.intp]
    Names = list[str | None]

SHORTEST_WRONG_LIST = 5
TOP_LOSSES = 50
# Four of what was called so, and four of what is so.
LISTS_A_LABEL = 8


def interpret(subject: Subject) -> Review:
    """Review a trained model.

    Raises:
        ValueError: If a logit is not finite.
    """
    if subject.task == "multi_label":
        return interpret_multi_label(subject)
    if subject.task == "regression":
        return interpret_regression(subject)
    judged = {split: judge(out.logits, out.images.targets, subject.temperature) for split, out in subject.outputs.items()}
    judged_on = subject.judged_on()
    matrix = np.zeros((len(subject.labels), len(subject.labels)), dtype=np.int64)
    reliability = None
    if judged_on is not None:
        shown = judged[judged_on]
        matrix = confusion_matrix(shown.predicted, shown.actual, len(subject.labels))
        reliability = Reliability(
            calibrated=bins(shown.p_predicted, shown.correct), raw=bins(shown.raw_p_predicted, shown.correct)
        )
    names = name_images(subject.outputs)
    found, missing = suspects(subject, names)
    described, questions, top_losses = _ask(subject, judged, names)
    return SingleLabelReview(
        schema_version=1,
        task="single_label",
        labels=subject.labels,
        temperature=subject.temperature,
        held_out=subject.held_out(),
        judged_on=judged_on,
        findings=subject.findings,
        scores={split: scores(values) for split, values in judged.items()},
        per_label=label_scores(matrix, subject.labels) if judged_on else (),
        confusion=tuple((int(a), int(p), int(matrix[a, p])) for a, p in np.argwhere(matrix)),
        reliability=reliability,
        images=described,
        questions=questions,
        top_losses=top_losses,
        suspects=found,
        unavailable=subject.unavailable() | _missing(missing, subject.strange.reason),
    )


def _missing(suspects: str | None, strange: str | None) -> dict[str, str]:
    """Why a list is null, for each that is."""
    return {part: reason for part, reason in (("suspects", suspects), ("unfamiliar", strange)) if reason is not None}


@dataclass(frozen=True)
class _Pool:
    """The images that lists are drawn from: those held out, without copies. `names` are their ids."""

    judged: Judged
    items: list[Item]
    names: Names
    p_familiar: Mapping[str, float] | None

    @property
    def drawn(self) -> Rows:
        return np.array([row for row, name in enumerate(self.names) if name is not None], dtype=np.intp)

    @property
    def strangest(self) -> Rows | None:
        """Those of which it is known how strange they are, the strangest first."""
        if self.p_familiar is None:
            return None
        row_of = {name: row for row, name in enumerate(self.names) if name is not None}
        return np.array([row_of[name] for name in self.p_familiar if name in row_of], dtype=np.intp)


def _ask(
    subject: Subject, judged: Mapping[Split, Judged], names: Mapping[Split, Names]
) -> tuple[tuple[ReviewedImage, ...], tuple[LabelReview, ...], tuple[str, ...]]:
    """The images that are listed, the lists of each label, and the ids of the largest losses."""
    held_out = subject.held_out()
    if not held_out:
        return (), (), ()
    pool = _Pool(
        Judged.joined([judged[split] for split in held_out]),
        [item for split in held_out for item in subject.outputs[split].images.items],
        [name for split in held_out for name in names[split]],
        subject.strange.p_familiar,
    )
    questions = _questions(pool, subject.labels)
    rows = pool.drawn
    top_losses = rows[np.argsort(-pool.judged.loss[rows], kind="stable")[:TOP_LOSSES]]
    ids = tuple(str(pool.names[row]) for row in top_losses)
    listed = {image_id for entry in questions for lists in (entry.predicted, entry.actual) for image_id in _listed(lists)} | {
        *ids
    }
    described = tuple(_describe(subject, pool, row) for row, name in enumerate(pool.names) if name is not None and name in listed)
    return described, questions, ids


def _listed(lists: Lists) -> tuple[str, ...]:
    return (*lists.most_confident, *lists.least_confident, *lists.confidently_wrong, *(lists.unfamiliar or ()))


def _describe(subject: Subject, pool: _Pool, row: int) -> ReviewedImage:
    judged, item = pool.judged, pool.items[row]
    p_familiar = None if pool.p_familiar is None else pool.p_familiar.get(str(pool.names[row]))
    return ReviewedImage(
        id=str(pool.names[row]),
        path=subject.path_of(item),
        split=item.split,
        actual=subject.labels[judged.actual[row]],
        predicted=subject.labels[judged.predicted[row]],
        p_predicted=rounded(judged.p_predicted[row]),
        p_actual=rounded(judged.p_actual[row]),
        margin=rounded(judged.margin[row]),
        loss=rounded(judged.loss[row]),
        p_familiar=None if p_familiar is None else rounded(p_familiar),
    )


def _questions(pool: _Pool, labels: tuple[str, ...]) -> tuple[LabelReview, ...]:
    judged, rows, count = pool.judged, pool.drawn, len(labels)
    length, strangest = list_length(count, LISTS_A_LABEL), pool.strangest
    rising = _by_label(judged, rows, judged.p_predicted[rows], count)
    strange = None if strangest is None else _by_label(judged, strangest, np.arange(len(strangest)), count)
    reviews = []
    for index, label in enumerate(labels):
        of_predicted, of_actual = rising["predicted"][index], rising["actual"][index]
        right = of_predicted[judged.correct[of_predicted]]
        usual = float(np.median(judged.p_predicted[right])) if len(right) else 0.0
        threshold = rounded(max(CONFIDENT, usual))
        reviews.append(
            LabelReview(
                label=label,
                threshold=threshold,
                predicted=_lists(pool, of_predicted, strange["predicted"][index] if strange else None, threshold, length),
                actual=_lists(pool, of_actual, strange["actual"][index] if strange else None, threshold, length),
            )
        )
    return tuple(reviews)


def _by_label(judged: Judged, rows: Rows, rank: npt.NDArray[Any], count: int) -> dict[By, list[Rows]]:
    """Some rows, of what was called each label and of what is that label, ascending by `rank`."""
    of = {"predicted": judged.predicted, "actual": judged.actual}
    return {by: [rows[group] for group in of_each_group(of[by][rows], rank, count)] for by in get_args(By)}


def _lists(pool: _Pool, rising: Rows, strange: Rows | None, threshold: float, length: int) -> Lists:
    """The lists of a label's images, which come with p_predicted rising, and the strangest first."""
    correct = pool.judged.correct[rising]
    right, wrong = rising[correct][::-1], rising[~correct][::-1]
    # As rounded as it is written, so that nobody reads a list that contradicts its threshold.
    over = sum(rounded(p) >= threshold for p in pool.judged.p_predicted[wrong])
    return Lists(
        most_confident=_ids(pool, right[:length]),
        least_confident=_ids(pool, rising[:length]),
        confidently_wrong=_ids(pool, wrong[: min(max(over, SHORTEST_WRONG_LIST), length)]),
        over_threshold=over,
        unfamiliar=None if strange is None else _ids(pool, strange[:length]),
    )


def _ids(pool: _Pool, rows: Rows) -> tuple[str, ...]:
    return tuple(str(pool.names[row]) for row in rows)
