"""How a trainer's run ended, from what it wrote and from how its process did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.trainer import (
    EXIT_CHECKPOINTED,
    EXIT_DEFECT,
    EXIT_INPUT,
    EXIT_MEMORY,
    EXIT_SPACE,
    EXIT_UNREACHABLE,
    UNREACHABLE,
)

if TYPE_CHECKING:
    from service.jobs.folder import Event, JobFolder

_CODES = {EXIT_INPUT: "training_error", EXIT_DEFECT: "internal", EXIT_MEMORY: "out_of_memory", EXIT_SPACE: "no_space"}
_LAST_WORDS_BYTES, _LAST_WORDS_LINES = 4096, 5


@dataclass(frozen=True)
class Fitted:
    """It published a version."""

    version: int


@dataclass(frozen=True)
class Stopped:
    """It was asked to end, and what it had learnt is in a checkpoint."""


@dataclass(frozen=True)
class Unreachable:
    """The registry was away for longer than it waits; what it had learnt is in a checkpoint."""


@dataclass(frozen=True)
class Failed:
    """It said why it cannot do what was asked."""

    code: str
    error: str


@dataclass(frozen=True)
class Died:
    """It said nothing: killed, or so broken that it could not say it. `last_words` is the end of its log."""

    last_words: str


Outcome = Fitted | Stopped | Unreachable | Failed | Died


def outcome_of_fit(folder: JobFolder, exit_code: int | None) -> Outcome:
    """Read the events since the attempt began; the last one that ends a run counts, and without one the exit code.

    Args:
        folder: The job's.
        exit_code: Where it is known: on a full disk there is no event.
    """
    outcome: Outcome | None = None
    for event in folder.read(is_brief=True):
        outcome = _outcome(event, outcome)
    if outcome is not None:
        return outcome
    if exit_code == EXIT_CHECKPOINTED:
        return Stopped()
    if exit_code == EXIT_UNREACHABLE:
        return Unreachable()
    words = last_words(folder)
    code = _CODES.get(exit_code or 0)
    return Died(words) if code is None else Failed(code, words)


def _outcome(event: Event, before: Outcome | None) -> Outcome | None:
    fields = event.fields
    match event.kind:
        case "published":
            return Fitted(int(fields["version"]))
        case "stopped":
            return Stopped()
        case "failed" if fields.get("code") == UNREACHABLE:
            return Unreachable()
        case "failed":
            return Failed(str(fields.get("code", "internal")), str(fields.get("error", "")))
        case "state" if fields.get("state") == "preparing":
            return None
        case _:
            return before


def last_words(folder: JobFolder) -> str:
    """The last lines of the log."""
    lines = folder.tail(_LAST_WORDS_BYTES).decode(errors="replace").replace("\r", "\n").split("\n")
    return "\n".join([line.rstrip() for line in lines if line.strip()][-_LAST_WORDS_LINES:])
