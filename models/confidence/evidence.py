"""`confidence.npz`: the numbers by the thousand behind `confidence.json`, without pickle; and what they are when loaded."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from models.confidence.bank import Bank
from models.confidence.conformal import Conformal
from models.confidence.familiarity import Familiarity
from models.confidence.heatmap import Head
from models.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.confidence.schema import Confidence
    from models.manifest import OutputSpec
    from models.recipe import Task

EVIDENCE = "confidence.npz"
# Quantiles of how sure the model was of its right answers, 0 % to 100 %.
PERCENTILES = 101

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """What statements about an image are computed from; a part that is None was not fitted, and `confidence.json` says why.

    Attributes:
        conformal: With one label an image: scores for prediction sets.
        residuals: With regression: absolute errors on calibration images, `[n]`, rising, in the number's unit.
        familiarity: Whether an image is like the data.
        bank: Known images.
        percentiles: With one label an image: of each label, how sure the right answers on calibration images were, `[K, 101]`;
            NaN where there was none.
        head: The last layer, for maps; None where its maps would not be exact.
    """

    conformal: Conformal | None = None
    residuals: FloatArray | None = None
    familiarity: Familiarity | None = None
    bank: Bank | None = None
    percentiles: FloatArray | None = None
    head: Head | None = None

    def to_bytes(self) -> bytes:
        """A compressed npz; equal evidence is equal arrays."""
        arrays: dict[str, npt.NDArray[np.generic]] = {}
        if self.conformal is not None:
            arrays["scores"] = np.concatenate(self.conformal.of_label)
            arrays["scores_of_label"] = np.array([len(scores) for scores in self.conformal.of_label], dtype=np.int64)
        if self.residuals is not None:
            arrays["residuals"] = self.residuals
        if self.familiarity is not None:
            arrays |= self.familiarity.arrays()
        if self.bank is not None:
            arrays |= self.bank.arrays()
        if self.percentiles is not None:
            arrays["percentiles"] = self.percentiles
        if self.head is not None:
            arrays["head_bias"] = self.head.bias
            if self.head.weight is not None:
                arrays["head_weight"] = self.head.weight
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()

    def check_fits(self, task: Task, confidence: Confidence, outputs: OutputSpec) -> None:
        """Refuse what belongs to another graph, or what `confidence.json` does not speak of: the service would have to guess.

        Raises:
            ArtifactError: If a part is missing or unannounced, or its size is not the graph's.
        """
        pairs = {
            "conformal": (self.conformal, confidence.conformal),
            "familiarity": (self.familiarity, confidence.familiarity),
        }
        for name, (numbers, card) in pairs.items():
            if (numbers is None) != (card is None):
                raise ArtifactError(f"{EVIDENCE} and confidence.json disagree on whether there is {name}; publish it again")
        sizes = [
            ("scores_of_label", len(self.conformal.of_label) if self.conformal else None, outputs.logits),
            ("centres", self.familiarity.centres.shape[1] if self.familiarity else None, outputs.embedding),
            ("bank_directions", self.bank.directions.shape[1] if self.bank else None, outputs.embedding),
            ("percentiles", len(self.percentiles) if self.percentiles is not None else None, outputs.logits),
            ("head_bias", len(self.head.bias) if self.head else None, outputs.logits),
        ]
        for name, found, expected in sizes:
            if found is not None and found != expected:
                raise ArtifactError(
                    f"{EVIDENCE}: {name} is of {found}, expected {expected} as the graph answers; publish it again"
                )
        if self.head is not None and (self.head.weight is None) != (outputs.spatial == "cam"):
            raise ArtifactError(f"{EVIDENCE}: head_weight stands beside a {outputs.spatial}; publish it again")
        if confidence.correctness is not None and confidence.correctness.coefficients is not None and self.bank is None:
            raise ArtifactError(f"{EVIDENCE} has no bank, and confidence.json's p_correct needs one; publish it again")
        if self.residuals is not None and task != "regression":
            raise ArtifactError(f"{EVIDENCE} has residuals, which belong to regression, and the task is {task}")

    @classmethod
    def from_bytes(cls, data: bytes) -> Evidence:
        """Read an npz.

        Raises:
            ArtifactError: If it is none, or a part of it is missing.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            return cls(
                conformal=_conformal(arrays["scores"], arrays["scores_of_label"]) if "scores" in arrays else None,
                residuals=arrays.get("residuals"),
                familiarity=Familiarity.from_arrays(arrays) if "centres" in arrays else None,
                bank=Bank.from_arrays(arrays) if "bank_ids" in arrays else None,
                percentiles=np.asarray(arrays["percentiles"], dtype=np.float64) if "percentiles" in arrays else None,
                head=Head(arrays.get("head_weight"), arrays["head_bias"]) if "head_bias" in arrays else None,
            )
        except (ValueError, KeyError, OSError, EOFError, IndexError, zipfile.BadZipFile) as err:
            raise ArtifactError(f"{EVIDENCE} cannot be read: {err}; publish the version again with training") from err


def _conformal(scores: FloatArray, of_label: npt.NDArray[np.int64]) -> Conformal:
    if int(of_label.sum()) != len(scores):
        raise ValueError(f"scores has {len(scores)} values, and scores_of_label says {int(of_label.sum())}")
    parts: Sequence[FloatArray] = np.split(scores, np.cumsum(of_label)[:-1])
    return Conformal(tuple(parts), np.sort(scores))
