"""The servers that candor's is measured against: how each is started, asked, waited for and ended.

Each runs in an environment of its own (`make peers`), and on loopback only.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.peers.core import ARTIFACT, HOST, PORT, Classifier

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent.parent
_PROBE = ROOT / "samples" / "cat.jpg"
_START_S, _ASK_S, _STOP_S = 120, 30, 20
_BOUNDARY = "peers-boundary"


class PeerError(Exception):
    """A peer did not start, or does not answer as it must."""


@dataclass(frozen=True)
class Peer:
    """One server.

    Attributes:
        name: Also of its environment and its lock.
        command: What its environment's Python or another program of it is started with; `{port}` stands for the port.
        path: Where it answers POST.
        is_multipart: Whether an image goes into the field `image` of a form, or is the body.
        decodes_alike: Whether it decodes as candor does, so that its probabilities are the same, and not only its first label.
        variables: What its environment has besides.
    """

    name: str
    command: tuple[str, ...]
    path: str = "/classify"
    is_multipart: bool = False
    decodes_alike: bool = True
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> Path:
        """The virtual environment."""
        return ROOT / "benchmarks" / f".venv-{self.name}"

    @property
    def is_installed(self) -> bool:
        """Whether `make peers` has installed it."""
        return (self.environment / ".installed").is_file()

    @property
    def version(self) -> str:
        """As the lock has it."""
        lock = Path(__file__).with_name(f"requirements-{self.name}.txt").read_text()
        found = re.search(rf"^{self.name}==([^ ;]+)", lock, re.MULTILINE)
        if found is None:
            raise PeerError(f"requirements-{self.name}.txt does not hold {self.name}; run make lock")
        return found[1]

    def argv(self, port: int) -> list[str]:
        """The command that serves at `port`."""
        program, *rest = self.command
        return [str(self.environment / "bin" / program), *(part.format(port=port) for part in rest)]

    def request(self, jpeg: bytes) -> tuple[dict[str, str], bytes]:
        """The headers and the body that ask about one image."""
        if not self.is_multipart:
            return {"Content-Type": "image/jpeg"}, jpeg
        fields = 'Content-Disposition: form-data; name="image"; filename="image.jpg"\r\nContent-Type: image/jpeg'
        body = f"--{_BOUNDARY}\r\n{fields}\r\n\r\n".encode() + jpeg + f"\r\n--{_BOUNDARY}--\r\n".encode()
        return {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}, body

    def ask(self, jpeg: bytes, port: int) -> list[dict[str, Any]]:
        """Classify one image: `[{"label", "probability"}, ...]`, descending.

        Raises:
            PeerError: If it is not answered.
        """
        headers, body = self.request(jpeg)
        connection = http.client.HTTPConnection(HOST, port, timeout=_ASK_S)
        try:
            connection.request("POST", self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as err:
            raise PeerError(f"{self.name} does not answer: {err!r}") from err
        finally:
            connection.close()
        if answer.status != http.client.OK:
            raise PeerError(f"{self.name} answers {answer.status}: {content[:200]!r}")
        found = json.loads(content)
        # BentoML batches by joining lists, so one image is a list of one.
        predictions: list[dict[str, Any]] = (found[0] if isinstance(found, list) else found)["predictions"]
        return predictions


_MODULE = "benchmarks.peers.{}_app"
PEERS = (
    Peer("fastapi", ("python", "-m", _MODULE.format("fastapi"))),
    Peer("litserve", ("python", "-m", _MODULE.format("litserve"))),
    Peer(
        "mosec",
        ("python", "-m", _MODULE.format("mosec"), "--address", HOST, "--port", "{port}", "--log-level", "warning"),
        path="/inference",
    ),
    # The variable is Ray's way to keep all its listeners on loopback; unless told otherwise, it also reports its use.
    Peer(
        "ray",
        ("python", "-m", _MODULE.format("ray")),
        variables={"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"},
    ),
    Peer(
        "bentoml",
        ("bentoml", "serve", f"{_MODULE.format('bentoml')}:Classify", "--host", HOST, "--port", "{port}"),
        is_multipart=True,
        decodes_alike=False,
        variables={"BENTOML_DO_NOT_TRACK": "true"},
    ),
)


@contextmanager
def running(peer: Peer, artifact: Path, port: int) -> Iterator[Peer]:
    """Serve `artifact` while the context lasts; it has answered one image correctly when the context begins.

    Args:
        peer: Which.
        artifact: The folder of one version.
        port: A free one.

    Raises:
        PeerError: If it is not installed, does not start, or answers wrongly.
    """
    if not peer.is_installed:
        raise PeerError(f"{peer.name} is not installed; run make peers")
    with tempfile.TemporaryDirectory(prefix=f"candor-{peer.name}-") as scratch:
        told = {ARTIFACT: str(artifact.resolve()), PORT: str(port), **peer.variables}
        # So that nothing of it lies about afterwards.
        kept = dict.fromkeys(("TMPDIR", "BENTOML_HOME", "RAY_TMPDIR"), scratch)
        log = Path(scratch) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                peer.argv(port),
                cwd=ROOT,
                env=os.environ | told | kept,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            _wait(peer, process, artifact, port, log)
            yield peer
        finally:
            _end(process)


def _wait(peer: Peer, process: subprocess.Popen[bytes], artifact: Path, port: int, log: Path) -> None:
    """Ask until the answer comes, and compare it with what the same file gives in this process."""
    jpeg = _PROBE.read_bytes()
    until, last = time.monotonic() + _START_S, "no answer"
    while True:
        if process.poll() is not None or time.monotonic() > until:
            raise PeerError(f"{peer.name} did not serve within {_START_S} s ({last}):\n{log.read_text()[-2000:]}")
        try:
            found = peer.ask(jpeg, port)
            break
        except PeerError as err:
            last = str(err)
            time.sleep(0.2)
    here = Classifier(artifact, threads=1)
    expected = here.predict(here.decode(jpeg)[None])[0]["predictions"][0]["label"]
    if found[0]["label"] != expected:
        raise PeerError(f"{peer.name} answers {found[0]}, expected the label {expected!r}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """TERM to the server, and KILL to whatever of it, or of what it started, is left after a while."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    # Those that were there, and those of its session whose parent ended before they were counted.
    left = {*psutil.wait_procs(family, timeout=1)[1], *_session(process.pid)}
    for one in left:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(left, timeout=_STOP_S)


def _session(leader: int) -> list[psutil.Process]:
    found = []
    for one in psutil.process_iter():
        with suppress(ProcessLookupError):
            if os.getsid(one.pid) == leader:
                found.append(one)
    return found
