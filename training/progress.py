"""What a person sees while training runs: bars and sentences, on stderr. Stdout is for the result."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeVar

from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")


def progress(items: Iterable[T], what: str, total: int) -> tqdm[T]:
    """Iterate with a bar; on a pipe a line now and then instead of a line each step."""
    interval = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(items, desc=f"{what:>16}", total=total, file=sys.stderr, mininterval=interval, leave=True, unit="", ncols=96)


def bar(what: str, total: int) -> tqdm[Any]:
    """A bar that is advanced by hand; use it as a context."""
    return progress(None, what, total)  # type: ignore[arg-type]


def say(text: str) -> None:
    """Write one line for a person."""
    tqdm.write(text, file=sys.stderr)
