"""Answers of a made-up model whose embeddings, logits and mistakes belong together, in numpy."""

from __future__ import annotations

import numpy as np

from training.confidence.answers import Answers
from training.confidence.parts import Material

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
