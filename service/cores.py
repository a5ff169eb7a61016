"""How many processors this process may use: what the cgroup allows, not what the machine has."""

from __future__ import annotations

import math
import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def available_cores(quota: Path = _QUOTA) -> int:
    """At least 1; a container with a quota of 1.5 processors on a machine with 64 gets 2."""
    affine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        allowed, period = quota.read_text().split()
    except (OSError, ValueError):
        return affine
    return affine if allowed == "max" else max(1, min(affine, math.ceil(int(allowed) / int(period))))
