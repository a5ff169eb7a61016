"""torch to ONNX: one file, dynamic batch, bytes in; and the proof that it computes the same.

The graph takes uint8 `[N, H, W, 3]`, normalises inside, and answers `logits`, `embedding` and `cam` or `feature_map`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import nn

from models.decision import largest_difference, unit_of_difference
from models.manifest import MAX_CAM_LABELS, OutputSpec
from training.errors import ParityError
from training.simplify import simplified
from training.spatial import spread_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from models.recipe import Task
    from training.normalise import Normalise

OPSET = 20
PARITY_TOLERANCE = 1e-3
PARITY_BATCHES = (1, 3, 8)

UInt8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Exported:
    """A file on disk, and what its outputs are."""

    path: Path
    outputs: OutputSpec
    largest_difference: float


class ServingGraph(nn.Module):
    """What is exported: normalisation, backbone, head, and the map that explains the logits."""

    def __init__(self, network: nn.Module, normalise: Normalise, images: torch.Tensor) -> None:
        """Wrap a trained network; the third output is a class activation map where one is exact and small enough.

        Args:
            network: In evaluation mode.
            normalise: What its images go through first.
            images: Normalised floats `[N, 3, H, W]`, to look at what its head does.
        """
        super().__init__()
        self.network = network
        self.normalise = normalise
        self.spread = spread_of(network, images)
        self.has_cam = self.spread is not None and network.get_classifier().out_features <= MAX_CAM_LABELS  # type: ignore[operator, union-attr]

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """uint8 `[N, H, W, 3]` to logits `[N, K]`, embedding `[N, D]` and cam `[N, K, h, w]` or feature map."""
        # Plainly laid out, as `simplified` wants it; what was read as [N, 3, H, W] is still [N, H, W, 3] in memory.
        features = self.network.forward_features(self.normalise(image).contiguous())  # type: ignore[operator]
        embedding = self.network.forward_head(features, pre_logits=True)  # type: ignore[operator]
        head = self.network.get_classifier()  # type: ignore[operator]
        logits = head(embedding)
        spatial = features if self.spread is None else self.spread(features)
        if not self.has_cam:
            return logits, embedding, spatial
        # Class activation map (Zhou et al. 2016): the head applied at every position; its mean is the logit less the bias.
        # [K, D] -> [K, D, 1, 1]
        return logits, embedding, nn.functional.conv2d(spatial, head.weight[:, :, None, None])


def export(
    network: nn.Module, normalise: Normalise, image_size: int, unseen: UInt8Array, path: Path, task: Task = "single_label"
) -> Exported:
    """Write `path` and prove that ONNX Runtime and torch agree on inputs that the export never saw.

    Args:
        network: A timm network in its final state. Moved to the CPU and to evaluation mode.
        normalise: The one that training used.
        image_size: H and W of the input; fixed, because SAME padding depends on it.
        unseen: uint8 `[N, H, W, 3]`; images for the proof, at least one.
        path: Where to write; the parent exists.
        task: What the logits are: a regression's are compared in relation to how far they lie apart.

    Raises:
        ParityError: If at batch 1, 3 or 8 a logit differs by more than 1e-3, a regression's value by more than that share of
            the values' spread, or another output by more than that share of its largest value. The file is removed.
    """
    network, normalise = network.cpu().eval(), normalise.cpu()
    example = torch.zeros(2, image_size, image_size, 3, dtype=torch.uint8)
    shown = normalise(torch.from_numpy(unseen[:1]))
    graph = ServingGraph(simplified(network, shown), normalise, shown).eval()
    third = "cam" if graph.has_cam else "feature_map"
    with torch.inference_mode(), _quiet():
        program = torch.onnx.export(
            graph,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=({0: "batch"},),
            input_names=["image"],
            output_names=["logits", "embedding", third],
            verbose=False,
        )
    if program is None:
        raise ParityError("torch gave no ONNX program; nothing was exported")
    program.save(str(path), external_data=False)
    onnx.checker.check_model(str(path), full_check=True)
    try:
        difference = _check_parity(ServingGraph(network, normalise, shown).eval(), path, unseen, task)
    except ParityError:
        path.unlink()
        raise
    return Exported(path, _output_spec(path, third, unseen), difference)


def run_onnx(path: Path, batch: UInt8Array) -> list[npt.NDArray[np.float32]]:
    """Run the exported file on the CPU: `[logits, embedding, cam or feature_map]`."""
    return open_session(path).run(None, {"image": batch})


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """The exported file in ONNX Runtime's CPU provider, with as many threads as there are cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _check_parity(graph: ServingGraph, path: Path, unseen: UInt8Array, task: Task) -> float:
    session = open_session(path)
    worst, unit = 0.0, 0.0
    # The largest batch first: a unit of difference takes several values.
    for size in sorted(PARITY_BATCHES, reverse=True):
        # Spread over the pool, so that a batch is not all of one label.
        batch = unseen[np.linspace(0, len(unseen) - 1, size).astype(int)]
        with torch.inference_mode():
            expected = graph(torch.from_numpy(batch))
        unit = unit or unit_of_difference(expected[0].numpy(), task)
        for name, ours, theirs in zip(_names(session), session.run(None, {"image": batch}), expected, strict=True):
            difference = largest_difference(ours, theirs.numpy())
            # Logits to the digit. Features may be in the hundreds, where the same share of them is what can be asked.
            scale = unit if name == "logits" else max(1.0, float(theirs.abs().max()))
            if difference > PARITY_TOLERANCE * scale:
                raise ParityError(
                    f"ONNX Runtime's {name} differs from torch's by {difference:.2g} at batch {size} (at most "
                    f"{PARITY_TOLERANCE * scale:.2g} is accepted); nothing was published"
                )
            worst = max(worst, difference if name == "logits" else 0.0)
    return worst


def _output_spec(path: Path, third: str, unseen: UInt8Array) -> OutputSpec:
    logits, embedding, spatial = run_onnx(path, unseen[:1])
    return OutputSpec(
        logits=logits.shape[1],
        embedding=embedding.shape[1],
        spatial="cam" if third == "cam" else "feature_map",
        spatial_channels=spatial.shape[1],
        spatial_height=spatial.shape[2],
        spatial_width=spatial.shape[3],
    )


def _names(session: onnxruntime.InferenceSession) -> Sequence[str]:
    return [output.name for output in session.get_outputs()]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter narrates on stdout, which is for the result, and warns of what it does itself."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
