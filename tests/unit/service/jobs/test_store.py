"""The database of jobs: of two who write one wins, and what was acknowledged is there after any end."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from service.errors import IdempotencyKeyReusedError, JobsUnreadableError, QueueFullError, TooLateError
from service.jobs.schema import ACTIVE, COMMITTED, FINAL, MOVES, STATES, Job, Process
from service.jobs.store import _NOT_UNHEARD, JobStore
from tests.support.jobs import submit as ask
from tests.support.server import ROOT


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    made = JobStore(tmp_path / "jobs.sqlite3")
    made.open()
    return made


def submit(store: JobStore, key: str = "one") -> Job:
    return ask(store, key)[0]


def test_sixteen_who_submit_the_same_at_once_get_one_job(store: JobStore) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: ask(store), range(16)))
    assert len({job.id for job, _ in answers}) == 1
    assert sum(is_new for _, is_new in answers) == 1
    assert len(store.find()) == 1


def test_key_is_for_one_request_of_one_caller(store: JobStore) -> None:
    first = submit(store)
    with pytest.raises(IdempotencyKeyReusedError, match=first.id):
        ask(store, model="cats")
    other, is_new = ask(store, asker="somebody else", model="cats")
    assert is_new
    assert other.id != first.id


def test_caller_may_have_only_so_many_waiting(store: JobStore) -> None:
    for number in range(3):
        ask(store, str(number), most=3)
    with pytest.raises(QueueFullError, match="3 jobs of this key wait already; at most 3 may"):
        ask(store, "3", most=3)
    # Asking again for one that waits is no new one.
    assert not ask(store, "2", most=3)[1]
    ask(store, "3", "somebody else", most=3)


def test_sixteen_claimers_get_one_job_for_one_device_and_the_oldest(store: JobStore) -> None:
    jobs = [submit(store, str(number)) for number in range(3)]
    with ThreadPoolExecutor(16) as pool:
        claimed = [job for job in pool.map(lambda _: store.claim(0, 1.0), range(16)) if job is not None]
    assert [job.id for job in claimed] == [jobs[0].id]
    assert (claimed[0].state, claimed[0].epoch, claimed[0].attempt, claimed[0].device) == ("preparing", 1, 1, 0)
    assert store.claim(1, 1.0).id == jobs[1].id  # type: ignore[union-attr]


def test_write_of_an_earlier_claim_is_refused(store: JobStore) -> None:
    submit(store)
    stale = store.claim(0, 1.0)
    assert stale is not None
    assert store.move(stale, "queued") is not None
    fresh = store.claim(0, 2.0)
    assert fresh is not None
    # It is preparing as it was then, and the stale owner still may not touch it.
    assert fresh.state == stale.state
    assert store.move(stale, "running", process=Process(pid=1, started=1, boot="x")) is None
    assert store.get(fresh.id) == fresh


def test_only_moves_that_there_are_are_made(store: JobStore) -> None:
    job = submit(store)
    with pytest.raises(ValueError, match="a job does not go from queued to succeeded"):
        store.move(job, "succeeded")
    with pytest.raises(ValueError, match="'spec'"):
        store.move(job, "failed", spec="{}")


def test_cancelling_by_state(store: JobStore) -> None:
    waiting, running, done = (submit(store, key) for key in "abc")
    assert store.cancel("0" * 32) is None
    cancelled = store.cancel(waiting.id)
    assert cancelled is not None
    assert cancelled.state == "cancelled"
    claimed = store.claim(0, 1.0)
    assert claimed is not None
    assert claimed.id == running.id
    asked = store.cancel(running.id)
    assert asked is not None
    assert (asked.state, asked.is_cancelling) == ("preparing", True)
    store.move(done, "failed")
    with pytest.raises(TooLateError, match="is failed"):
        store.cancel(done.id)


def test_acknowledged_cancellation_is_not_overtaken(store: JobStore) -> None:
    """Whoever read the row before it was asked for may not lead the job on, nor let it end in another way."""
    submit(store)
    claimed = store.claim(0, 1.0)
    assert claimed is not None
    running = store.move(claimed, "running")
    assert running is not None
    judged = store.move(running, "evaluating")
    assert judged is not None
    store.cancel(judged.id)
    for state in ("publishing", "succeeded", "rejected", "failed", "queued"):
        assert store.move(judged, state) is None, state  # type: ignore[arg-type]
    now = store.get(judged.id)
    assert now is not None
    assert store.move(now, "cancelled").state == "cancelled"  # type: ignore[union-attr]


def test_surplus_is_what_ended_longest_ago(store: JobStore) -> None:
    jobs = [submit(store, str(number)) for number in range(4)]
    for job in jobs[:3]:
        store.move(job, "failed")
    assert store.surplus(2) == [jobs[0].id]
    assert store.surplus(0) == [jobs[2].id, jobs[1].id, jobs[0].id]


def test_pages_and_states(store: JobStore) -> None:
    jobs = [submit(store, str(number)) for number in range(5)]
    store.move(jobs[1], "failed", code="x", reason="y")
    newest = store.find(limit=2)
    assert [job.id for job in newest] == [jobs[4].id, jobs[3].id]
    assert [job.id for job in store.find(before=newest[-1].number, limit=9)] == [jobs[2].id, jobs[1].id, jobs[0].id]
    assert [job.id for job in store.find(("failed",))] == [jobs[1].id]
    assert store.counts() == dict.fromkeys(STATES, 0) | {"queued": 4, "failed": 1}


def test_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "jobs.sqlite3"
    file.write_bytes(b"this is not a database" * 100)
    with pytest.raises(JobsUnreadableError, match="file is not a database"):
        JobStore(file).open()
    assert file.read_bytes().startswith(b"this is not")


def test_database_with_a_broken_page_is_refused(store: JobStore) -> None:
    for number in range(60):
        submit(store, str(number))
    with sqlite3.connect(store.path) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(store.path.read_bytes())
    data[8192:12288] = os.urandom(4096)
    store.path.write_bytes(data)
    with pytest.raises(JobsUnreadableError):
        JobStore(store.path).open()


def test_database_that_somebody_locks_is_said_to_be(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.jobs.store._BUSY_S", 0.1)
    with sqlite3.connect(store.path, isolation_level=None) as database:
        database.execute("BEGIN EXCLUSIVE")
        with pytest.raises(JobsUnreadableError, match="locked"):
            submit(store)
    database.close()


_SUBMITTER = """
import sys
from pathlib import Path
from service.jobs.store import _NOT_UNHEARD, JobStore
from tests.support.jobs import submit
store = JobStore(Path(sys.argv[1]))
for number in range(100_000):
    print(submit(store, str(number), most=10**9)[0].id, flush=True)
"""


@pytest.mark.fault
def test_nothing_acknowledged_is_lost_when_the_writer_is_killed(store: JobStore) -> None:
    command = [sys.executable, "-c", _SUBMITTER, str(store.path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        acknowledged = [writer.stdout.readline().strip() for _ in range(5)]
        time.sleep(0.05)
        os.kill(writer.pid, signal.SIGKILL)
        acknowledged += [line.strip() for line in writer.stdout if line.endswith("\n")]
    store.open()
    there = {job.id for job in store.find(limit=-1)}
    assert set(acknowledged) <= there
    assert len(there) <= len(acknowledged) + 1


class Machine(RuleBasedStateMachine):
    """Two owners, who may each remember what is no longer so, and never more than one job on a device."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = JobStore(Path(self.folder.name) / "jobs.sqlite3")
        self.store.open()
        self.seen: list[Job] = []
        self.count = 0

    @rule()
    def submit(self) -> None:
        self.count += 1
        self.seen.append(submit(self.store, str(self.count)))

    @rule(device=st.integers(0, 1))
    def claim(self, device: int) -> None:
        if (job := self.store.claim(device, 1.0)) is not None:
            self.seen.append(job)

    @rule(pick=st.integers(0, 10**6), state=st.sampled_from(STATES))
    def move(self, pick: int, state: str) -> None:
        if not self.seen:
            return
        job = self.seen[pick % len(self.seen)]
        now = self.store.get(job.id)
        assert now is not None
        if state not in MOVES[job.state]:
            return
        moved = self.store.move(job, state)  # type: ignore[arg-type]
        # Exactly then when nobody was there in between, and nobody asked for its end unheard.
        is_heard = now.is_cancelling == job.is_cancelling or state not in _NOT_UNHEARD
        assert (moved is not None) == ((now.state, now.epoch) == (job.state, job.epoch) and is_heard)
        if moved is not None:
            self.seen.append(moved)

    @rule(pick=st.integers(0, 10**6))
    def cancel(self, pick: int) -> None:
        if not self.seen:
            return
        job = self.store.get(self.seen[pick % len(self.seen)].id)
        assert job is not None
        if job.state in COMMITTED:
            with pytest.raises(TooLateError):
                self.store.cancel(job.id)
        else:
            self.store.cancel(job.id)

    @invariant()
    def one_job_a_device(self) -> None:
        active = [job.device for job in self.store.find(ACTIVE)]
        assert len(set(active)) == len(active)
        assert sum(self.store.finished().values()) == len(self.store.find(FINAL))

    def teardown(self) -> None:
        self.folder.cleanup()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=8, stateful_step_count=25, deadline=None)
