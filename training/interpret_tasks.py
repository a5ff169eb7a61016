"""The review of models that answer any number of labels, or a number: which images they are sure of, and where they fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from models.decision import activate, in_order
from models.metrics import average_precision, score_task
from models.review_schema import (
    Listed,
    MeasuredImage,
    MultiLabelReview,
    NumberScores,
    RegressionReview,
    TaggedImage,
    TagReview,
    TagScores,
)
from models.scores import MultiLabelMetrics, RegressionMetrics
from training.judge import one_label, rate
from training.subject import list_length, name_images, rounded

if TYPE_CHECKING:
    from models.dataset import Item, Split
    from training.subject import Outputs, Subject

FloatArray = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]
LARGEST_ERRORS = 50
MOST_POINTS = 2_000
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_NO_SUSPECTS = {"suspects": "label errors are looked for only where an image has one label"}


@dataclass(frozen=True)
class _Pool:
    """The images that lists are drawn from, those held out: what was answered `[N, K]`, what is so `[N, K]`, and ids."""

    outputs: FloatArray
    targets: npt.NDArray[Any]
    items: list[Item]
    names: list[str | None]

    @property
    def drawn(self) -> Rows:
        return np.array([row for row, name in enumerate(self.names) if name is not None], dtype=np.intp)


def _pool(subject: Subject, answers: dict[Split, FloatArray]) -> _Pool | None:
    held_out = subject.held_out()
    if not held_out:
        return None
    names = name_images(subject.outputs)
    return _Pool(
        np.concatenate([answers[split] for split in held_out]),
        np.concatenate([subject.outputs[split].images.targets for split in held_out]),
        [item for split in held_out for item in subject.outputs[split].images.items],
        [name for split in held_out for name in names[split]],
    )


def _answers(subject: Subject) -> dict[Split, FloatArray]:
    return {split: activate(out.logits, subject.task, subject.temperature) for split, out in subject.outputs.items()}


def interpret_multi_label(subject: Subject) -> MultiLabelReview:
    """Review a model that answers any number of labels.

    Raises:
        ValueError: If there are no thresholds, or a logit is not finite.
    """
    if subject.thresholds is None:
        raise ValueError("thresholds is None, and multi_label selects by one for each label")
    thresholds = in_order(subject.thresholds, subject.labels)
    answers = _answers(subject)
    pool, judged_on = _pool(subject, answers), subject.judged_on()
    per_label: tuple[TagReview, ...] = ()
    if pool is not None and judged_on is not None:
        judged = _TagPool(pool, thresholds, answers[judged_on], subject.outputs[judged_on].images.targets > 0)
        length = list_length(len(subject.labels), lists_a_label=4)
        per_label = tuple(judged.review(index, label, length) for index, label in enumerate(subject.labels))
    listed = {entry.id for label in per_label for entry in (*label.most_sure, *label.unsure, *label.false_alarms, *label.missed)}
    return MultiLabelReview(
        schema_version=1,
        task="multi_label",
        labels=subject.labels,
        temperature=subject.temperature,
        held_out=subject.held_out(),
        judged_on=judged_on,
        findings=subject.findings,
        scores={split: _tag_scores(answers[split], out, thresholds) for split, out in subject.outputs.items()},
        per_label=per_label,
        images=_describe_tagged(subject, pool, thresholds, listed) if pool else (),
        unavailable=subject.unavailable() | _NO_SUSPECTS,
    )


@dataclass(frozen=True)
class _TagPool:
    pool: _Pool
    thresholds: FloatArray
    probabilities: FloatArray
    targets: npt.NDArray[np.bool_]

    def review(self, index: int, label: str, length: int) -> TagReview:
        """One label: scores on the split that is judged, lists from all that was held out."""
        has, said = self.targets[:, index], self.probabilities[:, index] >= self.thresholds[index]
        precision = float(average_precision(self.probabilities[:, [index]], self.targets[:, [index]])[0])
        rows = self.pool.drawn
        p, threshold = self.pool.outputs[rows, index], self.thresholds[index]
        true, selected = self.pool.targets[rows, index] > 0, p >= threshold

        def first(which: npt.NDArray[np.bool_], rank: FloatArray) -> tuple[Listed, ...]:
            chosen = np.flatnonzero(which)
            chosen = chosen[np.argsort(rank[chosen], kind="stable")][:length]
            return tuple(Listed(id=str(self.pool.names[rows[row]]), p=rounded(p[row])) for row in chosen)

        return TagReview(
            scores=one_label(label, int((has & said).sum()), int(has.sum()), int(said.sum())),
            average_precision=None if np.isnan(precision) else min(precision, 1.0),
            threshold=threshold,
            most_sure=first(true & selected, -p),
            unsure=first(np.ones(len(rows), dtype=bool), np.abs(p - threshold)),
            false_alarms=first(~true & selected, -p),
            missed=first(true & ~selected, p),
        )


def _tag_scores(probabilities: FloatArray, out: Outputs, thresholds: FloatArray) -> TagScores:
    metrics = score_task("multi_label", probabilities, out.images.targets, thresholds)
    assert isinstance(metrics, MultiLabelMetrics)  # noqa: S101 - what the task's scores are
    exact = rate(round(metrics.exact_match * metrics.images), metrics.images)
    assert exact is not None  # noqa: S101 - a split has an image
    return TagScores(
        images=metrics.images,
        exact=exact,
        mean_average_precision=metrics.mean_average_precision,
        macro_f1=metrics.macro_f1,
        nll=metrics.nll,
        ece=metrics.ece,
    )


def _describe_tagged(subject: Subject, pool: _Pool, thresholds: FloatArray, listed: set[str]) -> tuple[TaggedImage, ...]:
    def names(which: npt.NDArray[np.bool_]) -> tuple[str, ...]:
        return tuple(subject.labels[index] for index in np.flatnonzero(which))

    return tuple(
        TaggedImage(
            id=name,
            path=subject.path_of(pool.items[row]),
            split=pool.items[row].split,
            actual=names(pool.targets[row] > 0),
            selected=names(pool.outputs[row] >= thresholds),
        )
        for row, name in enumerate(pool.names)
        if name is not None and name in listed
    )


def interpret_regression(subject: Subject) -> RegressionReview:
    """Review a model that answers a number.

    Raises:
        ValueError: If an answer is not finite.
    """
    answers = _answers(subject)
    pool, judged_on = _pool(subject, answers), subject.judged_on()
    largest: list[MeasuredImage] = []
    if pool is not None:
        rows = pool.drawn
        errors = np.abs(pool.outputs[rows, 0] - pool.targets[rows, 0])
        largest = [_measured(subject, pool, row) for row in rows[np.argsort(-errors, kind="stable")[:LARGEST_ERRORS]]]
    return RegressionReview(
        schema_version=1,
        task="regression",
        labels=subject.labels,
        temperature=subject.temperature,
        held_out=subject.held_out(),
        judged_on=judged_on,
        findings=subject.findings,
        unit=subject.unit,
        scores={split: _number_scores(answers[split], out) for split, out in subject.outputs.items()},
        points=_points(subject.outputs[judged_on].images.targets, answers[judged_on]) if judged_on else (),
        images=tuple(largest),
        largest_errors=tuple(image.id for image in largest),
        unavailable=subject.unavailable() | _NO_SUSPECTS,
    )


def _measured(subject: Subject, pool: _Pool, row: int) -> MeasuredImage:
    actual, predicted = float(pool.targets[row, 0]), float(pool.outputs[row, 0])
    return MeasuredImage(
        id=str(pool.names[row]),
        path=subject.path_of(pool.items[row]),
        split=pool.items[row].split,
        actual=rounded(actual),
        predicted=rounded(predicted),
        error=rounded(predicted - actual),
    )


def _number_scores(values: FloatArray, out: Outputs) -> NumberScores:
    metrics = score_task("regression", values, out.images.targets)
    assert isinstance(metrics, RegressionMetrics)  # noqa: S101 - what the task's scores are
    errors = values[:, 0] - out.images.targets[:, 0].astype(np.float64)
    low, lower, middle, upper, high = (float(value) for value in np.quantile(errors, _QUANTILES))
    return NumberScores(
        images=metrics.images,
        mae=metrics.mae,
        rmse=metrics.rmse,
        bias=float(errors.mean()),
        r2=metrics.r2,
        quantiles=(low, lower, middle, upper, high),
    )


def _points(targets: npt.NDArray[Any], values: FloatArray) -> tuple[tuple[float, float], ...]:
    """Evenly through the split's order, which is that of the paths, where there are more than can be told apart."""
    rows = np.unique(np.linspace(0, len(targets) - 1, min(len(targets), MOST_POINTS)).astype(int))
    return tuple((rounded(targets[row, 0]), rounded(values[row, 0])) for row in rows)
