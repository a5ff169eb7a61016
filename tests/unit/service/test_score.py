"""Bulk scoring without a process of its own: what runs ahead, what stands in its place, what is counted."""

from __future__ import annotations

import io
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from models.errors import DatasetError, SettingsError, UnknownModelError
from models.registry import Registry
from service import score
from service.score import Scorer, Tally, Wish, find, in_order, read_wish
from service.settings import Settings
from tests.support.pictures import picture
from tests.support.tiny import colours, publish_tiny

if TYPE_CHECKING:
    from pathlib import Path


def settings(home: Path, **given: object) -> Settings:
    return Settings(home=home, registry=str(home / "registry"), **given)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    publish_tiny(Registry(tmp_path / "registry"), tmp_path / "work", "colours", replace(colours(), breaks_on_black=True))
    return tmp_path


def test_results_come_in_order_and_only_so_many_are_begun_ahead_of_what_was_taken() -> None:
    begun: list[int] = []
    go = threading.Event()

    def work(number: int) -> int:
        begun.append(number)
        if number == 0:
            assert go.wait(10)
        return number * number

    with ThreadPoolExecutor(4) as pool:
        results = in_order(pool, work, range(100), 8)
        timer = threading.Timer(0.2, lambda: (seen.append(len(begun)), go.set()))
        seen: list[int] = []
        timer.start()
        assert next(results) == (0, 0)
        assert seen == [8]
        assert list(results) == [(number, number * number) for number in range(1, 100)]


@pytest.mark.parametrize("batch", [None, 4], ids=["one by one", "in batches"])
def test_what_cannot_be_answered_stands_in_its_place_and_harms_no_other(home: Path, batch: int | None) -> None:
    root = home / "images"
    root.mkdir()
    (root / "a.png").write_bytes(picture("red"))
    (root / "b.png").write_bytes(b"no image")
    (root / "c.png").write_bytes(picture("black"))
    (root / "d.png").write_bytes(picture("blue") + bytes(10_000))
    os.mkfifo(root / "e.png")
    (root / "f.png").write_bytes(picture("green"))
    names = [*find(root)[1], "gone.png"]
    scorer = Scorer(settings(home, max_body_bytes=5000, max_batch=batch), Wish("colours", root, 1, False, True))
    results = dict(scorer.results(root, names))
    scorer.close()
    assert list(results) == ["a.png", "b.png", "c.png", "d.png", "e.png", "f.png", "gone.png"]
    assert [results[name]["predictions"][0]["label"] for name in ("a.png", "f.png")] == ["red", "green"]
    errors = {name: (result["error"]["code"], result["error"]["status"]) for name, result in results.items() if "error" in result}
    assert errors == {
        "b.png": ("unreadable_image", 422),
        "c.png": ("internal", 500),
        "d.png": ("body_too_large", 413),
        "e.png": ("unreadable_image", 422),
        "gone.png": ("unreadable_image", 422),
    }
    assert "No such file" in results["gone.png"]["error"]["detail"]


def test_files_are_found_as_in_a_data_set_and_come_in_the_order_of_their_letters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("b/2.JPG", "b-1.png", "b/sub/1.gif", "a.webp", ".hidden.png", ".folder/x.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "again").symlink_to(tmp_path)
    assert find(tmp_path) == (tmp_path, ["a.webp", "b-1.png", "b/2.JPG", "b/sub/1.gif"])
    assert "2 files are left out" in capsys.readouterr().err
    assert find(tmp_path / "notes.txt") == (tmp_path, ["notes.txt"])


def test_what_is_not_there_is_said(home: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere does not exist"):
        find(home / "nowhere")
    (home / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"holds no images; expected \.bmp, "):
        find(home / "empty")
    with pytest.raises(UnknownModelError, match="birds"):
        Scorer(settings(home), Wish("birds", home, 1, False, True))
    with pytest.raises(SettingsError, match="top_k is '0'|top_k is 0"):
        read_wish("colours", home, "0", is_raw=False, has_trust=True)


def test_progress_is_shown_on_a_terminal_alone_and_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score, "_SHOW_S", -1.0)
    shown, hidden = io.StringIO(), io.StringIO()
    for terminal in (shown, hidden):
        tally = Tally(2, terminal, is_shown=terminal is shown)
        tally.add({"predictions": []})
        tally.add(json.loads('{"error": {"status": 422}}'))
    assert hidden.getvalue() == ""
    first, last = shown.getvalue().split("\r\x1b[K")[1:]
    assert first.startswith("1 of 2 images")
    assert last == ""
