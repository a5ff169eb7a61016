"""Answers of a made-up model whose embeddings, logits and mistakes belong together, in numpy."""

from __future__ import annotations

import numpy as np

from models.confidence.evidence import Evidence
from models.confidence.judge import Judge
from models.confidence.schema import Confidence, Temperature
from training.confidence.answers import Answers
from training.confidence.parts import Material, fit_parts
from training.confidence.promises import Tried

LABELS = 6
DIMENSIONS = 24


def embeddings_of(targets: np.ndarray, seed: int, spread: float = 0.35) -> np.ndarray:
    """Around a centre for each label; `[N, 24]`."""
    centres = np.random.default_rng(7).normal(size=(1000, DIMENSIONS))
    noise = np.random.default_rng(seed).normal(size=(len(targets), DIMENSIONS)) * spread * np.sqrt(DIMENSIONS) / 2
    return (centres[targets] + noise).astype(np.float32)


def answers(count: int, seed: int, *, labels: int = LABELS, spread: float = 0.35, noise: float = 3.0) -> Answers:
    """Images of every label in turn; logits are closeness to the centres, and a noise that the embeddings know nothing of."""
    targets = np.arange(count) % labels
    rng = np.random.default_rng(seed + 1000)
    embeddings = embeddings_of(targets, seed, spread)
    centres = np.random.default_rng(7).normal(size=(1000, DIMENSIONS))[:labels]
    logits = embeddings @ centres.T / 4 + rng.normal(size=(count, labels)) * noise
    ids = np.array([f"sha256:{seed:04}{row:08}" for row in range(count)])
    return Answers(targets, ids, logits.astype(np.float32), embeddings)


def material(training: Answers, calibration: Answers, *, labels: int = LABELS, temperature: float = 1.5) -> Material:
    names = tuple(f"label {index}" for index in range(labels))
    return Material("single_label", names, temperature, training, calibration, seed=0)


def tried(training: Answers, calibration: Answers, test: Answers, *, temperature: float = 1.5, labels: int = LABELS) -> Tried:
    """A version fitted on the first two, and what it makes of the third; images of other labels are unrelated."""
    given = material(training, calibration, labels=labels, temperature=temperature)
    parts = fit_parts(given, {})
    fitted = Temperature(value=temperature, status="ok", images=len(calibration), reason=None)
    confidence = Confidence.without_evidence(fitted, None, None, "").model_copy(
        update={"conformal": parts.conformal, "familiarity": parts.familiarity, "correctness": parts.correctness}
    )
    judge = Judge("single_label", confidence, Evidence.from_bytes(parts.evidence.to_bytes()))
    outputs = judge.probabilities(test.logits)
    strange = embeddings_of(np.arange(100) % 50 + 500, 99)
    unrelated = np.random.default_rng(0).dirichlet(np.full(labels, 0.3), 100)
    return Tried(judge, given.labels, test, outputs, judge.trust(outputs, test.embeddings), (unrelated, strange))
