"""Stored data sets: content names a version, a version is whole or not there, and nothing half-made stays."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
import zipfile
from pathlib import Path

import pytest

from models import dataset_store
from models.dataset_card import DatasetCard
from models.dataset_store import DatasetStore
from models.errors import DatasetError, DatasetInUseError, ManifestError, NoSpaceError, StoreError, UnknownDatasetError
from models.staging import sweep, work_folder
from tests.support.folders import write_colours


@pytest.fixture
def store(tmp_path: Path) -> DatasetStore:
    return DatasetStore(tmp_path / "datasets")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_colours(tmp_path / "photos", {"": 4}, labels=("red", "green"))


def pack(path: Path, folder: Path, *, below: str = "", method: int = zipfile.ZIP_STORED, is_reversed: bool = False) -> Path:
    files = sorted((file for file in folder.rglob("*") if file.is_file()), reverse=is_reversed)
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in files:
            archive.write(file, f"{below}{file.relative_to(folder)}")
    return path


def hidden(store: DatasetStore) -> list[str]:
    return [path.name for path in store.root.glob(".*")] if store.root.exists() else []


# --- what is stored


def test_a_zip_is_kept_unpacked_with_its_card_and_read_only(store: DatasetStore, photos: Path, tmp_path: Path) -> None:
    stored = store.put(pack(tmp_path / "data.zip", photos), "birds", origin="an upload")

    assert stored.is_new
    assert sorted(path.relative_to(stored.path).as_posix() for path in stored.path.rglob("*.png")) == [
        f"{label}/{number:03}.png" for label in ("green", "red") for number in range(4)
    ]
    assert (stored.path / "red" / "000.png").read_bytes() == (photos / "red" / "000.png").read_bytes()
    assert {path.stat().st_mode & 0o222 for path in stored.path.rglob("*.png")} == {0}
    assert sorted(path.name for path in stored.folder.iterdir()) == ["dataset.json", "files"]
    card = DatasetCard.parse((stored.folder / "dataset.json").read_bytes())
    assert card == stored.card
    assert (card.reference, card.source, card.labels) == (f"birds@{stored.folder.name}", "an upload", {"green": 4, "red": 4})
    assert card.size_bytes == sum(path.stat().st_size for path in photos.rglob("*.png"))
    assert card.fingerprint.startswith(card.version)
    assert hidden(store) == []


def test_how_it_was_packed_does_not_matter_and_where_a_file_lies_does(store: DatasetStore, photos: Path, tmp_path: Path) -> None:
    first = store.put(pack(tmp_path / "data.zip", photos), "birds")
    again = [
        store.put(pack(tmp_path / "data.zip", photos), "birds"),
        store.put(pack(tmp_path / "2.zip", photos, method=zipfile.ZIP_DEFLATED, is_reversed=True), "birds"),
        store.put(pack(tmp_path / "3.zip", photos, below="photos/"), "birds"),
        store.put(photos, "birds"),
    ]
    assert [one.card for one in again] == [first.card] * 4
    assert [one.is_new for one in again] == [False] * 4
    assert len(store.versions("birds")) == 1

    (photos / "red" / "000.png").rename(photos / "green" / "moved.png")
    moved = store.put(photos, "birds")
    assert moved.is_new
    assert moved.card.version != first.card.version


def test_the_name_means_what_was_put_last(store: DatasetStore, photos: Path) -> None:
    first = store.put(photos, "birds")
    shutil.rmtree(photos / "red")
    write_colours(photos, {"": 3}, labels=("blue",))
    second = store.put(photos, "birds")
    assert store.resolve("birds").card == second.card
    shutil.rmtree(photos / "blue")
    write_colours(photos, {"": 4}, labels=("red",))
    assert store.put(photos, "birds").card == first.card

    assert store.resolve("birds").card == first.card
    assert store.resolve(second.card.reference).path == second.path
    assert [one.card.version for one in store.versions("birds")] == [first.card.version, second.card.version]


def test_newest_has_one_version_of_each_name_and_reads_only_cards(store: DatasetStore, photos: Path) -> None:
    old, new = store.put(photos, "old"), store.put(photos, "new")
    (store.root / "fashion-mnist" / "train").mkdir(parents=True)
    (store.root / "not a name" / old.card.version).mkdir(parents=True)
    for stored in (old, new):
        shutil.rmtree(stored.path)
    assert [one.card.name for one in store.newest()] == ["new", "old"]
    assert store.names() == ["new", "old"]
    assert DatasetStore(store.root / "nothing").newest() == []


@pytest.mark.parametrize(
    "name", ["..", ".", "", "a/b", "a\\b", "a\0", "Birds", "birds.", "a" * 64, "\u2024\u2024", "-a", "birds\n"]
)
def test_what_is_no_name_is_never_a_path(store: DatasetStore, photos: Path, name: str) -> None:
    with pytest.raises(StoreError, match="cannot name a data set"):
        store.put(photos, name)
    with pytest.raises(UnknownDatasetError):
        store.resolve(name)
    with pytest.raises(UnknownDatasetError):
        store.delete(name)
    assert store.versions(name) == []
    assert not store.root.exists()


def test_unknown_data_sets_are_told_with_what_there_is(store: DatasetStore, photos: Path) -> None:
    with pytest.raises(UnknownDatasetError, match="named 'birds'; there are: none yet"):
        store.resolve("birds")
    stored = store.put(photos, "birds")
    with pytest.raises(UnknownDatasetError, match="named 'cats'; there are: birds"):
        store.resolve("cats")
    with pytest.raises(UnknownDatasetError, match=f"birds has no version '0123456789abcdef'; it has {stored.card.version}"):
        store.resolve("birds@0123456789abcdef")
    for odd in ("birds@", "birds@..", "birds@0123", f"birds@{stored.card.version}/..", "birds:1"):
        with pytest.raises(UnknownDatasetError, match="is not a data set; write name or name@version"):
            store.resolve(odd)


def test_a_card_that_is_broken_hides_no_other(store: DatasetStore, photos: Path) -> None:
    stored, other = store.put(photos, "birds"), store.put(photos, "cats")
    card = stored.folder / "dataset.json"
    card.write_bytes(card.read_bytes().replace(b"images", b"pictures"))
    with pytest.raises(ManifestError, match="dataset.pictures: is not a known key"):
        store.resolve("birds")
    assert [one.card for one in store.newest()] == [other.card]
    assert store.delete("birds") == [stored.card.version]


# --- what is refused, and what stays


def test_what_cannot_be_trained_on_is_refused_in_the_words_of_who_sent_it(store: DatasetStore, tmp_path: Path) -> None:
    one = write_colours(tmp_path / "one", {"": 2}, labels=("red",))
    with pytest.raises(DatasetError, match="only the label 'red'") as caught:
        store.put(pack(tmp_path / "data.zip", one, below="photos/"), "birds")
    assert str(tmp_path) not in str(caught.value)
    (tmp_path / "text.zip").write_bytes(b"a photo, I promise")
    with pytest.raises(DatasetError, match="^the zip is no zip that can be read"):
        store.put(tmp_path / "text.zip", "birds")
    assert store.names() == []
    assert hidden(store) == []


@pytest.mark.parametrize("where", ["_bring", "_seal", "examine", "_rename"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_nothing(
    store: DatasetStore, photos: Path, monkeypatch: pytest.MonkeyPatch, where: str, number: int
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(dataset_store, where, full)
        with pytest.raises(NoSpaceError, match="the disk is full; make room"):
            store.put(photos, "birds")
    assert hidden(store) == []
    assert store.names() == []
    assert store.put(photos, "birds").is_new


def test_a_version_that_is_used_is_not_deleted_and_then_none_is(store: DatasetStore, photos: Path) -> None:
    first = store.put(photos, "birds")
    (photos / "red" / "000.png").unlink()
    second = store.put(photos, "birds")

    def in_use(path: Path) -> str | None:
        return "job 7" if path == first.path else None

    with pytest.raises(DatasetInUseError, match=f"{first.card.reference} is used by job 7"):
        store.delete("birds", in_use=in_use)
    assert len(store.versions("birds")) == 2
    assert store.delete("birds", second.card.version, in_use) == [second.card.version]
    assert store.delete("birds") == [first.card.version]
    assert list(store.root.iterdir()) == []
    with pytest.raises(UnknownDatasetError):
        store.delete("birds")


def test_many_at_once_make_one_version(store: DatasetStore, photos: Path) -> None:
    barrier = threading.Barrier(4)
    made: list[bool] = []

    def put() -> None:
        barrier.wait()
        made.append(store.put(photos, "birds").is_new)

    threads = [threading.Thread(target=put) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False, False, False, True]
    assert len(store.versions("birds")) == 1
    assert hidden(store) == []


def test_sweeping_removes_what_nobody_holds_and_leaves_what_is_written(store: DatasetStore) -> None:
    assert sweep(store.root) == 0
    left = store.root / ".incoming-left"
    (left / "files" / "red").mkdir(parents=True)
    (store.root / ".removed-half").mkdir()
    (store.root / "birds").mkdir()
    with work_folder(store.root) as mine:
        (mine / "upload.zip").write_bytes(b"PK")
        held = os.open(left, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX)
        assert sweep(store.root) == 1
        os.close(held)
        assert sweep(store.root) == 1
        assert sorted(path.name for path in store.root.iterdir()) == [mine.name, "birds"]
    assert [path.name for path in store.root.iterdir()] == ["birds"]
