"""A trainer in a process of its own that does what the real one promises a supervisor, without torch, in milliseconds.

What it does wrong is said in `TRAINER_FAULT`; how long an epoch takes in `TRAINER_EPOCH_S`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.registry import Registry

EPOCHS = 4
HOME = Path(os.environ.get("CANDOR_HOME", ""))
FAULT = os.environ.get("TRAINER_FAULT", "")
EPOCH_S = float(os.environ.get("TRAINER_EPOCH_S", "0.05"))


class Stopped(BaseException):
    """SIGTERM came."""


def main() -> int:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command")
    fit = commands.add_parser("fit")
    fit.add_argument("data", nargs="+")
    for flag in ("--name", "--recipe", "--run", "--start-from", "--events"):
        fit.add_argument(flag)
    fit.add_argument("--no-promote", action="store_true")
    gate = commands.add_parser("gate")
    gate.add_argument("reference")
    gate.add_argument("--out", type=Path)
    for command in (fit, gate):
        command.add_argument("--heartbeat", type=Path)
    options = parser.parse_args()
    threading.Thread(target=beat, args=(options.heartbeat,), daemon=True).start()
    signal.signal(signal.SIGTERM, stop)
    if FAULT == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return train(options) if options.command == "fit" else judge(options)


def beat(file: Path) -> None:
    while FAULT != "silent":
        file.touch()
        time.sleep(0.05)


def stop(*_: object) -> None:
    raise Stopped


def train(options: argparse.Namespace) -> int:
    run = HOME / "runs" / options.run
    run.mkdir(parents=True, exist_ok=True)
    checkpoint = run / "epoch"

    def tell(event: str, **fields: object) -> None:
        with Path(options.events).open("a") as file:
            file.write(json.dumps({"time": time.time(), "event": event, **fields}) + "\n")

    if FAULT == "child":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
        (run / "child").write_text(str(child.pid))
    if FAULT == "full disk":
        return 74
    if FAULT == "refuse":
        tell("failed", code="invalid_dataset", error="label 'cat' has no image")
        return 2
    done = int(checkpoint.read_text()) if checkpoint.exists() else 0
    tell("plan", epochs=EPOCHS)
    try:
        for epoch in range(done, EPOCHS):
            time.sleep(EPOCH_S)
            if FAULT == "crash" or (FAULT == "crash once" and not (run / "crashed").exists()):
                (run / "crashed").touch()
                sys.stdout.write("about to die\n")
                sys.stdout.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            checkpoint.write_text(str(epoch + 1))
            tell("epoch", epoch=epoch + 1, loss=1.0 / (epoch + 1), seconds=EPOCH_S)
        while FAULT in {"hang", "deaf", "silent"}:
            time.sleep(0.1)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if FAULT.startswith("unreachable") and is_away():
            tell("failed", code="registry_unreachable", error="s3://candor/registry cannot be reached: timed out")
            return 69
    except Stopped:
        tell("stopped", kept=True)
        return 75
    tell("published", version=publish(options.name, options.run))
    return 0


def is_away() -> bool:
    """Whether the registry is: the first three times, or `always`."""
    with (HOME / "unreached").open("a") as file:
        file.write(".")
        return file.tell() <= 3 or FAULT.endswith("always")


def shared() -> Registry:
    from models.open_registry import open_registry
    from models.settings import read_home_settings

    settings = read_home_settings()
    return open_registry(settings.registry_place, settings.cache_root)


def publish(name: str, run: str) -> int:
    # Imported late: who crashes or hangs before does not need it.
    from models.manifest import Manifest

    registry = shared()
    version = registry.find_run(name, run)
    if version is None:
        # Made beforehand, since who makes it takes seconds to be imported.
        card = Manifest.parse((HOME / "manifest.json").read_bytes()).model_copy(update={"run": run})
        version = registry.publish(HOME / "artifact", card, first_is_production=False).version
        registry.nominate(name, version)
    return version


def report(name: str, version: int) -> bytes:
    """Says what was asked for: `TRAINER_FAULT=worse` rejects."""
    from models.gate_report import Check, GateReport

    is_worse = FAULT == "worse"
    sentence = "accuracy 0.41, and production has 0.88"
    check = Check(
        name="accuracy", passed=not is_worse, is_required=True, candidate=0.41, production=0.88, bound=None, sentence=sentence
    )
    return GateReport(
        schema_version=1,
        name=name,
        candidate=version,
        production=shared().aliases(name).production,
        verdict="reject" if is_worse else "promote",
        at=datetime.now(UTC),
        holdout_sha256=None,
        images=100,
        checks=(check,),
        reasons=(sentence,) if is_worse else (),
    ).to_bytes()


def judge(options: argparse.Namespace) -> int:
    time.sleep(EPOCH_S)
    if FAULT == "gate crashes":
        return 70
    if FAULT == "gate unreachable" and is_away():
        return 69
    name, version = options.reference.split(":")
    options.out.write_bytes(report(name, int(version)))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Stopped:
        sys.exit(75)
