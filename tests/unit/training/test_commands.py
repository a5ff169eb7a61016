"""Commands that look at what a fit published."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from training.cli import main

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.training.conftest import Fitted

pytestmark = pytest.mark.torch


@pytest.fixture
def home(fitted: Fitted, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CANDOR_HOME", str(fitted.home))
    monkeypatch.delenv("CANDOR_REGISTRY", raising=False)
    return fitted.home


def test_report_is_the_page_that_was_published(
    fitted: Fitted, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", "colours:1"]) == 0
    assert capsys.readouterr().out == "colours-1.html\n"
    published = (fitted.registry.path("colours", 1) / "report.html").read_text()
    assert (tmp_path / "colours-1.html").read_text() == published
    assert "colours:1" in published


def test_evaluate_scores_the_test_folder_as_the_manifest_says(
    fitted: Fitted, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert main(["evaluate", "colours", str(fitted.data / "test"), "--html", str(page)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert fitted.manifest.metrics is not None
    assert fitted.manifest.metrics.calibrated is not None
    assert found["images"] == fitted.manifest.metrics.calibrated.images == 72
    assert found["review"]["scores"]["test"]["accuracy"]["value"] == pytest.approx(fitted.manifest.metrics.calibrated.headline[1])
    assert "colours:1" in page.read_text()


def test_evaluate_takes_data_of_one_label_and_a_lone_split(
    fitted: Fitted, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("red", "test/red"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        (tmp_path / "data" / folder / "1.png").write_bytes((fitted.data / "test" / "red" / "001.png").read_bytes())
        assert main(["evaluate", "colours:1", str(tmp_path / "data")]) == 0
        assert json.loads(capsys.readouterr().out)["absent_labels"] == ["blue", "green"]
        (tmp_path / "data" / folder / "1.png").unlink()
        (tmp_path / "data" / "red").rmdir() if folder == "red" else None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["report", "colours:7"], "colours has no version 7"),
        (["evaluate", "colours:1", ""], "path is empty"),
        (["evaluate", "colours:1", "DATA", "--html", "/no/such/folder/page.html"], "there is no folder /no/such/folder"),
        (["evaluate", "nobody", "DATA"], "nobody"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    fitted: Fitted, home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    given = [str(fitted.data) if argument == "DATA" else argument for argument in arguments]
    assert main(given) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""


def test_lr_find_writes_a_plot_and_the_numbers(
    fitted: Fitted, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ["backbone=test_resnet", "pretrained=false", "image_size=32", "batch_size=8"]
    assert main(["lr-find", str(fitted.data), "--out", str(tmp_path / "found"), *keys]) == 0
    sweep = json.loads((tmp_path / "found" / "lr-find.json").read_text())
    assert float(capsys.readouterr().out) == pytest.approx(sweep["chosen"])
    assert len(sweep["lrs"]) == len(sweep["losses"]) > 10
    assert (tmp_path / "found" / "lr-find.png").read_bytes().startswith(b"\x89PNG")
