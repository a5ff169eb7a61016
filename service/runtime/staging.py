"""How the images of a batch get together: on a GPU in memory that it can read by itself, and in few different numbers."""

from __future__ import annotations

import ctypes
import logging
import threading
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from models.preprocess import UInt8Array
    from service.runtime.port import Images

logger = logging.getLogger("candor.runtime")


class Staging:
    """Puts images together in memory of any kind."""

    def together(self, images: Images) -> UInt8Array:
        """uint8 `[N, H, W, 3]`; of one image it is the image itself."""
        if isinstance(images, np.ndarray):
            return images
        return images[0][None] if len(images) == 1 else np.stack(images)


class PinnedStaging(Staging):
    """Puts images together in page-locked memory, and fills up to the next power of two.

    From page-locked memory a GPU copies by itself while it computes something else; from any other the driver copies first. cuDNN
    chooses its algorithms for each number of images that it has not seen, which takes longer than to run some images for nothing.
    """

    def __init__(self, height: int, width: int) -> None:
        """Take no memory yet: each thread takes its own when it needs it."""
        self._shape = (height, width, 3)
        self._own = threading.local()

    def together(self, images: Images) -> UInt8Array:
        """uint8 `[M, H, W, 3]`, M at least N and a power of two; what lies behind the first N is of no meaning.

        The memory is the thread's, and is written again by its next call.
        """
        count = 1 << (len(images) - 1).bit_length()
        held: UInt8Array | None = getattr(self._own, "images", None)
        if held is None or len(held) < count:
            held = self._own.images = page_locked((count, *self._shape))
        np.stack(list(images), out=held[: len(images)])
        return held[:count]


def page_locked(shape: tuple[int, ...]) -> UInt8Array:
    """Zeros, uint8, in memory that is page-locked until they are collected; in other memory where that cannot be."""
    held = np.zeros(shape, dtype=np.uint8)
    try:
        # Loaded already by ONNX Runtime, or not there.
        runtime = ctypes.CDLL("libcudart.so.13")
    except OSError:
        logger.warning("the CUDA runtime is not found, so copies to the GPU are not overlapped with its work")
        return held
    code = runtime.cudaHostRegister(ctypes.c_void_p(held.ctypes.data), ctypes.c_size_t(held.nbytes), ctypes.c_uint(0))
    if code != 0:
        logger.warning("memory could not be page-locked (CUDA says %d), so copies are not overlapped with work", code)
        return held
    # What is freed while it is registered would be given to others locked; the view keeps the owner alive.
    return np.asarray(_Registered(held, runtime))


class _Registered:
    """Ends the registration when the last user of the memory is gone."""

    def __init__(self, held: UInt8Array, runtime: ctypes.CDLL) -> None:
        self._held = held
        self._runtime = runtime
        self.__array_interface__ = held.__array_interface__

    def __del__(self) -> None:
        self._runtime.cudaHostUnregister(ctypes.c_void_p(self._held.ctypes.data))
