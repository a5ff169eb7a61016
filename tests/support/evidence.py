"""Evidence for the tiny models, fitted by the real parts on images whose labels are known.

Most images are nearly pure colours; one in eight is as much of one colour as of another, and there the models err.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.artifact import CONFIDENCE
from models.confidence.bank import Bank
from models.confidence.conformal import Conformal
from models.confidence.correctness import fit
from models.confidence.evidence import EVIDENCE, PERCENTILES, Evidence
from models.confidence.familiarity import Familiarity, unit_length
from models.confidence.heatmap import Head
from models.confidence.schema import (
    Acceptance,
    Confidence,
    ConformalCard,
    CorrectnessCard,
    Counted,
    ExpectedAccuracy,
    FamiliarityCard,
    KnownConfusion,
    Reference,
    SelfTest,
    Temperature,
)
from models.decision import activate
from models.manifest import canonical_json
from tests.support.tiny import tiny_manifest, write_tiny

if TYPE_CHECKING:
    from pathlib import Path

    from models.manifest import Manifest
    from models.registry import Registry
    from tests.support.tiny import Tiny

TEMPERATURE = 2.0
THRESHOLD = 0.9
BINS = 20
_PURE, _MIXED = (0.8, 1.0), (0.45, 0.55)


def coloured(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean colours `[N, 3]` in 0..255, as the tiny models embed images, and which colour each is, `[N]`."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    others = (labels + rng.integers(1, 3, count)) % 3
    share = np.where(rng.random(count) < 1 / 8, rng.uniform(*_MIXED, count), rng.uniform(*_PURE, count))
    colours = np.eye(3)[labels] * share[:, None] + np.eye(3)[others] * (1 - share[:, None])
    return (colours * 255).astype(np.float32), labels


def outputs_of(tiny: Tiny, embeddings: np.ndarray) -> np.ndarray:
    """Calibrated probabilities, or numbers, `[N, K]`."""
    logits = tiny.logits(embeddings[:, None, None])
    return activate(logits, tiny.task, TEMPERATURE if tiny.task != "regression" else 1.0)


def evidence_of(tiny: Tiny) -> tuple[Confidence, Evidence]:
    """Everything that a version of that task can know."""
    seen, labels = coloured(240, seed=1)
    held_out, truth = coloured(480, seed=2)
    calibrated = outputs_of(tiny, held_out)
    familiarity = _familiarity(seen, labels, held_out)
    head = Head(np.array(tiny.weight, dtype=np.float32).T / 255, np.array(tiny.bias, dtype=np.float32))
    card = _card(tiny)
    if tiny.task == "regression":
        residuals = np.sort(np.random.default_rng(3).uniform(0, 2.5, 200))
        return card, Evidence(residuals=residuals, familiarity=familiarity, head=head)
    if tiny.task == "multi_label":
        return card, Evidence(familiarity=familiarity, head=head)
    return _of_single_label(
        tiny, card, Evidence(familiarity=familiarity, head=head), (seen, labels), (held_out, truth, calibrated)
    )


def publish_judged(registry: Registry, work: Path, name: str, tiny: Tiny) -> Manifest:
    """Publish a model with evidence and return its manifest."""
    folder = work / f"{name}-{len(registry.versions(name))}"
    write_tiny(folder, tiny)
    confidence, evidence = evidence_of(tiny)
    (folder / CONFIDENCE).write_bytes(canonical_json(confidence))
    (folder / EVIDENCE).write_bytes(evidence.to_bytes())
    return registry.publish(folder, tiny_manifest(name, tiny))


def _familiarity(seen: np.ndarray, labels: np.ndarray, held_out: np.ndarray) -> Familiarity:
    directions = unit_length(seen).astype(np.float64)
    centres = np.stack([directions[labels == label].mean(axis=0) for label in range(3)])
    offsets = directions - centres[labels]
    variances, axes = np.linalg.eigh(offsets.T @ offsets / len(offsets))
    fitted = Familiarity(centres, axes[:, :0:-1].T, variances[:0:-1], float(variances[0]), np.zeros(0))
    return Familiarity(fitted.centres, fitted.axes, fitted.variances, fitted.rest, np.sort(fitted.distance(held_out)))


def _card(tiny: Tiny) -> Confidence:
    value = 1.0 if tiny.task == "regression" else TEMPERATURE
    fitted = Temperature(value=value, status="ok", images=480, reason=None)
    empty = Confidence.without_evidence(fitted, tiny.thresholds, tiny.interval, "made for a test")
    tested = SelfTest(name="A1 parity", passed=True, found="0.0001", expected="at most 0.001")
    familiarity = FamiliarityCard(method="mahalanobis_pp", images=480, rank=2, weak=None, left_out=None)
    return empty.model_copy(update={"familiarity": familiarity, "self_tests": (tested,), "unavailable": {}})


def _of_single_label(
    tiny: Tiny,
    card: Confidence,
    evidence: Evidence,
    known: tuple[np.ndarray, np.ndarray],
    calibration: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> tuple[Confidence, Evidence]:
    held_out, truth, calibrated = calibration
    predicted = calibrated.argmax(axis=1)
    bank = _bank(tiny, known, (held_out, truth))
    similar = bank.similarities(unit_length(held_out))
    # not its own neighbour
    similar[similar > 1 - 1e-6] = -np.inf
    p_max, right = calibrated.max(axis=1), predicted == truth
    trust = np.array([bank.trust(row, int(label)) for row, label in zip(similar, predicted, strict=True)])
    fitted = fit(p_max, trust, right)
    quantiles = [np.quantile(p_max[right & (predicted == label)], np.linspace(0, 1, PERCENTILES)) for label in range(3)]
    shares = np.histogram(p_max, bins=BINS, range=(0, 1))[0] / len(p_max)
    counted = Counted(value=0.95, low=0.93, high=0.97, count=456, of=480)
    parts = {
        "conformal": ConformalCard(method="class_conditional_lac", images=dict.fromkeys(tiny.labels, 160)),
        "correctness": CorrectnessCard(
            coefficients=(fitted.of_probability, fitted.of_trust, fitted.constant),
            images=480,
            log_loss=0.1,
            log_loss_of_probability=0.2,
            auroc=0.99,
            auroc_of_probability=0.98,
        ),
        "acceptance": Acceptance(target=0.95, threshold=THRESHOLD, on_test=counted),
        "expected_accuracy": (ExpectedAccuracy(low=0.9, high=1.0, right=counted),),
        "precision": dict.fromkeys(tiny.labels, counted),
        "known_confusions": (KnownConfusion(actual="blue", predicted="green", count=9, share_of_predicted=0.06),),
        "reference": Reference(p_max=tuple(shares.tolist()), p_familiar=(1.0,)),
    }
    conformal = Conformal.fit(calibrated, truth)
    whole = Evidence(
        conformal=conformal, familiarity=evidence.familiarity, bank=bank, percentiles=np.array(quantiles), head=evidence.head
    )
    return card.model_copy(update=parts), whole


def _bank(tiny: Tiny, *parts: tuple[np.ndarray, np.ndarray]) -> Bank:
    """Both parts, the last one held out, in the order of labels."""
    embeddings, labels = (np.concatenate([part[index] for part in parts]) for index in range(2))
    held_out = np.arange(len(labels)) >= len(parts[0][1])
    order = np.argsort(labels, kind="stable")
    predicted = outputs_of(tiny, embeddings).argmax(axis=1)
    ids = np.array([f"sha256:{row:012x}" for row in range(len(labels))])
    return Bank(unit_length(embeddings)[order], labels[order], predicted[order], held_out[order], ids[order])
