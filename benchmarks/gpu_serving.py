"""The serving half of `make gpu-check`: outputs beside the CPU's, sessions by batch size, and the whole service by clients.

Networks have random weights: what they answer does not change how fast they are, and nothing has to be downloaded.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import timm
import torch
from onnxruntime.transformers.float16 import convert_float_to_float16

from benchmarks import load
from benchmarks.photos import SMALL
from benchmarks.served import served
from models.recipe import Recipe
from models.registry import Registry
from training.export import ServingGraph, export
from training.normalise import Normalise
from training.pretrained import publish_pretrained

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx
    import numpy.typing as npt

    from models.preprocess import UInt8Array
    from training.device import Device

# fp32 with TF32 off differs by rounding alone; the logits of random weights are of the order of 1.
OUTPUT_TOLERANCE = 1e-3
_LABELS = 1000
_CUDA: dict[str, dict[str, str]] = {"fp32": {"use_tf32": "0"}, "tf32": {"use_tf32": "1"}, "fp16": {"use_tf32": "0"}}


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    image_px: int
    networks: tuple[str, ...]
    batches: tuple[int, ...]
    clients: tuple[int, ...]
    seconds: float


FULL = Size(224, ("resnet50", "tf_efficientnet_lite0"), (1, 8, 32, 64, 128), (1, 4, 16, 64, 256), 5.0)
REHEARSAL = Size(64, ("test_resnet",), (1, 2), (1, 4), 1.0)


def serving(device: Device, size: Size) -> dict[str, Any]:
    """All of it: a check that the outputs are the CPU's, rows of sessions, and rows of the service."""
    provider = "cuda" if device.torch.type == "cuda" else "cpu"
    check: dict[str, Any] = {"tolerance": OUTPUT_TOLERANCE, "largest_difference": {}}
    sessions: list[dict[str, Any]] = []
    for name in size.networks:
        with _exported(name, size) as (graph, model):
            images = np.random.default_rng(0).integers(0, 256, (8, size.image_px, size.image_px, 3), dtype=np.uint8)
            here, there = (_runner(model, where, "fp32")(images) for where in (provider, "cpu"))
            check["largest_difference"][name] = float(np.abs(here - there).max())
            for batch in size.batches:
                sessions += list(_sessions(name, graph, model, device, batch, size))
    check["holds"] = all(one <= OUTPUT_TOLERANCE for one in check["largest_difference"].values())
    return {"same_outputs": check, "sessions": sessions, "service": list(_service(provider, size))}


@contextmanager
def _exported(name: str, size: Size) -> Iterator[tuple[ServingGraph, bytes]]:
    """The graph that is served, in torch and as the file."""
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=_LABELS).eval()
    normalise = Normalise((0.5,) * 3, (0.5,) * 3)
    with tempfile.TemporaryDirectory(prefix="candor-gpu-check-") as work:
        images = np.random.default_rng(1).integers(0, 256, (8, size.image_px, size.image_px, 3), dtype=np.uint8)
        exported = export(network, normalise, size.image_px, images, Path(work) / "model.onnx")
        yield ServingGraph(network, normalise, normalise(torch.from_numpy(images))).eval(), exported.path.read_bytes()


def _sessions(name: str, graph: ServingGraph, model: bytes, device: Device, batch: int, size: Size) -> Iterator[dict[str, Any]]:
    images = np.random.default_rng(0).integers(0, 256, (batch, size.image_px, size.image_px, 3), dtype=np.uint8)
    provider = "cuda" if device.torch.type == "cuda" else "cpu"
    row = {"network": name, "image_px": size.image_px, "batch": batch}
    for precision in _CUDA if provider == "cuda" else ("fp32",):
        yield {**row, "what": f"ONNX Runtime {provider} {precision}", **_timed(_runner(model, provider, precision), images, size)}
    for precision, compiled in (("fp32", False), ("fp16", False), ("fp16", True)):
        if provider == "cpu" and (compiled or precision != "fp32"):
            continue
        what = f"torch {'compiled' if compiled else 'eager'} {precision}"
        yield {**row, "what": what, **_timed(_torch(graph, device, precision, compiled=compiled), images, size)}


def _runner(model: bytes, provider: str, precision: str) -> Callable[[UInt8Array], npt.NDArray[np.float32]]:
    if provider == "cuda":
        onnxruntime.preload_dlls()
    chosen: list[Any] = [("CUDAExecutionProvider", _CUDA[precision])] if provider == "cuda" else ["CPUExecutionProvider"]
    if precision == "fp16":
        model = convert_float_to_float16(onnx.load_from_string(model), keep_io_types=True).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=chosen)
    wanted = f"{provider.upper()}ExecutionProvider"
    if session.get_providers()[0] != wanted:
        raise SystemExit(f"ONNX Runtime runs on {session.get_providers()[0]}, expected {wanted}")

    def run(images: UInt8Array) -> npt.NDArray[np.float32]:
        found: npt.NDArray[np.float32] = session.run(["logits"], {"image": images})[0]
        return found

    return run


def _torch(graph: ServingGraph, device: Device, precision: str, *, compiled: bool) -> Callable[[UInt8Array], Any]:
    moved = graph.to(device.torch).to(memory_format=torch.channels_last)
    called = torch.compile(moved) if compiled else moved

    def run(images: UInt8Array) -> Any:
        is_half = precision == "fp16"
        with torch.inference_mode(), torch.autocast(device.torch.type, torch.float16, enabled=is_half):
            return called(torch.from_numpy(images).to(device.torch))[0].float().cpu()

    return run


def _timed(run: Callable[[UInt8Array], Any], images: UInt8Array, size: Size) -> dict[str, float]:
    """Images a second from numpy to numpy, one batch after another; the first ones choose algorithms and are not counted."""
    for _ in range(3):
        run(images)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < size.seconds / 5:
        run(images)
        count += 1
    took = time.perf_counter() - began
    return {"images_per_s": round(count * len(images) / took, 1), "ms": round(took / count * 1e3, 3)}


def _service(provider: str, size: Size) -> Iterator[dict[str, Any]]:
    """JPEG to JSON, by number of clients; the share of time in which the graph ran is from the service's own metrics."""
    with tempfile.TemporaryDirectory(prefix="candor-gpu-check-") as work:
        for name in size.networks:
            recipe = Recipe(backbone=name, pretrained=False, image_size=size.image_px)
            publish_pretrained(name, recipe, Registry(Path(work, "registry")), Path(work, "runs"))
        jpegs = SMALL.load(Path(work))
        with served(work, run="serve") as client:
            shown = client.get("/metrics").text
            if f'candor_provider_info{{provider="{provider}"}} 1.0' not in shown:
                raise SystemExit(f"the service does not run on {provider}")
            for name in size.networks:
                asked = [load.post(f"/classify?model={name}", jpeg, {"content-type": "image/jpeg"}) for jpeg in jpegs]
                for clients in size.clients:
                    before = _inference_s(client)
                    found = load.closed(str(client.base_url), asked, clients=clients, seconds=size.seconds, warm_s=0.5)
                    yield {
                        "network": name,
                        "clients": clients,
                        "images_per_s": round(found.good_per_s, 1),
                        "p50_ms": round(found.percentile_ms(50), 2),
                        "p99_ms": round(found.percentile_ms(99), 2),
                        "failed": sum(count for status, count in found.statuses.items() if status != 200),
                        "inference_share": round((_inference_s(client) - before) / (size.seconds + 0.5), 3),
                    }


def _inference_s(client: httpx.Client) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("candor_inference_duration_seconds_sum"))
