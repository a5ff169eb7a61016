"""Where else epochs are told of: TensorBoard and MLflow, each only where it is asked for.

Neither is installed with the rest (`uv pip install -r requirements/tracking.txt`): who does not ask for one never loads it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from training.errors import TrainingError
from training.progress import Events, JsonLines, Sink, is_main

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_NUMBERS = ("loss", "validation_loss", "validation_score", "lr", "images_per_s")


def open_events(json_lines: Path | None, tensorboard: Path | None, mlflow: str | None, name: str) -> Events:
    """Everything that is told what happens.

    Args:
        json_lines: A file for JSON lines, or None.
        tensorboard: A folder for TensorBoard, or None.
        mlflow: MLflow's tracking URI, or None.
        name: The model's, which names the MLflow experiment.

    Raises:
        TrainingError: If a package that is needed for it is not installed.
    """
    if not is_main():
        return Events()
    sinks: list[Sink] = []
    if json_lines is not None:
        sinks.append(JsonLines(json_lines))
    if tensorboard is not None:
        sinks.append(TensorBoard(tensorboard))
    if mlflow is not None:
        sinks.append(MLflow(mlflow, name))
    return Events(sinks)


class TensorBoard:
    """One scalar a number an epoch."""

    def __init__(self, folder: Path) -> None:
        """Write event files into `folder`.

        Raises:
            TrainingError: If TensorBoard is not installed.
        """
        module = _require("torch.utils.tensorboard", "tensorboard")
        self._writer = module.SummaryWriter(str(folder))

    def __call__(self, event: str, fields: Mapping[str, Any]) -> None:
        """Log an epoch; other events are not TensorBoard's."""
        for key, value in _of_epoch(event, fields).items():
            self._writer.add_scalar(key, value, fields["epoch"])

    def close(self) -> None:
        """Write what was kept back."""
        self._writer.close()


class MLflow:
    """One run of the experiment named like the model, with a metric a number an epoch."""

    def __init__(self, uri: str, name: str) -> None:
        """Start a run on the tracking server at `uri`.

        Raises:
            TrainingError: If MLflow is not installed, or does not take `uri`.
        """
        self._mlflow = _require("mlflow", "mlflow-skinny")
        try:
            self._mlflow.set_tracking_uri(uri)
            self._mlflow.set_experiment(name)
            self._mlflow.start_run()
        except Exception as err:
            reason = str(err).splitlines()[0]
            raise TrainingError(f"--mlflow {uri} cannot be used: {reason:.200}; expected a server, as http://host:5000") from err
        self._is_whole = False

    def __call__(self, event: str, fields: Mapping[str, Any]) -> None:
        """Log an epoch's numbers; what was asked for, planned and published as tags."""
        numbers = _of_epoch(event, fields)
        if numbers:
            self._mlflow.log_metrics(numbers, step=fields["epoch"])
        elif event in {"started", "plan", "published"}:
            self._is_whole = event == "published"
            self._mlflow.set_tags({f"{event}.{key}": value for key, value in fields.items()})

    def close(self) -> None:
        """End the run: finished where a version was published."""
        self._mlflow.end_run("FINISHED" if self._is_whole else "FAILED")


def _of_epoch(event: str, fields: Mapping[str, Any]) -> dict[str, float]:
    return {key: fields[key] for key in _NUMBERS if fields.get(key) is not None} if event == "epoch" else {}


def _require(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError as err:
        raise TrainingError(f"{package} is not installed; uv pip install -r requirements/tracking.txt") from err
