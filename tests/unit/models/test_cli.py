from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from models.__main__ import main
from models.dataset_store import DatasetStore
from models.manifest import Metrics, MultiLabelMetrics, OutputSpec, RegressionMetrics, SplitMetrics
from models.registry import Registry
from models.settings import HomeSettings, read_home_settings
from tests.support.artifacts import make_confidence, make_manifest, write_files
from tests.support.folders import write_colours

if TYPE_CHECKING:
    from collections.abc import Callable

NO_MODEL = "is not a model; write name or name:version, such as birds or birds:3, in small letters"
ROOT = Path(__file__).parents[3]
SCORES = SplitMetrics(images=40, accuracy=0.91, macro_recall=0.9, nll=0.3124, ece=0.02)
METRICS = Metrics(chosen="ema", validation={}, test={}, calibrated=SCORES, raw=None, recall={}, unavailable={})


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("CANDOR_REGISTRY", raising=False)
    monkeypatch.setenv("CANDOR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def registry(home: Path, tmp_path: Path) -> Registry:
    """birds:1 without scores and in production, birds:2 with scores, owls:1."""
    registry = Registry(home / "registry")
    source = write_files(tmp_path / "source")
    registry.publish(source, make_manifest())
    registry.publish(source, make_manifest(metrics=METRICS))
    registry.publish(source, make_manifest(name="owls", labels=("barn", "eagle"), parent="birds:1"))
    return registry


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must fail, and return its one line on stderr."""

    def run(*arguments: str) -> str:
        assert main(list(arguments)) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.endswith("\n")
        assert err.count("\n") == 1, err
        return err.removesuffix("\n")

    return run


# --- list


def test_list_shows_every_version_with_its_scores_and_marks_production(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list"]) == 0

    out, err = capsys.readouterr()
    assert [line.split() for line in out.splitlines()] == [
        ["birds:1", "resnet18", "3", "labels", "calibration", "ok", "production"],
        ["birds:2", "resnet18", "3", "labels", "accuracy", "0.910", "nll", "0.312", "calibration", "ok"],
        ["owls:1", "resnet18", "2", "labels", "calibration", "ok", "production"],
    ]
    assert err == ""
    assert not any(line.endswith(" ") for line in out.splitlines())


def test_list_names_the_score_of_each_task(registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tags = MultiLabelMetrics(images=40, mean_average_precision=0.8126, macro_f1=0.7, exact_match=0.5, nll=0.2, ece=0.03)
    angles = RegressionMetrics(images=40, mae=3.5172, rmse=5.0, r2=0.9375)
    outputs = OutputSpec(logits=1, embedding=8, spatial="cam", spatial_channels=1, spatial_height=2, spatial_width=3)
    for task, scores, unit in (
        ("multi_label", tags, None),
        ("regression", angles, "degrees"),
        ("regression", angles, None),
        ("regression", None, "degrees"),
    ):
        metrics = scores and METRICS.model_copy(update={"calibrated": scores})
        card = make_manifest(name="crows", task=task, labels=("one",), unit=unit, outputs=outputs, metrics=metrics)
        registry.publish(tmp_path / "source", card)

    main(["list", "crows"])

    assert [" ".join(line.split()[2:]) for line in capsys.readouterr().out.splitlines()] == [
        "1 labels mAP 0.813 nll 0.200 calibration ok production",
        "a number R2 0.938 mae 3.52 degrees calibration ok",
        "a number R2 0.938 mae 3.52 calibration ok",
        "a number calibration ok",
    ]


def test_list_follows_a_promotion(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    registry.promote("birds", 2)

    main(["list", "birds"])

    marked = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.endswith("production")]
    assert marked == ["birds:2"]


@pytest.mark.usefixtures("registry")
def test_list_of_one_name_shows_only_that(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "owls"]) == 0

    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["owls:1"]


@pytest.mark.usefixtures("home")
def test_list_of_a_registry_that_does_not_exist_yet_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0

    assert capsys.readouterr() == ("", "")


def test_list_of_a_name_without_a_whole_version_is_refused(registry: Registry, refuse: Callable[..., str]) -> None:
    write_files(registry.root / "doves" / "versions" / "1")

    assert refuse("list", "doves") == f"there is no model named 'doves'; the registry {registry.root} has: birds, owls"


def test_list_shows_the_other_versions_beside_one_that_cannot_be_read(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    (registry.path("birds", 1) / "manifest.json").write_text("{}")

    assert main(["list", "birds"]) == 0

    broken, whole = capsys.readouterr().out.splitlines()
    assert broken.startswith("birds:1     cannot be read: manifest.schema_version: Field required")
    assert broken.endswith("production")
    assert whole.split()[0] == "birds:2"


# --- show and verify


def test_show_prints_manifest_and_confidence_as_json_with_their_letters(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.publish(tmp_path / "source", make_manifest(labels=("größe", "犬")))

    assert main(["show", "birds:3"]) == 0

    out = capsys.readouterr().out
    assert json.loads(out) == {
        "manifest": registry.manifest("birds", 3).model_dump(mode="json"),
        "confidence": make_confidence(1.5).model_dump(mode="json"),
    }
    assert "größe" in out
    assert "犬" in out


@pytest.mark.usefixtures("registry")
def test_show_of_a_name_is_its_production_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "birds"]) == 0

    assert json.loads(capsys.readouterr().out)["manifest"]["version"] == 1


@pytest.mark.usefixtures("registry")
def test_verify_says_how_many_files_match(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "birds:2"]) == 0

    assert capsys.readouterr() == ("birds:2: 3 files match their sha256\n", "")


def test_verify_of_an_altered_version_is_refused_by_file(registry: Registry, refuse: Callable[..., str]) -> None:
    graph = registry.path("birds", 2) / "model.onnx"
    graph.write_bytes(b"another graph")

    assert refuse("verify", "birds:2").startswith(f"{graph} was altered: its sha256 is ")
    assert main(["verify", "birds:1"]) == 0


# --- promote and rollback


def test_promote_and_rollback_move_production_and_say_so(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["promote", "birds:2"]) == 0
    assert capsys.readouterr().out == "birds: production is 2 (was 1)\n"
    assert registry.aliases("birds").production == 2

    assert main(["promote", "birds:2"]) == 0
    assert capsys.readouterr().out == "birds: production is 2 (it was already)\n"
    assert registry.history("birds") == [1, 2]

    assert main(["rollback", "birds"]) == 0
    assert capsys.readouterr().out == "birds: production is 1 (was 2)\n"
    assert registry.aliases("birds").production == 1


def test_promote_without_a_version_is_refused_with_the_versions(registry: Registry, refuse: Callable[..., str]) -> None:
    assert refuse("promote", "birds") == "say which version of birds: birds:N, one of [1, 2]"
    assert registry.history("birds") == [1]


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "birds:9"], "birds has no version 9; it has [1, 2]"),
        (["verify", "birds:9"], "birds has no version 9; it has [1, 2]"),
        (["promote", "birds:9"], "birds has no version 9; it has [1, 2]"),
        (["rollback", "birds"], "birds has no production version before 1 to go back to"),
        (
            ["promote", "birds:x"],
            f"'birds:x' {NO_MODEL}",
        ),
        (["list", "Birds"], f"'Birds' {NO_MODEL}"),
        (
            ["rollback", "../x"],
            "'../x' cannot name a model; use up to 63 small letters, digits, '-' and '_', starting with a letter or digit",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_one_sentence_on_stderr_and_exit_2(
    arguments: list[str], message: str, refuse: Callable[..., str]
) -> None:
    assert refuse(*arguments) == message


@pytest.mark.parametrize("command", ["list", "show", "verify", "rollback"])
def test_an_unknown_name_is_refused_with_the_registry_and_its_names(
    command: str, registry: Registry, refuse: Callable[..., str]
) -> None:
    assert refuse(command, "cats") == f"there is no model named 'cats'; the registry {registry.root} has: birds, owls"


@pytest.mark.parametrize("arguments", [["list"], ["show", "birds"]], ids=" ".join)
def test_a_registry_that_is_a_file_is_refused(
    arguments: list[str], home: Path, monkeypatch: pytest.MonkeyPatch, refuse: Callable[..., str]
) -> None:
    home.write_text("")
    monkeypatch.setenv("CANDOR_REGISTRY", str(home))

    assert refuse(*arguments) == f"the registry {home} cannot be read: Not a directory; CANDOR_REGISTRY names a folder"


@pytest.mark.parametrize("arguments", [[], ["destroy"], ["show"], ["rollback"], ["list", "a", "b"]], ids=" ".join)
def test_a_command_line_that_makes_no_sense_shows_the_usage_and_exits_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)

    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: python -m models")


# --- as a process, and its settings


def test_as_a_process_it_exits_2_with_one_sentence_and_no_traceback(registry: Registry, home: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "models", "show", "birds:9"],
        cwd=ROOT,
        env={**os.environ, "CANDOR_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (finished.returncode, finished.stdout, finished.stderr) == (2, "", "birds has no version 9; it has [1, 2]\n")


def test_the_registry_is_below_the_home_unless_it_is_named(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert read_home_settings().registry_place == home / "registry"
    assert read_home_settings().runs_root == home / "runs"

    monkeypatch.setenv("CANDOR_REGISTRY", str(tmp_path / "shared"))
    assert read_home_settings().registry_place == tmp_path / "shared"
    assert read_home_settings().runs_root == home / "runs"


def test_without_an_environment_the_home_is_var(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CANDOR_HOME", raising=False)
    monkeypatch.delenv("CANDOR_REGISTRY", raising=False)

    assert read_home_settings() == HomeSettings(home=Path("var"), registry=None)
    assert read_home_settings().registry_place == Path("var/registry")


def test_an_empty_variable_is_as_if_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANDOR_HOME", "")
    monkeypatch.setenv("CANDOR_REGISTRY", "")

    assert read_home_settings() == HomeSettings(home=Path("var"), registry=None)


def test_put_dataset_keeps_a_folder_and_says_what_is_in_it(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = write_colours(tmp_path / "photos", {"": 2}, labels=("red", "green"))
    assert main(["put-dataset", str(photos), "--name", "birds", "--origin", "a walk"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["is_new"], said["card"]["labels"], said["card"]["source"]) == (True, {"green": 2, "red": 2}, "a walk")
    assert DatasetStore(home / "datasets").resolve("birds").card.version == said["card"]["version"]


@pytest.mark.parametrize(("name", "code"), [("birds", 65), ("Birds", 2)])
def test_put_dataset_exits_by_what_is_wrong(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, code: int
) -> None:
    photos = write_colours(tmp_path / "photos", {"": 2}, labels=("red",))
    assert main(["put-dataset", str(photos), "--name", name]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1


def test_put_dataset_says_that_the_disk_is_full(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("red/1.png", bytes(100))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=99))
    assert main(["put-dataset", str(tmp_path / "data.zip"), "--name", "birds"]) == 74


# --- delete, prune, copy


def test_delete_prune_and_copy_say_what_they_did(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str], refuse: Callable[..., str]
) -> None:
    source = write_files(tmp_path / "more")
    for _ in range(2):
        registry.publish(source, make_manifest())
    capsys.readouterr()

    assert main(["delete", "birds:2"]) == 0
    assert main(["prune", "birds", "--keep", "1"]) == 0
    assert main(["prune", "--all", "--keep", "0"]) == 0
    assert main(["copy", "birds:1", str(tmp_path / "there")]) == 0

    assert capsys.readouterr().out.splitlines() == [
        "birds:2 is deleted",
        "birds: deleted 3; 1, 4 stay",
        "birds: deleted 4; 1 stay",
        "owls: deleted nothing; 1 stay",
        str(tmp_path / "there" / "birds" / "versions" / "1"),
    ]
    assert Registry(tmp_path / "there").versions("birds") == [1]
    assert refuse("delete", "birds:1").startswith("birds:1 is in production and cannot be deleted")
    assert refuse("delete", "birds") == "say which version of birds: birds:N, one of [1]"
    assert refuse("prune", "cats", "--keep", "1").startswith("there is no model named 'cats'")
    assert refuse("copy", "birds:1", "ftp://host/registry").startswith(
        "ftp://host/registry is a URL of no object store; expected"
    )
