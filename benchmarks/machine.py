"""Where something was measured: the code, the machine, the libraries, and what else the machine did meanwhile."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parent.parent


def commit(*code: str) -> str:
    """The commit; it ends in `+changes` where the working tree differs from it in `code`."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S607

    return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--", *code) else "")


def cpu() -> str:
    """What the processor calls itself."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def libraries(names: Sequence[str]) -> dict[str, str]:
    """The versions of Python and of those that are installed."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


class Others:
    """What share of the machine's cores others took since it was made: those that are none of our family."""

    def __init__(self) -> None:
        """Begin to count."""
        self._busy = _busy()
        self._ours = _family()

    def share(self) -> float:
        """0..1; what processes of ours that have ended computed is counted as theirs, so it is at most this."""
        busy, total = (now - then for now, then in zip(_busy(), self._busy, strict=True))
        return max(0.0, busy - (_family() - self._ours)) / total


def _busy() -> tuple[float, float]:
    times = psutil.cpu_times()
    return sum(times) - times.idle - times.iowait, sum(times)


def _family() -> float:
    """Processor seconds of this process, of those that it started and run, and of those that it waited for."""
    me = psutil.Process()
    times = me.cpu_times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in me.children(recursive=True):
        own = child.cpu_times()
        total += own.user + own.system + own.children_user + own.children_system
    return total
