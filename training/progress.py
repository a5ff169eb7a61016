"""What a person sees while training runs (bars and sentences, on stderr) and what a machine reads (JSON lines, in a file).

Stdout is for the result. Where several processes train together, rank 0 alone talks.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from pydantic_core import to_json
from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    import torch

T = TypeVar("T")
# Reading a loss waits for the device, so it is not done at every step.
_EVERY_S = 0.5
_EVENT_EVERY_S = 1.0


def is_main() -> bool:
    """Whether this process talks: torchrun numbers those that it starts."""
    return os.environ.get("RANK", "0") == "0"


def progress(items: Iterable[T], what: str, total: int, unit: str = "") -> tqdm[T]:
    """Iterate with a bar; on a pipe a line now and then instead of a line each step."""
    interval = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(
        items,
        desc=f"{what:>16}",
        total=total,
        file=sys.stderr,
        mininterval=interval,
        leave=True,
        unit=unit,
        ncols=96,
        disable=not is_main(),
    )


def bar(what: str, total: int) -> tqdm[Any]:
    """A bar that is advanced by hand; use it as a context."""
    return progress(None, what, total)  # type: ignore[arg-type]


def say(text: str) -> None:
    """Write one line for a person."""
    if is_main():
        tqdm.write(text, file=sys.stderr)


class Sink(Protocol):
    """What is told of everything that happens."""

    def __call__(self, event: str, fields: Mapping[str, Any]) -> None:
        """Take one event."""

    def close(self) -> None:
        """Write what was kept back."""


class JsonLines:
    """JSON lines for machines, appended to a file, each line whole: `{"time": seconds since 1970, "event": ..., ...}`."""

    def __init__(self, path: Path) -> None:
        """Append to `path`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8", buffering=1)
        if path.is_file() and _is_torn(path):
            self._file.write("\n")

    def __call__(self, event: str, fields: Mapping[str, Any]) -> None:
        """Write one line."""
        self._file.write(to_json({"time": round(time.time(), 3), "event": event, **fields}, inf_nan_mode="null").decode() + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _is_torn(path: Path) -> bool:
    """Whether a process died in the middle of the last line."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read(1) not in {b"", b"\n"}


class Events:
    """Tells every sink what happens; with none it does nothing."""

    def __init__(self, sinks: Sequence[Sink] = ()) -> None:
        """Take the sinks; in a process that does not talk they are left alone."""
        self._sinks = list(sinks) if is_main() else []
        self._next_progress = 0.0

    def __call__(self, event: str, **fields: Any) -> None:
        """Tell of an event. A sink that fails is let go of, and said once: no log is worth the run."""
        for sink in list(self._sinks):
            try:
                sink(event, fields)
            except Exception as err:  # noqa: BLE001 - whatever a tracker raises
                self._sinks.remove(sink)
                _close(sink)
                say(f"  {type(sink).__name__} failed ({str(err).splitlines()[0]:.200}); going on without it")

    def progress(self, **fields: Any) -> None:
        """Tell how far it is, at most once a second."""
        if self._sinks and time.monotonic() >= self._next_progress:
            self._next_progress = time.monotonic() + _EVENT_EVERY_S
            self("progress", **fields)

    def close(self) -> None:
        """Let every sink finish."""
        for sink in self._sinks:
            _close(sink)


def _close(sink: Sink) -> None:
    try:
        sink.close()
    except Exception as err:  # noqa: BLE001 - whatever a tracker raises
        say(f"  {type(sink).__name__} failed while it was closed ({str(err).splitlines()[0]:.200})")


class Bar:
    """The bar of one epoch: images done, images/s, time left, loss and accuracy of the steps since the last look."""

    def __init__(self, name: str, images: int, done: int, events: Events) -> None:
        """Begin at `done` images of `images`."""
        self._bar: tqdm[Any] = progress(None, name, images, unit="img")  # type: ignore[arg-type]
        self._bar.update(done)
        self._name, self._images, self._events = name, images, events
        self._started, self._first = time.monotonic(), done
        self._next_look = 0.0

    def step(self, images: int, loss: torch.Tensor, hits: torch.Tensor | None, seen: int) -> None:
        """Count one step of `images`; `hits` of the `seen` of them that this process computed were right."""
        self._bar.update(images)
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _EVERY_S
        value = float(loss)
        shown = f"loss {value:.3f}" if hits is None else f"loss {value:.3f}, accuracy {float(hits) / max(seen, 1):.2f}"
        self._bar.set_postfix_str(shown, refresh=False)
        done = self._bar.n
        per_s = (done - self._first) / max(now - self._started, 1e-9)
        self._events.progress(
            what=self._name,
            images=done,
            of=self._images,
            loss=value,
            images_per_s=round(per_s, 1),
            seconds_left=round((self._images - done) / max(per_s, 1e-9), 1),
        )

    def __enter__(self) -> Self:
        """Use it as a context, so that the line is ended."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End the line."""
        self._bar.close()
