"""One image before a version's evidence: what is asked, what the graph answered, and the parts that all tasks show."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from models.confidence.conformal import fewest
from models.confidence.explanation import Contrast, Familiar, Heatmap
from models.confidence.familiarity import UNKNOWN
from models.confidence.heatmap import activation_map, contrast
from models.confidence.overlay import overlay_png

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.confidence.judge import Judge, Trust

FloatArray = npt.NDArray[np.float64]
# Of a prediction set, where nobody asks for another.
DEFAULT_LEVEL = 0.95
_DIGITS = 6


@dataclass(frozen=True)
class Ask:
    """What of an image is asked for.

    Attributes:
        confidence_level: Of the prediction set or the interval, in (0, 1).
        top_k: How many labels are named.
        neighbors: How many known images are shown.
        heatmap: As numbers, as a picture, or not at all.
        versus: Index of a label to contrast the first one with; None for no contrast.
    """

    confidence_level: float
    top_k: int
    neighbors: int
    heatmap: Literal["grid", "png", "none"]
    versus: int | None


@dataclass(frozen=True)
class Seen:
    """One image as the model saw it, and what the graph answered.

    Attributes:
        logits: float32 `[K]`.
        embedding: float32 `[D]`.
        spatial: float32 `[C, h, w]`: the graph's third output.
        pixels: uint8 `[H, W, 3]`, for an overlay.
        box: What that is of the upright image: left, top, right, bottom as shares.
    """

    logits: npt.NDArray[np.float32]
    embedding: npt.NDArray[np.float32]
    spatial: npt.NDArray[np.float32]
    pixels: npt.NDArray[np.uint8]
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Case:
    """An image, judged."""

    judge: Judge
    labels: Sequence[str]
    seen: Seen
    ask: Ask
    row: FloatArray
    trust: Trust

    def unavailable(self, label: int | None = None) -> dict[str, str]:
        """Why parts are null: the version has no evidence for them, or what was asked for has no answer.

        Args:
            label: That the image was said to have; None where it is not one.
        """
        found = dict(self.judge.confidence.unavailable)
        if self.ask.heatmap == "none":
            found["heatmap"] = "heatmap=none asks for no map"
        if label is not None and self.ask.versus is not None:
            if self.ask.heatmap == "none":
                found["versus"] = found["heatmap"]
            elif self.ask.versus == label:
                found["versus"] = f"{self.labels[label]} is the first label itself"
        return found

    def too_high(self, images: int) -> str:
        """Why there is no bound at the level that was asked for, with so many calibration images."""
        level = self.ask.confidence_level
        return f"at confidence_level {level:g} it takes {fewest(level)} calibration images, and there are {images}"

    def familiar(self) -> Familiar | None:
        """Whether the image is like the data."""
        card = self.judge.confidence.familiarity
        if card is None or self.trust.p_familiar is None or self.trust.familiarity is None:
            return None
        return Familiar(
            p_value=rounded(self.trust.p_familiar),
            verdict=self.trust.familiarity,
            method=card.method,
            false_alarm_rate=UNKNOWN,
            weak=card.weak,
        )

    def heatmap(self, label: int) -> Heatmap | None:
        """What speaks for a label; None where nobody asked, or the map would not be exact."""
        head = self.judge.evidence.head
        if head is None or self.ask.heatmap == "none":
            return None
        return self._drawn(activation_map(self.seen.spatial, head, label), float(head.bias[label]))

    def versus(self, label: int) -> Contrast | None:
        """What speaks for a label rather than the one asked about."""
        head, other = self.judge.evidence.head, self.ask.versus
        if head is None or other is None or self.ask.heatmap == "none" or other == label:
            return None
        return Contrast(
            label=self.labels[other],
            logit_margin=rounded(float(self.seen.logits[label]) - float(self.seen.logits[other])),
            heatmap=self._drawn(contrast(self.seen.spatial, head, label, other), 0.0),
        )

    def _drawn(self, found: FloatArray, bias: float) -> Heatmap:
        as_picture = self.ask.heatmap == "png"
        left, top, right, bottom = map(rounded, self.seen.box)
        return Heatmap(
            rows=found.shape[0],
            cols=found.shape[1],
            values=None if as_picture else tuple(tuple(rounded(value) for value in row) for row in found.tolist()),
            png=base64.b64encode(overlay_png(found, self.seen.pixels)).decode() if as_picture else None,
            unit="value" if self.judge.task == "regression" else "logit",
            bias=rounded(bias),
            image_box=(left, top, right, bottom),
        )


def rounded(number: float) -> float:
    """Six digits that count: more than another processor would change."""
    return float(f"{number:.{_DIGITS}g}")
