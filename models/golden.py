"""Golden inputs and outputs: stored when a version is published, replayed before it serves and before it is judged.

Owns how they are read and when outputs count as equal. Who runs the graph is the caller.
"""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING

import numpy as np

from models.decision import activate, largest_difference, unit_of_difference
from models.errors import ArtifactError

if TYPE_CHECKING:
    import numpy.typing as npt

    from models.artifact import Artifact

# fp32 on another processor or library version moves a probability in the seventh digit; this is a thousand times that. Of a
# regression it is a share of how far the golden outputs lie apart.
GOLDEN_TOLERANCE = 1e-3
# What a reduced precision may move one.
REDUCED_TOLERANCE = 0.02


def read_golden(artifact: Artifact) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """The stored inputs uint8 `[N, H, W, 3]` and their logits float32 `[N, K]`; at least one.

    Raises:
        ArtifactError: If they cannot be read, or do not belong together.
    """
    try:
        with np.load(io.BytesIO(artifact.golden), allow_pickle=False) as stored:
            images, logits = stored["images"], stored["logits"]
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as err:
        raise ArtifactError(f"golden.npz cannot be read: {err}") from err
    if not len(images) or len(images) != len(logits):
        raise ArtifactError(f"golden.npz has {len(images)} images for {len(logits)} logits")
    return images, logits


def deviation(
    artifact: Artifact, found: npt.NDArray[np.float32], stored: npt.NDArray[np.float32], *, is_reduced: bool = False
) -> tuple[float, float]:
    """How far answers are from the stored ones, and how far they may be: of probabilities, or in a regression's unit.

    Args:
        artifact: The version: its task, and the temperature at which it answers.
        found: Logits `[N, K]` as they come out now.
        stored: As they came out then.
        is_reduced: Whether they came out in less than fp32.

    Raises:
        ValueError: If a logit is not finite.
    """
    task, temperature = artifact.manifest.task, artifact.confidence.temperature.value
    wanted = activate(stored, task, temperature)
    accepted = REDUCED_TOLERANCE if is_reduced else GOLDEN_TOLERANCE
    return largest_difference(activate(found, task, temperature), wanted), accepted * unit_of_difference(wanted, task)
