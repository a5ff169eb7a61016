"""Stands in for kubectl where there is no cluster: what needs none is done, and a process on this machine is the pods.

`exec` runs the command here, `apply` renders and validates, applying the reader's folder or scaling up starts the service, and
scaling down ends it. Whatever else there is needs a cluster, and is left out.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.support.server import ROOT, environment

HOME, PORT = Path(os.environ["STAND_IN_HOME"]), os.environ["STAND_IN_PORT"]
KUBECTL = Path(sys.executable).parent / "kubectl"
_PROCESS = HOME / "service.pid"


def main(arguments: list[str]) -> int:
    """Do what one call asks for."""
    verb = next((word for word in arguments if word in ("exec", "apply", "kustomize", "scale")), "")
    if verb == "kustomize" or "--dry-run=client" in arguments:
        os.execv(KUBECTL, [str(KUBECTL), *arguments])
    if verb == "exec":
        return _exec(arguments[arguments.index("--") + 1 :])
    if verb == "apply":
        return _apply(arguments[arguments.index("apply") + 1 :])
    if verb == "scale":
        (_start if "--replicas=1" in arguments else stop)()
    return 0


def _exec(command: list[str]) -> int:
    """In the pod's folders."""
    command = [re.sub(r"/var/lib/candor\b|/tmp\b", str(HOME), word) for word in command]
    command[0] = sys.executable if command[0] == "python" else command[0]
    return subprocess.run(command, env=environment(HOME), check=False).returncode


def _apply(arguments: list[str]) -> int:
    # Only here: it takes a second, and most calls are others.
    import yaml

    from tests.support.cluster_schema import findings_of

    option, target = arguments
    if option == "-k":
        text = subprocess.run([KUBECTL, "kustomize", target], capture_output=True, text=True, check=True).stdout
    else:
        text = sys.stdin.read() if target == "-" else Path(target).read_text()
    found = [finding for item in yaml.safe_load_all(text) for finding in findings_of(item)]
    sys.stderr.writelines(f"{finding}\n" for finding in found)
    if not found and target == "deploy":
        _start()
    return len(found)


def _start() -> None:
    if _PROCESS.exists():
        return
    variables = environment(HOME, port=PORT, keys=Path("deploy/keys.json").absolute())
    with (HOME / "service.log").open("ab") as log:
        command = [sys.executable, "-m", "service"]
        process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=log, stderr=log, start_new_session=True)
    _PROCESS.write_text(str(process.pid))


def stop(seconds: float = 60) -> None:
    """End the service, and wait until it is gone."""
    if not _PROCESS.exists():
        return
    pid = int(_PROCESS.read_text())
    _PROCESS.unlink()
    os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + seconds
    while _runs(pid):
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def _runs(pid: int) -> bool:
    try:
        # Whoever started it may not have taken leave of it yet.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
