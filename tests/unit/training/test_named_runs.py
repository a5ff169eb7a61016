"""Named runs: they go on wherever they ended, publish one version, and end as if nothing had happened."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from safetensors.torch import load_file

import training.fit
from models.artifact import WEIGHTS
from models.errors import UnknownModelError
from models.holdout import Holdout
from models.recipe import Recipe
from models.registry import Registry
from tests.support.folders import write_colours
from training.checkpoint import Run, Snapshot
from training.cli import main
from training.errors import StartError, TrainingError
from training.fit import Options, fit
from training.start import resolve_start, start_at

if TYPE_CHECKING:
    from pathlib import Path

    from models.manifest import Manifest

pytestmark = pytest.mark.torch
TINY = Recipe(backbone="test_resnet", pretrained=False, image_size=32, epochs=2, batch_size=8)


class Killed(BaseException):
    """What kill -9 is, for everything but the operating system: nothing more is done, and nothing tidied."""


class World(NamedTuple):
    home: Path
    data: Path
    registry: Registry
    first: Manifest


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """`colours:1`, made by the run `first` that was never stopped, and the candidate."""
    home = tmp_path_factory.mktemp("runs")
    data = write_colours(home / "data", {"train": 8, "val": 4, "test": 4})
    registry = Registry(home / "registry")
    first = fit(data, "colours", TINY, registry, home / "runs", Options(run="first", promotes_first=False))
    return World(home, data, registry, first)


def test_a_version_says_which_run_made_it_and_is_the_candidate(world: World) -> None:
    assert (world.first.run, world.first.parent) == ("first", None)
    assert world.registry.find_run("colours", "first") == 1
    assert list((world.home / "runs").iterdir()) == []


def test_the_first_versions_test_images_are_held_out(world: World) -> None:
    held = Holdout.read(world.registry, "colours")
    assert held is not None
    assert {content for _, content in held.read_images()} == {path.read_bytes() for path in (world.data / "test").rglob("*.png")}


def test_a_run_that_was_published_is_only_looked_up_and_what_it_left_is_settled(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a kill between the version and its alias, with the run's folder still there."""
    monkeypatch.setenv("CANDOR_HOME", str(world.home))
    monkeypatch.setattr(training.fit, "prepare", None)
    world.registry.withdraw("colours", 1)
    (world.home / "runs" / "first").mkdir()
    events = world.home / "again.jsonl"
    events.write_text('{"event": "epo')

    arguments = ["fit", str(world.data), "--name", "colours", "--run", "first", "--no-promote", "--events", str(events)]
    assert main(arguments) == 0

    assert capsys.readouterr().out == "colours:1\n"
    assert world.registry.aliases("colours").candidate == 1
    assert list((world.home / "runs").iterdir()) == []
    torn, last = events.read_text().splitlines()
    assert torn == '{"event": "epo'
    assert {**json.loads(last), "time": 0} == {"time": 0, "event": "published", "version": 1, "seconds": 0.0}


def test_a_run_that_is_killed_anywhere_ends_as_one_that_was_not(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the checkpoint of the first epoch, and again where everything is ready to be published."""
    registry, runs = Registry(tmp_path / "registry"), tmp_path / "runs"
    options = Options(run="job-1", promotes_first=False)
    save, moments = Run.save, []

    def save_and_die(run: Run, snapshot: Snapshot) -> None:
        save(run, snapshot)
        moments.append((snapshot.progress["epoch"], snapshot.progress["step"]))
        if len(moments) == 1:
            raise Killed

    def die(*arguments: Any) -> None:
        raise Killed

    monkeypatch.setattr(Run, "save", save_and_die)
    with pytest.raises(Killed):
        fit(world.data, "colours", TINY, registry, runs, options)
    with monkeypatch.context() as dying:
        dying.setattr(training.fit, "publish", die)
        with pytest.raises(Killed):
            fit(world.data, "colours", TINY, registry, runs, options)
    assert Holdout.read(registry, "colours") is None, "held out from the version that is to come"
    made = fit(world.data, "colours", TINY, registry, runs, options)

    assert moments[0] == (1, 0), "at the end of the first epoch"
    assert registry.versions("colours") == [1]
    assert made.metrics == world.first.metrics
    assert made.dataset == world.first.dataset
    ours, theirs = (load_file(one.path("colours", 1) / WEIGHTS) for one in (registry, world.registry))
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    assert list(runs.iterdir()) == []
    held, before = Holdout.read(registry, "colours"), Holdout.read(world.registry, "colours")
    assert held is not None
    assert before is not None
    assert held.sha256 == before.sha256


def test_a_run_is_one_process_and_one_request(tmp_path: Path) -> None:
    request = {"name": "birds", "parent": None}
    run = Run.open(tmp_path, "job-1", request)
    with pytest.raises(TrainingError, match=r"job-1 goes on in another process"):
        Run.open(tmp_path, "job-1", request)
    run.release()
    with pytest.raises(TrainingError, match=r"\(job-1\) had another parent; give the same data and recipe, or use another --run"):
        Run.open(tmp_path, "job-1", request | {"parent": "birds:1"})
    assert Run.open(tmp_path, "job-1", request).path == run.path


@pytest.mark.parametrize("run", ["", "..", "a/b", ".hidden", "a" * 65])
def test_a_run_is_called_what_a_folder_may_be_called(world: World, run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(world.data), "--name", "colours", "--run", run]) == 2
    assert "cannot name a run" in capsys.readouterr().err


# --- where it starts


def test_a_version_is_started_from_with_its_body_and_the_run_keeps_to_it(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data has a label more, and four held-out images that must not be learnt from."""
    monkeypatch.setenv("CANDOR_HOME", str(world.home))
    more = write_colours(tmp_path / "more", {"train": 6}, ("black", "red"), seed=5)
    for number, path in enumerate((world.data / "test" / "red").iterdir()):
        (more / "train" / "black" / f"held{number}.png").write_bytes(path.read_bytes())
    events, arguments = tmp_path / "events.jsonl", ["--name", "colours", "--run", "second", "--no-promote", "epochs=0"]

    assert (
        main(["fit", str(world.data / "train"), str(more), *arguments, "--start-from", "colours:1", "--events", str(events)]) == 0
    )

    version = world.registry.find_run("colours", "second")
    assert version is not None
    made = world.registry.manifest("colours", version)
    assert (made.parent, made.backbone.name, made.input.height) == ("colours:1", "test_resnet", 32)
    assert made.labels == ("black", "blue", "green", "red")
    assert made.recipe is not None
    assert (made.recipe.weights, made.recipe.pretrained, made.recipe.batch_norm) == (None, True, "frozen")
    before, after = (load_file(world.registry.path("colours", number) / WEIGHTS) for number in (1, version))
    body = [name for name in before if not name.startswith("fc.")]
    assert body
    assert all((before[name] == after[name]).all() for name in body), "epochs=0 keeps the body, statistics of batch norm included"
    assert after["fc.weight"].shape[0] == 4
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["started", "held_out", "plan", "published"]
    assert (lines[1]["images"], lines[1]["left_out"]) == (12, 4)
    report = json.loads((world.registry.path("colours", version) / "data.json").read_text())
    assert report["held_out"]["count"] == 4


def test_production_means_what_is_in_production_and_a_run_goes_on_from_where_it_began(world: World, tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match="colours has no production version"):
        resolve_start("production", "colours", Registry(world.registry.root))
    world.registry.promote("colours", 1)
    assert resolve_start("production", "colours", world.registry) == "colours:1"
    assert resolve_start("pretrained", "colours", world.registry) is None
    with pytest.raises(UnknownModelError, match="--start-from colours says no version"):
        resolve_start("colours", "other", world.registry)
    # The run began from another version than what is in production now.
    Run.open(tmp_path, "job-9", {"parent": "colours:7"}).release()
    with pytest.raises(UnknownModelError, match="colours has no version 7"):
        fit(world.data, "colours", TINY, world.registry, tmp_path, Options(run="job-9", start_from="production"))


def test_a_recipe_that_contradicts_the_version_is_refused(world: World) -> None:
    def start(**keys: Any) -> Recipe:
        return start_at("colours:1", Recipe(**keys), world.registry).recipe

    assert (start().backbone, start().image_size) == ("test_resnet", 32)
    assert start(image_size=64).image_size == 64
    with pytest.raises(StartError, match=r"recipe.backbone is resnet18, and colours:1 is a test_resnet; leave backbone out"):
        start(backbone="resnet18")
    with pytest.raises(StartError, match=r"recipe.pretrained is false, and the weights of colours:1 were asked for"):
        start(pretrained=False)
    with pytest.raises(StartError, match=r"recipe.weights is here.safetensors"):
        start(weights="here.safetensors")


# --- what is told of a failure


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["DATA", "epoch=3"], "invalid_recipe"),
        (["nowhere"], "invalid_dataset"),
        (["DATA", "--start-from", "colours:9"], "training_error"),
        (["DATA", "--start-from", "colours:1", "backbone=resnet18"], "invalid_recipe"),
    ],
)
def test_the_last_event_of_a_run_that_fails_says_why(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: str,
) -> None:
    monkeypatch.setenv("CANDOR_HOME", str(world.home))
    given = [str(world.data) if argument == "DATA" else argument for argument in arguments]
    assert main(["fit", *given, "--name", "colours", "--events", str(tmp_path / "events.jsonl")]) == 2
    last = json.loads((tmp_path / "events.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["code"]) == ("failed", code)
    assert capsys.readouterr().err == f"{last['error']}\n"
