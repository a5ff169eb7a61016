"""A command as in a pod: only some folders can be written, and its network is its own.

python -m tests.support.pod FOLDER... -- COMMAND...      inside `unshare --mount --net`, which `Pod` calls
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.processes import end
from tests.support.server import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# What the kernel makes, and what containers have writable as well.
_LEFT = ("/proc", "/sys", "/dev")
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_UNSHARE = ["unshare", "--mount", "--net", *([] if os.geteuid() == 0 else ["--map-root-user"])]


def can_unshare() -> bool:
    """Whether this system lets us have namespaces of our own."""
    if not all(shutil.which(tool) for tool in ("unshare", "nsenter", "mount", "curl")):
        return False
    return subprocess.run([*_UNSHARE, "true"], capture_output=True, check=False).returncode == 0


class Pod:
    """A running command; what it says is in `log`."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    def curl(self, *arguments: str) -> tuple[int, str]:
        """Ask from inside: the status and the body; 0 where there is no answer."""
        command = ["nsenter", "--net", "--preserve-credentials", "--target", str(self.process.pid), "curl", "--silent"]
        if os.geteuid() != 0:
            command.insert(1, "--user")
        asked = [*command, "--max-time", "60", "--write-out", "\n%{http_code}", *arguments]
        done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=90)
        body, _, status = done.stdout.rpartition("\n")
        return int(status), body

    def wait(self, status: int, *arguments: str, seconds: float = 120) -> str:
        """Ask until the answer has this status, and return its body."""
        until = time.monotonic() + seconds
        last: tuple[int, str] = (0, "")
        while time.monotonic() < until:
            assert self.process.poll() is None, self.log.read_text()
            last = self.curl(*arguments)
            if last[0] == status:
                return last[1]
            time.sleep(0.2)
        raise AssertionError(f"{arguments} did not answer {status} (last: {last})\n{self.log.read_text()}")

    def term(self, seconds: float) -> int:
        """TERM, then wait for the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


@contextmanager
def run_pod(command: Sequence[str], variables: Mapping[str, str], writable: Sequence[Path], log: Path) -> Iterator[Pod]:
    """Run a command with these variables and no others of ours, able to write to these folders and nowhere else."""
    inside = [sys.executable, "-m", "tests.support.pod", *map(str, writable), "--", *command]
    given = {key: value for key, value in os.environ.items() if not key.startswith("CANDOR_")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*_UNSHARE, *inside], cwd=ROOT, env={**given, **variables}, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield Pod(process, log)
    finally:
        end(process, 60)


def main() -> None:
    """Close everything but the folders, and become the command."""
    split = sys.argv.index("--")
    folders, command = sys.argv[1:split], sys.argv[split + 1 :]
    _mount("--make-rprivate", "/")
    for folder in folders:
        _mount("--bind", folder, folder)
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for place in dict.fromkeys(mounted):
        if place not in folders and not place.startswith(_LEFT):
            _mount("--options", "remount,bind,ro", place)
    for place in (ROOT, Path("/"), Path("/tmp")):
        assert not _is_writable(place), f"{place} can be written"
    _raise_loopback()
    os.execvp(command[0], command)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, timeout=10)


def _is_writable(place: Path) -> bool:
    try:
        (place / ".probe").touch()
    except OSError:
        return False
    (place / ".probe").unlink()
    return True


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
        request = struct.pack("16sh", b"lo", 0)
        flags = struct.unpack("16sh", fcntl.ioctl(device, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(device, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | _IFF_UP))


if __name__ == "__main__":
    main()
