"""What is checked of every version before it is published; the results stand in `confidence.json`, passed or not.

A failed test does not stop a version: it says what not to rely on. A test that does not apply is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import numpy as np

from models.confidence.heatmap import contrast, incompleteness
from models.confidence.schema import SelfTest
from models.decision import probabilities
from models.review import Question, by_id
from models.review_schema import MultiLabelReview, SingleLabelReview
from training.confidence import promises
from training.confidence.head import TOLERANCE, largest_incompleteness
from training.export import PARITY_TOLERANCE

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from models.confidence.heatmap import Head
    from models.dataset import Split
    from models.recipe import Task
    from models.review_schema import Review
    from training.confidence.answers import Answers
    from training.confidence.head import Maps
    from training.confidence.promises import Calibrated, Tried

# The gate looks for it.
PARITY_TEST = "exported graph"
_SUM_TOLERANCE = 1e-6
# The review is of the network as it was trained, whose logits the exported one may miss by a little.
_REVIEW_TOLERANCE = 1e-4
# Where the one fails, no answer is accepted unseen; where the other, familiarity is marked.
ACCEPTED, UNRELATED = promises.ACCEPTED, promises.UNRELATED


def same_as_trained(largest_difference: float, task: Task) -> SelfTest:
    """How far ONNX Runtime is from torch; where it is too far nothing is published at all."""
    most = f"{PARITY_TOLERANCE:.0e}" + (" of the values' spread" if task == "regression" else "")
    return SelfTest(
        name=PARITY_TEST,
        passed=True,
        found=f"{largest_difference:.1e} from what was trained",
        expected=f"at most {most}",
    )


def of_maps(head: Head, maps: Maps) -> list[SelfTest]:
    """Whether each label's map and its bias give the logit, and the map of a difference the difference."""
    gap = largest_incompleteness(head, maps)
    found = [_sum_test("heatmaps", gap, "mean(map) + bias is the logit")]
    if maps.logits.shape[1] > 1:
        gap = max(_contrast_gap(head, *pair) for pair in zip(maps.logits, maps.spatial, strict=True))
        found.append(_sum_test("contrasts", gap, "mean(map) is the difference of the logits"))
    return found


def _contrast_gap(head: Head, logits: npt.NDArray[np.float32], spatial: npt.NDArray[np.float32]) -> float:
    second, first = (int(label) for label in np.argsort(logits)[-2:])
    return incompleteness(contrast(spatial, head, first, second), 0.0, float(logits[first]) - float(logits[second]))


def _sum_test(name: str, found: float, claim: str) -> SelfTest:
    return SelfTest(name=name, passed=found <= TOLERANCE, found=f"{found:.1e} off", expected=f"{claim}, to {TOLERANCE:.0e}")


def probabilities_add_up(logits: npt.NDArray[np.float32], temperature: float) -> SelfTest:
    """Whether probabilities sum to 1, and the temperature changes no answer."""
    stated = probabilities(logits, temperature)
    off = float(np.abs(stated.sum(axis=1) - 1).max())
    changed = int((stated.argmax(axis=1) != logits.argmax(axis=1)).sum())
    return SelfTest(
        name="probabilities",
        passed=off <= _SUM_TOLERANCE and changed == 0,
        found=f"sums {off:.0e} off 1, {changed} answers changed by the temperature",
        expected=f"at most {_SUM_TOLERANCE:.0e}, and none",
    )


def review_lists(review: Review, answers: Mapping[Split, Answers], temperature: float) -> SelfTest:
    """Whether lists show no image twice and none that the network learnt from, with what the published graph says of them.

    Args:
        review: Written before.
        answers: The graph's, of some of the splits.
        temperature: What the service divides its logits by.
    """
    described = {image.id: image.split for image in review.images}
    lists = _lists(review)
    trained_on = sum(described.get(image_id) == "train" for listed in lists for image_id in listed)
    strangers = sum(image_id not in described for listed in lists for image_id in listed)
    twice = len(review.images) - len(described) + sum(len(listed) - len(set(listed)) for listed in lists)
    off = _largest_gap(review, answers, temperature) if isinstance(review, SingleLabelReview) else 0.0
    return SelfTest(
        name="review lists",
        passed=not (trained_on or strangers or twice) and off <= _REVIEW_TOLERANCE,
        found=f"{len(lists)} lists; {trained_on} training images, {twice} shown twice, {strangers} not described; "
        f"probabilities {off:.0e} off",
        expected=f"none, none and none; at most {_REVIEW_TOLERANCE:.0e} from what the published graph says",
    )


def _largest_gap(review: SingleLabelReview, answers: Mapping[Split, Answers], temperature: float) -> float:
    """How far probabilities of described images are from those of the graph, at most; 0 where it was asked about none."""
    described, place = by_id(review.images), {label: index for index, label in enumerate(review.labels)}
    found = 0.0
    for split in review.held_out:
        if split not in answers:
            continue
        rows = [row for row, image_id in enumerate(answers[split].ids) if image_id in described]
        stated = probabilities(answers[split].logits[rows], temperature)
        for image, row in zip((described[str(answers[split].ids[row])] for row in rows), stated, strict=True):
            gaps = abs(image.p_predicted - row[place[image.predicted]]), abs(image.p_actual - row[place[image.actual]])
            found = max(found, *map(float, gaps))
    return found


def _lists(review: Review) -> list[tuple[str, ...]]:
    if isinstance(review, SingleLabelReview):
        sides = [side for entry in review.questions for side in (entry.predicted, entry.actual)]
        lists = [getattr(side, question) for side in sides for question in get_args(Question)]
        return [*(found for found in lists if found is not None), review.top_losses]
    if isinstance(review, MultiLabelReview):
        found = [(entry.most_sure, entry.unsure, entry.false_alarms, entry.missed) for entry in review.per_label]
        return [tuple(one.id for one in listed) for lists in found for listed in lists]
    return [review.largest_errors]


def of_promises(tried: Tried, calibrated: Calibrated | None) -> list[SelfTest]:
    """Everything that is tested on the test split."""
    single = tried.judge.task == "single_label"
    found = [
        probabilities_add_up(tried.test.logits, tried.judge.confidence.temperature.value) if single else None,
        promises.calibration(calibrated) if calibrated is not None else None,
        promises.covered(tried),
        promises.covered_labels(tried),
        promises.false_alarms(tried),
        promises.unrelated(tried),
        promises.p_correct(tried),
        promises.accepted(tried),
    ]
    return [one for one in found if one is not None]
