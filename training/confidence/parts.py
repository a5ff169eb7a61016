"""Fit each part of the evidence on the calibration split; what the data does not allow is None, with a reason."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from models.confidence.conformal import Conformal
from models.confidence.correctness import Correctness
from models.confidence.evidence import Evidence
from models.confidence.familiarity import FEWEST_FOR_UNKNOWN
from models.confidence.schema import Acceptance, ConformalCard, CorrectnessCard, FamiliarityCard, Reference
from models.decision import activate
from training.confidence.acceptance import TARGET, find_threshold
from training.confidence.bank import make_bank, trust_left_out
from training.confidence.correctness import fit_correctness
from training.confidence.familiarity import fit_familiarity, p_left_out
from training.confidence.lacking import Lacking, attempt
from training.confidence.tables import histogram, percentiles

if TYPE_CHECKING:
    import numpy.typing as npt

    from models.confidence.conformal import FloatArray
    from models.confidence.familiarity import Familiarity
    from models.recipe import Task
    from training.confidence.answers import Answers

OF_LABELS = ("conformal", "bank", "correctness", "acceptance", "percentiles")
OF_CALIBRATION = (*OF_LABELS, "familiarity", "reference")
UNTESTED = "not tested, since the data has no test split"


@dataclass(frozen=True)
class Parts:
    """Numbers by the thousand, and the cards that `confidence.json` has for them."""

    evidence: Evidence
    conformal: ConformalCard | None = None
    familiarity: FamiliarityCard | None = None
    correctness: CorrectnessCard | None = None
    acceptance: Acceptance | None = None
    reference: Reference | None = None


@dataclass(frozen=True)
class Material:
    """What parts are fitted on.

    Attributes:
        task: What the answers are.
        labels: In the order of the logits.
        temperature: Divisor of the logits.
        training: Training images.
        calibration: Calibration images, at least one.
        seed: Of what is drawn.
    """

    task: Task
    labels: tuple[str, ...]
    temperature: float
    training: Answers
    calibration: Answers
    seed: int

    @property
    def outputs(self) -> FloatArray:
        """Calibrated probabilities, or values, of calibration images, `[N, K]`."""
        return activate(self.calibration.logits, self.task, self.temperature)


def fit_parts(material: Material, unavailable: dict[str, str]) -> Parts:
    """Fit what the task has; reasons for what is missing go into `unavailable`."""
    outputs, familiarity = material.outputs, attempt("familiarity", lambda: _familiarity(material), unavailable)
    if familiarity is not None and len(familiarity.distances) < FEWEST_FOR_UNKNOWN:
        few = f"{len(familiarity.distances)} calibration images are too few to call one unknown"
        unavailable["unknown"] = f"{few}; it takes {FEWEST_FOR_UNKNOWN}"
    found = Parts(
        evidence=Evidence(familiarity=familiarity),
        familiarity=None if familiarity is None else _card(familiarity),
        reference=Reference(
            p_max=() if material.task == "regression" else histogram(outputs.max(axis=1)),
            p_familiar=() if familiarity is None else histogram(p_left_out(familiarity, familiarity.distances)),
        ),
    )
    if material.task == "single_label":
        return _with_labels(found, material, outputs, unavailable)
    unavailable |= dict.fromkeys(OF_LABELS, f"made only where an image has one label, and the task is {material.task}")
    if material.task == "regression":
        residuals = np.sort(np.abs(outputs - material.calibration.targets.astype(np.float64))[:, 0])
        return replace(found, evidence=replace(found.evidence, residuals=residuals))
    return found


def _familiarity(material: Material) -> Familiarity:
    training = material.training
    groups = training.targets if material.task == "single_label" else np.zeros(len(training), dtype=np.intp)
    return fit_familiarity(training.embeddings, groups, material.calibration.embeddings)


def _card(familiarity: Familiarity) -> FamiliarityCard:
    images, rank = len(familiarity.distances), len(familiarity.axes)
    return FamiliarityCard(method="mahalanobis_pp", images=images, rank=rank, weak=UNTESTED, left_out=None)


def _with_labels(found: Parts, material: Material, probabilities: FloatArray, unavailable: dict[str, str]) -> Parts:
    """Add what is made where an image has one label."""
    calibration, count = material.calibration, len(material.labels)
    predicted, p_max = probabilities.argmax(axis=1), probabilities.max(axis=1)
    correct = predicted == calibration.targets
    conformal = Conformal.fit(probabilities, calibration.targets)
    known = attempt("bank", lambda: make_bank(material.training, calibration, count, material.seed), unavailable)
    card, p_correct = None, p_max
    if known is None:
        unavailable["correctness"] = "there are no known images to compare with; p_correct is the calibrated probability"
    else:
        if not known[0].is_held_out.any():
            unavailable["neighbor_agreement"] = (
                f"of {count} labels not each has a place among held-out known images, so neighbours are training images"
            )
        trust = trust_left_out(*known, calibration)
        card = attempt("correctness", lambda: fit_correctness(p_max, trust, correct), unavailable)
        if card is not None and card.coefficients is not None:
            p_correct = Correctness(*card.coefficients).p_correct(p_max, trust)
    return replace(
        found,
        evidence=replace(
            found.evidence,
            conformal=conformal,
            bank=None if known is None else known[0],
            percentiles=percentiles(p_max, predicted, correct, count),
        ),
        conformal=ConformalCard(method="class_conditional_lac", images=_sizes(material.labels, conformal)),
        correctness=card,
        acceptance=attempt("acceptance", lambda: _acceptance(p_correct, correct, found.familiarity), unavailable),
    )


def _sizes(labels: tuple[str, ...], conformal: Conformal) -> dict[str, int]:
    return {label: len(scores) for label, scores in zip(labels, conformal.of_label, strict=True)}


def _acceptance(p_correct: FloatArray, correct: npt.NDArray[np.bool_], familiarity: FamiliarityCard | None) -> Acceptance:
    if familiarity is None:
        raise Lacking("only familiar images are accepted, and which are is not known")
    return Acceptance(target=TARGET, threshold=find_threshold(p_correct, correct), on_test=None)
