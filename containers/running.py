"""An image's files, run as a cluster would run them: its own user, nothing writable but two folders, on loopback.

The process is the image's entry point itself, in a mount namespace of its own, so it ends as its container would.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_START_S, _STOP_S, _ASK_S = 180, 60, 10
# What the service may write: mounted by a cluster, and empty.
_WRITABLE = ("/tmp", "/var/lib/candor")  # noqa: S108 - a folder of the image


class RunError(Exception):
    """The image does not do what it should when it runs."""


@dataclass(frozen=True)
class Running:
    """A service that answers."""

    url: str
    ready_s: float


@contextlib.contextmanager
def runs(root: Path, settings: dict[str, list[str]]) -> Iterator[Running]:
    """Run an image until the block ends, and see it end in good order.

    Raises:
        RunError: If it does not become ready, or does not end with 0 when it is asked to.
    """
    port = _free_port()
    variables = {"CANDOR_HOST": "127.0.0.1", "CANDOR_PORT": str(port)}
    with tempfile.TemporaryFile("w+") as log:
        started = time.monotonic()
        process = subprocess.Popen(command(root, settings, variables), stdout=log, stderr=log)
        try:
            _wait_ready(process, f"http://127.0.0.1:{port}/readyz", log)
            yield Running(f"http://127.0.0.1:{port}", time.monotonic() - started)
            process.send_signal(signal.SIGTERM)
            code = process.wait(_STOP_S)
            if code != 0:
                raise RunError(f"asked to end, it ended with {code}:\n{_read(log)}")
        finally:
            process.kill()
            process.wait()


def refusal(root: Path, settings: dict[str, list[str]]) -> str:
    """What an image says that has nothing but its own settings, and ends."""
    done = subprocess.run(command(root, settings, {}), capture_output=True, text=True, timeout=_START_S, check=False)
    return done.stderr


def command(root: Path, settings: dict[str, list[str]], variables: dict[str, str]) -> list[str]:
    """What runs an image's entry point: mounts that nobody else sees, then the image's root, user, folder and environment."""
    inside = {**dict(entry.split("=", 1) for entry in settings["Env"]), **variables}
    user = str(settings["User"])
    uid, gid = user.split(":")
    where = shlex.quote(str(root))
    lines = [f"mount --bind {where} {where}", f"mount -o remount,bind,ro {where}"]
    lines += [f"mount -t tmpfs -o mode=0700,uid={uid},gid={gid} tmpfs {where}{folder}" for folder in _WRITABLE]
    lines += [f"mount --rbind /{folder} {where}/{folder}" for folder in ("proc", "dev")]
    start = ["env", "--ignore-environment", f"--chdir={settings['WorkingDir']}"]
    start += [*(f"{name}={value}" for name, value in inside.items()), *settings["Entrypoint"]]
    lines.append(f"exec chroot --userspec={user} --groups= {where} /usr/bin/{shlex.join(start)}")
    return ["unshare", "--mount", "sh", "-ec", "\n".join(lines)]


def classify(url: str, image: Path) -> str:
    """The first label of an image, with its probability.

    Raises:
        RunError: If the answer is none.
    """
    request = urllib.request.Request(f"{url}/classify", image.read_bytes(), {"content-type": "image/jpeg"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=_ASK_S) as answer:  # noqa: S310
            first = json.load(answer)["results"][0]["predictions"][0]
    except OSError as err:
        raise RunError(f"/classify did not answer: {err}") from err
    return f"{first['label']}, {first['probability']:.2f}"


def _wait_ready(process: subprocess.Popen[bytes], url: str, log: IO[str]) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RunError(f"it ended with {process.returncode}:\n{_read(log)}")
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=_ASK_S):  # noqa: S310
            return
        time.sleep(0.1)
    raise RunError(f"not ready after {_START_S} s:\n{_read(log)}")


def _read(log: IO[str]) -> str:
    log.seek(0)
    return log.read()[-3000:]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
