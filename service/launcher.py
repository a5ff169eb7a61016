"""`python -m service`: read the settings, check them, and serve until TERM.

BentoML is given a home of its own and told not to report before it is imported: its servers delete each other's files
where they share one.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile

import uvicorn

from models.errors import SettingsError
from service.settings import Settings, read_settings

_GRACE_S = 30
_KEEP_ALIVE_S = 75
EXIT_SETTINGS = 2


def main() -> int:
    """Serve, and return the exit code."""
    try:
        settings = read_settings()
    except SettingsError as err:
        sys.stderr.write(f"{err}\n")
        return EXIT_SETTINGS
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="candor-bentoml-") as home:
        os.environ["BENTOML_HOME"] = home
        os.environ["BENTOML_DO_NOT_TRACK"] = "true"
        # uvicorn imports the application by name, after the two lines above.
        server = uvicorn.Server(_config(settings))
        server.run()
    return 0 if server.started else 1


def _config(settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        "service.asgi:application",
        host=settings.host,
        port=settings.port,
        loop="auto",
        http="auto",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
    )
