"""The audit log: whole lines, whatever is in them, and none that only looks like one."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from service import audit as audit_module
from service.audit import Audit, note

if TYPE_CHECKING:
    from pathlib import Path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "audit.jsonl"


def test_line_says_who_what_and_when_in_a_file_of_its_owner(path: Path) -> None:
    audit = Audit(path)
    audit.write("POST /models/{name}/promote", "birds", "done", key="ci", from_version=1, to_version=2)
    audit.write("POST /retrain", "", "refused", status=409)
    first, second = lines(path)
    assert first.pop("time").endswith("Z")
    assert first == {
        "from_version": 1,
        "to_version": 2,
        "key": "ci",
        "action": "POST /models/{name}/promote",
        "object": "birds",
        "result": "done",
    }
    assert second["status"] == 409
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "text", ['x\r\n{"key":"admin"}', "\u2028\u2029\x85", "\x00\x1b[2J", '"}', "ünï", "\ud800", "\N{GRINNING FACE}"]
)
def test_text_from_a_caller_stays_within_its_line(path: Path, text: str) -> None:
    audit = Audit(path)
    audit.write("PUT /datasets/{name}", text, "refused", client=text)
    audit.write("POST /retrain", "next", "done")
    raw = path.read_bytes()
    assert raw.count(b"\n") == 2
    assert b"\r" not in raw
    first, second = (json.loads(line) for line in raw.split(b"\n") if line)
    assert first["object"] == first["client"] == text.encode(errors="backslashreplace").decode()
    assert second["object"] == "next"


def test_long_text_is_cut(path: Path) -> None:
    Audit(path).write("PUT /datasets/{name}", "x" * 60_000, "refused")
    assert lines(path)[0]["object"] == "x" * 200


def test_caller_cannot_say_what_the_service_says(path: Path) -> None:
    Audit(path).write("POST /retrain", "a", "refused", time="never", status=401)
    assert lines(path)[0]["time"].startswith("20")


def test_lines_of_many_threads_are_all_whole(path: Path) -> None:
    audit = Audit(path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: audit.write("POST /feedback", str(number), "done"), range(100)))
    assert sorted(int(line["object"]) for line in lines(path)) == list(range(100))


def test_line_that_the_disk_had_no_room_for_does_not_spoil_the_next(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b'{"action": "POST /retr')
    Audit(path).write("POST /retrain", "a", "done")
    torn, whole = path.read_bytes().splitlines()
    assert torn == b'{"action": "POST /retr'
    assert json.loads(whole)["object"] == "a"


def test_file_that_was_renamed_is_begun_again(path: Path) -> None:
    audit = Audit(path)
    audit.write("POST /retrain", "old", "done")
    path.rename(path.with_suffix(".1"))
    audit.check()
    audit.write("POST /retrain", "new", "done")
    assert [line["object"] for line in lines(path)] == ["new"]


def test_place_that_cannot_be_written_is_found_out_beforehand(path: Path) -> None:
    path.parent.write_text("a file where the folder should be")
    with pytest.raises(OSError, match="Not a directory|File exists"):
        Audit(path).check()


def test_full_disk_is_found_out_beforehand(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = os.statvfs(path.parent.parent)
    monkeypatch.setattr(audit_module, "_RESERVE_BYTES", free.f_bavail * free.f_frsize * 2)
    with pytest.raises(OSError, match="No space left on device"):
        Audit(path).check()


def test_note_outside_of_a_call_is_nothing() -> None:
    note(to_version=1)
