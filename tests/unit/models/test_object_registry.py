"""What is different in an object store: claims, the mirror, what a death leaves, and a store that is away."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal, TypeVar

import pytest

from models import artifact, following, object_registry
from models.__main__ import main
from models.artifact import Artifact, verify
from models.dataset import scan
from models.errors import (
    ArtifactError,
    ConflictError,
    InUseError,
    RefusedError,
    RegistryError,
    SettingsError,
    UnknownModelError,
    UnreachableError,
)
from models.gate_report import GateReport
from models.holdout import Holdout
from models.mirror import KEPT
from models.object_store import PAUSE_S, ObjectStore
from models.open_registry import open_registry
from models.recipe import Recipe
from models.registry import Registry
from models.settings import read_home_settings
from tests.support.artifacts import make_manifest, write_files
from tests.support.buckets import Bucket, s3, silent
from tests.support.folders import write_colours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Said = TypeVar("Said")


def report(verdict: Literal["promote", "reject"], candidate: int) -> GateReport:
    return GateReport(
        schema_version=1,
        name="birds",
        candidate=candidate,
        production=1,
        verdict=verdict,
        at=datetime(2026, 1, 1, tzinfo=UTC),
        holdout_sha256=None,
        images=0,
        checks=(),
        reasons=(),
    )


class Shelf:
    """One registry in a bucket, as objects and as seen from several machines."""

    def __init__(self, bucket: Bucket, tmp_path: Path) -> None:
        self.bucket = bucket
        self.prefix = f"{uuid.uuid4().hex}/"
        self.url = f"s3://{bucket.name}/{self.prefix.rstrip('/')}"
        self._tmp_path = tmp_path

    def machine(self, name: str) -> Registry:
        """The registry, with the mirror of a machine; as a process that has just been started sees it."""
        return open_registry(self.url, self._tmp_path / name)

    def publish(self, registry: Registry, count: int = 1) -> None:
        for _ in range(count):
            source = self._tmp_path / uuid.uuid4().hex
            registry.publish(write_files(source, model=source.name.encode()), make_manifest())

    def objects(self) -> list[str]:
        return self.bucket.keys(self.prefix)

    def get(self, key: str) -> bytes:
        return self.bucket.get(self.prefix + key)

    def put(self, key: str, data: bytes) -> None:
        self.bucket.put(self.prefix + key, data)

    def delete(self, key: str) -> None:
        self.bucket.delete(self.prefix + key)


@pytest.fixture
def shelf(bucket: Bucket, tmp_path: Path) -> Shelf:
    return Shelf(bucket, tmp_path)


@pytest.fixture
def away(tmp_path: Path) -> Iterator[Shelf]:
    """One whose server may be stopped, since nobody else uses it."""
    with s3() as bucket:
        yield Shelf(bucket, tmp_path)


# --- the layout


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_that_is_uploaded_is_the_registry_and_one_that_is_downloaded_is_one(shelf: Shelf, tmp_path: Path) -> None:
    folder = Registry(tmp_path / "folder")
    shelf.publish(folder, 3)
    folder.promote("birds", 2)
    folder.delete("birds", 3)
    for path, data in files_of(folder.root).items():
        shelf.put(path, data)

    registry = shelf.machine("a")
    assert (registry.names(), registry.versions("birds"), registry.resolve("birds")) == (["birds"], [1, 2], ("birds", 2))
    assert registry.aliases("birds") == folder.aliases("birds")
    assert Artifact.load(registry.path("birds", 2)).model == Artifact.load(folder.path("birds", 2)).model
    shelf.publish(registry)
    assert registry.versions("birds") == [1, 2, 4], "a deleted number is not given again"

    for key in shelf.objects():
        target = tmp_path / "backup" / key
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(shelf.get(key))
    backup = Registry(tmp_path / "backup")
    assert (backup.versions("birds"), backup.aliases("birds")) == ([1, 2, 4], registry.aliases("birds"))
    assert verify(backup.path("birds", 4)).version == 4
    backup.prune("birds", 9)
    shelf.publish(backup)
    assert backup.versions("birds") == [1, 2, 4, 5]


def test_what_is_published_on_one_machine_is_read_on_another(shelf: Shelf) -> None:
    shelf.publish(shelf.machine("a"), 2)
    other = shelf.machine("b")
    assert verify(other.path("birds", 2)) == shelf.machine("a").manifest("birds", 2)
    assert other.path("birds", 2).parent != shelf.machine("a").path("birds", 2).parent
    assert set(shelf.objects()) == {
        ".created-once",
        "birds/aliases/1.json",
        *(f"birds/claims/{n}.json" for n in (1, 2)),
        *(f"birds/versions/{n}/{file}" for n in (1, 2) for file in other.manifest("birds", n).files),
        *(f"birds/versions/{n}/manifest.json" for n in (1, 2)),
    }


def test_a_card_is_read_without_the_version(shelf: Shelf, tmp_path: Path) -> None:
    shelf.publish(shelf.machine("a"))
    other = shelf.machine("b")
    assert other.manifest("birds", 1).reference == "birds:1"
    assert other.confidence("birds", 1).temperature.value == 1.5
    assert not list((tmp_path / "b").rglob("model.onnx"))


# --- several writers


def at_once(shelf: Shelf, numbers: range, act: Callable[[Registry, int], Said]) -> list[Said]:
    """What came of an act for each number, all at the same moment and each by a machine of its own."""
    barrier = threading.Barrier(len(numbers))

    def one(number: int) -> Said:
        mine = shelf.machine(f"of-{number}")
        barrier.wait()
        return act(mine, number)

    with ThreadPoolExecutor(len(numbers)) as pool:
        return list(pool.map(one, numbers))


def test_of_many_who_promote_from_where_they_saw_it_one_wins(shelf: Shelf) -> None:
    registry = shelf.machine("a")
    shelf.publish(registry, 9)

    def promote(mine: Registry, version: int) -> bool:
        try:
            mine.promote("birds", version, expected_epoch=1)
        except ConflictError:
            return False
        return True

    won = [version for version, is_won in zip(range(2, 10), at_once(shelf, range(2, 10), promote), strict=True) if is_won]
    assert [registry.aliases("birds").production] == won
    assert registry.history("birds") == [1, 2]


def test_of_two_who_delete_at_once_one_does_and_the_version_stays_deleted(shelf: Shelf) -> None:
    registry = shelf.machine("a")
    shelf.publish(registry, 3)

    def delete(mine: Registry, _: int) -> str:
        try:
            mine.delete("birds", 2)
        except (ConflictError, UnknownModelError):
            return "refused"
        return "deleted"

    said = at_once(shelf, range(4), delete)
    assert sorted(said) == ["deleted", "refused", "refused", "refused"]
    assert registry.versions("birds") == [1, 3]
    assert [key for key in shelf.objects() if "/versions/2/" in key] == ["birds/versions/2/deleted.json"]


def test_a_deletion_that_was_overtaken_is_taken_back(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = shelf.machine("a")
    shelf.publish(registry, 3)
    bury = registry.bury

    def slowly(name: str, version: int) -> None:
        # Somebody promotes it between the look and the deed.
        shelf.machine("b").promote(name, version)
        bury(name, version)

    monkeypatch.setattr(registry, "bury", slowly)
    with pytest.raises(InUseError, match="birds:2 is in production"):
        registry.delete("birds", 2)
    assert verify(shelf.machine("c").path("birds", 2)).version == 2
    assert "birds/versions/2/deleted.json" not in shelf.objects()


# --- what a death leaves


class DeathError(Exception):
    """Stands for a process that ends at once."""


def die_while_publishing(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    create = ObjectStore.create

    def dying(store: ObjectStore, path: str, data: bytes) -> bool:
        if path.endswith("manifest.json"):
            raise DeathError
        return create(store, path, data)

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "create", dying)
        with pytest.raises(DeathError):
            shelf.publish(shelf.machine("dead"))


def test_a_publisher_that_dies_before_the_manifest_leaves_no_version_and_its_number_is_skipped(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = shelf.machine("a")
    die_while_publishing(shelf, monkeypatch)
    assert "birds/versions/1/model.onnx" in shelf.objects()
    assert (registry.names(), registry.versions("birds"), registry.has_begun("birds")) == ([], [], False)
    with pytest.raises(UnknownModelError):
        registry.path("birds", 1)

    shelf.publish(registry)
    assert (registry.versions("birds"), registry.resolve("birds")) == ([2], ("birds", 2))


def test_what_a_dead_publisher_left_is_swept_after_a_day_and_not_before(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = shelf.machine("a")
    die_while_publishing(shelf, monkeypatch)
    shelf.publish(registry)
    registry.prune("birds", 9)
    assert "birds/versions/1/model.onnx" in shelf.objects(), "it may be alive"

    monkeypatch.setattr(object_registry, "STALE", timedelta(seconds=-5))
    registry.prune("birds", 9)
    assert [key for key in shelf.objects() if "/versions/1/" in key] == []
    assert registry.versions("birds") == [2]
    assert verify(shelf.machine("b").path("birds", 2)).version == 2
    shelf.publish(registry)
    assert registry.versions("birds") == [2, 3], "the claim keeps the number"


def test_a_version_that_is_refused_uses_up_no_number(shelf: Shelf, tmp_path: Path) -> None:
    registry = shelf.machine("a")
    source = write_files(tmp_path / "source")
    (source / "golden.npz").unlink()
    with pytest.raises(ArtifactError):
        registry.publish(source, make_manifest())
    assert shelf.objects() == [".created-once"]


def test_a_store_that_overwrites_is_refused_before_anything_is_published(tmp_path: Path) -> None:
    with s3(overwrites=True) as bucket:
        shelf = Shelf(bucket, tmp_path)
        with pytest.raises(SettingsError, match=f"{shelf.url} overwrites an object that was to be created only if"):
            shelf.publish(shelf.machine("a"))
        shelf.publish(Registry(tmp_path / "folder"))
        with pytest.raises(SettingsError, match="heeds If-None-Match"):
            Registry(tmp_path / "folder").copy("birds", 1, shelf.machine("a"))
        assert shelf.objects() == [".created-once"]


def test_a_deletion_that_died_half_way_is_finished_or_forgotten(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = shelf.machine("a")
    shelf.publish(registry, 3)
    # One before its manifest was removed, one after.
    shelf.put("birds/versions/2/deleted.json", shelf.get("birds/versions/2/manifest.json"))
    shelf.put("birds/versions/3/deleted.json", shelf.get("birds/versions/3/manifest.json"))
    shelf.delete("birds/versions/3/manifest.json")
    with pytest.raises(ConflictError, match="somebody else is deleting birds:2"):
        registry.delete("birds", 2)
    monkeypatch.setattr(object_registry, "STALE", timedelta(seconds=-5))
    registry.prune("birds", 9)
    assert [key for key in shelf.objects() if "/versions/3/" in key] == ["birds/versions/3/deleted.json"]
    registry.delete("birds", 2)
    assert registry.versions("birds") == [1]


def test_a_deletion_that_broke_off_is_gone_on_with_after_minutes_and_holds_up_no_other(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = shelf.machine("a")
    shelf.publish(registry, 4)
    shelf.put("birds/versions/2/deleted.json", shelf.get("birds/versions/2/manifest.json"))
    shelf.put("birds/versions/4/deleted.json", b"of another")
    assert registry.prune("birds", 0) == [3]
    assert registry.versions("birds") == [1, 2, 4]
    monkeypatch.setattr(object_registry, "ABANDONED", timedelta(seconds=-5))
    assert registry.prune("birds", 0) == [2]
    assert registry.versions("birds") == [1, 4]


def test_numbers_in_a_bucket_are_those_that_are_written_as_here_and_one_without_a_file_ends_nothing(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = shelf.machine("a")
    shelf.publish(registry)
    shelf.put("birds/versions/07/manifest.json", b"{}")
    shelf.put("birds/aliases/07.json", b"{}")
    shelf.put("birds/versions/5/model.onnx", b"x")
    files = ObjectStore.files

    def meanwhile(store: ObjectStore, path: str) -> dict[str, datetime]:
        if path == "birds/versions/5":
            # Somebody else sweeps too.
            shelf.delete("birds/versions/5/model.onnx")
        return files(store, path)

    monkeypatch.setattr(ObjectStore, "files", meanwhile)
    assert registry.prune("birds", 9) == []
    assert (registry.versions("birds"), registry.history("birds")) == ([1], [1])


# --- the mirror


@pytest.mark.parametrize("change", ["truncated", "altered", "missing"])
def test_an_object_that_is_not_what_the_manifest_says_is_refused_and_not_kept(shelf: Shelf, tmp_path: Path, change: str) -> None:
    shelf.publish(shelf.machine("a"))
    key, other = "birds/versions/1/model.onnx", shelf.machine("b")
    good = shelf.get(key)
    if change == "missing":
        shelf.delete(key)
    else:
        shelf.put(key, good[:-1] if change == "truncated" else bytes([good[0] ^ 1]) + good[1:])
    with pytest.raises(ArtifactError, match="is missing" if change == "missing" else "was altered") as caught:
        other.path("birds", 1)
    assert str(caught.value).startswith(f"{shelf.url}/{key} ")
    assert [path for path in (tmp_path / "b").rglob("*") if path.is_file()] == []

    shelf.put(key, good)
    assert verify(other.path("birds", 1)).version == 1


def test_a_mirror_that_was_altered_is_read_again_by_the_next_process(shelf: Shelf) -> None:
    shelf.publish(shelf.machine("a"))
    file = shelf.machine("b").path("birds", 1) / "model.onnx"
    good = file.read_bytes()
    file.write_bytes(good[::-1])
    assert (shelf.machine("b").path("birds", 1) / "model.onnx").read_bytes() == good


def test_to_verify_is_to_read_the_store_and_not_the_mirror(shelf: Shelf) -> None:
    registry = shelf.machine("a")
    shelf.publish(registry)
    path, key = registry.path("birds", 1), "birds/versions/1/model.onnx"
    good = shelf.get(key)
    shelf.put(key, good[::-1])
    with pytest.raises(ArtifactError, match=f"{shelf.url}/{key} was altered"):
        registry.verify("birds", 1)
    assert verify(path).version == 1, "and what is here stays"
    shelf.put(key, good)
    assert registry.verify("birds", 1) == registry.manifest("birds", 1)
    with pytest.raises(UnknownModelError):
        registry.verify("birds", 2)


def test_a_version_whose_manifest_is_gone_is_gone_from_every_mirror(shelf: Shelf) -> None:
    registry = shelf.machine("a")
    shelf.publish(registry, 2)
    other = shelf.machine("b")
    path = other.path("birds", 2)
    registry.delete("birds", 2)
    with pytest.raises(UnknownModelError, match=r"birds has no version 2; it has \[1\]"):
        other.path("birds", 2)
    assert not path.exists()


def test_a_bucket_that_is_missing_takes_nothing_from_the_mirror(away: Shelf) -> None:
    away.publish(away.machine("a"))
    path = away.machine("b").path("birds", 1)
    away.bucket.remove()
    try:
        assert away.machine("b").path("birds", 1) == path
        assert verify(path).version == 1
        with pytest.raises(UnreachableError):
            away.machine("never-seen").path("birds", 1)
    finally:
        away.bucket.client.create_bucket(Bucket=away.bucket.name)


def test_a_manifest_that_cannot_be_found_beside_its_files_takes_nothing_from_the_mirror(shelf: Shelf) -> None:
    shelf.publish(shelf.machine("a"))
    path = shelf.machine("b").path("birds", 1)
    shelf.delete("birds/versions/1/manifest.json")
    assert shelf.machine("b").path("birds", 1) == path
    assert verify(path).version == 1


def test_a_number_that_holds_another_version_than_the_mirror_is_read_anew(shelf: Shelf) -> None:
    registry = shelf.machine("a")
    shelf.publish(registry)
    old = verify(shelf.machine("b").path("birds", 1))
    for key in shelf.objects():
        shelf.delete(key)
    shelf.publish(shelf.machine("c"))
    new = verify(shelf.machine("b").path("birds", 1))
    assert new.sha256 != old.sha256


def test_a_mirror_keeps_what_was_used_last(shelf: Shelf, tmp_path: Path) -> None:
    registry = shelf.machine("a")
    shelf.publish(registry, KEPT)
    registry.path("birds", 1)
    shelf.publish(registry, 2)
    found = sorted(int(path.name) for path in (tmp_path / "a").glob("registry/*/birds/versions/*"))
    assert found == [1, *range(4, KEPT + 3)]


def test_a_mirror_keeps_what_is_in_production_however_much_is_used_after_it(shelf: Shelf, tmp_path: Path) -> None:
    registry = shelf.machine("a")
    shelf.publish(registry, KEPT + 2)
    found = sorted(int(path.name) for path in (tmp_path / "a").glob("registry/*/birds/versions/*"))
    assert found == [1, *range(4, KEPT + 3)]


def test_threads_that_want_the_same_version_read_it_once(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.publish(shelf.machine("a"))
    other, read = shelf.machine("b"), []
    download = ObjectStore.download

    def counted(store: ObjectStore, path: str, *rest: object) -> None:
        read.append(path)
        download(store, path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(ObjectStore, "download", counted)
    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(lambda _: other.path("birds", 1), range(6)))) == 1
    assert read == ["birds/versions/1"]


# --- a store that is away


def test_while_the_store_is_away_the_mirror_answers_and_nothing_can_be_changed(away: Shelf, tmp_path: Path) -> None:
    registry = away.machine("a")
    away.publish(registry, 2)
    registry.write_gate(report("promote", candidate=2))
    registry.promote("birds", 2)
    away.bucket.stop()

    again = away.machine("a")
    assert (again.names(), again.versions("birds"), again.resolve("birds")) == (["birds"], [1, 2], ("birds", 2))
    assert (again.has_version("birds"), again.aliases("birds").epoch) == (True, 2)
    assert verify(again.path("birds", 2)) == again.manifest("birds", 2)
    assert again.confidence("birds", 2).temperature.value == 1.5
    assert again.read_gate("birds", 2) is not None
    source = write_files(tmp_path / "source")
    for change in (
        lambda: again.publish(source, make_manifest()),
        lambda: again.promote("birds", 1),
        lambda: again.rollback("birds"),
        lambda: again.delete("birds", 1),
        lambda: again.write_gate(report("promote", candidate=2)),
        lambda: again.prune("birds", 0),
        lambda: registry.copy("birds", 1, again),
    ):
        with pytest.raises(UnreachableError):
            change()
    with pytest.raises(UnreachableError):
        away.machine("never-seen").path("birds", 2)
    with pytest.raises(UnreachableError):
        away.machine("never-seen").names()

    away.bucket.start()
    fresh = away.machine("b")
    assert (fresh.versions("birds"), fresh.aliases("birds").production) == ([1, 2], 2)


def test_who_asks_after_a_failure_is_told_at_once_and_after_a_pause_one_asks_again(away: Shelf) -> None:
    away.bucket.stop()
    store = ObjectStore(away.url)
    with silent(away.bucket.port):
        started = time.monotonic()
        with pytest.raises(UnreachableError, match="cannot be reached"):
            store.read("x")
        assert 2 < time.monotonic() - started < 5
        started = time.monotonic()
        for _ in range(1000):
            with pytest.raises(UnreachableError, match="could not be reached a moment ago"):
                store.read("x")
        assert time.monotonic() - started < 1
    away.bucket.start()
    time.sleep(PAUSE_S)
    assert store.read("x") is None


def test_whether_a_run_has_published_is_not_answered_by_a_mirror(away: Shelf, tmp_path: Path) -> None:
    """A mirror has not what the run published from another machine, or just now: it would publish twice."""
    source = write_files(tmp_path / "source")
    away.publish(away.machine("a"))
    away.machine("b").path("birds", 1)
    away.machine("a").publish(source, make_manifest(run="job-1"))
    assert away.machine("b").find_run("birds", "job-1") == 2
    away.bucket.stop()
    assert away.machine("b").versions("birds") == [1]
    with pytest.raises(UnreachableError):
        away.machine("b").find_run("birds", "job-1")


def test_a_run_is_not_said_to_have_published_nothing_where_a_card_cannot_be_asked_for(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = shelf.machine("a")
    registry.publish(write_files(tmp_path / "source"), make_manifest(run="job-1"))
    other, read = shelf.machine("b"), ObjectStore.read

    def gone(store: ObjectStore, path: str) -> bytes | None:
        if path.endswith("manifest.json"):
            raise UnreachableError("gone")
        return read(store, path)

    monkeypatch.setattr(ObjectStore, "read", gone)
    with pytest.raises(UnreachableError):
        other.find_run("birds", "job-1")


def test_who_trains_waits_for_a_store_that_comes_back(away: Shelf, tmp_path: Path) -> None:
    away.bucket.stop()
    patient = open_registry(away.url, tmp_path / "trainer", is_patient=True)
    back = threading.Timer(4.0, away.bucket.start)
    back.start()
    started = time.monotonic()
    away.publish(patient)
    assert time.monotonic() - started > 3
    back.join()
    assert away.machine("a").versions("birds") == [1]


def test_a_wrong_bucket_is_said_by_name(bucket: Bucket, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="s3://no-such-bucket/registry cannot be reached: .*404 Not Found"):
        open_registry("s3://no-such-bucket/registry", tmp_path).names()


def test_who_may_only_read_is_told_so_and_reads_on(away: Shelf, tmp_path: Path) -> None:
    registry = away.machine("a")
    away.publish(registry, 2)
    away.bucket.refused = {"PUT", "POST", "DELETE"}
    for change in (lambda: away.publish(registry), lambda: registry.promote("birds", 2), lambda: registry.delete("birds", 2)):
        with pytest.raises(RefusedError, match=f"{away.url} may not be written to with these credentials: .*403 Forbidden"):
            change()
        assert away.machine("a").current("birds").production == registry.current("birds").production == 1
    away.bucket.refused = {"GET"}
    assert registry.path("birds", 1) == away.machine("a").path("birds", 1), "by the mirror"
    with pytest.raises(UnreachableError, match="refuses to be read"):
        ObjectStore(away.url).read("birds/aliases/1.json")


@pytest.mark.parametrize("key", ["birds/versions//model.onnx", "birds/versions/1//x", "birds/versions/1/../x"])
def test_an_object_that_cannot_be_a_file_is_said_by_name_and_is_no_store_that_is_away(shelf: Shelf, key: str) -> None:
    registry = shelf.machine("a")
    shelf.publish(registry)
    registry.publish(write_files(registry.root / "source"), make_manifest(name="owls"))
    shelf.put(key, b"")
    with pytest.raises(RegistryError, match=f"{shelf.url} has an object named .*{key.rpartition('/')[0]}") as caught:
        registry.prune("birds", 9)
    assert not isinstance(caught.value, UnreachableError)
    assert registry.versions("owls") == [1], "it is asked on"


def test_an_object_that_is_far_too_large_is_not_read_into_memory(shelf: Shelf) -> None:
    registry = shelf.machine("a")
    shelf.publish(registry)
    shelf.put("birds/aliases/2.json", b" " * (2**24 + 1))
    with pytest.raises(RegistryError, match=f"{shelf.url}/birds/aliases/2.json has 16777217 bytes, expected at most 16777216"):
        registry.current("birds")
    assert registry.versions("birds") == [1]


def test_a_url_that_the_environment_leaves_incomplete_is_a_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(SettingsError, match="az://container/registry cannot be used as a registry: .*Account must be specified"):
        open_registry("az://container/registry", tmp_path)


def test_a_system_without_certificates_is_told_what_it_lacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(SettingsError, match="s3://candor/registry cannot be used as a registry: .* install ca-certificates"):
        open_registry("s3://candor/registry", tmp_path)


@pytest.mark.parametrize("url", ["ftp://host/registry", "s3://", "s3:///prefix", "s3://bucket/prefix?x=1", "memory://x"])
def test_a_url_of_another_kind_is_refused_by_the_settings(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANDOR_REGISTRY", url)
    with pytest.raises(SettingsError, match=r"CANDOR_REGISTRY: is a URL of no object store; expected a folder, or s3://bucket"):
        read_home_settings()


# --- following


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls that reach the store."""
    found: list[str] = []
    for name in ("read", "exists", "folders", "files"):
        call = getattr(ObjectStore, name)

        def counted(store: ObjectStore, path: str, *, call: object = call, name: str = name) -> object:
            found.append(f"{name} {path}")
            return call(store, path)  # type: ignore[operator]

        monkeypatch.setattr(ObjectStore, name, counted)
    return found


def test_to_follow_costs_one_read_for_each_name(shelf: Shelf, asked: list[str]) -> None:
    registry = shelf.machine("a")
    shelf.publish(registry, 2)
    follower = shelf.machine("b").follower()
    assert [follower.aliases(name).production for name in follower.names()] == [1]
    asked.clear()
    assert [follower.aliases(name).production for name in follower.names()] == [1]
    assert asked == ["read birds/aliases/2.json"]
    for version in (2, 1, 2):
        registry.promote("birds", version)
    asked.clear()
    assert [follower.aliases(name).production for name in follower.names()] == [2]
    assert asked == [f"read birds/aliases/{epoch}.json" for epoch in (2, 3, 4, 5)]


def test_a_follower_finds_new_names_and_what_was_put_back_from_a_backup(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "ALL_S", 0.0)
    registry = shelf.machine("a")
    shelf.publish(registry, 2)
    registry.promote("birds", 2)
    follower = shelf.machine("b").follower()
    assert {name: follower.aliases(name).production for name in follower.names()} == {"birds": 2}
    shelf.delete("birds/aliases/2.json")
    registry.publish(write_files(registry.root / "source"), make_manifest(name="owls"))
    assert {name: follower.aliases(name).production for name in follower.names()} == {"birds": 1, "owls": 1}


def test_an_epoch_that_is_a_copy_of_another_is_refused_and_not_followed_for_ever(shelf: Shelf) -> None:
    registry = shelf.machine("a")
    shelf.publish(registry)
    follower = shelf.machine("b").follower()
    assert [follower.aliases(name).epoch for name in follower.names()] == [1]
    shelf.put("birds/aliases/2.json", shelf.get("birds/aliases/1.json"))
    for look in (lambda: follower.aliases("birds"), lambda: registry.current("birds"), lambda: registry.promote("birds", 1)):
        with pytest.raises(RegistryError, match=r"birds/aliases/2\.json is not valid: it says epoch 1, expected 2"):
            look()


def test_a_prefix_that_was_emptied_is_a_store_that_is_away_until_something_is_there(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "ALL_S", 0.0)
    registry = shelf.machine("a")
    follower = shelf.machine("b").follower()
    assert follower.names() == [], "nothing was ever there"
    shelf.publish(registry)
    assert follower.names() == ["birds"]
    backup = {key: shelf.get(key) for key in shelf.objects()}
    for key in backup:
        shelf.delete(key)
    for _ in range(2):
        with pytest.raises(UnreachableError, match=f"{shelf.url} had models and is empty"):
            follower.names()
    for key, data in backup.items():
        shelf.put(key, data)
    assert [follower.aliases(name).production for name in follower.names()] == [1]


def test_who_starts_while_the_store_is_away_serves_production_or_the_newest_before_it_that_is_here(away: Shelf) -> None:
    registry = away.machine("a")
    away.publish(registry, 3)
    other = away.machine("b")
    other.path("birds", 1)
    follower = other.follower()
    registry.promote("birds", 3)
    assert [follower.aliases(name).production for name in follower.names()] == [3]
    away.bucket.stop()
    assert away.machine("b").follower().kept() == {"birds": 1}, "3 had not come"
    assert away.machine("a").follower().kept() == {"birds": 3}
    assert away.machine("never-seen").follower().kept() == {}
    with pytest.raises(UnreachableError):
        away.machine("b").follower().names()


# --- held-out images, the gate, copies, the command line


def test_a_held_out_set_is_the_same_on_every_machine(away: Shelf, tmp_path: Path) -> None:
    registry = away.machine("a")
    held = Holdout.fix(registry, "birds", scan(write_colours(tmp_path / "data", {"train": 2, "test": 3}), Recipe()))
    assert held is not None
    assert Holdout.read(away.machine("b"), "birds") is None, "no version appeared yet"
    away.publish(registry)

    read = Holdout.read(away.machine("b"), "birds")
    assert read is not None
    assert (read.sha256, read.index) == (held.sha256, held.index)
    assert list(read.read_images()) == list(held.read_images())
    assert (read.thumbnails() == held.thumbnails()).all()

    new = Holdout.replace(away.machine("b"), "birds", scan(write_colours(tmp_path / "new", {"train": 1, "test": 4}), Recipe()))
    assert new is not None
    found = Holdout.read(away.machine("a"), "birds")
    assert found is not None
    assert found.sha256 == new.sha256 != held.sha256
    away.bucket.stop()
    with pytest.raises(UnreachableError):
        Holdout.read(away.machine("a"), "birds")


def test_a_pointer_to_held_out_images_that_cannot_be_kept_is_an_error_and_not_an_older_one(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk a trainer would learn from what was held out since."""
    registry = shelf.machine("a")
    Holdout.fix(registry, "birds", scan(write_colours(tmp_path / "data", {"train": 2, "test": 3}), Recipe()))
    shelf.publish(registry)
    other = shelf.machine("b")
    assert Holdout.read(other, "birds") is not None
    Holdout.replace(registry, "birds", scan(write_colours(tmp_path / "new", {"train": 1, "test": 4}), Recipe()))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(artifact, "write_synced", full)
        with pytest.raises(OSError, match="No space left"):
            Holdout.read(other, "birds")


def test_of_a_held_out_set_its_own_files_are_read_and_no_others(shelf: Shelf, tmp_path: Path) -> None:
    registry = shelf.machine("a")
    held = Holdout.fix(registry, "birds", scan(write_colours(tmp_path / "data", {"train": 2, "test": 3}), Recipe()))
    shelf.publish(registry)
    assert held is not None
    shelf.put(f"birds/holdout/{held.sha256}/stranger.bin", b"x")
    read = Holdout.read(shelf.machine("b"), "birds")
    assert read is not None
    assert set(files_of(read.path)) == {"index.json", "thumbnails.npz", "images.zip"}


def test_what_the_gate_said_is_read_on_another_machine(shelf: Shelf) -> None:
    said = report("reject", candidate=2)
    shelf.machine("a").write_gate(said)
    assert shelf.machine("b").read_gate("birds", 2) == said
    assert shelf.machine("b").read_gate("birds", 3) is None


def test_versions_are_copied_to_a_store_and_back(shelf: Shelf, tmp_path: Path) -> None:
    folder, there = Registry(tmp_path / "folder"), shelf.machine("a")
    shelf.publish(folder, 3)
    for _ in range(2):
        assert folder.copy("birds", 3, there) == f"{shelf.url}/birds/versions/3"
    assert (there.versions("birds"), there.aliases("birds").epoch) == ([3], 0)
    shelf.publish(there)
    assert there.versions("birds") == [3, 4]

    back = Registry(tmp_path / "back")
    shelf.machine("b").copy("birds", 3, back)
    assert verify(back.path("birds", 3)) == folder.manifest("birds", 3)
    shelf.publish(folder)
    with pytest.raises(ConflictError, match=f"{shelf.url} has another birds:4"):
        folder.copy("birds", 4, there)
    there.delete("birds", 3)
    with pytest.raises(ConflictError, match=f"{shelf.url} had a birds:3, which was deleted"):
        folder.copy("birds", 3, there)


def test_a_copy_that_died_is_finished_by_the_next(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, there = Registry(tmp_path / "folder"), shelf.machine("a")
    shelf.publish(folder)

    def dying(*_: object) -> None:
        raise DeathError

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "upload", dying)
        with pytest.raises(DeathError):
            folder.copy("birds", 1, there)
    assert there.versions("birds") == []
    folder.copy("birds", 1, there)
    assert verify(shelf.machine("b").path("birds", 1)) == folder.manifest("birds", 1)


def test_the_command_line_works_on_a_url(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shelf.publish(shelf.machine("a"), 4)
    monkeypatch.setenv("CANDOR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CANDOR_REGISTRY", shelf.url + "/")
    for command in (
        ["verify", "birds:2"],
        ["promote", "birds:2"],
        ["promote", "birds:3"],
        ["rollback", "birds"],
        ["delete", "birds:4"],
        ["copy", "birds:2", str(tmp_path / "there")],
        ["prune", "birds", "--keep", "0"],
        ["list"],
        ["show", "birds"],
    ):
        assert main(command) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert said.splitlines()[:7] == [
        "birds:2: 3 files match their sha256",
        "birds: production is 2 (was 1)",
        "birds: production is 3 (was 2)",
        "birds: production is 2 (was 3)",
        "birds:4 is deleted",
        f"{tmp_path}/there/birds/versions/2",
        "birds: deleted 3; 1, 2 stay",
    ]
    assert [line.split()[0] for line in said.splitlines() if line.endswith(" production")] == ["birds:2"]
    assert '"name": "birds"' in said
    assert verify(Registry(tmp_path / "there").path("birds", 2)).version == 2
    shutil.rmtree(tmp_path / "home")
    assert main(["verify", "birds:3"]) == 2
    assert capsys.readouterr().err == "birds has no version 3; it has [1, 2]\n"
