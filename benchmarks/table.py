"""The tables of `benchmarks/README.md`, rendered from the results files and from nothing else."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import results, serving_table
from benchmarks.results import TRAINING_CPU

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.results import Results, Run

README = Path(__file__).with_name("README.md")
SERVING_CPU = Path(__file__).with_name("results") / "serving-cpu.json"
BEGIN, END = "<!-- training-cpu: begin -->", "<!-- training-cpu: end -->"
SERVING_BEGIN, SERVING_END = "<!-- serving-cpu: begin -->", "<!-- serving-cpu: end -->"
_SHOWN_LIBRARIES = ("torch", "timm", "fastai")


def main() -> int:
    """Rewrite what stands between the markers, of whatever was measured."""
    if TRAINING_CPU.exists():
        README.write_text(place(README.read_text(), render(results.read(TRAINING_CPU))))
    if SERVING_CPU.exists():
        serving = serving_table.render(json.loads(SERVING_CPU.read_text()))
        README.write_text(place(README.read_text(), serving, SERVING_BEGIN, SERVING_END))
    return 0


def place(document: str, text: str, begin_mark: str = BEGIN, end_mark: str = END) -> str:
    """Put `text` between the two markers.

    Raises:
        ValueError: If the document does not have both, once and in order.
    """
    before, begin, rest = document.partition(begin_mark)
    _, end, after = rest.partition(end_mark)
    if not begin or not end or begin_mark in rest or end_mark in after:
        raise ValueError(f"the document needs {begin_mark} and after it {end_mark}, once each")
    return f"{before}{begin_mark}\n{text}\n{end_mark}{after}"


def render(measured: Results) -> str:
    """Two tables and the line that says where they were measured."""
    parts = [_where(measured), _scores(measured), _candidates(measured)]
    return "\n\n".join(part for part in parts if part)


def _where(measured: Results) -> str:
    setting = measured.setting
    theirs = setting.libraries["fastai"]
    libraries = ", ".join(f"{name} {theirs[name]}" for name in _SHOWN_LIBRARIES if name in theirs)
    others = max(run.other_cpu_s / (run.wall_s * setting.cores) for run in measured.runs)
    return (
        f"Fashion-MNIST at {measured.image_size_px} px, {setting.cores} cores of {setting.cpu}, commit "
        f"`{setting.commit[:12]}`, {libraries}. "
        f"Everything else on the machine took at most {others:.0%} of its cores' time during a run."
    )


def _scores(measured: Results) -> str:
    rows = [
        (str(size), tool, _spread(runs, "accuracy", 3), _spread(runs, "nll", 3), _spread(runs, "ece", 3), _seconds(runs))
        for size, tool, runs in measured.groups()
    ]
    return _table(("images a label", "tool", "accuracy", "NLL", "ECE", "wall time, s"), rows)


def _spread(runs: Sequence[Run], metric: str, digits: int) -> str:
    return _mean_and_range([getattr(run.test, metric) for run in runs], digits)


def _seconds(runs: Sequence[Run]) -> str:
    return _mean_and_range([run.wall_s for run in runs], 0)


def _mean_and_range(values: Sequence[float], digits: int) -> str:
    """`mean (lowest to highest)`, or the one value."""
    mean = f"{sum(values) / len(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _candidates(measured: Results) -> str:
    """What candor had to choose from; empty where no run fine-tuned."""
    runs = [run for _, _, group in measured.groups() for run in group if len(run.detail.get("validation", {})) > 1]
    if not runs:
        return ""
    names = list(dict.fromkeys(name for run in runs for name in run.detail["validation"]))
    rows = []
    for run in runs:
        scores = run.detail["validation"]
        cells = [f"{scores[name]['accuracy']:.3f}, {scores[name]['nll']:.3f}" if name in scores else "" for name in names]
        rows.append(
            (str(run.images_per_label), run.tool, str(run.seed), str(run.detail["epochs"]), *cells, run.detail["published"])
        )
    heading = ("images a label", "tool", "seed", "epochs", *names, "published")
    return "Accuracy and NLL of each candidate on the validation images, by which candor chooses:\n\n" + _table(heading, rows)


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
