"""A job's story: appended by two, read by many, torn by a crash."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

from models.recipe import Recipe
from service.jobs.folder import JobFolder

if TYPE_CHECKING:
    from pathlib import Path


def kinds(folder: JobFolder, start: int = 0, *, is_brief: bool = False) -> list[str]:
    return [event.kind for event in folder.read(start, is_brief=is_brief)]


def test_story_is_read_from_anywhere_by_where_an_event_ends(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "job")
    assert kinds(folder) == []
    for name in ("state", "plan", "epoch"):
        folder.tell(name, note="ä\nb")
    events = list(folder.read())
    assert [event.kind for event in events] == ["state", "plan", "epoch"]
    assert events[0].fields["note"] == "ä\nb"
    assert list(folder.read(events[0].end)) == events[1:]
    assert kinds(folder, events[-1].end) == []
    # Whoever makes up a place gets what can be read from there on.
    assert kinds(folder, 10**9) == []
    assert kinds(folder, 3) == ["plan", "epoch"]


def test_line_that_a_crash_tore_hides_no_other(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "job")
    folder.tell("state")
    with folder.events.open("ab") as file:
        file.write(b'{"time":1,"event":"epo')
    # Its end may still come.
    assert kinds(folder) == ["state"]
    folder.tell("failed")
    assert kinds(folder) == ["state", "failed"]


def test_brief_story_has_the_last_progress_alone(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "job")
    for name in ("plan", "progress", "progress", "epoch", "progress", "progress"):
        folder.tell(name, images=folder.events.stat().st_size if folder.events.exists() else 0)
    assert kinds(folder, is_brief=True) == ["plan", "epoch", "progress"]
    assert list(folder.read(is_brief=True))[-1] == list(folder.read())[-1]


def test_recipe_is_what_the_trainer_reads(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "job")
    recipe = Recipe(epochs=3, lr="auto", flip=True, label_pattern=r'^(.+)_"\d+"', min_crop=0.5)
    folder.make(recipe)
    assert Recipe.load(folder.recipe) == recipe
    assert tomllib.loads(folder.recipe.read_text())["lr"] == "auto"


def test_tail_is_the_end_of_what_was_said(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "job")
    assert folder.tail(10) == b""
    folder.path.mkdir()
    folder.log.write_bytes(b"0123456789" * 3)
    assert folder.tail(5) == b"56789"
    assert folder.tail(100) == b"0123456789" * 3
