"""`make gpu-check`: whether a GPU trains and answers as the CPU does, and how fast. In about ten minutes, no download.

`python -m benchmarks.gpu_check` needs CUDA. `--rehearse` goes through all of it on the CPU with tiny sizes and writes nothing
to keep, so that the one command is known to work before a GPU is at hand.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import timm
import torch
from torch.nn import functional

from benchmarks import gpu_serving, machine
from models.dataset import Item
from models.recipe import Recipe
from models.registry import Registry
from training.data import Images
from training.device import Device, pick_device
from training.distributed import World
from training.fit import fit
from training.loop import FineTuner
from training.normalise import Normalise
from training.objective import make_objective
from training.plan import Plan
from training.progress import Events, say
from training.sample import unpack_sample
from training.source import Source
from training.step import Setting
from training.stop import Stop

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULTS = Path(__file__).with_name("results")
NETWORKS = ("resnet50", "tf_efficientnet_lite0")
# Relative. bf16 keeps two to three digits, and a backward pass through fifty layers loses some of them.
LOSS_TOLERANCE = {"fp32": 1e-3, "bf16": 0.01, "fp16": 0.01}
GRADIENT_TOLERANCE = {"fp32": 1e-2, "bf16": 0.1, "fp16": 0.1}
_LABELS = 10
_BYTES_AN_IMAGE = 150_000_000
_LIBRARIES = ("torch", "torchvision", "timm", "numpy", "onnx", "onnxruntime-gpu", "fastai")


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    image_px: int
    batch: int
    steps: int
    networks: tuple[str, ...]


FULL = Size(224, 128, 40, NETWORKS)
REHEARSAL = Size(64, 4, 3, ("tf_efficientnet_lite0",))


def main() -> int:
    """Run every check; exit 0 when all of them hold, 1 when one does not, 2 where there is no GPU."""
    options = _parse()
    if not torch.cuda.is_available() and not options.rehearse:
        say("there is no CUDA device here, so there is nothing to check; --rehearse goes through it on the CPU")
        return 2
    started = time.monotonic()
    device = pick_device()
    size = REHEARSAL if options.rehearse else _fitting(FULL)
    found: dict[str, Any] = {"setting": _setting(device), "checks": {}, "throughput": []}
    found["checks"]["same_loss"] = check_loss(device, size)
    found["checks"]["mixed_precision"] = check_precision(device, size)
    found["throughput"] = [row for name in size.networks for row in throughput(device, name, size)]
    found["sample"] = fit_sample(rehearse=options.rehearse)
    found["serving"] = gpu_serving.serving(device, gpu_serving.REHEARSAL if options.rehearse else gpu_serving.FULL)
    found["checks"]["same_outputs"] = found["serving"].pop("same_outputs")
    found["seconds"] = round(time.monotonic() - started, 1)
    held = all(check["holds"] for check in found["checks"].values())
    target = _write(found, rehearse=options.rehearse)
    say(json.dumps(found, indent=2))
    say(f"{'every check holds' if held else 'A CHECK FAILS'}; {found['seconds']:.0f} s; wrote {target}")
    return 0 if held else 1


def _fitting(size: Size) -> Size:
    """The same with a batch that fits: resnet50 at 224 px takes about 100 MB an image."""
    free, _ = torch.cuda.mem_get_info()
    while size.batch > 8 and size.batch * _BYTES_AN_IMAGE > free:
        size = replace(size, batch=size.batch // 2)
    return size


def check_loss(device: Device, size: Size) -> dict[str, Any]:
    """One step's loss and the norm of its gradient here, beside the CPU's in fp32."""
    images = synthetic(16, size.image_px)
    found: dict[str, dict[str, float]] = {}
    for where, on in (("cpu", Device(torch.device("cpu"), None)), ("here", device)):
        tuner, network = _tuner("tf_efficientnet_lite0", images, on, size)
        tuner.stepper.train_mode()
        source = Source(images, make_objective("single_label", _LABELS, Recipe(), images.targets), on)
        loss = float(tuner.stepper.backward(network, source, np.arange(len(images)), number=0))
        scale = tuner.stepper.scaler.get_scale() if tuner.stepper.scaler.is_enabled() else 1.0
        squares = [float(p.grad.float().square().sum()) for p in network.parameters() if p.grad is not None]
        found[where] = {"loss": loss, "gradient_norm": math.sqrt(sum(squares)) / scale}
    tolerances = {"loss": LOSS_TOLERANCE[device.precision], "gradient_norm": GRADIENT_TOLERANCE[device.precision]}
    differences = {key: abs(found["here"][key] / found["cpu"][key] - 1) for key in tolerances}
    holds = all(differences[key] <= tolerances[key] for key in tolerances)
    return {**found, "relative_difference": differences, "tolerance": tolerances, "holds": holds}


def check_precision(device: Device, size: Size) -> dict[str, Any]:
    """In which types convolutions and weights really are, looked at in a running step."""
    images = synthetic(8, size.image_px)
    tuner, network = _tuner("tf_efficientnet_lite0", images, device, size)
    seen: set[str] = set()

    def look(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        seen.add(str(output.dtype).removeprefix("torch."))

    hooks = [module.register_forward_hook(look) for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    tuner.run(images, None, Plan(8, 1e-4, 1, 0, 2e-4, 1))
    for hook in hooks:
        hook.remove()
    weights = {str(parameter.dtype).removeprefix("torch.") for parameter in network.parameters()}
    channels_last = network.conv_stem.weight.is_contiguous(memory_format=torch.channels_last)
    expected = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[device.precision]
    return {
        "convolutions": sorted(seen),
        "weights": sorted(weights),
        "channels_last": channels_last,
        "holds": seen == {expected} and weights == {"float32"} and channels_last,
    }


def throughput(device: Device, name: str, size: Size) -> Iterator[dict[str, Any]]:
    """Images a second of candor's loop, augmentation and average included, beside bare forward, backward and step."""
    images = synthetic(size.batch * size.steps, size.image_px)
    tuner, network = _tuner(name, images, device, size)
    # The first epoch warms up, the second is measured.
    epochs = tuner.run(images, None, Plan(size.batch, 1e-4, 2, 0, 2e-4, size.steps)).epochs
    candor = epochs[-1].images_per_s
    bare = _bare(device, network, size)
    row = {"network": name, "image_px": size.image_px, "batch": size.batch, "precision": device.precision}
    yield {**row, "what": "candor", "images_per_s": round(candor, 1), "share_of_bare": round(candor / bare, 3)}
    yield {**row, "what": "bare loop", "images_per_s": round(bare, 1)}
    if find_spec("fastai") is not None:
        yield {**row, "what": "fastai", "images_per_s": round(_fastai(device, name, images, size), 1)}


def _bare(device: Device, network: torch.nn.Module, size: Size) -> float:
    """Forward, backward and optimizer step on one batch that lies on the device: the most that a loop could reach."""
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True)
    batch = torch.randn(size.batch, 3, size.image_px, size.image_px, device=device.torch)
    batch = batch.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, _LABELS, (size.batch,), device=device.torch)
    started = 0.0
    for step in range(2 * size.steps):
        if step == size.steps:
            device.synchronize()
            started = time.perf_counter()
        with device.autocast():
            outputs = network(batch)
        functional.cross_entropy(outputs.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    device.synchronize()
    return size.steps * size.batch / (time.perf_counter() - started)


def _fastai(device: Device, name: str, images: Images, size: Size) -> float:
    """Fastai's loop in the same precision, its batches lying on the device: without its own decoding and augmentation."""
    from fastai.data.core import DataLoaders  # noqa: PLC0415 - only where it is installed
    from fastai.learner import Learner  # noqa: PLC0415

    pixels = torch.from_numpy(images.pixels).to(device.torch).permute(0, 3, 1, 2)
    pairs = torch.utils.data.TensorDataset(pixels.float() / 127.5 - 1, torch.from_numpy(images.targets).to(device.torch))
    batches = torch.utils.data.BatchSampler(torch.utils.data.SequentialSampler(pairs), size.batch, drop_last=True)
    loader = torch.utils.data.DataLoader(pairs, batch_size=None, sampler=batches)
    dls = DataLoaders(loader, loader, device=device.torch)
    learner = Learner(dls, timm.create_model(name, num_classes=_LABELS), loss_func=functional.cross_entropy)
    learner = {"bf16": Learner.to_bf16, "fp16": Learner.to_fp16}.get(device.precision, lambda kept: kept)(learner)
    with learner.no_bar(), learner.no_logging():
        learner.fit(1)
        device.synchronize()
        started = time.perf_counter()
        learner.fit(1)
        device.synchronize()
    return len(images) / (time.perf_counter() - started)


def fit_sample(*, rehearse: bool) -> dict[str, Any]:
    """`fit` on the sample data, from its files to a published version."""
    with tempfile.TemporaryDirectory(prefix="candor-gpu-check-") as work:
        folder = unpack_sample(Path(work))
        changes = {"epochs": 0, "image_size": 32, "backbone": "test_resnet", "pretrained": False} if rehearse else {}
        started = time.monotonic()
        registry = Registry(Path(work, "registry"))
        metrics = fit(folder, "sample", Recipe.from_mapping(changes), registry, Path(work, "runs")).metrics
        seconds = time.monotonic() - started
    scores = {name: scores.headline[1] for name, scores in metrics.test.items()} if metrics else {}
    return {"seconds": round(seconds, 1), "test_accuracy": scores, "published": metrics.chosen if metrics else None}


def synthetic(count: int, size_px: int) -> Images:
    """Random uint8 images with random labels; what they show does not change how fast they are."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, size_px, size_px, 3), dtype=np.uint8)
    labels = rng.integers(0, _LABELS, count)
    items = tuple(Item(Path(f"{i}"), int(label), "train", f"{i:064x}") for i, label in enumerate(labels))
    return Images(pixels, labels.astype(np.int64), items)


def _tuner(name: str, images: Images, device: Device, size: Size) -> tuple[FineTuner, torch.nn.Module]:
    """Candor's own loop around a network with random weights, the same ones each time."""
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=_LABELS)
    recipe = Recipe(backbone=name, pretrained=False, image_size=size.image_px)
    setting = Setting(
        normalise=Normalise((0.5,) * 3, (0.5,) * 3),
        objective=make_objective("single_label", _LABELS, recipe, images.targets),
        recipe=recipe,
        device=device,
        world=World(),
        stop=Stop(),
        events=Events(),
        save=lambda snapshot: None,
    )
    return FineTuner(network, setting), network


def _setting(device: Device) -> dict[str, Any]:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "commit": commit or "unknown",
        "device": device.describe(),
        "cuda": torch.version.cuda,
        "libraries": machine.libraries(_LIBRARIES),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _write(found: dict[str, Any], *, rehearse: bool) -> Path:
    folder = Path(tempfile.gettempdir()) if rehearse else RESULTS
    folder.mkdir(exist_ok=True)
    device = re.sub(r"[^a-z0-9]+", "-", str(found["setting"]["device"]).lower()).strip("-")
    target = folder / f"gpu-check-{'rehearsal' if rehearse else device}.json"
    target.write_text(json.dumps(found, indent=2) + "\n")
    return target


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description="Check and time training on this GPU.")
    parser.add_argument("--rehearse", action="store_true", help="go through it on the CPU, with tiny sizes")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
