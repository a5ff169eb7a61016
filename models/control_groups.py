"""The control groups of this process, where the kernel says what it may have and what became of its processes."""

from __future__ import annotations

from pathlib import Path

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def memory_groups(proc: Path = PROC, cgroups: Path = CGROUPS) -> list[Path]:
    """The folders of this process's group and all above it, the innermost first; in a container only the top is to be seen.

    Args:
        proc: Where the kernel lists processes.
        cgroups: Where it mounts the groups, of either version.
    """
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        lines = []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in {"", "memory"}:
            top = cgroups / controllers
            inner = top / path.lstrip("/")
            found += [folder for folder in (inner, *inner.parents) if folder.is_relative_to(top)]
    return list(dict.fromkeys([*found, cgroups, cgroups / "memory"]))
