"""The files of one job: what was asked for, what happened, what was said. Written by the supervisor and the trainer.

Events are JSON lines that both append to; where a line ends is its id, so that a reader who was cut off goes on from
there, and nothing has to be remembered for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from models.artifact import write_synced
from models.gate_report import GateReport
from service.lines import append_line, open_lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from models.recipe import Recipe

_PROGRESS = b'"event":"progress"'


@dataclass(frozen=True)
class Event:
    """One line: where it ends in the file, and what it says."""

    end: int
    fields: dict[str, Any]

    @property
    def kind(self) -> str:
        """What happened: `state`, `plan`, `epoch`, `progress`, `published`, `failed` ..."""
        return str(self.fields.get("event", ""))


class JobFolder:
    """`CANDOR_HOME/jobs/<id>/`."""

    def __init__(self, path: Path) -> None:
        """Name the folder; `make` makes it."""
        self.path = path
        self.recipe = path / "recipe.toml"
        self.events = path / "events.jsonl"
        self.heartbeat = path / "heartbeat"
        self.gate = path / "gate.json"
        self.log = path / "log.txt"

    def make(self, recipe: Recipe) -> None:
        """Make the folder, with the recipe in it as the trainer reads it."""
        self.path.mkdir(parents=True, exist_ok=True)
        values = recipe.model_dump(exclude_none=True, exclude_defaults=True)
        # JSON's texts, numbers and booleans are TOML's too.
        lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items()]
        write_synced(self.recipe, "".join(lines).encode())

    def tell(self, event: str, **fields: Any) -> None:
        """Append an event, on the disk when this returns.

        Raises:
            OSError: If it could not be written whole.
        """
        line = to_json({"time": round(time.time(), 3), "event": event, **fields}, inf_nan_mode="null") + b"\n"
        descriptor = open_lines(self.events)
        try:
            append_line(descriptor, line)
        finally:
            os.close(descriptor)

    def read(self, start: int = 0, *, is_brief: bool = False) -> Iterator[Event]:
        """The events after byte `start`; a line that a crash tore is passed over, one without its end is not there yet.

        Args:
            start: Where an earlier event ended.
            is_brief: Without the progress that later progress has overtaken: of a long run that is nearly every line.
        """
        try:
            file = self.events.open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(min(max(start, 0), os.fstat(file.fileno()).st_size))
            end, overtaken = file.tell(), None
            for line in file:
                end += len(line)
                if not line.endswith(b"\n"):
                    break
                if is_brief and _PROGRESS in line:
                    overtaken = end, line
                    continue
                yield from _parsed(end, line)
                overtaken = None
            if overtaken is not None:
                yield from _parsed(*overtaken)

    def tail(self, max_bytes: int) -> bytes:
        """The end of what the trainer said."""
        try:
            with self.log.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(max(0, size - max_bytes))
                return file.read(max_bytes)
        except FileNotFoundError:
            return b""

    def remove(self) -> None:
        """Delete all of it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def report(self) -> GateReport | None:
        """What the gate wrote; None where it wrote nothing that can be read."""
        try:
            return GateReport.model_validate_json(self.gate.read_bytes())
        except (OSError, ValueError):
            return None


def _parsed(end: int, line: bytes) -> Iterator[Event]:
    """The event of a line; none where a crash tore it."""
    with contextlib.suppress(ValueError):
        fields = json.loads(line)
        if isinstance(fields, dict):
            yield Event(end, fields)
