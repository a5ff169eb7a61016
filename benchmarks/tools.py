"""The tools that are compared: how each is told to train, and what it answers for images that it has not seen.

A tool trains by one command, from nothing to a saved model. Asking it for probabilities is not part of that command.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from models.artifact import MODEL, Artifact
from models.decision import probabilities
from models.preprocess import load_image
from models.registry import Registry
from training.export import open_session

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parent.parent
FASTAI_PYTHON = ROOT / "benchmarks" / ".venv-fastai" / "bin" / "python"
FASTAI_COMMAND = (str(FASTAI_PYTHON), "-m", "benchmarks.fastai_run")
IMAGE_SIZE_PX = 96
_BATCH = 64
_NO_BYTECODE = frozenset({"PYTHONDONTWRITEBYTECODE"})


@dataclass(frozen=True)
class Task:
    """One training: on these class folders, with this seed, leaving its result in `out`."""

    data: Path
    images_per_label: int
    seed: int
    out: Path


@dataclass(frozen=True)
class Answers:
    """Probabilities `[N, K]`, rows sum to 1, and the true label indices `[N]`."""

    probabilities: npt.NDArray[np.floating]
    labels: npt.NDArray[np.int64]


class Tool(Protocol):
    """What the driver needs of a tool."""

    def command(self, task: Task) -> list[str]:
        """The command that is timed."""
        ...

    def answer(self, task: Task, test: Path) -> Answers:
        """Ask the saved model about every image of `test`, which has class folders in it."""
        ...

    def detail(self, task: Task) -> dict[str, Any]:
        """What else is worth writing down of a run; plain JSON types."""
        ...


@dataclass(frozen=True)
class Candor:
    """`python -m training fit` with its defaults, and what a variant adds to the command line."""

    arguments: tuple[str, ...] = ()

    def command(self, task: Task) -> list[str]:
        """Everything that `fit` does: probe, fine-tuning, calibration, ONNX export with its proof, publishing."""
        fit = [sys.executable, "-m", "training", "fit", str(task.data), "--name", _name(task)]
        return [*fit, "--image-size", str(IMAGE_SIZE_PX), "--seed", str(task.seed), *self.arguments]

    def answer(self, task: Task, test: Path) -> Answers:
        """Run the published file as the service does: its preprocessing, its graph, its temperature."""
        artifact = Artifact.load(_registry(task).path(_name(task), 1))
        session = open_session(artifact.path / MODEL)
        card = artifact.manifest
        files = _images(test)

        def read(file: Path) -> npt.NDArray[np.uint8]:
            return load_image(file.read_bytes(), card.preprocessing, card.input.height, card.input.width)

        logits = []
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            for start in range(0, len(files), _BATCH):
                batch = np.stack(list(pool.map(read, files[start : start + _BATCH])))
                logits.append(session.run(["logits"], {card.input.name: batch})[0])
        answers = probabilities(np.concatenate(logits), artifact.confidence.temperature.value)
        return Answers(answers, _true_labels(files, card.labels))

    def detail(self, task: Task) -> dict[str, Any]:
        """What was published, and what each candidate reached on the validation images."""
        manifest = _registry(task).manifest(_name(task), 1)
        if manifest.recipe is None or manifest.metrics is None:
            raise ValueError(f"{manifest.reference} was published without a recipe or metrics; expected what fit writes")
        scores = manifest.metrics.validation.items()
        return {
            "published": manifest.metrics.chosen,
            "epochs": manifest.recipe.epochs,
            "batch_size": manifest.recipe.batch_size,
            "validation": {name: {"accuracy": split.accuracy, "nll": split.nll} for name, split in scores},
        }


@dataclass(frozen=True)
class Fastai:
    """`fine_tune(epochs)` in fastai's own environment; without a `base_lr`, fastai's default."""

    epochs: int
    base_lr: float | None = None

    def command(self, task: Task) -> list[str]:
        """From class folders to `learn.export()`."""
        # 16 where 32 would leave too few steps an epoch to learn from.
        batch_size = 16 if task.images_per_label <= 50 else 32
        train = [*FASTAI_COMMAND, "train", str(task.data), str(task.out), "--image-size", str(IMAGE_SIZE_PX)]
        rate = [] if self.base_lr is None else ["--base-lr", str(self.base_lr)]
        return [*train, "--batch-size", str(batch_size), "--epochs", str(self.epochs), *rate, "--seed", str(task.seed)]

    def answer(self, task: Task, test: Path) -> Answers:
        """The exported learner, through its own `test_dl` and `get_preds`."""
        subprocess.run(
            [*FASTAI_COMMAND, "predict", str(task.out), str(test)],
            cwd=ROOT,
            env=environment(),
            check=True,
            capture_output=True,
            text=True,
        )
        with np.load(task.out / "predictions.npz") as predictions:
            files = [test / str(name) for name in predictions["files"]]
            if files != _images(test):
                raise ValueError(f"fastai answered for {len(files)} images, expected the {len(_images(test))} of {test}")
            labels = [str(label) for label in predictions["labels"]]
            return Answers(predictions["probabilities"].astype(np.float64), _true_labels(files, labels))

    def detail(self, task: Task) -> dict[str, Any]:
        """How it was called."""
        return {"epochs": self.epochs, "base_lr": self.base_lr}


# By the name that the table shows. A variant of candor is one more line here, and one in the plan (benchmarks.training).
TOOLS: dict[str, Tool] = {
    "candor": Candor(),
    "candor fine_tune": Candor(("--recipe", "fine_tune")),
    "candor probe": Candor(("--epochs", "0")),
    "fastai": Fastai(epochs=4),
    # Longer, and with the base rate that its own users report as best: nobody shall say that it was held back.
    "fastai tuned": Fastai(epochs=10, base_lr=8e-3),
}


def environment() -> dict[str, str]:
    """The caller's environment, less candor's settings, and free to keep compiled Python files.

    Where PYTHONDONTWRITEBYTECODE is set, as in containers, every start compiles torch again, for fifteen seconds.
    """
    return {key: value for key, value in os.environ.items() if not key.startswith("CANDOR_") and key not in _NO_BYTECODE}


def _name(task: Task) -> str:
    return f"bench-{task.images_per_label}-{task.seed}"


def _registry(task: Task) -> Registry:
    return Registry(task.out / "registry")


def _images(test: Path) -> list[Path]:
    return sorted(test.rglob("*.png"))


def _true_labels(files: Sequence[Path], labels: Sequence[str]) -> npt.NDArray[np.int64]:
    index = {label: position for position, label in enumerate(labels)}
    return np.array([index[file.parent.name] for file in files], dtype=np.int64)
