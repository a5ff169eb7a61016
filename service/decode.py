"""Bytes to pixels in a bounded pool of threads: libjpeg and Pillow let go of the interpreter while they work."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.preprocess import Limits, load_image, seen_box
from service import stopwatch

if TYPE_CHECKING:
    from models.manifest import Manifest
    from models.preprocess import UInt8Array
    from service.metrics import Metrics
    from service.stopwatch import Stopwatch


@dataclass(frozen=True)
class View:
    """What a model sees of an image: uint8 `[H, W, 3]`, and which part of the upright image that is, as shares."""

    pixels: UInt8Array
    box: tuple[float, float, float, float]


class Decoder:
    """A pool of `threads` decoders."""

    def __init__(self, threads: int, limits: Limits, metrics: Metrics) -> None:
        """Start no thread yet; the pool grows with use."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._limits = limits
        self._metrics = metrics

    async def decode(self, data: bytes, manifest: Manifest) -> UInt8Array:
        """Turn a file's bytes into the input of a version: uint8 `[H, W, 3]`.

        Raises:
            ImageError: As `models.preprocess.load_image`.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._decode, data, manifest, stopwatch.current.get())

    async def view(self, data: bytes, manifest: Manifest) -> View:
        """The same, with the part of the image that it is.

        Raises:
            ImageError: As `models.preprocess.load_image`.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._view, data, manifest, stopwatch.current.get())

    def close(self) -> None:
        """Stop the threads; what is being decoded is finished."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _decode(self, data: bytes, manifest: Manifest, watch: Stopwatch | None) -> UInt8Array:
        started = time.monotonic()
        size = manifest.input
        try:
            image = load_image(data, manifest.preprocessing, size.height, size.width, self._limits)
        finally:
            if watch is not None:
                watch.note("decode", started, time.monotonic())
        self._metrics.decode_duration.observe(time.monotonic() - started)
        return image

    def _view(self, data: bytes, manifest: Manifest, watch: Stopwatch | None) -> View:
        pixels, size = self._decode(data, manifest, watch), manifest.input
        return View(pixels, seen_box(data, manifest.preprocessing, size.height, size.width, self._limits))
