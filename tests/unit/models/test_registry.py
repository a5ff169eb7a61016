from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from models import publishing
from models.artifact import Artifact, verify
from models.errors import ArtifactError, ConflictError, ManifestError, NothingToRollBackError, RegistryError, UnknownModelError
from models.registry import HISTORY, Aliases, Registry, parse_reference
from tests.support.artifacts import MODEL, make_confidence, make_manifest, write_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from models.manifest import Manifest

NO_MODEL = "is not a model; write name or name:version, such as birds or birds:3, in small letters"
ROOT = Path(__file__).parents[3]
BAD_NAMES = ["", "Birds", ".hidden", "..", "../birds", "a/b", "a b", "-a", "a\n", "ä", "a" * 64]


# Of a folder and of an object store the same is asked.
either = pytest.mark.parametrize("place", ["folder", "s3"], indirect=True)


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def publish(registry: Registry, count: int = 1, name: str = "birds") -> None:
    """Publish versions of `name` whose graph says which of the calls it was, from 1."""
    for _ in range(count):
        number = len(registry.versions(name)) + 1
        with tempfile.TemporaryDirectory() as source:
            registry.publish(write_files(Path(source), model=f"{name} {number}".encode()), make_manifest(name=name))


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every path below `folder`, with the bytes of files."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


# --- publish


def test_a_registry_that_does_not_exist_yet_is_empty(registry: Registry) -> None:
    assert registry.names() == []
    assert registry.versions("birds") == []
    assert registry.history("birds") == []
    assert registry.aliases("birds") == Aliases(epoch=0)
    assert not registry.root.exists(), "looking must not create anything"


@either
def test_the_first_version_is_1_and_goes_into_production(registry: Registry, tmp_path: Path) -> None:
    before = datetime.now(UTC)

    sealed = registry.publish(write_files(tmp_path / "source"), make_manifest(version=77))

    assert sealed.reference == "birds:1"
    assert registry.names() == ["birds"]
    assert registry.versions("birds") == [1]
    assert registry.resolve("birds") == ("birds", 1)
    aliases = registry.aliases("birds")
    assert (aliases.epoch, aliases.production, aliases.previous, aliases.action) == (1, 1, (), "first version")
    assert aliases.at is not None
    assert before <= aliases.at <= datetime.now(UTC)


@either
def test_a_published_version_is_a_whole_artifact_with_the_bytes_of_the_source(registry: Registry, tmp_path: Path) -> None:
    sealed = registry.publish(write_files(tmp_path / "source"), make_manifest())

    loaded = Artifact.load(registry.path("birds", 1))
    assert loaded.model == MODEL
    assert loaded.manifest == sealed == registry.manifest("birds", 1)
    assert loaded.confidence == make_confidence() == registry.confidence("birds", 1)


@either
def test_the_next_versions_count_up_and_leave_production_alone(registry: Registry) -> None:
    publish(registry, 11)

    assert registry.versions("birds") == list(range(1, 12))  # 10 after 9: numbers, not text
    assert registry.aliases("birds").production == 1
    assert registry.history("birds") == [1]
    assert Artifact.load(registry.path("birds", 11)).model == b"birds 11"


@either
def test_names_have_versions_of_their_own(registry: Registry) -> None:
    publish(registry, 2, "owls")
    publish(registry, 1, "birds")

    assert registry.names() == ["birds", "owls"]
    assert (registry.versions("birds"), registry.versions("owls")) == ([1], [1, 2])


def test_the_source_is_copied_and_not_changed(registry: Registry, tmp_path: Path) -> None:
    source = write_files(tmp_path / "source")
    before = snapshot(source)

    registry.publish(source, make_manifest())

    assert snapshot(source) == before
    (source / "model.onnx").write_bytes(b"changed afterwards")
    assert Artifact.load(registry.path("birds", 1)).model == MODEL


def test_a_link_in_the_source_is_published_as_the_file_it_points_to(registry: Registry, tmp_path: Path) -> None:
    source = write_files(tmp_path / "source")
    shutil.move(source / "model.onnx", tmp_path / "elsewhere.onnx")
    (source / "model.onnx").symlink_to(tmp_path / "elsewhere.onnx")

    registry.publish(source, make_manifest())

    (tmp_path / "elsewhere.onnx").unlink()
    assert Artifact.load(registry.path("birds", 1)).model == MODEL


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "confidence.json"])
def test_a_source_without_a_required_file_is_refused_and_leaves_no_trace(name: str, registry: Registry, tmp_path: Path) -> None:
    source = write_files(tmp_path / "source")
    (source / name).unlink()

    with pytest.raises(ArtifactError, match=rf"has no {name}; an artifact needs confidence\.json, golden\.npz, model\.onnx$"):
        registry.publish(source, make_manifest())

    assert registry.names() == []
    assert [path for path in registry.root.rglob("*") if path.is_file()] == []
    publish(registry)
    assert registry.versions("birds") == [1], "a refused version must not use up a number"


def test_publish_leaves_nothing_beside_versions_and_aliases(registry: Registry) -> None:
    publish(registry, 2)

    assert {path.name for path in (registry.root / "birds").iterdir()} == {"versions", "aliases"}
    assert {path.name for path in (registry.root / "birds" / "aliases").iterdir()} == {"1.json"}


@pytest.mark.usefixtures("umask")
def test_a_published_version_is_readable_for_everybody_whatever_the_source_was(registry: Registry, tmp_path: Path) -> None:
    source = write_files(tmp_path / "source")
    for path in source.iterdir():
        path.chmod(0o600)
    source.chmod(0o700)

    registry.publish(source, make_manifest())

    assert_readable_for_everybody(registry.root / "birds")


@pytest.mark.usefixtures("umask")
def test_a_published_version_is_readable_for_everybody_whatever_the_umask(registry: Registry, tmp_path: Path) -> None:
    os.umask(0o077)

    registry.publish(write_files(tmp_path / "source"), make_manifest())
    registry.publish(tmp_path / "source", make_manifest())
    registry.promote("birds", 2)

    assert_readable_for_everybody(registry.root / "birds")


def assert_readable_for_everybody(root: Path) -> None:
    modes = {str(path.relative_to(root)): stat.S_IMODE(path.stat().st_mode) for path in [root, *root.rglob("*")]}
    wrong = {
        path: oct(mode)
        for path, mode in modes.items()
        if mode & (0o555 if (root / path).is_dir() else 0o444) not in {0o555, 0o444}
    }
    assert len(modes) > 6
    assert wrong == {}


@pytest.mark.parametrize("stray", [".DS_Store", "notes (copy).txt", "a/b/c.txt"])
def test_a_source_with_a_file_name_that_no_manifest_may_hold_is_refused(stray: str, registry: Registry, tmp_path: Path) -> None:
    source = write_files(tmp_path / "source")
    (source / stray).parent.mkdir(parents=True, exist_ok=True)
    (source / stray).write_bytes(b"")

    with pytest.raises(ArtifactError) as caught:
        registry.publish(source, make_manifest())

    assert f" cannot be sealed: manifest.files.{stray}.[key]: String should match pattern" in str(caught.value)
    assert str(caught.value).endswith(f", got {stray!r}")
    assert registry.versions("birds") == []


# --- names and references


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_with_bad_characters_is_refused_everywhere(name: str, registry: Registry, tmp_path: Path) -> None:
    source = write_files(tmp_path / "source")
    unchecked = make_manifest().model_copy(update={"name": name})

    for call in (
        lambda: registry.publish(source, unchecked),
        lambda: registry.path(name, 1),
        lambda: registry.manifest(name, 1),
        lambda: registry.aliases(name),
        lambda: registry.history(name),
        lambda: registry.promote(name, 1),
        lambda: registry.rollback(name),
    ):
        with pytest.raises(ManifestError, match="cannot name a model; use up to 63 small letters, digits, '-' and '_'"):
            call()
    assert not registry.root.exists()


@pytest.mark.parametrize(
    ("reference", "expected"), [("birds", ("birds", None)), ("birds:3", ("birds", 3)), ("a-b_c:10", ("a-b_c", 10))]
)
def test_a_reference_is_a_name_with_or_without_a_version(reference: str, expected: tuple[str, int | None]) -> None:
    assert parse_reference(reference) == expected


@pytest.mark.parametrize(
    "version", ["", "x", "3:4", "1.0", "production", "0", "-1", " 1", "+1", "0_1", "01", "\u0661", "1\n", "9" * 40]
)
def test_a_reference_whose_version_is_not_a_plain_number_is_refused_with_an_example(version: str) -> None:
    with pytest.raises(UnknownModelError) as caught:
        parse_reference(f"birds:{version}")

    assert str(caught.value) == f"{f'birds:{version}'!r} {NO_MODEL}"


@either
@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_reference_with_a_bad_name_is_an_unknown_model(name: str, registry: Registry) -> None:
    with pytest.raises(UnknownModelError, match=f"{NO_MODEL}$"):
        registry.resolve(f"{name}:1")


@either
def test_resolve_gives_the_version_asked_for_or_the_one_in_production(registry: Registry) -> None:
    publish(registry, 3)
    registry.promote("birds", 2)

    assert registry.resolve("birds") == ("birds", 2)
    assert registry.resolve("birds:3") == ("birds", 3)


def test_an_unknown_name_is_refused_with_the_names_there_are(registry: Registry) -> None:
    with pytest.raises(UnknownModelError) as caught:
        registry.resolve("cats")
    assert str(caught.value) == f"there is no model named 'cats'; the registry {registry.root} has: none yet"

    publish(registry, 1, "birds")
    publish(registry, 1, "owls")
    with pytest.raises(UnknownModelError) as caught:
        registry.resolve("cats:1")
    assert str(caught.value) == f"there is no model named 'cats'; the registry {registry.root} has: birds, owls"


@either
@pytest.mark.parametrize("version", [0, -1, 3, 10**30])
def test_an_unknown_version_is_refused_with_the_versions_there_are(version: int, registry: Registry) -> None:
    publish(registry, 2)

    for call in (
        lambda: registry.path("birds", version),
        lambda: registry.manifest("birds", version),
        lambda: registry.confidence("birds", version),
        lambda: registry.promote("birds", version),
    ):
        with pytest.raises(UnknownModelError) as caught:
            call()
        assert str(caught.value) == f"birds has no version {version}; it has [1, 2]"
    with pytest.raises(UnknownModelError, match=r"^birds has no version 3; it has \[1, 2\]$"):
        registry.resolve("birds:3")


@either
def test_a_version_longer_than_a_file_name_may_be_is_an_unknown_model(registry: Registry) -> None:
    publish(registry)

    with pytest.raises(UnknownModelError):
        registry.resolve("birds:" + "9" * 300)


def test_a_name_without_a_production_version_is_refused_with_what_can_be_promoted(registry: Registry) -> None:
    publish(registry, 2)
    shutil.rmtree(registry.root / "birds" / "aliases")  # as after a crash between the version and its alias

    for call in (lambda: registry.resolve("birds"), lambda: registry.rollback("birds")):
        with pytest.raises(UnknownModelError) as caught:
            call()
        assert str(caught.value) == "birds has no production version; promote one of [1, 2]"

    publish(registry)
    assert registry.resolve("birds") == ("birds", 3), "the next one published is in production then"


# --- promote and rollback


@either
def test_promote_moves_production_and_remembers_what_was_there(registry: Registry) -> None:
    publish(registry, 3)

    moved = registry.promote("birds", 3)

    assert moved == registry.aliases("birds")
    assert (moved.epoch, moved.production, moved.previous, moved.action) == (2, 3, (1,), "promote 3")


def test_promote_of_what_is_in_production_changes_nothing(registry: Registry) -> None:
    publish(registry, 2)
    registry.promote("birds", 2)
    before = snapshot(registry.root)

    assert registry.promote("birds", 2) == registry.aliases("birds")
    assert snapshot(registry.root) == before


@either
def test_a_version_is_in_the_past_only_once(registry: Registry) -> None:
    publish(registry, 3)
    for version in (2, 1, 3, 2):
        registry.promote("birds", version)

    assert registry.aliases("birds").previous == (1, 3)


def test_the_past_is_kept_for_as_many_versions_as_history_says(registry: Registry) -> None:
    publish(registry, 1)
    template = registry.path("birds", 1)
    for version in range(2, HISTORY + 4):
        shutil.copytree(template, template.parent / str(version))
        registry.promote("birds", version)

    assert registry.aliases("birds").previous == tuple(range(3, HISTORY + 3))
    assert registry.history("birds") == list(range(1, HISTORY + 4)), "the files keep all of it"


@either
def test_rollback_goes_back_one_version_and_twice_goes_back_two(registry: Registry) -> None:
    publish(registry, 3)
    registry.promote("birds", 2)
    registry.promote("birds", 3)

    once = registry.rollback("birds")
    assert (once.production, once.previous, once.action) == (2, (1,), "roll back from 3")
    twice = registry.rollback("birds")
    assert (twice.production, twice.previous, twice.action) == (1, (), "roll back from 2")
    assert registry.resolve("birds") == ("birds", 1)
    assert registry.history("birds") == [1, 2, 3, 4, 5]


@either
def test_rollback_after_a_rollback_and_a_promotion_goes_back_to_what_was_rolled_back_to(registry: Registry) -> None:
    publish(registry, 4)
    for version in (2, 3):
        registry.promote("birds", version)
    registry.rollback("birds")
    registry.promote("birds", 4)

    assert registry.rollback("birds").production == 2


def test_rollback_with_nothing_before_is_refused_and_changes_nothing(registry: Registry) -> None:
    publish(registry, 2)
    before = snapshot(registry.root)

    with pytest.raises(NothingToRollBackError) as caught:
        registry.rollback("birds")

    assert str(caught.value) == "birds has no production version before 1 to go back to"
    assert snapshot(registry.root) == before


@either
def test_rollback_of_an_unknown_name_is_refused_by_name(registry: Registry) -> None:
    with pytest.raises(UnknownModelError, match="^there is no model named 'birds'"):
        registry.rollback("birds")


def test_rollback_passes_over_versions_that_were_deleted(registry: Registry) -> None:
    publish(registry, 3)
    registry.promote("birds", 2)
    registry.promote("birds", 3)
    shutil.rmtree(registry.path("birds", 2))

    assert registry.rollback("birds").production == 1


def test_rollback_with_only_deleted_versions_before_is_refused(registry: Registry) -> None:
    publish(registry, 2)
    registry.promote("birds", 2)
    shutil.rmtree(registry.path("birds", 1))

    with pytest.raises(NothingToRollBackError, match="^birds has no production version before 2 to go back to$"):
        registry.rollback("birds")


def test_an_alias_file_that_is_not_valid_is_refused_by_path(registry: Registry) -> None:
    publish(registry)
    file = registry.root / "birds" / "aliases" / "2.json"
    file.write_text(json.dumps({"epoch": 2, "production": [1], "champion": 1}))

    for call in (lambda: registry.aliases("birds"), lambda: registry.resolve("birds"), lambda: registry.promote("birds", 1)):
        with pytest.raises(RegistryError) as caught:
            call()
        assert str(caught.value).splitlines() == [
            f"{file} is not valid: aliases.production: Input should be a valid integer, got [1]",
            "aliases.champion: is not a known key",
        ]
    assert registry.resolve("birds:1") == ("birds", 1), "a version asked for by number needs no alias"


def test_only_numbers_as_they_are_written_here_are_versions_and_epochs(registry: Registry) -> None:
    publish(registry)
    for name in ("01", "٣", "x"):
        shutil.copytree(registry.path("birds", 1), registry.root / "birds" / "versions" / name)
        shutil.copy(registry.root / "birds" / "aliases" / "1.json", registry.root / "birds" / "aliases" / f"{name}.json")
    (registry.root / "birds" / "aliases" / "07.json").write_text("{}")
    assert (registry.versions("birds"), registry.history("birds"), registry.resolve("birds")) == ([1], [1], ("birds", 1))
    publish(registry)
    assert registry.prune("birds", 9) == []
    assert registry.versions("birds") == [1, 2]


def test_an_alias_file_that_is_a_copy_of_another_epoch_is_refused(registry: Registry) -> None:
    publish(registry)
    file = registry.root / "birds" / "aliases" / "2.json"
    shutil.copy(file.with_name("1.json"), file)
    with pytest.raises(RegistryError, match=r"2\.json is not valid: it says epoch 1, expected 2; copy it from a backup"):
        registry.aliases("birds")


# --- the candidate, runs, and who looked before


@either
def test_a_version_may_be_published_without_going_into_production(registry: Registry, tmp_path: Path) -> None:
    source = write_files(tmp_path / "source")
    registry.publish(source, make_manifest(), first_is_production=False)
    assert registry.aliases("birds") == Aliases.none()

    assert registry.nominate("birds", 1).candidate == 1
    assert registry.nominate("birds", 1).epoch == 1, "it is already"
    promoted = registry.promote("birds", 1)
    assert (promoted.production, promoted.candidate, promoted.epoch) == (1, None, 2)
    assert registry.nominate("birds", 1) == promoted, "what is in production is no candidate"


@either
def test_withdrawing_takes_back_the_candidate_and_no_other(registry: Registry) -> None:
    publish(registry, 3)
    registry.nominate("birds", 2)
    registry.nominate("birds", 3)

    assert registry.withdraw("birds", 2).candidate == 3
    withdrawn = registry.withdraw("birds", 3)
    assert (withdrawn.candidate, withdrawn.production, withdrawn.action) == (None, 1, "withdraw 3")
    with pytest.raises(UnknownModelError, match="birds has no version 9"):
        registry.nominate("birds", 9)


@either
def test_the_first_one_is_promoted_once(registry: Registry) -> None:
    publish(registry, 2)
    assert registry.promote_first("birds", 2).production == 1
    assert registry.history("birds") == [1]


@either
def test_who_looked_before_the_last_move_is_told_to_look_again(registry: Registry) -> None:
    publish(registry, 3)
    registry.promote("birds", 2, expected_epoch=1)
    before = registry.aliases("birds")

    for call in (
        lambda: registry.promote("birds", 3, expected_epoch=1),
        lambda: registry.promote("birds", 2, expected_epoch=1),
        lambda: registry.rollback("birds", expected_epoch=1),
    ):
        with pytest.raises(ConflictError) as caught:
            call()
        assert str(caught.value) == ("the aliases of birds are at epoch 2 (promote 2), expected 1; look again and repeat")
    assert registry.aliases("birds") == before
    assert registry.rollback("birds", expected_epoch=2).production == 1


def test_the_version_of_a_run_is_found_and_one_that_cannot_be_read_is_passed_over(registry: Registry, tmp_path: Path) -> None:
    source = write_files(tmp_path / "source")
    for run in ("one", "two", None):
        registry.publish(source, make_manifest(run=run))
    (registry.path("birds", 3) / "manifest.json").write_text("{}")

    assert [registry.find_run("birds", run) for run in ("one", "two", "three")] == [1, 2, None]
    assert registry.find_run("owls", "one") is None


def test_staging_of_a_dead_process_is_swept_by_a_publication_an_hour_later(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = registry.root / "birds" / ".publishing-1-00000000"
    write_files(left)
    os.utime(left, (0, 0))
    publish(registry)
    assert left.exists(), "it may be another machine's, whose lock is not seen here"
    monkeypatch.setattr(publishing, "IDLE_S", 0.0)
    publish(registry)
    assert not left.exists()


# --- what a crash leaves behind


def test_a_version_folder_without_a_manifest_is_no_version_and_its_number_is_not_given_again(registry: Registry) -> None:
    publish(registry)
    write_files(registry.root / "birds" / "versions" / "2")

    assert registry.versions("birds") == [1]
    with pytest.raises(UnknownModelError, match=r"^birds has no version 2; it has \[1\]$"):
        registry.resolve("birds:2")
    publish(registry)
    assert registry.versions("birds") == [1, 3]


def test_a_name_with_nothing_but_an_unfinished_version_is_no_name(registry: Registry) -> None:
    write_files(registry.root / "birds" / "versions" / "1")

    assert registry.names() == []


def test_stray_files_are_passed_over(registry: Registry) -> None:
    publish(registry)
    (registry.root / "README").write_text("not a name")
    (registry.root / "a-file").write_text("a good name, and no folder")
    (registry.root / "birds" / "versions" / "notes").mkdir()
    (registry.root / "birds" / "versions" / "5.tmp").write_text("")
    (registry.root / "birds" / "aliases" / "notes.json").write_text("{}")
    (registry.root / "birds" / "aliases" / ".0123.tmp").write_text('{"epoch": 9')

    assert registry.names() == ["birds"]
    assert registry.versions("birds") == [1]
    assert registry.history("birds") == [1]
    assert registry.promote("birds", 1).epoch == 1


# --- several writers


class Overtaken(Registry):
    """A registry in which somebody else promotes a version each time after this one has looked at the aliases."""

    def __init__(self, root: Path, versions: list[int]) -> None:
        super().__init__(root)
        self.versions_of_others = versions

    def aliases(self, name: str) -> Aliases:
        seen = super().aliases(name)
        if self.versions_of_others:
            Registry(self.root).promote(name, self.versions_of_others.pop(0))
        return seen


@pytest.mark.parametrize("action", ["promote", "rollback"])
def test_a_writer_who_was_overtaken_gets_a_conflict_and_the_other_one_keeps_his_promotion(
    action: str, registry: Registry
) -> None:
    publish(registry, 4)
    registry.promote("birds", 2)
    overtaken = Overtaken(registry.root, [3])

    with pytest.raises(ConflictError) as caught:
        overtaken.promote("birds", 4) if action == "promote" else overtaken.rollback("birds")

    assert str(caught.value) == "somebody else moved an alias of birds meanwhile; look again and repeat"
    assert registry.aliases("birds").production == 3
    assert registry.aliases("birds").previous == (1, 2)
    assert {path.name for path in (registry.root / "birds" / "aliases").iterdir()} == {"1.json", "2.json", "3.json"}
    # Looking again and repeating is all it takes.
    assert overtaken.promote("birds", 4).previous == (1, 2, 3)


def test_threads_that_promote_at_once_win_or_get_a_conflict_and_no_promotion_is_lost(registry: Registry) -> None:
    publish(registry, 9)
    barrier = threading.Barrier(4)

    def promote(version: int) -> int | None:
        barrier.wait()
        try:
            return registry.promote("birds", version).epoch
        except ConflictError:
            return None

    won: dict[int, int] = {}
    conflicts = 0
    with ThreadPoolExecutor(4) as pool:
        for versions in ([2, 3, 4, 5], [6, 7, 8, 9]) * 3:
            for version, epoch in zip(versions, pool.map(promote, versions), strict=True):
                if epoch is None:
                    conflicts += 1
                else:
                    assert epoch not in won, "two promotions were told that they won the same epoch"
                    won[epoch] = version

    assert conflicts + len(won) == 24
    assert registry.history("birds") == list(range(1, len(won) + 2))
    folder = registry.root / "birds" / "aliases"
    for epoch, version in won.items():
        assert Aliases.model_validate_json((folder / f"{epoch}.json").read_bytes()).production == version
    assert registry.aliases("birds").production == won[max(won)]
    assert len(list(folder.iterdir())) == len(won) + 1, "temporary files were left"


@either
def test_threads_that_publish_at_once_get_different_versions_and_nothing_is_mixed(registry: Registry, tmp_path: Path) -> None:
    barrier = threading.Barrier(6)

    def publish_one(number: int) -> tuple[int, int]:
        source = write_files(tmp_path / f"source{number}", model=f"graph {number}".encode() * 2000, temperature=number + 1)
        barrier.wait()
        return number, registry.publish(source, make_manifest(parent=f"run:{number}")).version

    with ThreadPoolExecutor(6) as pool:
        published = list(pool.map(publish_one, range(6)))

    assert_apart(registry, published)


def test_what_finishes_a_version_knows_its_number_even_where_others_publish_at_once(registry: Registry, tmp_path: Path) -> None:
    barrier = threading.Barrier(6)

    def finish(folder: Path, manifest: Manifest) -> None:
        (folder / "report.html").write_text(manifest.reference)

    def publish_one(number: int) -> int:
        source = write_files(tmp_path / f"source{number}")
        barrier.wait()
        version = registry.publish(source, make_manifest(), finish).version
        assert not (source / "report.html").exists()
        return version

    with ThreadPoolExecutor(6) as pool:
        versions = sorted(pool.map(publish_one, range(6)))

    assert versions == [1, 2, 3, 4, 5, 6]
    for version in versions:
        assert (registry.path("birds", version) / "report.html").read_text() == f"birds:{version}"
        assert "report.html" in verify(registry.path("birds", version)).files


_PUBLISH = """
import sys
from pathlib import Path
from models.registry import Registry
from tests.support.artifacts import make_manifest, write_files
registry, sources = Registry(Path(sys.argv[1])), Path(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for number in map(int, sys.argv[3:]):
    source = write_files(sources / str(number), model=f"graph {number}".encode() * 2000, temperature=number + 1)
    print(number, registry.publish(source, make_manifest(parent=f"run:{number}")).version)
"""


def test_processes_that_publish_at_once_get_different_versions_and_nothing_is_mixed(registry: Registry, tmp_path: Path) -> None:
    def start(numbers: range) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _PUBLISH, str(registry.root), str(tmp_path), *map(str, numbers)]
        return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    with start(range(4)) as one, start(range(4, 8)) as other:
        assert one.stdout.readline() == other.stdout.readline() == "ready\n"
        for process in (one, other):
            process.stdin.write("go\n")
            process.stdin.flush()
        lines = [line for process in (one, other) for line in process.communicate(timeout=60)[0].splitlines()]

    assert len(lines) == 8
    assert_apart(registry, [(int(number), int(version)) for number, version in map(str.split, lines)])


def assert_apart(registry: Registry, published: list[tuple[int, int]]) -> None:
    assert registry.versions("birds") == sorted(version for _, version in published) == list(range(1, len(published) + 1))
    for number, version in published:
        loaded = Artifact.load(registry.path("birds", version))
        assert loaded.model == f"graph {number}".encode() * 2000
        assert loaded.confidence.temperature.value == number + 1
        assert (loaded.manifest.version, loaded.manifest.parent) == (version, f"run:{number}")
    assert registry.history("birds") == [1]
    assert {path.name for path in (registry.root / "birds").iterdir()} == {"versions", "aliases"}


# --- any order of everything


class RegistryMachine(RuleBasedStateMachine):
    """Publications, promotions, rollbacks and crashes, against a list of versions and a stack of what was in production."""

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp())
        self.registry = Registry(self.home / "registry")
        self.contents: dict[int, bytes] = {}
        self.highest = 0  # of all numbers that were ever taken, whole or not
        self.past: list[int] = []
        self.production = 1
        self.epochs: dict[str, bytes] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.home)

    @initialize()
    def first_version(self) -> None:
        self.publish(b"first")

    @rule(model=st.binary(max_size=20).filter(lambda model: b"location" not in model))
    def publish(self, model: bytes) -> None:
        source = write_files(self.home / "source", model=model)
        version = self.registry.publish(source, make_manifest()).version
        assert version == self.highest + 1
        self.highest = version
        self.contents[version] = model

    @rule()
    def publish_what_is_refused(self) -> None:
        source = write_files(self.home / "source", model=b"\x0a\x08location")
        with pytest.raises(ArtifactError, match="keeps tensors in another file"):
            self.registry.publish(source, make_manifest())

    @rule(data=st.data())
    def promote(self, data: st.DataObject) -> None:
        version = data.draw(st.sampled_from(sorted(self.contents)))
        before = self.alias_files()
        moved = self.registry.promote("birds", version)
        if version == self.production:
            assert self.alias_files() == before
        else:
            self.past = [past for past in (*self.past, self.production) if past != version]
            self.production = version
        assert moved.previous == tuple(self.past)

    @rule()
    def promote_what_is_not_there(self) -> None:
        with pytest.raises(UnknownModelError, match=f"^birds has no version {self.highest + 1}; "):
            self.registry.promote("birds", self.highest + 1)

    @rule()
    def rollback(self) -> None:
        if not self.past:
            with pytest.raises(NothingToRollBackError):
                self.registry.rollback("birds")
            return
        self.production = self.past.pop()
        assert self.registry.rollback("birds").production == self.production

    @rule()
    def crash_while_copying(self) -> None:
        write_files(self.registry.root / "birds" / f".publishing-1-{len(self.alias_files())}")

    @rule()
    def crash_with_a_version_folder_and_no_manifest(self) -> None:
        self.highest += 1
        write_files(self.registry.root / "birds" / "versions" / str(self.highest))

    @rule(text=st.sampled_from(["", '{"epoch": 99, "prod', '{"epoch": 99, "production": 99}']))
    def crash_while_writing_an_alias(self, text: str) -> None:
        (self.registry.root / "birds" / "aliases" / ".0123456789abcdef.tmp").write_text(text)

    @invariant()
    def production_is_there_and_whole(self) -> None:
        if self.contents:
            assert self.registry.resolve("birds") == ("birds", self.production)
            assert Artifact.load(self.registry.path("birds", self.production)).model == self.contents[self.production]

    @invariant()
    def versions_only_grow_and_never_change(self) -> None:
        assert self.registry.versions("birds") == sorted(self.contents)
        for version, model in self.contents.items():
            path = self.registry.path("birds", version)
            assert (path / "model.onnx").read_bytes() == model
            assert self.registry.manifest("birds", version).version == version

    @invariant()
    def history_only_grows_and_never_changes(self) -> None:
        now = self.alias_files()
        assert self.epochs.items() <= now.items()
        assert sorted(now) == sorted(f"{epoch}.json" for epoch in range(1, len(now) + 1))
        assert self.registry.history("birds") == list(range(1, len(now) + 1))
        self.epochs = now

    def alias_files(self) -> dict[str, bytes]:
        folder = self.registry.root / "birds" / "aliases"
        return {path.name: path.read_bytes() for path in folder.glob("*.json")}


TestRegistryInAnyOrder = RegistryMachine.TestCase
TestRegistryInAnyOrder.settings = settings(max_examples=12, stateful_step_count=15, deadline=None)
