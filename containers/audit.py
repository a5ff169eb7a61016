"""What an image's files say: what should not be in it, and how large it is. Knows folders, and nothing of who built them."""

from __future__ import annotations

import re
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_COMMANDS = ("bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin", "usr/local/sbin", "opt/venv/bin")
# What installs or compiles.
_TOOLS = re.compile(
    r"pip[\d.]*|uvx?|g?cc|cpp|[cg]\+\+|clang.*|ld(\.(bfd|gold|lld))?|as|make|cargo|rustc|.*-linux-gnu-(gcc|g\+\+|ld).*"
)
_INSTALLERS = ("pip", "ensurepip")
_LEARNING = ("torch", "torchvision", "timm")
# What the code consists of, by the command that an image is for.
PACKAGES = {"serve": {"models", "service"}, "trainer": {"models", "service", "training", "samples"}}


def findings(root: Path, base: Path, kind: str) -> list[str]:
    """Say what is in an image that should not be there.

    Args:
        root: The image's files.
        base: The files of the image that it was built on.
        kind: `serve` or `trainer`.
    """
    said = [f"{path} installs or compiles" for path in _tools(root)]
    said += [f"{path} is installed" for path in _modules(root, _INSTALLERS + (_LEARNING if kind == "serve" else ()))]
    said += [f"{path} runs as its owner, and the base has none of it" for path in sorted(_raised(root) - _raised(base))]
    said += [f"{path} may be written by everybody" for path in _open(root)]
    code = {entry.name for entry in (root / "app").iterdir()}
    if code != PACKAGES[kind]:
        said.append(f"/app holds {', '.join(sorted(code))}, expected {', '.join(sorted(PACKAGES[kind]))}")
    return said


def size_bytes(root: Path) -> int:
    """What files and folders take up on the disk, each once."""
    seen = {}
    for path in (root, *root.rglob("*")):
        found = path.lstat()
        seen[found.st_ino] = found.st_blocks * 512
    return sum(seen.values())


def _tools(root: Path) -> list[str]:
    folders = [root / name for name in _COMMANDS if (root / name).is_dir() and not (root / name).is_symlink()]
    found = [path for folder in folders for path in folder.iterdir() if _TOOLS.fullmatch(path.name)]
    return [_shown(path, root) for path in sorted(found)]


def _modules(root: Path, names: tuple[str, ...]) -> list[str]:
    """Where a module lies: at the top of a folder of modules."""
    homes = [*root.glob("usr/lib/python3*"), *root.glob("usr/local/lib/python3*"), *root.glob("opt/venv/lib/python3*")]
    folders = [folder for home in homes for folder in (home, home / "site-packages", home / "dist-packages")]
    return [_shown(folder / name, root) for folder in folders for name in names if (folder / name).exists()]


def _raised(root: Path) -> set[str]:
    """Programs with the rights of their owner or group, whoever starts them."""
    raised = stat.S_ISUID | stat.S_ISGID
    return {_shown(path, root) for path, mode in _modes(root) if stat.S_ISREG(mode) and mode & raised}


def _open(root: Path) -> list[str]:
    """Files and folders that everybody may write, but for folders where everybody owns what he put there."""
    return sorted(_shown(path, root) for path, mode in _modes(root) if mode & stat.S_IWOTH and not mode & stat.S_ISVTX)


def _modes(root: Path) -> Iterator[tuple[Path, int]]:
    """Files and folders with their modes; no links, and nothing of `/dev`, which is not the image's."""
    for path in root.rglob("*"):
        mode = path.lstat().st_mode
        if (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) and path.relative_to(root).parts[0] != "dev":
            yield path, mode


def _shown(path: Path, root: Path) -> str:
    return f"/{path.relative_to(root)}"
