"""The JPEGs that serving is measured with, made from the photographs in `samples/`: always the same ones, without a download.

Each is a crop of a photograph, every other one mirrored, scaled to the size of a photograph as people send it.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

_SOURCES = tuple(Path(__file__).resolve().parent.parent / "samples" / name for name in ("cat.jpg", "coffee.jpg"))
# The smallest crop, as a share of what fits: below it everything would be a blur.
_LEAST_SHARE = 0.6


@dataclass(frozen=True)
class Photos:
    """`count` JPEGs of one size; the quality is what makes files as large as cameras and phones make them."""

    name: str
    width: int
    height: int
    quality: int
    count: int

    def load(self, cache: Path) -> list[bytes]:
        """Read them from `cache`, where they are made the first time."""
        folder = cache / f"photos-{self.name}-{self.width}x{self.height}-q{self.quality}-pillow-{__version__}"
        files = [folder / f"{index:02}.jpg" for index in range(self.count)]
        # The last one is written last.
        if not files[-1].is_file():
            folder.mkdir(parents=True, exist_ok=True)
            for file, jpeg in zip(files, self.made(), strict=True):
                file.write_bytes(jpeg)
        return [file.read_bytes() for file in files]

    def made(self) -> Iterator[bytes]:
        """Make one after another."""
        rng = np.random.default_rng(0)
        sources = [Image.open(source).convert("RGB") for source in _SOURCES]
        for index in range(self.count):
            photo = sources[index % len(sources)]
            share = rng.uniform(_LEAST_SHARE, 1) * min(photo.width / self.width, photo.height / self.height)
            across, down = self.width * share, self.height * share
            left, top = rng.uniform(0, photo.width - across), rng.uniform(0, photo.height - down)
            box = (left, top, left + across, top + down)
            scaled = photo.resize((self.width, self.height), Image.Resampling.BICUBIC, box=box)
            written = io.BytesIO()
            (ImageOps.mirror(scaled) if index // len(sources) % 2 else scaled).save(written, "JPEG", quality=self.quality)
            yield written.getvalue()


# A photograph as web pages show it, 42 kB, and one as phones take it, 12 megapixels and about 1.5 MB.
SMALL = Photos("small", 500, 375, 89, 64)
LARGE = Photos("large", 4000, 3000, 96, 8)
