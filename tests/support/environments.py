"""An environment that holds the service and nothing else: no torch, no tests, and nothing for a GPU."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.server import ROOT

LOCK = ROOT / "requirements" / "service-cpu.txt"


def service_python() -> Path:
    """The interpreter of an environment made from the lock of the service without a GPU.

    It lies in the system's folder for temporary files under the lock's digest, so that another run finds it.
    """
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"candor-service-{os.getuid()}-{digest}"
    uv, inside = Path(sys.executable).with_name("uv"), {**os.environ, "VIRTUAL_ENV": str(folder)}
    if not (folder / "bin" / "python").exists():
        subprocess.run([uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, folder], env=inside, check=True)
    subprocess.run([uv, "pip", "sync", "--quiet", "--require-hashes", LOCK], env=inside, check=True)
    return folder / "bin" / "python"
