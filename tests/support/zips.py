"""Zips of images in memory, good ones and hostile ones."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING

from tests.support.folders import write_colours
from tests.support.pictures import picture

if TYPE_CHECKING:
    from pathlib import Path

Entries = dict[str | zipfile.ZipInfo, bytes]


def zipped(entries: Entries, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def class_folders(folder: Path, count: int = 4, labels: tuple[str, ...] = ("red", "green"), seed: int = 0) -> Entries:
    """Noisy images of `count` a label, by the names that they have in a zip."""
    write_colours(folder, {"": count}, labels, seed)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def link(name: str, target: str) -> Entries:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = 0o120777 << 16
    return {info: target.encode()}


GOOD: Entries = {"cat/1.png": picture(), "dog/1.png": picture("blue")}
# What must be refused, and a word of the reason. What else an archive may try is in tests/unit/models/test_archive.py.
HOSTILE: dict[str, tuple[bytes, str]] = {
    "no zip": (b"a photo, I promise", "no zip"),
    "no image in it": (zipped({"readme.txt": b"hello"}), "no images"),
    "a path that leads outside": (zipped({**GOOD, "../../outside.png": picture()}), "leads outside"),
    "a link": (zipped({**GOOD, **link("cat/link.png", "/etc/passwd")}), "link"),
    "a bomb": (zipped({**GOOD, "cat/bomb.bmp": bytes(200 << 20)}), "100 times"),
    "one image": (zipped({"cat/1.png": picture()}), "all images in one folder"),
    "one label": (zipped({"data/cat/1.png": picture(), "data/cat/2.png": picture("blue")}), "only the label 'cat'"),
    "nothing that decodes": (zipped({"cat/1.png": b"x", "dog/1.png": b"y"}), "none of 2 images can be read"),
}
