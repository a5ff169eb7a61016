"""Processes as /proc shows them."""

from __future__ import annotations

import subprocess
from pathlib import Path


def end(process: subprocess.Popen[bytes], seconds: float) -> int:
    """TERM, then wait for the exit code; KILL, and an error, where it hangs."""
    if process.poll() is None:
        process.terminate()
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


def processes(home: Path, module: str) -> list[int]:
    """The processes of a home that run a module, by their command line and environment."""
    found = []
    for path in Path("/proc").iterdir():
        try:
            command, variables = (path / "cmdline").read_bytes().split(b"\0"), (path / "environ").read_bytes()
        except (OSError, ValueError):
            continue
        if module.encode() in command and f"CANDOR_HOME={home}".encode() in variables:
            found.append(int(path.name))
    return found


def resident_bytes(pid: int, field: str = "VmRSS") -> int:
    """What a process holds in memory; with `VmHWM`, the most that it ever held."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields[field].split()[0]) * 1024
