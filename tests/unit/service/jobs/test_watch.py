"""When a trainer is taken for hung, by a heartbeat whose times may be anything."""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING

from service.jobs.folder import JobFolder
from service.jobs.process import identify, is_running
from service.jobs.store import JobStore
from service.jobs.watch import Patience, Watch
from tests.support.jobs import submit

if TYPE_CHECKING:
    from pathlib import Path


def test_clock_that_jumps_does_not_end_a_trainer_and_silence_does(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs.sqlite3")
    store.open()
    submit(store)
    job = store.claim(0, time.clock_gettime(time.CLOCK_BOOTTIME))
    assert job is not None
    folder = JobFolder(tmp_path / "job")
    folder.make(job.spec.recipe)
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as sleeper:
        process = identify(sleeper.pid)
        assert process is not None
        watch = Watch(Patience(60, 0.5))
        for hours in (0, -1, 5, -1, 3, -7, 0, 1, -1, 2):
            folder.heartbeat.touch()
            os.utime(folder.heartbeat, (0, time.time() + 3600 * hours))
            watch.look(job, process, folder)
            time.sleep(0.1)
        assert is_running(process)
        time.sleep(0.6)
        watch.look(job, process, folder)
        assert sleeper.wait(5) == -9
        assert watch.over(job) == "no_heartbeat"
        assert watch.over(job) is None
