"""The training benchmark: each tool from nothing to a saved model, timed as a whole, then scored on images it never saw.

`python -m benchmarks.training` goes through the plan size by size and seed by seed, the tools one after another on the same
files, so that a machine that slows down slows all of them. What is already in the results file is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import fashion, machine, results
from benchmarks.results import TRAINING_CPU, Results, Run, Setting
from benchmarks.tools import FASTAI_COMMAND, FASTAI_PYTHON, IMAGE_SIZE_PX, ROOT, TOOLS, Task, environment
from models.metrics import score
from training.progress import say

if TYPE_CHECKING:
    from collections.abc import Sequence

# How many seeds of each size (training images a label) a tool is run with.
PLAN: dict[str, dict[int, int]] = {
    "candor": {50: 3, 150: 3, 600: 1},
    "candor fine_tune": {50: 1, 150: 1},
    "candor probe": {50: 3, 150: 3, 600: 1},
    "fastai": {50: 3, 150: 3, 600: 1},
    "fastai tuned": {50: 1, 150: 1},
}
# The others are measured when --tools names them: they compare candor with itself.
DEFAULT_TOOLS = ("candor", "fastai", "fastai tuned")
SIZES = (50, 150, 600)
MOST_SEEDS = 3
_LIBRARIES = ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "pillow", "timm", "torch", "torchvision")
# What a result depends on; results and documents may change in between.
_CODE = ("models", "training", "samples", "requirements", "benchmarks", ":!benchmarks/results", ":!benchmarks/README.md")
_LOG_LINES = 20


class Timing(NamedTuple):
    """Seconds of a command with all of its processes, and what everything else on the machine computed meanwhile."""

    wall_s: float
    cpu_s: float
    other_cpu_s: float


def main() -> int:
    """Run what is missing of the plan; exit 0, 1 when a tool fails, 130 when interrupted."""
    options = _parse()
    # As Ctrl-C, so that the folder with data and models is removed and the tool that runs is ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    plan = planned(options.tools, options.sizes, options.seeds)
    test_pictures, training_pictures = fashion.load("t10k"), fashion.load("train")
    measured = begin(options.out, _setting(), fresh=options.fresh)
    try:
        with tempfile.TemporaryDirectory(prefix="candor-bench-") as work:
            fashion.write_test(Path(work, "test"), test_pictures)
            for size, seed, tools in plan:
                missing = [tool for tool in tools if not measured.has((tool, size, seed))]
                data = Path(work, f"data-{size}-{seed}")
                if missing:
                    fashion.write_training(data, training_pictures, size, seed)
                for tool in missing:
                    task = Task(data, size, seed, Path(work, f"{tool.replace(' ', '-')}-{size}-{seed}"))
                    measured = measured.adding(_run(tool, task, Path(work, "test")))
                    results.write(options.out, measured)
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from here")
        return 130
    except subprocess.CalledProcessError as err:
        say(f"{' '.join(err.cmd)}\nfailed with {err.returncode}:\n{err.stderr}")
        return 1
    return 0


def planned(tools: Sequence[str], sizes: Sequence[int], most_seeds: int) -> list[tuple[int, int, list[str]]]:
    """What to run, in order: size, seed, and the tools of that size and seed.

    Args:
        tools: Names out of `PLAN`.
        sizes: Training images a label, out of `SIZES`.
        most_seeds: Never more seeds than this, whatever is planned.
    """
    steps = []
    for size in sizes:
        for seed in range(most_seeds):
            chosen = [tool for tool in tools if seed < PLAN[tool].get(size, 0)]
            if chosen:
                steps.append((size, seed, chosen))
    return steps


def timed(command: Sequence[str], env: dict[str, str], log: Path) -> Timing:
    """Run a command and time all of it, from the start of the process to its end.

    Raises:
        subprocess.CalledProcessError: If it fails; `stderr` holds the end of what it printed.
    """
    with log.open("w") as output:
        own, machine, started = _children_cpu_s(), _machine_cpu_s(), time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, env=env, stdout=output, stderr=subprocess.STDOUT, check=False)
        wall_s, machine, own = time.perf_counter() - started, _machine_cpu_s() - machine, _children_cpu_s() - own
    if done.returncode:
        end = "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
        raise subprocess.CalledProcessError(done.returncode, list(command), stderr=end)
    return Timing(wall_s, own, max(0.0, machine - own))


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _machine_cpu_s() -> float:
    """Seconds that all cores together have computed since the machine started."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _run(name: str, task: Task, test: Path) -> Run:
    tool = TOOLS[name]
    task.out.mkdir()
    timing = timed(tool.command(task), {**environment(), "CANDOR_HOME": str(task.out)}, task.out / "log.txt")
    answers = tool.answer(task, test)
    scores = score(answers.probabilities, answers.labels)
    say(
        f"{task.images_per_label} a label, seed {task.seed}, {name}: accuracy {scores.accuracy:.4f}, nll {scores.nll:.3f}, "
        f"ece {scores.ece:.3f}, {timing.wall_s:.0f} s"
    )
    return Run(
        tool=name,
        images_per_label=task.images_per_label,
        seed=task.seed,
        wall_s=round(timing.wall_s, 2),
        cpu_s=round(timing.cpu_s, 2),
        other_cpu_s=round(timing.other_cpu_s, 2),
        test=scores,
        detail=tool.detail(task),
    )


def begin(path: Path, setting: Setting, *, fresh: bool) -> Results:
    """What was measured in this very setting before, or nothing."""
    empty = Results(setting=setting, image_size_px=IMAGE_SIZE_PX, runs=())
    if fresh or not path.exists():
        return empty
    before = results.read(path)
    if before.setting != setting or setting.commit.endswith("+changes"):
        say(f"{path} is of commit {before.setting.commit}, other libraries or another machine; measuring all of it again")
        return empty
    say(f"{path} has {len(before.runs)} runs of this commit already (--fresh to measure them again)")
    return before


def _setting() -> Setting:
    """Read code, machine and libraries. Both environments import what they need once, so that no timed run is the first."""
    subprocess.run([sys.executable, "-c", "import training.fit"], cwd=ROOT, env=environment(), check=True)
    theirs = subprocess.run(
        [*FASTAI_COMMAND, "libraries"], cwd=ROOT, env=environment(), check=True, capture_output=True, text=True
    )
    return Setting(
        commit=machine.commit(*_CODE),
        cpu=machine.cpu(),
        cores=len(os.sched_getaffinity(0)),
        libraries={"candor": machine.libraries(_LIBRARIES), "fastai": json.loads(theirs.stdout)},
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description="Time and score training, side by side.")
    parser.add_argument("--sizes", type=_sizes, default=SIZES, help="training images a label (default: 50,150,600)")
    parser.add_argument("--seeds", type=int, default=MOST_SEEDS, help="at most so many seeds of each size (default: 3)")
    parser.add_argument(
        "--tools", type=_tools, default=DEFAULT_TOOLS, help=f"out of {','.join(PLAN)} (default: {','.join(DEFAULT_TOOLS)})"
    )
    parser.add_argument("--out", type=Path, default=TRAINING_CPU, help="the results file")
    parser.add_argument("--fresh", action="store_true", help="forget what was measured before")
    options = parser.parse_args()
    if not FASTAI_PYTHON.exists():
        parser.error(f"{FASTAI_PYTHON.relative_to(ROOT)} is missing; make bench-training makes it")
    return options


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(int(item) for item in text.split(","))
    if strangers := set(sizes) - set(SIZES):
        raise argparse.ArgumentTypeError(f"{min(strangers)} is not planned; expected some of {','.join(map(str, SIZES))}")
    return sizes


def _tools(text: str) -> tuple[str, ...]:
    tools = tuple(text.split(","))
    if strangers := set(tools) - PLAN.keys():
        raise argparse.ArgumentTypeError(f"{min(strangers)!r} is no tool; expected some of {','.join(PLAN)}")
    return tools


if __name__ == "__main__":
    sys.exit(main())
