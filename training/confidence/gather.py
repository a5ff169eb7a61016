"""All that a version can say of its answers: parts that were fitted, shares that were counted, and tests of them.

What is counted and tested is computed from the evidence as it will be read back, by the code that the service runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from models.confidence.evidence import Evidence
from models.confidence.judge import Judge
from models.confidence.schema import Confidence
from models.decision import activate
from training.confidence import self_tests, tables
from training.confidence.answers import ask, ask_all
from training.confidence.head import ask_maps, find_head
from training.confidence.lacking import attempt
from training.confidence.left_out import leave_out
from training.confidence.parts import OF_CALIBRATION, Material, Parts, fit_parts
from training.confidence.promises import Calibrated, Tried
from training.confidence.strange import find_strange
from training.confidence.unrelated import made_up
from training.progress import say

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    import onnxruntime
    from torch import nn

    from models.confidence.conformal import FloatArray
    from models.confidence.judge import Trust
    from models.confidence.schema import SelfTest, Temperature
    from models.dataset import Split
    from models.recipe import Task
    from models.review_schema import Review
    from training.calibrate import Calibration
    from training.confidence.answers import Answers, Known
    from training.export import Exported
    from training.subject import Strange

_OF_TEST = ("expected_accuracy", "precision", "known_confusions")
_BATCH = 64


@dataclass(frozen=True)
class Graph:
    """The exported network that is about to be published.

    Attributes:
        session: ONNX Runtime's.
        exported: What came out of the export.
        network: What went into it.
        task: What the logits are.
        labels: In their order.
        pool: Some images, uint8 `[N, H, W, 3]`, at least one.
    """

    session: onnxruntime.InferenceSession
    exported: Exported
    network: nn.Module
    task: Task
    labels: tuple[str, ...]
    pool: npt.NDArray[np.uint8]


class Gathered(NamedTuple):
    """`confidence.json`, `confidence.npz` as bytes, what the graph said of images, and which of those are strange."""

    confidence: Confidence
    evidence: bytes
    answers: Mapping[Split, Answers]
    strange: Strange

    def with_review(self, review: Review | None) -> Confidence:
        """Look also through the review that was made of it, where it lists anything."""
        if review is None or not review.held_out:
            return self.confidence
        tested = self_tests.review_lists(review, self.answers, self.confidence.temperature.value)
        return self.confidence.model_copy(update={"self_tests": (*self.confidence.self_tests, tested)})


def gather(graph: Graph, fitted: Calibration, known: Known | None) -> Gathered:
    """Fit on calibration images, count on test images, and test what came of it.

    Args:
        graph: The exported network.
        fitted: Temperature, thresholds and interval.
        known: The images that there are; None where a network is published as it came.

    Raises:
        TrainingError: If an output is not finite.
    """
    unavailable: dict[str, str] = {}
    answers = {} if known is None else ask_all(graph.session, known, graph.task)
    maps = ask_maps(graph.session, graph.pool, graph.exported.outputs)
    head = attempt("head", lambda: find_head(graph.network, graph.exported.outputs, maps), unavailable)
    parts = _parts(graph, fitted, answers, known, unavailable)
    evidence = replace(parts.evidence, head=head).to_bytes()
    calibrated = _calibrated(graph.task, fitted.temperature, answers.get("test"))
    confidence = _confidence(fitted, parts, calibrated)
    tests = [self_tests.same_as_trained(graph.exported.largest_difference, graph.task)]
    if head is not None:
        tests += self_tests.of_maps(head, maps)
    if "test" in answers and known is not None:
        tried = _try(graph, confidence, Evidence.from_bytes(evidence), answers["test"], known)
        promises = self_tests.of_promises(tried, calibrated)
        confidence = _kept(tried.judge.confidence, promises, unavailable)
        confidence = _marked(graph, confidence, promises, answers, known.seed)
        tests += promises
    unavailable |= _uncounted(graph.task, answers)
    confidence = confidence.model_copy(update={"self_tests": tuple(tests), "unavailable": unavailable})
    strange = find_strange(parts.evidence.familiarity, answers, unavailable.get("familiarity", ""))
    return Gathered(confidence, evidence, answers, strange)


def _parts(
    graph: Graph,
    fitted: Calibration,
    answers: Mapping[Split, Answers],
    known: Known | None,
    unavailable: dict[str, str],
) -> Parts:
    why = _nothing_to_fit_on(known, answers) if known is not None else fitted.temperature.reason or "published without images"
    if why is not None or known is None:
        unavailable |= dict.fromkeys(OF_CALIBRATION, str(why))
        return Parts(Evidence())
    material = Material(graph.task, graph.labels, fitted.temperature.value, answers["train"], answers["calibration"], known.seed)
    return fit_parts(material, unavailable)


def _nothing_to_fit_on(known: Known, answers: Mapping[Split, Answers]) -> str | None:
    if "calibration" not in known.splits:
        return "the data has no calibration split"
    copied = [split for split in ("train", "calibration") if split not in answers]
    return f"every {copied[0]} image is a copy of another one" if copied else None


def _calibrated(task: Task, temperature: Temperature, test: Answers | None) -> Calibrated | None:
    if task != "single_label" or temperature.status == "none" or test is None:
        return None
    raw, calibrated = (activate(test.logits, task, value) for value in (1.0, temperature.value))
    return Calibrated.measure(raw, calibrated, test.targets)


def _confidence(fitted: Calibration, parts: Parts, calibrated: Calibrated | None) -> Confidence:
    temperature = fitted.temperature
    if calibrated is not None and calibrated.contradiction is not None:
        reasons = [reason for reason in (temperature.reason, calibrated.contradiction) if reason]
        temperature = temperature.model_copy(update={"status": "partial", "reason": "; ".join(reasons)})
    return Confidence.without_evidence(temperature, fitted.thresholds, fitted.interval, "").model_copy(
        update={
            "conformal": parts.conformal,
            "familiarity": parts.familiarity,
            "correctness": parts.correctness,
            "acceptance": parts.acceptance,
            "reference": parts.reference,
        }
    )


def _try(graph: Graph, confidence: Confidence, evidence: Evidence, test: Answers, known: Known) -> Tried:
    """Judge the test images as the service would, and write down what came of it."""
    judge = Judge(graph.task, confidence, evidence)
    outputs = judge.probabilities(test.logits)
    trust = _in_batches(judge, outputs, test.embeddings)
    if graph.task == "single_label":
        judge = Judge(graph.task, _counted(confidence, graph.labels, outputs, test, trust), evidence)
    pixels = known.unrelated if known.unrelated is not None else made_up(graph.pool.shape[1], known.seed)
    logits, embeddings = ask(graph.session, pixels, whose="an unrelated image")
    return Tried(judge, graph.labels, test, outputs, trust, (judge.probabilities(logits), embeddings))


def _kept(confidence: Confidence, tests: list[SelfTest], unavailable: dict[str, str]) -> Confidence:
    """Let nothing be accepted unseen where test images that would have been were not right often enough."""
    broken = next((test for test in tests if test.name == self_tests.ACCEPTED and not test.passed), None)
    if broken is None or confidence.acceptance is None:
        return confidence
    unavailable["acceptance"] = f"no answer is accepted unseen, since of those that would be on test only {broken.found}"
    return confidence.model_copy(update={"acceptance": confidence.acceptance.model_copy(update={"threshold": None})})


def _marked(
    graph: Graph, confidence: Confidence, tests: list[SelfTest], answers: Mapping[Split, Answers], seed: int
) -> Confidence:
    """Say how far familiarity can be relied on."""
    card = confidence.familiarity
    if card is None:
        return confidence
    failed = next((test for test in tests if test.name == self_tests.UNRELATED and not test.passed), None)
    weak = None if failed is None else f"it hardly tells unrelated images from test images: {failed.found}"
    left_out = leave_out(answers["train"], answers["test"], graph.labels, seed) if graph.task == "single_label" else None
    return confidence.model_copy(update={"familiarity": card.model_copy(update={"weak": weak, "left_out": left_out})})


def _in_batches(judge: Judge, outputs: FloatArray, embeddings: npt.NDArray[np.float32]) -> list[Trust]:
    """All at once would be a matrix of images and known ones."""
    starts = range(0, len(outputs), _BATCH)
    return [
        trust for start in starts for trust in judge.trust(outputs[start : start + _BATCH], embeddings[start : start + _BATCH])
    ]


def _counted(
    confidence: Confidence, labels: tuple[str, ...], probabilities: FloatArray, test: Answers, trust: list[Trust]
) -> Confidence:
    predicted, p_max = probabilities.argmax(axis=1), probabilities.max(axis=1)
    correct = predicted == test.targets
    acceptance = confidence.acceptance
    if acceptance is not None:
        accepted = np.array([one.action == "accept" for one in trust])
        on_test = tables.counted(int(correct[accepted].sum()), int(accepted.sum()))
        acceptance = acceptance.model_copy(update={"on_test": on_test})
    return confidence.model_copy(
        update={
            "acceptance": acceptance,
            "expected_accuracy": tables.expected_accuracy(p_max, correct),
            "precision": tables.precision(predicted, test.targets, labels),
            "known_confusions": tables.known_confusions(predicted, test.targets, labels),
        }
    )


def _uncounted(task: Task, answers: Mapping[Split, Answers]) -> dict[str, str]:
    if task != "single_label":
        return dict.fromkeys(_OF_TEST, f"counted only where an image has one label, and the task is {task}")
    return {} if "test" in answers else dict.fromkeys(_OF_TEST, "the data has no test split")


def tell(confidence: Confidence) -> None:
    """Say in a line what may be accepted unseen, and in another which self-tests failed."""
    acceptance = confidence.acceptance
    if acceptance is not None and acceptance.threshold is None:
        say(f"  no answer is accepted unseen: from no p_correct on, {acceptance.target:.0%} are surely right")
    elif acceptance is not None and acceptance.on_test is not None:
        found, images = acceptance.on_test, sum(one.right.of for one in confidence.expected_accuracy if one.right is not None)
        what = f"{found.of / images:.0%} of test, and {found.value:.1%} of them are right"
        say(f"  accepted unseen, with a p_correct of {acceptance.threshold:.2f} or more: {what}")
    failed = [f"{test.name} ({test.found})" for test in confidence.self_tests if not test.passed]
    if failed:
        say(f"  {len(failed)} of {len(confidence.self_tests)} self-tests failed: {'; '.join(failed)}")
