"""`python -m service`: read the settings, check them, and run the server and the supervisor of jobs until TERM.

Two processes, so that the death of one takes nothing else along: `CANDOR_RUN=all` starts again what died. With `serve` there
is the server alone, in this process. With `jobs` there are both, the server without models, and the death of one ends all: in a
container somebody outside starts again.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from models.errors import SettingsError
from models.object_store import ObjectStore
from service.jobs.process import wait_for_lock
from service.keys import read_keys
from service.logs import EXIT_SETTINGS, EXIT_UNAVAILABLE, configure
from service.parent import FLAG
from service.settings import read_settings

if TYPE_CHECKING:
    from types import FrameType

    from service.settings import Settings

logger = logging.getLogger("candor.launcher")
# What drains has 30 s for it, and what trains 25 for its checkpoint.
_GRACE_S = 35
_LOOK_S = 0.1
# The parts of a launcher that was killed take a moment to notice.
_LOCK_S = 5.0
# Until a part is started again: at first, and at most, where it dies again and again.
_AGAIN_S, _AT_MOST_S, _STEADY_S = 0.5, 30.0, 60.0
_NO_USE = {EXIT_UNAVAILABLE, EXIT_SETTINGS}
# So often may a part die that was never steady.
_MOST_DEATHS = 5


def main() -> int:
    """Run until TERM, and return the exit code."""
    try:
        settings = read_settings()
        if settings.keys is not None:
            read_keys(settings.keys)
        if isinstance(settings.registry, Path) and not settings.registry.is_dir():
            raise SettingsError(
                f"CANDOR_REGISTRY={settings.registry} is no folder; is it mounted? make it, should it be a new one"
            )
        if isinstance(settings.registry, str):
            # Asks nothing: a store that is away is no reason not to start, and one that cannot be meant is.
            ObjectStore(settings.registry)
    except SettingsError as err:
        sys.stderr.write(f"{err}\n")
        return EXIT_SETTINGS
    configure()
    if settings.run == "serve":
        # Only here: the launcher of two processes needs no server in its own memory.
        return int(importlib.import_module("service.serving").serve(settings))
    lock = wait_for_lock(settings.home / "lock", _LOCK_S)
    if lock is None:
        sys.stderr.write(
            f"another service works in {settings.home}; stop it, name another folder with CANDOR_HOME, or set "
            "CANDOR_RUN=serve to serve without jobs\n"
        )
        return EXIT_SETTINGS
    return Launcher(settings, lock).run()


@dataclass
class _Part:
    """One of the two processes."""

    module: str
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    again_at: float = 0.0
    deaths: int = 0
    # Whether it ran for a while: what it refuses after that may pass.
    was_steady: bool = False
    # Whether another start would not change anything.
    is_given_up: bool = False

    def died(self, code: int, now: float) -> None:
        """Say when it is started again, if it is: what dies again and again is waited with, and in the end left."""
        is_steady = now - self.started > _STEADY_S
        self.was_steady |= is_steady
        self.deaths = 1 if is_steady else self.deaths + 1
        self.again_at = now + min(_AGAIN_S * 2 ** (self.deaths - 1), _AT_MOST_S)
        self.is_given_up = not self.was_steady and (code in _NO_USE or self.deaths >= _MOST_DEATHS)


class Launcher:
    """Starts, watches, and ends the parts."""

    def __init__(self, settings: Settings, lock: int) -> None:
        """`lock` is the home's; the parts inherit it, so that the home is free when the last of them is gone."""
        self._settings = settings
        self._lock = lock
        self._server = _Part("service.serving")
        self._supervisor = _Part("service.jobs")
        self._is_stopping = False

    def run(self) -> int:
        """Run until TERM, or until going on would be of no use."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._asked)
        if not _can_train():
            logger.warning("torch is not installed here: jobs are not run")
            self._supervisor.is_given_up = True
        code = 0
        while not self._is_stopping:
            for part in (self._server, self._supervisor):
                self._look(part)
            if self._server.is_given_up or (self._settings.run == "jobs" and self._supervisor.is_given_up):
                code = 1
                break
            time.sleep(_LOOK_S)
        return self._end() or code

    def _asked(self, number: int, frame: FrameType | None) -> None:
        self._is_stopping = True

    def _look(self, part: _Part) -> None:
        """Start a part that is not there, unless it is of no use."""
        now = time.monotonic()
        if part.process is not None and (code := part.process.poll()) is not None:
            part.process = None
            part.died(code, now)
            part.is_given_up |= self._settings.run == "jobs"
            logger.error("%s ended with %d%s", part.module, code, "" if part.is_given_up else "; starting it again")
        if part.process is None and not part.is_given_up and now >= part.again_at:
            part.started = now
            part.process = subprocess.Popen(
                [sys.executable, "-m", part.module, FLAG],
                stdin=subprocess.PIPE,
                pass_fds=(self._lock,),
                # Ctrl-C is for this process, which passes it on.
                process_group=0,
            )

    def _end(self) -> int:
        """Ask both to end, and wait; the exit code is the server's, where it still ran."""
        running = [part.process for part in (self._server, self._supervisor) if part.process is not None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        until = time.monotonic() + _GRACE_S + self._settings.drain_s
        for process in running:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        server = self._server.process
        # One that had not yet begun to listen to signals ended as it was asked to all the same.
        return 0 if server is None or server.returncode == -signal.SIGTERM else abs(server.returncode)


def _can_train() -> bool:
    """Whether this environment has what the trainer needs; looked for, and not imported."""
    return importlib.util.find_spec("torch") is not None
