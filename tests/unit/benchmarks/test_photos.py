"""The JPEGs that serving is measured with: always the same, of the size and weight that they claim."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from benchmarks.photos import LARGE, SMALL

if TYPE_CHECKING:
    from pathlib import Path


def test_small_photographs_are_alike_each_time_and_42_kb_on_average(tmp_path: Path) -> None:
    first = SMALL.load(tmp_path)
    assert SMALL.load(tmp_path) == first == list(SMALL.made())
    assert len(set(first)) == SMALL.count == 64
    assert {Image.open(io.BytesIO(jpeg)).size for jpeg in first} == {(500, 375)}
    assert 41_000 < np.mean([len(jpeg) for jpeg in first]) < 43_000


def test_cached_photographs_are_not_made_again_and_an_interrupted_cache_is(tmp_path: Path) -> None:
    few = replace(SMALL, count=3)
    few.load(tmp_path)
    (files,) = [sorted(folder.iterdir()) for folder in tmp_path.iterdir()]
    files[0].write_bytes(b"kept")
    assert few.load(tmp_path)[0] == b"kept"
    files[-1].unlink()
    assert few.load(tmp_path) == list(few.made())


def test_large_photographs_are_12_megapixels_and_weigh_what_a_phones_do() -> None:
    (jpeg,) = replace(LARGE, count=1).made()
    assert Image.open(io.BytesIO(jpeg)).size == (4000, 3000)
    assert 1_000_000 < len(jpeg) < 2_000_000
