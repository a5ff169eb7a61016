"""What was measured, on what, as one JSON file that is rewritten after each run.

A file holds one commit on one machine with one set of libraries: numbers of two of them are never mixed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from models.frozen import Frozen
from models.scores import SplitMetrics  # noqa: TC001 - pydantic reads the annotation

if TYPE_CHECKING:
    from collections.abc import Iterator

TRAINING_CPU = Path(__file__).with_name("results") / "training-cpu.json"


class Setting(Frozen):
    """Where runs may be compared: the code, the machine, and the libraries of each environment.

    `commit` ends in `+changes` where the working tree differs from it.
    """

    commit: str
    cpu: str
    cores: int = Field(ge=1)
    libraries: dict[str, dict[str, str]]


class Run(Frozen):
    """One training: seconds of the whole command, and scores on the test folder.

    `other_cpu_s` is what everything else on the machine computed meanwhile: a time is worth little where that is much.
    """

    tool: str
    images_per_label: int = Field(ge=1)
    seed: int = Field(ge=0)
    wall_s: float = Field(gt=0)
    cpu_s: float = Field(gt=0)
    other_cpu_s: float = Field(ge=0)
    test: SplitMetrics
    detail: dict[str, Any]

    @property
    def key(self) -> tuple[str, int, int]:
        """What tells runs apart: tool, size, seed."""
        return self.tool, self.images_per_label, self.seed


class Results(Frozen):
    """A setting and its runs, in the order in which they were made."""

    setting: Setting
    image_size_px: int
    runs: tuple[Run, ...]

    def has(self, key: tuple[str, int, int]) -> bool:
        """Whether that run was made."""
        return any(run.key == key for run in self.runs)

    def adding(self, run: Run) -> Results:
        """The same, with one run more."""
        return self.model_copy(update={"runs": (*self.runs, run)})

    def groups(self) -> Iterator[tuple[int, str, list[Run]]]:
        """Runs of one size and tool, sizes ascending and tools in alphabetical order."""
        for size, tool in sorted({(run.images_per_label, run.tool) for run in self.runs}):
            yield size, tool, [run for run in self.runs if (run.images_per_label, run.tool) == (size, tool)]


def read(path: Path) -> Results:
    """Read a results file.

    Raises:
        OSError: If there is none.
        ValueError: If it is not valid (pydantic's error, which names the fields).
    """
    return Results.model_validate_json(path.read_bytes())


def write(path: Path, results: Results) -> None:
    """Replace the file as a whole, so that an interruption leaves the last one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(results.model_dump(mode="json"), indent=2) + "\n")
    temporary.replace(path)
