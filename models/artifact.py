"""An artifact directory: written as a whole, read with every checksum verified.

Owns the files of one version. Knows nothing of names, versions in order, or aliases (`registry`), nor of what the graph
computes. `manifest.json` is written last and holds the sha256 of every other file and of itself, so a
directory that has one is whole, and a directory that was altered is refused.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from pydantic import ValidationError

from models.confidence.evidence import EVIDENCE, Evidence
from models.confidence.schema import Confidence
from models.errors import ArtifactError, describe
from models.manifest import UNSEALED, Manifest

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = "manifest.json"
MODEL = "model.onnx"
CONFIDENCE = "confidence.json"
GOLDEN = "golden.npz"
WEIGHTS = "weights.safetensors"
REQUIRED = frozenset({MODEL, CONFIDENCE, GOLDEN})
# In ONNX a tensor kept outside the file is a key "location" with a path. Refused: a path in a model file would make the
# runtime read a file that nothing verified. 0x0a 0x08 is protobuf's "field 1, text of 8 bytes".
_EXTERNAL_TENSOR = b"\x0a\x08location"


@dataclass(frozen=True)
class Artifact:
    """A verified directory, with the bytes that were hashed: what is used is what was verified."""

    path: Path
    manifest: Manifest
    confidence: Confidence
    evidence: Evidence
    model: bytes
    golden: bytes

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a directory and verify every file of it.

        Raises:
            ArtifactError: If a file is missing, altered, not in the manifest, or keeps tensors outside itself.
            ManifestError: If `manifest.json` or `confidence.json` is not valid, or they do not fit each other.
        """
        manifest = verify(path)
        model, stated, golden = (_read_checked(path / name, manifest.files[name]) for name in (MODEL, CONFIDENCE, GOLDEN))
        confidence = Confidence.parse(stated)
        confidence.check_fits(manifest.task, manifest.labels)
        evidence = Evidence()
        if EVIDENCE in manifest.files:
            evidence = Evidence.from_bytes(_read_checked(path / EVIDENCE, manifest.files[EVIDENCE]))
        evidence.check_fits(manifest.task, confidence, manifest.outputs)
        return cls(path, manifest, confidence, evidence, model, golden)


def read_manifest(path: Path) -> Manifest:
    """Read only the card of the artifact in `path`, without verifying the rest.

    Raises:
        ArtifactError: If there is no manifest.
        ManifestError: If it is not valid.
    """
    try:
        return Manifest.parse((path / MANIFEST).read_bytes())
    except OSError as err:
        raise ArtifactError(f"{path} is not an artifact: {MANIFEST} cannot be read ({err.strerror})") from err


def read_confidence(path: Path) -> Confidence:
    """Read only what the artifact in `path` says of its calibration, without verifying the rest.

    Raises:
        ArtifactError: If there is no such file.
        ManifestError: If it is not valid.
    """
    try:
        return Confidence.parse((path / CONFIDENCE).read_bytes())
    except OSError as err:
        raise ArtifactError(f"{path} is not an artifact: {CONFIDENCE} cannot be read ({err.strerror})") from err


def verify(path: Path) -> Manifest:
    """Hash every file of the artifact in `path` and compare with its manifest.

    Raises:
        ArtifactError: If a file is missing, altered, not in the manifest, or keeps tensors outside itself.
        ManifestError: If the manifest is not valid.
    """
    manifest = read_manifest(path)
    _check_digest(path / MANIFEST, manifest.own_sha256(), manifest.sha256)
    missing = sorted(REQUIRED - manifest.files.keys())
    if missing:
        raise ArtifactError(f"{path / MANIFEST} does not list {missing[0]}, which every artifact has")
    present = _file_names(path) - {MANIFEST}
    strangers = sorted(present - manifest.files.keys())
    if strangers:
        raise ArtifactError(f"{path} holds {strangers[0]}, which its manifest does not list")
    for name, digest in manifest.files.items():
        file = path / name
        if file.is_symlink() or not file.is_file():
            raise ArtifactError(f"{file} is missing (or is a link), and the manifest lists it")
        _check_digest(file, _digest(file), digest)
    refuse_external_tensors((path / MODEL).read_bytes(), path / MODEL)
    return manifest


def seal(path: Path, manifest: Manifest) -> Manifest:
    """Hash the files in `path`, write them into `manifest`, and write that last, all of it synced to disk.

    Returns:
        The manifest as written, with the hashes of the other files and of itself.

    Raises:
        ArtifactError: If a required file is missing, a name cannot be one, or the model keeps tensors outside itself.
    """
    files = {name: _digest(path / name) for name in sorted(_file_names(path) - {MANIFEST})}
    missing = sorted(REQUIRED - files.keys())
    if missing:
        raise ArtifactError(f"{path} has no {missing[0]}; an artifact needs {', '.join(sorted(REQUIRED))}")
    refuse_external_tensors((path / MODEL).read_bytes(), path / MODEL)
    sealed = _fill_in(manifest, files, path)
    for name in files:
        sync(path / name)
    write_synced(path / MANIFEST, sealed.to_bytes())
    return sealed


def _fill_in(manifest: Manifest, files: dict[str, str], path: Path) -> Manifest:
    try:
        unsealed = Manifest.model_validate({**manifest.model_dump(), "files": files, "sha256": UNSEALED})
    except ValidationError as err:
        raise ArtifactError(f"{path} cannot be sealed: {describe(err, 'manifest.{}'.format)}") from err
    return unsealed.model_copy(update={"sha256": unsealed.own_sha256()})


def _file_names(path: Path) -> set[str]:
    """Everything below `path` that is no folder of its own: files, and links of every kind."""
    found = (file for file in path.rglob("*") if file.is_symlink() or not file.is_dir())
    return {str(file.relative_to(path)) for file in found}


def refuse_external_tensors(model: bytes, where: Path) -> None:
    """Refuse an ONNX file that keeps tensors in other files.

    Raises:
        ArtifactError: If it does.
    """
    if _EXTERNAL_TENSOR in model:
        raise ArtifactError(f"{where} keeps tensors in another file; export it as one file (external_data=False)")


def write_synced(path: Path, data: bytes) -> None:
    """Write a file so that a power cut leaves the old one or the new one: temporary file, fsync, rename, fsync."""
    # Not by the process's number, which on another machine, or in another container, is somebody else's.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file or a directory to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_checked(path: Path, expected: str) -> bytes:
    data = path.read_bytes()
    _check_digest(path, hashlib.sha256(data).hexdigest(), expected)
    return data


def _check_digest(path: Path, got: str, expected: str) -> None:
    if got != expected:
        raise ArtifactError(f"{path} was altered: its sha256 is {got[:12]}…, and the manifest says {expected[:12]}…")
