"""Where the time of a request goes: noted by the parts that take it, and read when it is answered.

Only while somebody looks (`observer`); otherwise there is no stopwatch, and nothing is noted.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Literal, get_args

Stage = Literal["decode", "queue", "inference"]
STAGES: tuple[Stage, ...] = get_args(Stage)


@dataclass(frozen=True)
class Stretch:
    """From when the first image of a request entered a stage to when the last one left it, in seconds of `time.monotonic`."""

    started: float
    ended: float
    images: int


class Stopwatch:
    """Of one request."""

    def __init__(self) -> None:
        """Nothing is noted yet."""
        self._notes: list[tuple[Stage, float, float]] = []

    def note(self, stage: Stage, started: float, ended: float) -> None:
        """One image was in a stage between two readings of `time.monotonic`. May be called from any thread."""
        self._notes.append((stage, started, ended))

    def read(self) -> dict[Stage, Stretch]:
        """The stages that any image was in."""
        found: dict[Stage, Stretch] = {}
        for stage in STAGES:
            if times := [(started, ended) for noted, started, ended in self._notes if noted == stage]:
                found[stage] = Stretch(min(times)[0], max(ended for _, ended in times), len(times))
        if "decode" in found and "inference" in found:
            # A lane on a CPU decodes what it runs: that much of its time is not inference.
            decode, inference = found["decode"], found["inference"]
            if inference.started <= decode.started and decode.ended < inference.ended:
                found["inference"] = replace(inference, started=decode.ended)
        return found


# Of the request that is being answered.
current: ContextVar[Stopwatch | None] = ContextVar("stopwatch", default=None)
