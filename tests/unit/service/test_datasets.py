"""Uploads without a server around them, and what a request may name."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from starlette.requests import Request

from models.dataset_store import DatasetStore
from service import datasets as module
from service.datasets import Datasets, locate
from service.errors import (
    DisconnectedError,
    InUseError,
    NotAllowedError,
    QueueFullError,
    ServiceError,
    StalledError,
    UnknownDatasetError,
)
from tests.support.folders import write_colours
from tests.support.zips import class_folders, zipped

if TYPE_CHECKING:
    from collections.abc import Callable

NEVER = object()


@pytest.fixture
def store(tmp_path: Path) -> DatasetStore:
    return DatasetStore(tmp_path / "datasets")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_colours(tmp_path / "photos", {"": 2}, labels=("red", "green"))


def request(*messages: Any, **headers: str) -> Request:
    """A request whose body comes as `messages`: bytes, None for a caller that hangs up, NEVER for one that falls silent."""
    waiting = list(messages)

    async def receive() -> dict[str, Any]:
        message = waiting.pop(0)
        if message is NEVER:
            await asyncio.Event().wait()
        if message is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": message, "more_body": bool(waiting)}

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw}, receive)


def refused(datasets: Datasets, sent: Request, kind: type[ServiceError], words: str) -> None:
    with pytest.raises(kind, match=words):
        asyncio.run(datasets.upload("birds", sent))
    assert not datasets.store.root.exists() or list(datasets.store.root.iterdir()) == []


def test_an_upload_that_falls_silent_is_given_up(store: DatasetStore) -> None:
    refused(Datasets(store, 10_000, stall_s=0.1), request(b"PK", NEVER), StalledError, "nothing came for 0.1 seconds")


def test_an_upload_that_breaks_off_leaves_nothing(store: DatasetStore) -> None:
    refused(Datasets(store, 10_000), request(b"PK", b"x" * 100, None), DisconnectedError, "hung up after 102 bytes")


def test_what_was_received_is_what_was_sent_however_it_was_cut(store: DatasetStore, tmp_path: Path) -> None:
    body = zipped({**class_folders(tmp_path / "one"), "large.csv": bytes(3 << 20)}, 0)
    size = 300_001
    sent = request(*(body[start : start + size] for start in range(0, len(body), size)))
    card, is_new = asyncio.run(Datasets(store, 10 << 20).upload("birds", sent))
    assert is_new
    assert (store.get("birds").path / "large.csv").read_bytes() == bytes(3 << 20)
    assert card == store.get("birds").card
    assert card.source == "upload"


def test_a_place_is_free_again_after_a_refusal(store: DatasetStore) -> None:
    datasets = Datasets(store, 10_000)
    for _ in range(module.MOST_UPLOADS + 1):
        refused(datasets, request(None), DisconnectedError, "hung up")


def test_uploads_at_once_are_bounded(store: DatasetStore) -> None:
    async def run() -> None:
        datasets = Datasets(store, 10_000)
        silent = [asyncio.create_task(datasets.upload("birds", request(NEVER))) for _ in range(module.MOST_UPLOADS)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError, match="at most 4"):
            await datasets.upload("birds", request(b""))
        for task in silent:
            task.cancel()
        await asyncio.gather(*silent, return_exceptions=True)
        assert list(store.root.iterdir()) == []

    asyncio.run(run())


def test_a_child_that_fails_reveals_nothing_and_one_that_is_not_waited_for_is_ended(
    store: DatasetStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def cancelled() -> None:
        started = tmp_path / "started"
        script = tmp_path / "slow"
        script.write_text(f"#!/bin/sh\nmkdir {store.root}/.incoming-child\ntouch {started}\nexec sleep 60\n")
        script.chmod(0o755)
        monkeypatch.setattr(module.sys, "executable", str(script))
        task = asyncio.create_task(Datasets(store, 10_000).upload("birds", request(b"PK")))
        while not started.exists():
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        assert list(store.root.iterdir()) == []

    asyncio.run(asyncio.wait_for(cancelled(), 20))
    monkeypatch.setattr(module.sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="put-dataset ended with 1"):
        asyncio.run(Datasets(store, 10_000).upload("birds", request(b"PK")))
    assert list(store.root.iterdir()) == []


def test_starting_removes_what_is_left_over(store: DatasetStore) -> None:
    (store.root / ".incoming-left" / "files").mkdir(parents=True)
    datasets = Datasets(store, 10_000)
    datasets.start()
    until = time.monotonic() + 10
    while list(store.root.iterdir()):
        assert time.monotonic() < until
        time.sleep(0.01)
    datasets.close()


def test_what_a_job_needs_is_not_deleted(store: DatasetStore, photos: Path) -> None:
    stored = store.put(photos, "birds")
    users: dict[Path, str] = {stored.path: "job 7"}
    datasets = Datasets(store, 10_000, in_use=users.get)
    with pytest.raises(InUseError, match=f"{stored.card.reference} is used by job 7"):
        datasets.delete("birds", None)
    users.clear()
    assert datasets.delete("birds", None) == [stored.card.version]
    with pytest.raises(UnknownDatasetError):
        datasets.delete("birds", None)


# --- what a request may name


def test_a_stored_data_set_is_found_by_name_and_by_version(store: DatasetStore, photos: Path) -> None:
    stored = store.put(photos, "birds")
    assert locate("birds", store, ()) == stored.path
    assert locate(stored.card.reference, store, ()) == stored.path


@pytest.mark.parametrize(
    "reference", ["cats", "birds@0000000000000000", "", "..", "./photos", "s3://bucket/photos", "birds:1", "birds\0"]
)
def test_what_is_not_stored_is_unknown(store: DatasetStore, photos: Path, reference: str) -> None:
    store.put(photos, "birds")
    with pytest.raises(UnknownDatasetError):
        locate(reference, store, (photos.parent,))


def test_a_folder_is_found_below_the_roots_alone(store: DatasetStore, photos: Path, tmp_path: Path) -> None:
    elsewhere = write_colours(tmp_path / "elsewhere", {"": 1})
    (photos / "out").symlink_to(elsewhere)
    (tmp_path / "alias").symlink_to(photos)
    assert locate(str(photos), store, (photos,)) == photos
    assert locate(str(photos / "red"), store, (tmp_path / "other", photos)) == photos / "red"
    assert locate(str(photos), store, (tmp_path / "alias",)) == photos
    outside: list[Callable[[], Path]] = [
        lambda: locate(str(photos), store, ()),
        lambda: locate(str(elsewhere), store, (photos,)),
        lambda: locate(str(photos / "out"), store, (photos,)),
        lambda: locate(f"{photos}/../elsewhere", store, (photos,)),
        lambda: locate(f"{photos}-more", store, (photos,)),
        lambda: locate("/etc", store, (photos,)),
        lambda: locate(str(tmp_path / "not there"), store, (photos,)),
    ]
    for call in outside:
        with pytest.raises(NotAllowedError, match="is not below a folder of CANDOR_DATASET_ROOTS"):
            call()
    for missing in ("not there", "red/000.png", "a\0b"):
        with pytest.raises(UnknownDatasetError):
            locate(f"{photos}/{missing}", store, (photos,))
