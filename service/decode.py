"""Bytes to pixels, in the caller's thread or in a bounded pool: libjpeg and Pillow let go of the interpreter while they work."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from models.preprocess import Limits, load_image, seen_box

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.manifest import Manifest
    from models.preprocess import UInt8Array
    from service.metrics import Metrics
    from service.stopwatch import Stopwatch

Decoded = TypeVar("Decoded")


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

    def decode(self, data: bytes, manifest: Manifest, watch: Stopwatch | None = None) -> UInt8Array:
        """Turn a file's bytes into the input of a version, uint8 `[H, W, 3]`, in this thread; `watch` is told how long it took.

        Raises:
            ImageError: As `models.preprocess.load_image`.
        """
        started = time.monotonic()
        size = manifest.input
        try:
            image = load_image(data, manifest.preprocessing, size.height, size.width, self._limits)
        finally:
            if watch is not None:
                watch.note("decode", started, time.monotonic())
        self._metrics.decode_duration.observe(time.monotonic() - started)
        return image

    def view(self, data: bytes, manifest: Manifest, watch: Stopwatch | None = None) -> View:
        """The same, with the part of the image that it is.

        Raises:
            ImageError: As `models.preprocess.load_image`.
        """
        pixels, size = self.decode(data, manifest, watch), manifest.input
        return View(pixels, seen_box(data, manifest.preprocessing, size.height, size.width, self._limits))

    async def apart(self, decode: Callable[[], Decoded]) -> Decoded:
        """Call one of the above in the pool.

        Raises:
            ImageError: As what is called.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, decode)

    def close(self) -> None:
        """Stop the threads; what is being decoded is finished."""
        self._pool.shutdown(wait=True, cancel_futures=True)
