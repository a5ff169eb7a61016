"""A run on disk: what is needed to go on after a stop as if there had been none.

Tensors are safetensors and everything else is JSON: nothing is pickled. Draws depend on the seed and the number of the step
alone, and rates on the step, so that weights, the average, the optimizer's moments and a counter are all there is to keep.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from models.artifact import write_synced
from training.errors import TrainingError
from training.progress import say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

_REQUEST, _STATE, _TENSORS = "request.json", "state.json", "checkpoint-{}.safetensors"


@dataclass(frozen=True)
class Snapshot:
    """A point of a run: JSON-able progress, and tensors by name."""

    progress: dict[str, Any]
    tensors: dict[str, torch.Tensor]


class Run:
    """The folder of one run, below `CANDOR_HOME/runs`. It is removed when its version is published."""

    def __init__(self, path: Path, lock: int | None = None) -> None:
        """Name a folder that exists; `lock` is a descriptor that says that this process works on it."""
        self.path = path
        self._lock = lock

    @classmethod
    def start(cls, runs_root: Path, name: str, request: dict[str, Any]) -> Run:
        """Make a folder for a new run of `name`; `request` says what was asked for, for `resume` to compare."""
        runs_root.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=runs_root))
        write_synced(path / _REQUEST, json.dumps(request, indent=2).encode())
        return cls(path, _locked(path))

    @classmethod
    def resume(cls, runs_root: Path, name: str, request: dict[str, Any]) -> Run:
        """The newest run of `name` that was stopped; a new one where none was, so that the command may always say `--resume`.

        Raises:
            TrainingError: If it was asked for something else, or goes on in another process.
        """
        found = [path.parent for path in runs_root.glob(f"{name}-????????/{_STATE}")]
        if not found:
            say(f"{runs_root} holds no checkpoint of {name!r}: starting from the beginning")
            return cls.start(runs_root, name, request)
        newest = max(found, key=lambda path: (path / _STATE).stat().st_mtime_ns)
        before = read_request(runs_root, newest.name)
        _require_same(newest, before, request, "run fit without --resume")
        return cls(newest, _locked(newest))

    @classmethod
    def open(cls, runs_root: Path, run: str, request: dict[str, Any]) -> Run:
        """The run that is called `run`: where it stands, or from the beginning.

        Raises:
            TrainingError: If it was asked for something else, or goes on in another process.
        """
        path = runs_root / run
        path.mkdir(parents=True, exist_ok=True)
        # Of two that begin, one writes what is asked for; the other then waits for its lock in vain.
        temporary = path / f".{os.getpid()}.request"
        write_synced(temporary, json.dumps(request, indent=2).encode())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path / _REQUEST)
        temporary.unlink()
        lock = _locked(path)
        try:
            _require_same(path, read_request(runs_root, run), request, "use another --run")
        except TrainingError:
            os.close(lock)
            raise
        return cls(path, lock)

    def save(self, snapshot: Snapshot) -> None:
        """Write a checkpoint; a crash in between leaves the one before.

        Raises:
            TrainingError: If it cannot be written.
        """
        number = int(self._state().get("number", 0)) + 1
        file = self.path / _TENSORS.format(number)
        write_tensors(file, snapshot.tensors)
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        write_synced(self.path / _STATE, json.dumps({"number": number, **snapshot.progress}).encode())
        (self.path / _TENSORS.format(number - 1)).unlink(missing_ok=True)

    def load(self) -> Snapshot | None:
        """The newest checkpoint, or None where there is none.

        Raises:
            TrainingError: If it cannot be read.
        """
        state = self._state()
        if not state:
            return None
        file = self.path / _TENSORS.format(state["number"])
        try:
            return Snapshot(state, load_file(file))
        except Exception as err:
            raise TrainingError(f"{file} cannot be read ({err}); run fit without --resume") from err

    def release(self) -> None:
        """Let another process go on with it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is anything to go on from."""
        return (self.path / _STATE).exists()

    def remove(self) -> None:
        """Delete the folder: what it was for is published, or nothing was learnt."""
        self.release()
        shutil.rmtree(self.path, ignore_errors=True)

    def _state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads((self.path / _STATE).read_text())
        except FileNotFoundError:
            return {}
        except ValueError as err:
            raise TrainingError(f"{self.path / _STATE} cannot be read ({err}); delete {self.path}") from err
        return state


def read_request(runs_root: Path, run: str) -> dict[str, Any]:
    """What a run was asked for; nothing where it has not begun.

    Raises:
        TrainingError: If that cannot be read.
    """
    file = runs_root / run / _REQUEST
    try:
        request: dict[str, Any] = json.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as err:
        raise TrainingError(f"{file} cannot be read ({err}); delete {file.parent}") from err
    return request


def _require_same(path: Path, before: dict[str, Any], request: dict[str, Any], advice: str) -> None:
    other = sorted(key for key in before.keys() | request.keys() if before.get(key) != request.get(key))
    if other:
        raise TrainingError(
            f"the run that was stopped ({path.name}) had another {' and '.join(other)}; give the same data and recipe, or "
            f"{advice}"
        )


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write safetensors.

    Raises:
        TrainingError: If they cannot be written.
    """
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as err:
        raise TrainingError(f"{path} cannot be written: {err}") from err


def _locked(path: Path) -> int:
    """Lock a run's folder until it is released, or this process ends.

    Raises:
        TrainingError: If another process has.
    """
    descriptor = os.open(path / _REQUEST, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        os.close(descriptor)
        raise TrainingError(f"{path} goes on in another process; wait for it, or stop it") from err
    return descriptor


def network_tensors(prefix: str, network: nn.Module) -> dict[str, torch.Tensor]:
    """A network's weights and buffers under `prefix`; copies, since two names may share memory."""
    return {f"{prefix}.{name}": tensor.detach().to("cpu", copy=True) for name, tensor in network.state_dict().items()}


def load_network(prefix: str, network: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Put back what `network_tensors` gave."""
    start = f"{prefix}."
    network.load_state_dict({name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)})


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """An optimizer's moments and counters, by the position of their parameter."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{position}.{key}": torch.as_tensor(value).to("cpu", copy=True)
        for position, entry in state.items()
        for key, value in entry.items()
        if value is not None
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put back what `optimizer_tensors` gave; rates and decays are the recipe's, and stay."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            position, _, key = rest.partition(".")
            parameter = parameters[int(position)]
            # In the parameter's memory format: the fused kernels go through both in the order of memory, and would pair a
            # channels-last weight with another weight's moment.
            fits = tensor.shape == parameter.shape
            state.setdefault(int(position), {})[key] = torch.empty_like(parameter).copy_(tensor) if fits else tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
