"""`python -m service.jobs`: the supervisor, until TERM; started by the launcher beside the server.

On TERM every trainer writes its checkpoint and ends. Where the launcher dies, or this process does, trainers go on, and the
next supervisor finds them.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from typing import TYPE_CHECKING

from models.dataset_store import DatasetStore
from models.open_registry import open_registry
from service.datasets import locate
from service.errors import JobsBrokenError, JobsUnreadableError
from service.jobs.desk import Desk
from service.jobs.place import JOBS, SUPERVISOR_LOCK
from service.jobs.process import wait_for_lock
from service.jobs.store import JobStore
from service.jobs.supervisor import Rules, Supervisor
from service.jobs.trainer import Limits, SubprocessTrainer
from service.jobs.watch import Patience
from service.logs import EXIT_UNAVAILABLE, configure
from service.parent import when_parent_ends
from service.settings import read_settings_or_exit

if TYPE_CHECKING:
    from service.settings import Settings

logger = logging.getLogger("candor.jobs")
_STEP_S = 0.25
_LOCK_S = 5.0


def main() -> int:
    """Run jobs, and return the exit code: 0 after TERM, 1 where it may go better another time, 2 and 69 where it will not."""
    settings = read_settings_or_exit()
    configure()
    stop, leave = threading.Event(), threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    when_parent_ends(leave.set)
    lock = wait_for_lock(settings.jobs_root / SUPERVISOR_LOCK, _LOCK_S)
    if lock is None:
        logger.error("another supervisor runs the jobs in %s", settings.jobs_root)
        return 1
    store = JobStore(settings.jobs_root / JOBS)
    try:
        store.open()
    except JobsBrokenError as err:
        logger.error("%s; no job runs until the file is repaired, or moved away to begin with none", err)
        return EXIT_UNAVAILABLE
    except JobsUnreadableError as err:
        logger.error("%s", err)
        return 1
    _run(build_supervisor(settings, store), stop, leave)
    return 0


def build_supervisor(settings: Settings, store: JobStore) -> Supervisor:
    """Put the parts together."""
    registry = open_registry(settings.registry_place, settings.cache_root)
    datasets = DatasetStore(settings.datasets_root.absolute())
    limits = Limits(settings.devices, settings.job_priority, settings.job_threads, settings.job_memory_bytes)
    patience = Patience(settings.job_deadline_s, settings.job_heartbeat_s)
    return Supervisor(
        Desk(store, settings.home.absolute(), registry),
        settings.jobs_root.absolute(),
        SubprocessTrainer(limits, settings.home, settings.registry_place),
        Rules(settings.devices, patience, settings.job_attempts, settings.jobs_keep),
        lambda reference: locate(reference, datasets, settings.dataset_roots),
    )


def _run(supervisor: Supervisor, stop: threading.Event, leave: threading.Event) -> None:
    while not leave.is_set():
        try:
            if stop.is_set():
                supervisor.stop()
                return
            supervisor.step()
        except Exception:
            # A disk that is full, or a database that is locked: the jobs are as they were, and it is tried again.
            logger.exception("the jobs could not be looked at; trying again")
        stop.wait(_STEP_S)


if __name__ == "__main__":
    sys.exit(main())
