"""`python -m service.serving`: the server, until TERM.

BentoML is given a home of its own and told not to report before it is imported: its servers delete each other's files
where they share one.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import os
import shutil
import signal
import sys
import tempfile
from typing import TYPE_CHECKING, Any

import uvicorn

from models.errors import SettingsError
from service.http import protocol
from service.logs import EXIT_UNAVAILABLE, configure
from service.parent import when_parent_ends
from service.settings import Settings, read_settings_or_exit

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from service.engine import EngineRef

_GRACE_S = 30
_KEEP_ALIVE_S = 75
_LOOK_S = 0.1


def main() -> int:
    """Serve, and return the exit code: 69 where it never listened, 2 for settings."""
    settings = read_settings_or_exit()
    configure()
    return serve(settings)


def serve(settings: Settings) -> int:
    """See `main`."""
    code, engine = _serve(settings)
    if engine.is_loading:
        # Python would wait for the thread, and that for the bucket from which it downloads; nothing of it is needed.
        logging.shutdown()
        os._exit(code)
    return code


def _serve(settings: Settings) -> tuple[int, EngineRef]:
    """Serve, and return the exit code and what served."""
    logging.getLogger("bentoml").setLevel(logging.WARNING)
    for name in ("bentoml.serve", "uvicorn.error"):
        logging.getLogger(name).addFilter(_plainly)
    with tempfile.TemporaryDirectory(prefix="candor-bentoml-") as home:
        # No exception while it imports: what is written in Rust or C would report it as an error of its own.
        _obey(lambda *_: _leave_at_once(home))
        os.environ["BENTOML_HOME"] = home
        os.environ["BENTOML_DO_NOT_TRACK"] = "true"
        # Answers are judged in the threads that run the network, one on each core: more threads for a product of a few
        # thousand numbers would only wait for each other, spinning. Read when numpy is imported.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        # Only now: bentoml reads its two when it is imported.
        asgi = importlib.import_module("service.asgi")
        # What was imported stays, so it need not be looked through again and again for what could be freed: a search through
        # all of it holds up every request for tens of milliseconds.
        gc.collect()
        gc.freeze()
        server = _Server(_config(asgi.application, asgi.engine, settings), asgi.engine, settings)
        when_parent_ends(lambda: os.kill(os.getpid(), signal.SIGTERM))
        # Until uvicorn listens to them, and again when it has drained: it raises once more what it has obeyed.
        _obey(_leave)
        try:
            server.run()
        except SystemExit as err:
            # With a code it never listened: the port is taken, or a setting is no good; it has said which.
            return EXIT_UNAVAILABLE if err.code else 0, asgi.engine
    return 0, asgi.engine


def _plainly(record: logging.LogRecord) -> bool:
    """A setting that is no good is said once, in its own sentence, and not where in the code it was found."""
    if record.exc_info and isinstance(record.exc_info[1], SettingsError):
        return False
    _, found, sentence = record.getMessage().rpartition("SettingsError: ")
    if found:
        record.msg, record.args = sentence.strip(), ()
    return not record.getMessage().startswith("Application startup failed")


def _obey(handler: Callable[[int, FrameType | None], object]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


def _leave_at_once(home: str) -> None:
    """Nothing is served yet, so nothing but the folder is to be put away."""
    shutil.rmtree(home, ignore_errors=True)
    os._exit(0)


class _Server(uvicorn.Server):
    """uvicorn, saying where it serves what as soon as it does, and ending streams when it drains."""

    def __init__(self, config: uvicorn.Config, engine: EngineRef, settings: Settings) -> None:
        super().__init__(config)
        self._engine = engine
        self._settings = settings
        self._announcing: asyncio.Task[None] | None = None

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._announcing = asyncio.get_running_loop().create_task(self._announce())

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Say that this service is going, answer for as long as others may not have heard it, and then drain.

        A second signal ends the waiting, and a third what is in flight.
        """
        is_again = self._engine.is_closing
        # Who follows a job's events would hold up the drain until its end.
        self._engine.close()
        if is_again or not self._settings.drain_s or not self.started:
            super().handle_exit(sig, frame)
            return
        loop, drain = asyncio.get_running_loop(), super().handle_exit
        # Called between two instructions of whatever ran, so the loop is told as another thread would tell it.
        loop.call_soon_threadsafe(loop.call_later, self._settings.drain_s, drain, sig, frame)

    async def _announce(self) -> None:
        engine = self._engine.get()
        while not engine.is_ready:
            await asyncio.sleep(_LOOK_S)
        address = f"{self._settings.host}:{self._settings.port}"
        if self._settings.run == "jobs":
            sys.stderr.write(f"\nrunning jobs, which http://{address}/retrain takes  (stop with Ctrl-C)\n\n")
            return
        serving = ", ".join(engine.slots.names) or f"nothing yet (the registry {self._settings.registry_place} is empty)"
        key = "" if self._settings.keys is None else '-H "Authorization: Bearer $TOKEN" '
        sys.stderr.write(
            f"\nserving {serving} on http://{address}  (stop with Ctrl-C)\n"
            f"  try   curl --data-binary @samples/cat.jpg -H 'content-type: image/jpeg' {key}{address}/classify\n"
            f"  read  http://{address}/docs\n\n"
        )


def _config(application: Any, engine: EngineRef, settings: Settings) -> uvicorn.Config:
    # Only now: they need the engine, and with it bentoml's environment.
    refuse = importlib.import_module("service.refusal").refuse
    carry = importlib.import_module("service.express").carry
    return uvicorn.Config(
        application,
        http=protocol(lambda *head: refuse(engine.get(), *head), lambda *head: carry(engine.get(), *head)),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
    )


if __name__ == "__main__":
    sys.exit(main())
