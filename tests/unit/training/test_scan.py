"""`python -m training scan`: JSON for machines on stdout, words for people on stderr, nothing trained and nothing imported."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

from models.registry import Registry
from models.scan_report import ScanReport
from tests.support.folders import write_colours
from training.cli import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CANDOR_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CANDOR_REGISTRY", raising=False)
    return tmp_path / "home"


def test_the_report_is_all_that_stdout_has(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_colours(tmp_path / "data", {"": 30})
    (data / "red" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")

    assert main(["scan", str(data), "seed=3", "--image-size", "32"]) == 0

    captured = capsys.readouterr()
    report = ScanReport.parse(captured.out.encode())
    assert (report.files, report.seed, report.unreadable.count, report.labels) == (91, 3, 1, ("blue", "green", "red"))
    for line in report.lines():
        assert line in captured.err
    assert Registry(home / "registry").names() == []


def test_a_zip_is_unpacked_into_the_home_and_scanned(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_colours(tmp_path / "data", {"train": 6, "val": 2}, labels=("red", "green"))
    with zipfile.ZipFile(tmp_path / "colours.zip", "w") as archive:
        for path in sorted(data.rglob("*.png")):
            archive.write(path, f"colours/{path.relative_to(data)}")
        archive.writestr("colours/labels.csv", "file,label\n")

    assert main(["scan", str(tmp_path / "colours.zip")]) == 0

    report = ScanReport.parse(capsys.readouterr().out.encode())
    assert {split: counts.images for split, counts in report.splits.items()} == {"train": 12, "validation": 4}
    (unpacked,) = (home / "cache" / "zips").iterdir()
    assert (unpacked / "colours" / "train" / "red" / "000.png").is_file()


def test_keys_of_the_recipe_say_where_the_labels_are(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_colours(tmp_path / "data", {"": 4}, labels=("red", "green"))
    for label in ("red", "green"):
        for path in list((data / label).iterdir()):
            path.rename(data / f"{label}_{path.name}")

    assert main(["scan", str(data), "--label-pattern", r"^(.+)_\d+"]) == 0
    assert ScanReport.parse(capsys.readouterr().out.encode()).labels == ("green", "red")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none", None, "does not exist"),
        ("broken.zip", b"PK", "is no zip that can be read"),
        ("x.csv", b"file", "expected a header"),
    ],
)
def test_what_cannot_be_scanned_is_one_sentence(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)

    assert main(["scan", str(tmp_path / name)]) == 2

    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_scanning_loads_no_torch(tmp_path: Path) -> None:
    data = write_colours(tmp_path / "data", {"": 2})
    code = (
        "import sys; from training.cli import main; code = main(['scan', sys.argv[1]]); "
        "sys.exit(code or ('torch' in sys.modules and 'torch was imported'))"
    )
    command = [sys.executable, "-c", code, str(data)]
    done = subprocess.run(command, env={"CANDOR_HOME": str(tmp_path / "home")}, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
