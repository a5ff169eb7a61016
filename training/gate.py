"""`gate`: measure a candidate and what is in production on the held-out set, as they would serve, and have it decided.

Each version answers by its own preprocessing and its own ONNX file. Their times are taken in turns, in one process, so that
whatever else the machine does meets both.
"""

from __future__ import annotations

import itertools
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from models.artifact import MODEL, Artifact
from models.contest import Measured
from models.decision import activate
from models.errors import ArtifactError
from models.gate import decide
from models.golden import deviation, read_golden
from models.holdout import Holdout
from models.preprocess import load_image
from training.confidence.self_tests import PARITY_TEST
from training.errors import TrainingError
from training.export import open_session
from training.progress import progress, say

if TYPE_CHECKING:
    import numpy.typing as npt

    from models.gate_report import GateReport
    from models.registry import Registry

_BATCH = 64
# Pairs of single images that are timed in a round, and how many rounds a candidate that seems slow gets: a machine that
# does something else for a moment makes one round slow, and a slow network all of them.
_WARM_UP, _PAIRS, _ROUNDS = 5, 100, 3
_ROUND_S = 10.0
_GOOD_RATIO = 1.1


def gate(name: str, version: int, registry: Registry) -> GateReport:
    """Judge a version against what is in production, and keep the report.

    Args:
        name: The model's.
        version: The candidate.
        registry: Where both are, and the held-out set.

    Raises:
        ContractError: If there is no such version, or a version or the held-out set cannot be read.
        TrainingError: If ONNX Runtime does not take the candidate's file.
    """
    production = registry.aliases(name).production
    if production == version:
        raise TrainingError(f"{name}:{version} is in production; the gate judges a candidate")
    holdout = Holdout.read(registry, name)
    candidate = _Contestant(Artifact.load(registry.path(name, version)))
    current = None if production is None else _Contestant(Artifact.load(registry.path(name, production)))
    say(f"{name}:{version} against {f'{name}:{production}' if current else 'nothing in production'}")
    ours = candidate.measure(holdout)
    theirs = None if current is None else current.measure(holdout)
    if current is not None and theirs is not None:
        times = _times(candidate, current)
        ours, theirs = replace(ours, p95_ms=times[0]), replace(theirs, p95_ms=times[1])
    truth = () if holdout is None else tuple(image.target for image in holdout.index.images)
    report = decide(name, ours, theirs, truth, None if holdout is None else holdout.sha256, datetime.now(UTC))
    registry.write_gate(report)
    for line in report.lines():
        say(line)
    return report


class _Contestant:
    """A version, verified, with its graph loaded."""

    def __init__(self, artifact: Artifact) -> None:
        """Load the graph.

        Raises:
            TrainingError: If ONNX Runtime does not take it.
        """
        self.artifact, self.manifest = artifact, artifact.manifest
        try:
            self._session = open_session(artifact.path / MODEL)
        except Exception as err:
            reason = str(err).splitlines()[0][:200]
            raise TrainingError(f"{self.manifest.reference} cannot be loaded by ONNX Runtime: {reason}") from err

    def logits(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """float32 `[N, K]` for uint8 `[N, H, W, 3]`."""
        found: npt.NDArray[np.float32] = self._session.run(["logits"], {"image": images})[0]
        return found

    def measure(self, holdout: Holdout | None) -> Measured:
        """What it answers to the held-out images, and whether it is sound."""
        confidence = self.artifact.confidence
        proven = [test.passed for test in confidence.self_tests if test.name == PARITY_TEST]
        unproven = f"Nothing in {self.manifest.reference} proves that its graph computes what was trained"
        return Measured(
            version=self.manifest.version,
            task=self.manifest.task,
            labels=self.manifest.labels,
            unit=self.manifest.unit,
            outputs=None if holdout is None else self._answers(holdout),
            temperature=confidence.temperature,
            thresholds=confidence.thresholds,
            interval=confidence.interval,
            golden=self._golden(),
            parity=None if proven and all(proven) else unproven,
            p95_ms=None,
        )

    def _answers(self, holdout: Holdout) -> npt.NDArray[np.float64] | None:
        """Calibrated answers `[N, K]`, a batch at a time; None where an answer is not finite."""
        spec, total = self.manifest.input, len(holdout.index.images)

        def read(data: bytes) -> npt.NDArray[np.uint8]:
            return load_image(data, self.manifest.preprocessing, spec.height, spec.width)

        rows: list[npt.NDArray[np.float32]] = []
        images = iter(progress(holdout.read_images(), f"version {self.manifest.version}", total))
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            while batch := [data for _, data in itertools.islice(images, _BATCH)]:
                rows.append(self.logits(np.stack(list(pool.map(read, batch)))))
        try:
            return activate(np.concatenate(rows), self.manifest.task, self.artifact.confidence.temperature.value)
        except ValueError:
            return None

    def _golden(self) -> str | None:
        """Why its golden outputs are not met, in a sentence; None where they are."""
        reference = self.manifest.reference
        try:
            images, stored = read_golden(self.artifact)
            difference, accepted = deviation(self.artifact, self.logits(images), stored)
        except (ArtifactError, ValueError) as err:
            return f"The golden inputs of {reference} cannot be replayed: {err}"
        if difference <= accepted:
            return None
        return f"{reference} does not reproduce its golden outputs: {difference:.2g} apart, {accepted:.2g} is accepted"

    def seconds(self, image: npt.NDArray[np.uint8]) -> float:
        """How long one image takes, alone."""
        started = time.perf_counter()
        self.logits(image)
        return time.perf_counter() - started

    def blank(self) -> npt.NDArray[np.uint8]:
        """One image of its size; what is on it takes no time."""
        return np.full((1, self.manifest.input.height, self.manifest.input.width, 3), 127, dtype=np.uint8)


def _times(candidate: _Contestant, production: _Contestant) -> tuple[float, float]:
    """The 95th percentiles of both, in ms, of the round that is kindest to the candidate."""
    best = _round(candidate, production)
    for _ in range(_ROUNDS - 1):
        if best[0] <= _GOOD_RATIO * best[1]:
            break
        best = min(best, _round(candidate, production), key=lambda pair: pair[0] / pair[1])
    return best


def _round(candidate: _Contestant, production: _Contestant) -> tuple[float, float]:
    pair: tuple[Any, ...] = ((candidate, candidate.blank()), (production, production.blank()))
    for contestant, image in pair * _WARM_UP:
        contestant.seconds(image)
    taken: dict[int, list[float]] = {0: [], 1: []}
    until = time.monotonic() + _ROUND_S
    for number in range(_PAIRS):
        for which in (0, 1) if number % 2 else (1, 0):
            taken[which].append(pair[which][0].seconds(pair[which][1]))
        if time.monotonic() > until:
            break
    ours, theirs = (float(np.percentile(taken[which], 95)) * 1000 for which in (0, 1))
    return ours, theirs
