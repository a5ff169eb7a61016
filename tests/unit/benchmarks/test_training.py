"""The driver: what is planned, what is taken over from before, and how a command is timed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.tools import TOOLS
from benchmarks.training import DEFAULT_TOOLS, MOST_SEEDS, PLAN, SIZES, begin, planned, timed
from tests.unit.benchmarks.test_table import MEASURED, SETTING


def test_the_whole_plan_goes_size_by_size_and_seed_by_seed() -> None:
    steps = planned(tuple(PLAN), SIZES, MOST_SEEDS)
    assert [(size, seed) for size, seed, _ in steps] == [(50, 0), (50, 1), (50, 2), (150, 0), (150, 1), (150, 2), (600, 0)]
    assert [tools for size, seed, tools in steps if "fastai tuned" in tools] == [list(PLAN)] * 2
    assert sum(len(tools) for _, _, tools in steps) == sum(sum(sizes.values()) for sizes in PLAN.values())


def test_every_tool_is_planned_for_sizes_that_there_are() -> None:
    assert PLAN.keys() == TOOLS.keys()
    assert set(DEFAULT_TOOLS) <= PLAN.keys()
    assert all(set(sizes) <= set(SIZES) and max(sizes.values()) <= MOST_SEEDS for sizes in PLAN.values())


def test_sizes_seeds_and_tools_narrow_it() -> None:
    assert planned(("fastai", "candor"), (150, 600), 1) == [(150, 0, ["fastai", "candor"]), (600, 0, ["fastai", "candor"])]
    assert planned(("fastai tuned",), (600,), 3) == []


def test_runs_of_the_same_setting_are_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results.write(path, MEASURED)
    assert begin(path, SETTING, fresh=False) == MEASURED
    assert begin(path, SETTING, fresh=False).has(("candor", 150, 1))
    assert not begin(path, SETTING, fresh=False).has(("candor", 150, 2))


@pytest.mark.parametrize(
    "change",
    [{"commit": "f" * 40}, {"cpu": "Another"}, {"libraries": {"candor": {}, "fastai": {}}}],
    ids=lambda change: next(iter(change)),
)
def test_runs_of_another_setting_are_not(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "results.json"
    results.write(path, MEASURED)
    assert begin(path, SETTING.model_copy(update=change), fresh=False).runs == ()


def test_runs_of_uncommitted_code_are_not(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    unsure = SETTING.model_copy(update={"commit": f"{SETTING.commit}+changes"})
    results.write(path, MEASURED.model_copy(update={"setting": unsure}))
    assert begin(path, unsure, fresh=False).runs == ()


def test_fresh_forgets(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results.write(path, MEASURED)
    assert begin(path, SETTING, fresh=True).runs == ()


def test_a_command_is_timed_with_its_children(tmp_path: Path) -> None:
    burn = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    both = f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {burn!r}]); time.sleep(0.3)"
    timing = timed([sys.executable, "-c", both], dict(os.environ), tmp_path / "log.txt")
    assert timing.wall_s > 0.6
    assert timing.cpu_s > 0.3


def test_what_other_processes_compute_is_told_apart(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            timing = timed([sys.executable, "-c", "import time; time.sleep(1)"], dict(os.environ), tmp_path / "log.txt")
        finally:
            other.kill()
    assert timing.other_cpu_s > 0.2
    assert timing.cpu_s < 0.9


def test_a_command_that_fails_says_how_it_ended(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        timed([sys.executable, "-c", "print('one'); raise SystemExit('no weights')"], dict(os.environ), tmp_path / "log.txt")
    assert failed.value.returncode == 1
    assert "one" in failed.value.stderr
    assert "no weights" in failed.value.stderr
