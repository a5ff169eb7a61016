from __future__ import annotations

import hashlib
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest

from models import artifact
from models.artifact import Artifact
from models.errors import ArtifactError, ManifestError
from tests.support.artifacts import GOLDEN, MODEL, make_confidence, make_manifest, write_artifact, write_files

LISTED = ("confidence.json", "golden.npz", "model.onnx")
EXTERNAL = b"\x0a\x08location"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_artifact(tmp_path / "artifact")
    return tmp_path / "artifact"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rewrite(folder: Path, **changes: Any) -> None:
    """Replace values of a manifest without checking them, and hash it again: what somebody could do by hand."""
    changed = artifact.read_manifest(folder).model_copy(update=changes)
    (folder / "manifest.json").write_bytes(changed.model_copy(update={"sha256": changed.own_sha256()}).to_bytes())


# --- load and seal


def test_a_sealed_artifact_loads_with_the_bytes_that_were_hashed(folder: Path) -> None:
    loaded = Artifact.load(folder)

    assert (loaded.path, loaded.model, loaded.golden) == (folder, MODEL, GOLDEN)
    assert loaded.confidence == make_confidence(1.5)
    assert loaded.manifest.reference == "birds:1"


def test_seal_returns_the_manifest_that_it_wrote_with_the_sha256_of_every_other_file(tmp_path: Path) -> None:
    write_files(tmp_path, model=b"abc")
    (tmp_path / "weights.safetensors").write_bytes(b"")

    sealed = artifact.seal(tmp_path, make_manifest())

    assert sealed == artifact.read_manifest(tmp_path)
    assert set(sealed.files) == {*LISTED, "weights.safetensors"}
    # The two sha256 that everybody knows: of "abc" and of nothing.
    assert sealed.files["model.onnx"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sealed.files["weights.safetensors"] == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_seal_of_a_sealed_folder_replaces_the_manifest_and_does_not_list_it(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"another graph")

    sealed = artifact.seal(folder, make_manifest(version=2))

    assert set(sealed.files) == set(LISTED)
    assert Artifact.load(folder).manifest.version == 2


def test_seal_leaves_no_temporary_file(folder: Path) -> None:
    assert set(files(folder)) == {*LISTED, "manifest.json"}


def test_files_in_a_folder_of_the_artifact_are_listed_and_verified(tmp_path: Path) -> None:
    write_files(tmp_path)
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "notes.txt").write_text("kept")

    assert "extra/notes.txt" in artifact.seal(tmp_path, make_manifest()).files
    (tmp_path / "extra" / "notes.txt").write_text("lost")
    with pytest.raises(ArtifactError, match=r"extra/notes\.txt was altered"):
        artifact.verify(tmp_path)


@pytest.mark.parametrize("name", LISTED)
def test_seal_without_a_required_file_is_refused_and_writes_nothing(name: str, tmp_path: Path) -> None:
    write_files(tmp_path)
    (tmp_path / name).unlink()
    before = files(tmp_path)

    with pytest.raises(ArtifactError) as caught:
        artifact.seal(tmp_path, make_manifest())

    assert str(caught.value) == f"{tmp_path} has no {name}; an artifact needs confidence.json, golden.npz, model.onnx"
    assert files(tmp_path) == before


def test_seal_of_a_file_name_that_no_manifest_may_hold_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    write_files(tmp_path)
    (tmp_path / ".DS_Store").write_bytes(b"")

    with pytest.raises(ArtifactError) as caught:
        artifact.seal(tmp_path, make_manifest())

    assert str(caught.value).startswith(
        f"{tmp_path} cannot be sealed: manifest.files..DS_Store.[key]: String should match pattern"
    )
    assert not (tmp_path / "manifest.json").exists()


# --- what is noticed


@pytest.mark.parametrize("name", LISTED)
def test_a_flip_of_any_byte_of_any_listed_file_is_noticed(name: str, folder: Path) -> None:
    original = (folder / name).read_bytes()
    assert len(original) >= 16

    for position in range(len(original)):
        flipped = bytearray(original)
        flipped[position] ^= 1 << (position % 8)
        (folder / name).write_bytes(flipped)
        with pytest.raises(ArtifactError, match=f"/{name} was altered: its sha256 is "):
            artifact.verify(folder)
        with pytest.raises(ArtifactError, match=f"/{name} was altered: its sha256 is "):
            Artifact.load(folder)

    (folder / name).write_bytes(original)
    artifact.verify(folder)


def test_an_altered_file_is_named_with_both_hashes(folder: Path) -> None:
    listed = artifact.read_manifest(folder).files["model.onnx"]
    (folder / "model.onnx").write_bytes(b"abc")

    with pytest.raises(ArtifactError) as caught:
        artifact.verify(folder)

    assert str(caught.value) == (
        f"{folder / 'model.onnx'} was altered: its sha256 is ba7816bf8f01…, and the manifest says {listed[:12]}…"
    )


def test_a_flip_of_any_byte_of_the_manifest_is_noticed(folder: Path) -> None:
    original = (folder / "manifest.json").read_bytes()

    for position in range(len(original)):
        flipped = bytearray(original)
        flipped[position] ^= 1
        (folder / "manifest.json").write_bytes(flipped)
        with pytest.raises((ManifestError, ArtifactError)):
            artifact.verify(folder)


def test_a_value_altered_in_the_manifest_is_noticed_though_it_is_a_valid_one(folder: Path) -> None:
    manifest = folder / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"cat"', b'"car"'))

    with pytest.raises(ArtifactError, match=r"/manifest\.json was altered: its sha256 is [0-9a-f]{12}…, and the manifest says "):
        Artifact.load(folder)


@pytest.mark.parametrize("name", LISTED)
def test_a_missing_file_is_noticed(name: str, folder: Path) -> None:
    (folder / name).unlink()

    with pytest.raises(ArtifactError) as caught:
        Artifact.load(folder)

    assert str(caught.value) == f"{folder / name} is missing (or is a link), and the manifest lists it"


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "extra/notes.txt", "model.onnx.data"])
def test_a_file_that_the_manifest_does_not_list_is_noticed(name: str, folder: Path) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"")

    with pytest.raises(ArtifactError) as caught:
        artifact.verify(folder)

    assert str(caught.value) == f"{folder} holds {name}, which its manifest does not list"


@pytest.mark.parametrize("name", LISTED)
def test_a_link_in_place_of_a_file_is_noticed_even_where_its_bytes_are_right(name: str, folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / name, tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)

    with pytest.raises(ArtifactError, match=rf"/{name} is missing \(or is a link\), and the manifest lists it$"):
        artifact.verify(folder)


def test_a_link_that_leads_nowhere_is_noticed(folder: Path) -> None:
    (folder / "dangling").symlink_to(folder / "nothing")

    with pytest.raises(ArtifactError, match="holds dangling, which its manifest does not list$"):
        artifact.verify(folder)


def test_a_link_to_a_folder_is_noticed(folder: Path) -> None:
    (folder / "elsewhere").symlink_to("/")

    with pytest.raises(ArtifactError, match="holds elsewhere, which its manifest does not list$"):
        artifact.verify(folder)


def test_a_listed_file_that_lies_behind_a_linked_folder_is_noticed(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "artifact")
    (folder / "extra").mkdir()
    (folder / "extra" / "notes.txt").write_text("kept")
    artifact.seal(folder, make_manifest())
    shutil.move(folder / "extra", tmp_path / "outside")
    (folder / "extra").symlink_to(tmp_path / "outside")

    with pytest.raises(ArtifactError, match="holds extra, which its manifest does not list$"):
        artifact.verify(folder)


def test_a_folder_in_place_of_a_file_is_noticed(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").mkdir()

    with pytest.raises(ArtifactError, match=r"model\.onnx is missing \(or is a link\), and the manifest lists it$"):
        artifact.verify(folder)


def test_a_confidence_that_is_hashed_and_not_valid_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path)
    (tmp_path / "confidence.json").write_text('{"schema_version": 1}')
    artifact.seal(tmp_path, make_manifest())

    with pytest.raises(ManifestError, match=r"^confidence\.temperature: Field required"):
        Artifact.load(tmp_path)


def test_a_confidence_that_is_not_there_cannot_be_read(folder: Path) -> None:
    (folder / "confidence.json").unlink()

    with pytest.raises(ArtifactError) as caught:
        artifact.read_confidence(folder)

    assert str(caught.value) == f"{folder} is not an artifact: confidence.json cannot be read (No such file or directory)"


# --- the manifest itself


def test_an_unfinished_seal_is_not_an_artifact(tmp_path: Path) -> None:
    write_files(tmp_path)

    for read in (artifact.read_manifest, artifact.verify, Artifact.load):
        with pytest.raises(ArtifactError) as caught:
            read(tmp_path)
        assert str(caught.value) == f"{tmp_path} is not an artifact: manifest.json cannot be read (No such file or directory)"


def test_a_seal_that_died_before_its_rename_is_not_an_artifact(folder: Path) -> None:
    (folder / "manifest.json").rename(folder / ".manifest.json.0123456789abcdef.tmp")

    with pytest.raises(ArtifactError, match="is not an artifact: manifest.json cannot be read"):
        Artifact.load(folder)


def test_a_folder_in_place_of_the_manifest_is_not_an_artifact(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()

    with pytest.raises(ArtifactError, match=r"manifest\.json cannot be read \(Is a directory\)$"):
        artifact.verify(folder)


def test_a_manifest_cut_off_anywhere_is_refused(folder: Path) -> None:
    data = (folder / "manifest.json").read_bytes().rstrip()

    for length in range(0, len(data), 23):
        (folder / "manifest.json").write_bytes(data[:length])
        with pytest.raises(ManifestError, match="Invalid JSON"):
            artifact.verify(folder)


@pytest.mark.parametrize("name", LISTED)
def test_a_manifest_that_does_not_list_a_required_file_is_refused(name: str, folder: Path) -> None:
    manifest = artifact.read_manifest(folder)
    listed = {key: digest for key, digest in manifest.files.items() if key != name}
    rewrite(folder, files=listed)

    with pytest.raises(ArtifactError) as caught:
        artifact.verify(folder)

    assert str(caught.value) == f"{folder / 'manifest.json'} does not list {name}, which every artifact has"


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/hostname", "a/../../outside.txt", "a//b", "..", ""])
def test_a_manifest_that_points_outside_its_folder_is_refused(name: str, folder: Path) -> None:
    (folder.parent / "outside.txt").write_text("not ours")
    manifest = artifact.read_manifest(folder)
    listed = manifest.files | {name: "0" * 64}
    rewrite(folder, files=listed)

    with pytest.raises(ManifestError, match="String should match pattern"):
        artifact.verify(folder)


# --- tensors outside the file


@pytest.mark.parametrize("model", [EXTERNAL, b"graph" + EXTERNAL + b"\x12\x0amodel.data", EXTERNAL + b"graph"])
def test_a_model_that_keeps_tensors_in_another_file_cannot_be_sealed(model: bytes, tmp_path: Path) -> None:
    write_files(tmp_path, model=model)

    with pytest.raises(ArtifactError) as caught:
        artifact.seal(tmp_path, make_manifest())

    assert str(caught.value) == (
        f"{tmp_path / 'model.onnx'} keeps tensors in another file; export it as one file (external_data=False)"
    )
    assert not (tmp_path / "manifest.json").exists()


def test_a_model_that_keeps_tensors_in_another_file_is_refused_even_where_its_hash_is_right(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(EXTERNAL)
    manifest = artifact.read_manifest(folder)
    digests = manifest.files | {"model.onnx": hashlib.sha256(EXTERNAL).hexdigest()}
    rewrite(folder, files=digests)

    with pytest.raises(ArtifactError, match=r"model\.onnx keeps tensors in another file; export it as one file"):
        artifact.verify(folder)


@pytest.mark.parametrize("model", [b"location", b"\x0a\x09location", b"\x0a\x08locatio"])
def test_a_model_that_only_mentions_a_location_is_accepted(model: bytes, tmp_path: Path) -> None:
    write_artifact(tmp_path, model=model)

    assert Artifact.load(tmp_path).model == model


# --- writing


def test_write_synced_replaces_a_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "value.json"
    target.write_bytes(b"a longer value than the new one")

    artifact.write_synced(target, b"new")

    assert target.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["value.json"]


def test_write_synced_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "value.json"
    target.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            artifact.write_synced(target, b"new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"value.json": b"old"}


def test_two_who_write_a_file_under_one_process_number_keep_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In containers that share a folder every process is number 1."""
    target, made = tmp_path / "value.json", set()
    replace = Path.replace

    def noted(path: Path, place: Path) -> Path:
        made.add(path.name)
        return replace(path, place)

    monkeypatch.setattr(Path, "replace", noted)
    for _ in range(2):
        artifact.write_synced(target, b"new")
    assert len(made) == 2
