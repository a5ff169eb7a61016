"""`python -m tests.support.broken_device`: the real server, whose device fails when it is shown magenta.

What fails is ONNX Runtime's session, in the words of its CUDA provider; everything above it is the service's own.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from service.runtime import choose
from service.runtime.onnx import OnnxRuntime
from service.serving import main

MAGENTA = (255, 0, 255)


class Session:
    """A session that works until it sees the one image."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._is_broken = False

    def run(self, names: list[str], feed: dict[str, Any]) -> Any:
        self._is_broken |= bool(np.all(feed["image"] == MAGENTA, axis=(1, 2, 3)).any())
        if self._is_broken:
            raise RuntimeError("CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; file=/secret/cuda_call.cc")
        return self._session.run(names, feed)


class BrokenRuntime(OnnxRuntime):
    """See the module."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._session = Session(self._session)


if __name__ == "__main__":
    choose.OnnxRuntime = BrokenRuntime  # type: ignore[misc]
    sys.exit(main())
