"""How versions leave a registry and get into another, and what happens to who points at them meanwhile."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

import pytest

from models import publishing
from models.artifact import verify
from models.errors import ArtifactError, ConflictError, InUseError, UnknownModelError
from models.open_registry import open_registry
from models.publishing import sweep
from models.registry import Aliases, Registry
from tests.support.artifacts import make_manifest, write_files

# Of a folder and of an object store the same is asked.
either = pytest.mark.parametrize("place", ["folder", "s3"], indirect=True)


@pytest.fixture
def registry(place: Path | str, tmp_path: Path) -> Registry:
    """birds:1 to birds:5; 3 was in production before 4, which is, and 5 is the candidate."""
    registry = open_registry(place, tmp_path / "cache")
    publish(registry, 5)
    registry.promote("birds", 3)
    registry.promote("birds", 4)
    registry.nominate("birds", 5)
    return registry


def publish(registry: Registry, count: int) -> None:
    for number in range(count):
        with tempfile.TemporaryDirectory() as source:
            registry.publish(write_files(Path(source), model=f"{number}".encode()), make_manifest())


# --- delete


def test_a_version_that_nobody_needs_is_deleted_and_its_number_is_not_given_again(registry: Registry) -> None:
    registry.promote("birds", 5)
    publish(registry, 1)
    registry.delete("birds", 6)

    assert registry.versions("birds") == [1, 2, 3, 4, 5]
    with pytest.raises(UnknownModelError, match=r"birds has no version 6; it has \[1, 2, 3, 4, 5\]"):
        registry.path("birds", 6)
    assert [path.name for path in (registry.root / "birds" / "versions" / "6").iterdir()] == ["deleted.json"]
    assert registry.aliases("birds").action == "delete 6"
    publish(registry, 1)
    assert registry.versions("birds") == [1, 2, 3, 4, 5, 7]


@either
@pytest.mark.parametrize(("version", "why"), [(4, "in production"), (5, "the candidate"), (3, "what a rollback goes back to")])
def test_a_version_that_is_needed_is_not_deleted(registry: Registry, version: int, why: str) -> None:
    before = registry.aliases("birds")
    with pytest.raises(
        InUseError, match=rf"^birds:{version} is {why} and cannot be deleted; point that at another version first$"
    ):
        registry.delete("birds", version)
    assert verify(registry.path("birds", version)).version == version
    assert registry.aliases("birds") == before


@either
def test_a_rollback_that_lost_its_target_protects_the_one_before(registry: Registry) -> None:
    registry.rollback("birds")
    assert registry.aliases("birds").previous == (1,)
    registry.delete("birds", 4)
    with pytest.raises(InUseError, match="birds:1 is what a rollback goes back to"):
        registry.delete("birds", 1)


class Overtaken(Registry):
    """A registry in which somebody else promotes a version after the first look at the aliases."""

    def __init__(self, root: Path, version: int) -> None:
        super().__init__(root)
        self.version: int | None = version

    def aliases(self, name: str) -> Aliases:
        seen = super().aliases(name)
        if self.version is not None:
            version, self.version = self.version, None
            Registry(self.root).promote(name, version)
        return seen


def test_a_version_that_is_promoted_meanwhile_stays(registry: Registry) -> None:
    with pytest.raises(InUseError, match="birds:2 is in production"):
        Overtaken(registry.root, 2).delete("birds", 2)
    assert registry.resolve("birds") == ("birds", 2)
    assert verify(registry.path("birds", 2)).version == 2


def test_a_deletion_goes_on_when_another_alias_is_moved_meanwhile(registry: Registry) -> None:
    Overtaken(registry.root, 5).delete("birds", 2)
    assert registry.versions("birds") == [1, 3, 4, 5]


def test_who_promotes_what_is_deleted_meanwhile_gets_a_conflict(registry: Registry) -> None:
    class Slow(Registry):
        """Looks at the aliases and at the version, and acts after the deletion."""

        def path(self, name: str, version: int) -> Path:
            found = super().path(name, version)
            Registry(self.root).delete(name, version)
            return found

    with pytest.raises(ConflictError, match="somebody else moved an alias of birds meanwhile"):
        Slow(registry.root).promote("birds", 2)
    assert registry.aliases("birds").production == 4


# --- prune


@either
def test_pruning_keeps_the_newest_and_what_is_needed(registry: Registry) -> None:
    publish(registry, 3)
    assert registry.prune("birds", 2) == [1, 2, 6]
    assert registry.versions("birds") == [3, 4, 5, 7, 8]
    assert registry.prune("birds", 2) == []
    assert registry.prune("birds", 0) == [7, 8]
    assert registry.prune("birds", 9) == []


def test_pruning_removes_what_dead_processes_left_and_nothing_that_is_being_made(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "IDLE_S", 0.0)
    home = registry.root / "birds"
    dead, alive = home / ".publishing-1-00000000", home / f".publishing-{os.getpid()}-11111111"
    for folder in (dead, alive):
        write_files(folder)
    half = home / "versions" / "1"
    (half / "manifest.json").rename(half / "deleted.json")
    descriptor = os.open(alive, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        registry.prune("birds", 9)
        assert (dead.exists(), alive.exists()) == (False, True)
    finally:
        os.close(descriptor)
    assert [path.name for path in half.iterdir()] == ["deleted.json"]


@either
@pytest.mark.parametrize(
    ("version", "left"), [(3, [1, 2, 3, 4, 5]), (4, [1, 2, 3, 4, 5]), (5, [1, 2, 3, 4, 5]), (2, [1, 3, 4, 5])]
)
def test_a_deletion_that_broke_off_is_taken_back_where_an_alias_names_it_by_now(
    registry: Registry, version: int, left: list[int]
) -> None:
    registry.bury("birds", version)
    assert version not in registry.versions("birds")
    assert registry.prune("birds", 9) == []
    assert registry.versions("birds") == left
    if version in left:
        assert verify(registry.path("birds", version)).version == version
    else:
        assert registry.aliases("birds").action == "delete 2"
    epoch = registry.aliases("birds").epoch
    registry.prune("birds", 9)
    assert registry.aliases("birds").epoch == epoch, "what has ended is not noted again"


@either
def test_a_version_that_was_deleted_does_not_come_back_as_what_a_rollback_would_go_to(registry: Registry) -> None:
    """Of what was in production before, a deleted version is still on record."""
    registry.rollback("birds")
    registry.delete("birds", 4)
    registry.promote("birds", 5)
    registry.promote("birds", 1)
    registry.delete("birds", 3)
    registry.rollback("birds")
    registry.prune("birds", 9)
    assert registry.versions("birds") == [1, 2, 5]


# --- copy


@either
def test_a_copy_is_the_same_version_under_the_same_number_and_moves_no_alias(registry: Registry, tmp_path: Path) -> None:
    there = Registry(tmp_path / "there")

    assert registry.copy("birds", 4, there) == f"{there.root}/birds/versions/4"

    assert verify(there.path("birds", 4)) == registry.manifest("birds", 4)
    assert there.versions("birds") == [4]
    assert there.aliases("birds") == Aliases.none()
    assert registry.copy("birds", 4, there) == f"{there.root}/birds/versions/4", "again"
    publish(there, 1)
    assert there.versions("birds") == [4, 5]


@either
def test_a_copy_takes_no_number_that_is_taken(registry: Registry, tmp_path: Path) -> None:
    there = Registry(tmp_path / "there")
    publish(there, 1)
    publish(there, 1)
    with pytest.raises(ConflictError, match="there has another birds:2; copy it to a registry of its own"):
        registry.copy("birds", 2, there)
    there.delete("birds", 2)
    with pytest.raises(ConflictError, match="there had a birds:2, which was deleted"):
        registry.copy("birds", 2, there)


def test_an_altered_version_is_not_copied(registry: Registry, tmp_path: Path) -> None:
    (registry.path("birds", 2) / "model.onnx").write_bytes(b"other")
    with pytest.raises(ArtifactError, match="was altered"):
        registry.copy("birds", 2, Registry(tmp_path / "there"))
    assert Registry(tmp_path / "there").names() == []


def test_a_folder_that_is_swept_before_it_is_locked_is_made_again(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else sweeps between the making of a folder and its lock, three times."""
    monkeypatch.setattr(publishing, "IDLE_S", 0.0)
    make, made = Path.mkdir, []

    def make_and_lose(path: Path, *arguments: object, **options: object) -> None:
        make(path, *arguments, **options)  # type: ignore[arg-type]
        if path.name.startswith(".publishing-"):
            made.append(path)
            if len(made) <= 3:
                assert sweep(path.parent) == 1

    monkeypatch.setattr(Path, "mkdir", make_and_lose)
    publish(registry, 1)
    assert registry.versions("birds")[-1] == 6
    assert len(made) == 4
