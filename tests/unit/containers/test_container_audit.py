"""What an audit finds in an image's files, each put there by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from containers.audit import findings, size_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def write(root: Path, name: str, mode: int = 0o644) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    path.chmod(mode)
    return path


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Debian in three files, one of which runs as root whoever starts it."""
    return make(tmp_path / "base")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The base with the service on it."""
    root = make(tmp_path / "image")
    for package in ("models", "service"):
        write(root, f"app/{package}/__init__.py")
    write(root, "opt/venv/lib/python3.11/site-packages/numpy/__init__.py")
    write(root, "opt/venv/bin/bentoml", 0o755)
    return root


def make(root: Path) -> Path:
    write(root, "usr/bin/passwd", 0o4755)
    write(root, "usr/bin/ld.so", 0o755)
    (root / "bin").symlink_to("usr/bin")
    for name, mode in (("tmp", 0o1777), ("dev", 0o755), ("etc", 0o755)):
        (root / name).mkdir()
        (root / name).chmod(mode)
    write(root, "dev/null", 0o666)
    return root


def test_good_image_has_no_findings(image: Path, base: Path) -> None:
    assert findings(image, base, "serve") == []


PUT = {
    "/usr/local/bin/pip3.11 installs or compiles": lambda root: write(root, "usr/local/bin/pip3.11", 0o755),
    "/opt/venv/bin/uv installs or compiles": lambda root: write(root, "opt/venv/bin/uv", 0o755),
    "/usr/bin/gcc installs or compiles": lambda root: write(root, "usr/bin/gcc", 0o755),
    "/usr/bin/x86_64-linux-gnu-gcc-12 installs or compiles": lambda root: write(root, "usr/bin/x86_64-linux-gnu-gcc-12", 0o755),
    "/usr/lib/python3.11/ensurepip is installed": lambda root: write(root, "usr/lib/python3.11/ensurepip/__init__.py"),
    "/opt/venv/lib/python3.11/site-packages/torch is installed": lambda root: write(
        root, "opt/venv/lib/python3.11/site-packages/torch/__init__.py"
    ),
    "/opt/venv/bin/helper runs as its owner, and the base has none of it": lambda root: write(
        root, "opt/venv/bin/helper", 0o4755
    ),
    "/opt/venv/.lock may be written by everybody": lambda root: write(root, "opt/venv/.lock", 0o666),
    "/etc may be written by everybody": lambda root: (root / "etc").chmod(0o777),
    "/app holds models, service, tests, expected models, service": lambda root: write(root, "app/tests/__init__.py"),
}


@pytest.mark.parametrize(("finding", "put"), PUT.items(), ids=PUT)
def test_what_should_not_be_there_is_found(image: Path, base: Path, finding: str, put: Callable[[Path], object]) -> None:
    put(image)
    assert findings(image, base, "serve") == [finding]


def test_trainer_may_have_torch_and_has_its_own_code(image: Path, base: Path) -> None:
    write(image, "opt/venv/lib/python3.11/site-packages/torch/__init__.py")
    for package in ("training", "samples"):
        write(image, f"app/{package}/x")
    assert findings(image, base, "trainer") == []


def test_size_counts_what_lies_on_the_disk_once(tmp_path: Path) -> None:
    empty = size_bytes(tmp_path)
    (tmp_path / "file").write_bytes(bytes(100_000))
    once = size_bytes(tmp_path) - empty
    assert 100_000 <= once < 120_000
    (tmp_path / "again").hardlink_to(tmp_path / "file")
    (tmp_path / "link").symlink_to("file")
    assert size_bytes(tmp_path) - empty == once
