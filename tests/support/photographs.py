"""Photographs and paintings of no label that we train on: crops of Debian's wallpapers, which `.ci/run` installs.

`apt-get install mate-backgrounds ukui-wallpapers plasma-workspace-wallpapers`
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

_FOLDERS = (
    Path("/usr/share/backgrounds/mate/nature"),
    Path("/usr/share/backgrounds"),
    *sorted(Path("/usr/share/wallpapers").glob("*/contents/images")),
)
_SIDE_PX = 1200


@lru_cache(maxsize=1)
def sources() -> tuple[Image.Image, ...]:
    """One picture of each motif, made smaller; the test is skipped where there are none."""
    pictures = []
    for folder in _FOLDERS:
        files = sorted(path for path in folder.glob("*.jpg") if path.is_file())
        # A wallpaper is one picture in many sizes, a folder of backgrounds many pictures.
        for path in files[:1] if folder.name == "images" else files:
            with Image.open(path) as picture:
                picture.draft("RGB", (_SIDE_PX, _SIDE_PX))
                small = picture.convert("RGB")
            small.thumbnail((_SIDE_PX, _SIDE_PX))
            pictures.append(small)
    if not pictures:
        pytest.skip("no wallpapers: apt-get install mate-backgrounds ukui-wallpapers plasma-workspace-wallpapers")
    return tuple(pictures)


def photographs(count: int, size_px: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Square crops, uint8 `[count, size, size, 3]`, of a third to all of a picture's short side."""
    rng = np.random.default_rng(seed)
    crops = np.empty((count, size_px, size_px, 3), dtype=np.uint8)
    for index in range(count):
        picture = sources()[index % len(sources())]
        side = int(min(picture.size) * rng.uniform(1 / 3, 1))
        left, top = (int(rng.integers(0, length - side + 1)) for length in picture.size)
        box = (left, top, left + side, top + side)
        crops[index] = np.asarray(picture.resize((size_px, size_px), Image.Resampling.BICUBIC, box=box))
    return crops
