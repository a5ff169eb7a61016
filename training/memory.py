"""How much memory there is for pixels: what the machine has left, or what the container is allowed, whichever is less."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from models.control_groups import CGROUPS, PROC, memory_groups

if TYPE_CHECKING:
    from pathlib import Path

# Of each version of control groups: the limit, what is used, and what of that is cache that can be dropped.
_VERSIONS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available_bytes(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Memory that can be taken without swapping and without being killed for it.

    Args:
        proc: Where the kernel says what the machine has.
        cgroups: Where it says what this process is allowed.
    """
    try:
        fields = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        # No Linux. Half of what the machine has is a guess, and on the safe side.
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return min([free, *_allowed(proc, cgroups)])


def _allowed(proc: Path, cgroups: Path) -> list[int]:
    """What each control group above this process has left; none where there is no limit."""
    left = []
    for folder in memory_groups(proc, cgroups):
        for limit, used, cache in _VERSIONS:
            try:
                statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                most, now = int((folder / limit).read_text()), int((folder / used).read_text())
                left.append(max(0, most - now + int(statistics[cache])))
            except (OSError, KeyError, ValueError):  # not of this version, or no limit ("max")
                continue
    return left
