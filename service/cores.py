"""The processors that this process may use: how many the cgroup allows, not the machine has, and what they can."""

from __future__ import annotations

import math
import os
from functools import cache
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
# Either set of instructions computes in bf16; without one of them it is imitated, slowly.
_BF16 = {"avx512_bf16", "amx_bf16"}


def available_cores(quota: Path = _QUOTA) -> int:
    """At least 1; a container with a quota of 1.5 processors on a machine with 64 gets 2."""
    affine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        allowed, period = quota.read_text().split()
    except (OSError, ValueError):
        return affine
    return affine if allowed == "max" else max(1, min(affine, math.ceil(int(allowed) / int(period))))


@cache
def has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this processor computes in bf16."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    return any(_BF16 & set(line.split()) for line in lines if line.startswith("flags"))
