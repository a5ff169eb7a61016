"""What a job is: its states and the moves between them, what was asked for, and what a row of the database holds."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads the annotation
from typing import Literal, get_args

from pydantic import Field

from models.frozen import Frozen
from models.recipe import Recipe  # noqa: TC001 - pydantic reads the annotation

JobState = Literal[
    "queued",
    "preparing",
    "running",
    "evaluating",
    "publishing",
    "succeeded",
    "rejected",
    "failed",
    "cancelled",
    "timed_out",
]
Promote = Literal["gate", "manual"]
STATES: tuple[JobState, ...] = get_args(JobState)
# In these a job has the device.
ACTIVE: tuple[JobState, ...] = ("preparing", "running", "evaluating", "publishing")
UNFINISHED: tuple[JobState, ...] = ("queued", *ACTIVE)
FINAL: tuple[JobState, ...] = ("succeeded", "rejected", "failed", "cancelled", "timed_out")
# From the first of these on a cancellation comes too late: the alias moves, or has moved.
COMMITTED: tuple[JobState, ...] = ("publishing", *FINAL)
# Every job may fail, be cancelled, run out of time, or be interrupted (and so queued again), until it is committed. A device
# is given by a claim alone, so no move leads from waiting to having one. Whose registry went away while it ran keeps its device.
_ENDS: tuple[JobState, ...] = ("failed", "cancelled", "timed_out")
MOVES: dict[JobState, frozenset[JobState]] = {
    "queued": frozenset(_ENDS),
    "preparing": frozenset({"running", "queued", *_ENDS}),
    "running": frozenset({"evaluating", "preparing", "queued", *_ENDS}),
    "evaluating": frozenset({"publishing", "succeeded", "rejected", "queued", *_ENDS}),
    "publishing": frozenset({"succeeded", "evaluating", "failed"}),
    **{state: frozenset() for state in FINAL},
}


class JobSpec(Frozen):
    """What was asked for; frozen when it is accepted.

    Attributes:
        model: The name that the version is to get.
        dataset: One or more: `name`, `name@version`, or a folder that the operator allowed.
        recipe: Every choice, validated.
        start_from: `pretrained`, `production`, or `NAME:N`.
        promote: `gate` promotes what passes; `manual` leaves it as the candidate.
    """

    model: str
    dataset: tuple[str, ...] = Field(min_length=1, max_length=16)
    recipe: Recipe
    start_from: str
    promote: Promote


class Process(Frozen):
    """A process, told from every other that had or will have its number."""

    pid: int
    # Clock ticks since boot (field 22 of /proc/<pid>/stat), and which boot.
    started: int
    boot: str


class Job(Frozen):
    """One row.

    Attributes:
        id: 32 hexadecimal digits; the run's name as well.
        number: The order of arrival, which is the order of turns.
        epoch: Grows with every claim; a write of an earlier claim is refused.
        attempt: How often it was begun. Going on from a checkpoint after an orderly stop is no new attempt.
        key_id: Which key asked; `-` where there are none.
        begun_boot_s: Seconds since boot at which the attempt began, which no change of the clock moves.
        is_cancelling: Whether somebody asked for its end.
        version: The version that it made.
        code: Why it ended as it did, for machines.
    """

    id: str
    number: int
    state: JobState
    epoch: int
    attempt: int
    key_id: str
    spec: JobSpec
    created: datetime
    updated: datetime
    finished: datetime | None
    device: int | None
    process: Process | None
    begun_boot_s: float | None
    is_cancelling: bool
    version: int | None
    is_promoted: bool
    code: str | None
    reason: str | None

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in FINAL
