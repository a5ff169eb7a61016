"""Processors: what the cgroup allows, not what the machine has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.cores import available_cores

MACHINE = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", MACHINE),
        ("50000 100000", 1),
        ("100000 100000", 1),
        ("150000 100000", min(2, MACHINE)),
        ("junk", MACHINE),
        ("6400000 100000", MACHINE),
    ],
)
def test_quota_bounds_the_cores(tmp_path: Path, quota: str, expected: int) -> None:
    (tmp_path / "cpu.max").write_text(quota + "\n")
    assert available_cores(tmp_path / "cpu.max") == expected


def test_no_cgroup_means_the_machine(tmp_path: Path) -> None:
    assert available_cores(tmp_path / "none") == MACHINE
