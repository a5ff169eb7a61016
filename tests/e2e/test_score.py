"""`python -m service score`, the real command: its lines, its exit codes, and what ends it early."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from models.registry import Registry
from service.jobs.process import wait_for_lock
from tests.support.evidence import publish_judged
from tests.support.pictures import picture
from tests.support.server import ROOT, environment, serve
from tests.support.tiny import BRIGHTNESS, PRESENCE, colours

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.server import Server

pytestmark = pytest.mark.e2e
COLOURS = ("red", "green", "blue")
MANY = 20_000


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("score")
    for name, tiny in (("colours", colours()), ("presence", PRESENCE), ("brightness", BRIGHTNESS)):
        publish_judged(Registry(home / "registry"), home / "work", name, tiny)
    return home


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    with serve(home, run="serve") as server:
        yield server


@pytest.fixture(scope="module")
def images(home: Path) -> Path:
    folder = home / "images"
    for number in range(12):
        path = folder / f"shelf {number % 3}" / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(COLOURS[number % 3]))
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def many(home: Path) -> Path:
    """So many that scoring them takes seconds: one file under many names."""
    folder = home / "many"
    folder.mkdir()
    (home / "one.png").write_bytes(picture("red"))
    for number in range(MANY):
        (folder / f"{number:05}.png").hardlink_to(home / "one.png")
    return folder


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "service", "score", *map(str, arguments)]


def run(home: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=ROOT, env=environment(home), capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize(
    ("model", "flags", "query"),
    [
        ("colours", (), ""),
        ("colours:1", ("--top-k", 1, "--raw", "--no-trust"), "&top_k=1&raw=true&trust=false"),
        ("presence", (), ""),
        ("brightness", (), ""),
    ],
)
def test_lines_are_what_classify_answers_in_the_order_of_paths(
    home: Path, server: Server, images: Path, model: str, flags: tuple[object, ...], query: str
) -> None:
    # Whoever runs a service has the home's lock, and it is in nobody's way.
    lock = wait_for_lock(home / "lock", 5)
    assert lock is not None
    done = run(home, model, images, *flags)
    os.close(lock)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    names = [line.pop("image") for line in lines]
    assert names == sorted(path.relative_to(images).as_posix() for path in images.rglob("*.*g"))
    files = [("images", (name, (images / name).read_bytes())) for name in names]
    with server.client() as client:
        answered = client.post(f"/classify?model={model}{query}", files=files).json()
    assert lines == answered["results"]
    assert lines[0]["error"]["code"] == "unreadable_image"
    summary = done.stderr.splitlines()[-1]
    assert summary.startswith("13 images, 1 unreadable, ")
    assert summary.endswith(f" images/s, {model.partition(':')[0]}:1 on onnxruntime fp32")


def test_one_file_is_enough(home: Path, images: Path) -> None:
    done = run(home, "colours", images / "shelf 1" / "01.png", "--top-k", 1)
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["image"] == "01.png"
    assert json.loads(line)["predictions"][0]["label"] == "green"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("birds", "images"), "birds"),
        (("colours:7", "images"), "colours"),
        (("Colours!", "images"), "is not a model"),
        (("colours", "nowhere"), "nowhere does not exist"),
        (("colours", "registry"), "registry holds no images"),
        (("colours", "images", "--top-k", "0"), "top_k is"),
    ],
)
def test_what_the_user_got_wrong_is_said_in_a_sentence_and_exits_2(
    home: Path, images: Path, arguments: tuple[str, ...], said: str
) -> None:
    model, source, *flags = arguments
    done = run(home, model, home / source, *flags)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_version_that_may_not_serve_scores_nothing(home: Path, images: Path) -> None:
    publish_judged(Registry(home / "registry"), home / "work", "altered", colours())
    with (Registry(home / "registry").path("altered", 1) / "model.onnx").open("ab") as model:
        model.write(b"more")
    done = run(home, "altered:1", images)
    assert (done.returncode, done.stdout) == (69, "")
    assert "Traceback" not in done.stderr


def test_a_reader_that_has_enough_ends_it_quietly(home: Path, many: Path) -> None:
    with subprocess.Popen(
        command("colours", many), cwd=ROOT, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["image"] == "00000.png"
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(30) == 0
    assert said == b""


def test_ctrl_c_exits_130_with_whole_lines_written(home: Path, many: Path) -> None:
    results = home / "results.jsonl"
    with (
        results.open("wb") as out,
        subprocess.Popen(
            command("colours", many), cwd=ROOT, env=environment(home), stdout=out, stderr=subprocess.PIPE
        ) as process,
    ):
        while results.stat().st_size < 10_000:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(30) == 130
    lines = results.read_bytes().splitlines(keepends=True)
    assert 0 < len(lines) < MANY
    assert all(line.endswith(b"}\n") for line in lines)
    assert [json.loads(line)["image"] for line in lines] == [f"{number:05}.png" for number in range(len(lines))]
    assert said == b""


def test_a_full_disk_is_said(home: Path, images: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command("colours", images),
            cwd=ROOT,
            env=environment(home),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 74
    assert done.stderr == "the results cannot be written (No space left on device)\n"
