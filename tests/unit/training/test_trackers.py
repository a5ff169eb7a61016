"""Epochs in TensorBoard and MLflow, read back with their own libraries."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from training.cli import main
from training.errors import TrainingError
from training.history import Epoch
from training.trackers import open_events

pytestmark = pytest.mark.torch


def epoch(number: int) -> dict[str, object]:
    return Epoch(
        epoch=number,
        phase="unfrozen",
        loss=1 / number,
        validation_loss=2 / number,
        validation_score=None,
        lr=1e-3,
        images_per_s=50,
        seconds=9,
    ).model_dump()


def test_tensorboard_gets_one_scalar_a_number_an_epoch(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = open_events(None, tmp_path / "board", None, "birds")
    events("started", name="birds", images=3, labels=2)
    for number in (1, 2):
        events("epoch", **epoch(number))
    events.close()
    read = EventAccumulator(str(tmp_path / "board")).Reload()
    assert sorted(read.Tags()["scalars"]) == ["images_per_s", "loss", "lr", "validation_loss"]
    assert [(entry.step, entry.value) for entry in read.Scalars("validation_loss")] == [(1, 2.0), (2, 1.0)]


def test_mlflow_gets_a_run_with_metrics_and_the_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlflow").as_uri()
    events = open_events(None, None, uri, "birds")
    events("started", name="birds", images=3, labels=2)
    for number in (1, 2):
        events("epoch", **epoch(number))
    events("published", version=4, seconds=1.0)
    events.close()
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("birds")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.tags["published.version"] == "4"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(entry.step, entry.value) for entry in history] == [(1, 1.0), (2, 0.5)]


def test_a_process_that_does_not_talk_opens_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    events = open_events(tmp_path / "events.jsonl", tmp_path / "board", (tmp_path / "mlflow").as_uri(), "birds")
    events("started", name="birds")
    events.close()
    assert list(tmp_path.iterdir()) == []


def test_json_lines_are_json_even_where_a_loss_is_no_number(tmp_path: Path) -> None:
    events = open_events(tmp_path / "events.jsonl", None, None, "birds")
    events("progress", loss=float("nan"))
    events.close()
    assert json.loads((tmp_path / "events.jsonl").read_text(), parse_constant=pytest.fail)["loss"] is None


def test_a_sink_that_fails_is_let_go_of_and_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = open_events(Path("/dev/full"), tmp_path / "board", None, "birds")
    for number in (1, 2):
        events("epoch", **epoch(number))
    events.close()
    assert capsys.readouterr().err.count("JsonLines failed ([Errno 28] No space left on device); going on without it") == 1
    assert list((tmp_path / "board").iterdir())


def test_a_tracking_server_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"--mlflow nonsense://x cannot be used: .*; expected a server"):
        open_events(None, None, "nonsense://x", "birds")


@pytest.mark.parametrize(
    ("flag", "module", "package"), [("--tensorboard", "tensorboard", "tensorboard"), ("--mlflow", "mlflow", "mlflow-skinny")]
)
def test_a_tracker_that_is_not_installed_is_said_before_any_work(
    flag: str, module: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CANDOR_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)

    assert main(["fit", str(tmp_path / "photos"), "--name", "birds", flag, str(tmp_path / "log")]) == 2
    assert capsys.readouterr().err == f"{package} is not installed; uv pip install -r requirements/tracking.txt\n"
