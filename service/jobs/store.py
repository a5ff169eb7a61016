"""Jobs on disk: one sqlite file, in which every move is one conditional UPDATE, so that of two writers one loses.

Used by the server, which adds and cancels, and by the supervisor, which moves; each from its own process. Write-ahead
logging needs a local file system. Knows states and fences, and nothing of processes, files or HTTP.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import ValidationError

from service.errors import IdempotencyKeyReusedError, JobsBrokenError, JobsUnreadableError, QueueFullError, TooLateError
from service.jobs.schema import ACTIVE, COMMITTED, FINAL, MOVES, STATES, Job, JobSpec, JobState, Process

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_BUSY_S = 10.0
_ACTIVE, _FINAL = (", ".join(f"'{state}'" for state in states) for states in (ACTIVE, FINAL))
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    epoch INTEGER NOT NULL DEFAULT 0,
    attempt INTEGER NOT NULL DEFAULT 0,
    key_id TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    request TEXT NOT NULL,
    spec TEXT NOT NULL,
    created TEXT NOT NULL,
    updated TEXT NOT NULL,
    finished TEXT,
    device INTEGER,
    process TEXT,
    begun_boot_s REAL,
    is_cancelling INTEGER NOT NULL DEFAULT 0,
    version INTEGER,
    is_promoted INTEGER NOT NULL DEFAULT 0,
    code TEXT,
    reason TEXT,
    UNIQUE (key_id, idempotency_key)
);
CREATE UNIQUE INDEX IF NOT EXISTS one_job_a_device ON jobs (device) WHERE state IN ({_ACTIVE});
CREATE INDEX IF NOT EXISTS by_state ON jobs (state, number);
CREATE TABLE IF NOT EXISTS finished (state TEXT PRIMARY KEY, count INTEGER NOT NULL);
"""
_COLUMNS = (
    "id, number, state, epoch, attempt, key_id, spec, created, updated, finished, device, process, begun_boot_s, "
    "is_cancelling, version, is_promoted, code, reason"
)
# Moves that an acknowledged cancellation must not be overtaken by.
_NOT_UNHEARD = frozenset({"queued", "publishing", *FINAL}) - {"cancelled"}
_SETTABLE = frozenset(
    {"attempt", "device", "process", "begun_boot_s", "is_cancelling", "version", "is_promoted", "code", "reason"}
)


class Asker(NamedTuple):
    """Who asks for a job: the id of an access key (`-` where there are none), and the key that makes asking twice harmless."""

    key_id: str
    idempotency_key: str


class JobStore:
    """The database of one home."""

    def __init__(self, path: Path) -> None:
        """Name the file; `open` makes it."""
        self.path = path

    def open(self) -> None:
        """Make the tables where they are missing, and look at the file whole.

        Raises:
            JobsUnreadableError: If it is no database, or a broken one. It is left as it is, for somebody to look at.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._connected("rwc") as database:
            database.execute("PRAGMA journal_mode = WAL")
            found = database.execute("PRAGMA integrity_check").fetchone()[0]
            if found != "ok":
                raise JobsBrokenError(f"{self.path} is broken: {found}")
            database.executescript(_SCHEMA)

    def known(self, request: str, asker: Asker) -> Job | None:
        """The job that the same request made before; None where there is none.

        Raises:
            IdempotencyKeyReusedError: If the key was used for another request.
        """
        with self._connected() as database:
            return _known(database, request, asker)

    def submit(self, spec: JobSpec, request: str, asker: Asker, most_queued: int) -> tuple[Job, bool]:
        """Add a job, or find the one that the same request made.

        Args:
            spec: What is to be done.
            request: What was asked for, to tell it from other requests.
            asker: Who asks, and by which key.
            most_queued: How many jobs of one asker may wait.

        Returns:
            The job, and whether it is new.

        Raises:
            IdempotencyKeyReusedError: If the key was used for another request.
            QueueFullError: If the key has as many jobs waiting as it may.
        """
        now = _now()
        with self._writing() as database:
            known = _known(database, request, asker)
            if known is not None:
                return known, False
            waiting = database.execute(
                "SELECT count(*) FROM jobs WHERE key_id = ? AND state = 'queued'", (asker.key_id,)
            ).fetchone()[0]
            if waiting >= most_queued:
                raise QueueFullError(f"{waiting} jobs of this key wait already; at most {most_queued} may")
            identity = uuid.uuid4().hex
            database.execute(
                "INSERT INTO jobs (id, state, key_id, idempotency_key, request, spec, created, updated) "
                "VALUES (?, 'queued', ?, ?, ?, ?, ?, ?)",
                (identity, asker.key_id, asker.idempotency_key, request, spec.model_dump_json(), now, now),
            )
            return self._get(database, identity), True

    @property
    def exists(self) -> bool:
        """Whether there ever was a supervisor here."""
        return self.path.exists()

    def get(self, identity: str) -> Job | None:
        """A job; None where there is none of that id."""
        with self._connected() as database:
            row = database.execute(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", (identity,)).fetchone()
        return _job(row) if row else None

    def find(self, states: Sequence[JobState] = STATES, before: int | None = None, limit: int = 100) -> list[Job]:
        """Jobs in some states, the newest first, from before a number on."""
        marks = ", ".join("?" * len(states))
        with self._connected() as database:
            rows = database.execute(
                f"SELECT {_COLUMNS} FROM jobs WHERE state IN ({marks}) AND number < ? ORDER BY number DESC LIMIT ?",
                (*states, 2**62 if before is None else before, limit),
            ).fetchall()
        return [_job(row) for row in rows]

    def counts(self) -> dict[JobState, int]:
        """How many jobs are in each state now; none where they cannot be read, which a look at a job would say."""
        with contextlib.suppress(JobsUnreadableError), self._connected() as database:
            rows = dict(map(tuple, database.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall()))
            return {state: rows.get(state, 0) for state in STATES}
        return {}

    def finished(self) -> dict[JobState, int]:
        """How many jobs ever ended in each state; those that were forgotten since count too."""
        with contextlib.suppress(JobsUnreadableError), self._connected() as database:
            rows = dict(map(tuple, database.execute("SELECT state, count FROM finished").fetchall()))
            return {state: rows.get(state, 0) for state in FINAL}
        return {}

    def claim(self, device: int, boot_s: float) -> Job | None:
        """Take the job that waits longest; None where none waits, or the device has one."""
        with self._writing() as database:
            busy = database.execute(f"SELECT 1 FROM jobs WHERE device = ? AND state IN ({_ACTIVE}) LIMIT 1", (device,)).fetchone()
            row = database.execute("SELECT id FROM jobs WHERE state = 'queued' ORDER BY number LIMIT 1").fetchone()
            if busy or row is None:
                return None
            database.execute(
                "UPDATE jobs SET state = 'preparing', epoch = epoch + 1, attempt = attempt + 1, device = ?, process = NULL, "
                "begun_boot_s = ?, code = NULL, reason = NULL, updated = ? WHERE id = ?",
                (device, boot_s, _now(), row["id"]),
            )
            return self._get(database, row["id"])

    def move(self, job: Job, state: JobState, **values: Any) -> Job | None:
        """Move a job on, or only note something where `state` is the one it has.

        Args:
            job: The job as it was read: its state and epoch are the fence.
            state: Where to.
            values: Columns to set with it.

        Returns:
            The job as it is now; None where somebody else moved it meanwhile, and nothing was written.

        Raises:
            ValueError: If there is no such move.
        """
        if state != job.state and state not in MOVES[job.state]:
            raise ValueError(f"a job does not go from {job.state} to {state}")
        values = {key: value.model_dump_json() if isinstance(value, Process) else value for key, value in values.items()}
        if strangers := values.keys() - _SETTABLE:
            raise ValueError(f"{sorted(strangers)} cannot be set")
        now = _now()
        values |= {"state": state, "updated": now}
        # Who was promised its end is looked at again, and not led on by somebody who had not heard of it.
        cancelling = (False, True) if state not in _NOT_UNHEARD else (job.is_cancelling, job.is_cancelling)
        if state in FINAL:
            values |= {"finished": now, "process": None, "device": None}
        if state == "queued":
            values |= {"process": None, "device": None}
        setting = ", ".join(f"{column} = ?" for column in values)
        with self._writing() as database:
            changed = database.execute(
                f"UPDATE jobs SET {setting} WHERE id = ? AND state = ? AND epoch = ? AND is_cancelling IN (?, ?)",
                (*values.values(), job.id, job.state, job.epoch, *cancelling),
            ).rowcount
            if not changed:
                return None
            if state in FINAL:
                database.execute(
                    "INSERT INTO finished VALUES (?, 1) ON CONFLICT (state) DO UPDATE SET count = count + 1", (state,)
                )
            return self._get(database, job.id)

    def cancel(self, identity: str) -> Job | None:
        """Ask for a job's end: one that waits ends at once, one that runs is ended by the supervisor.

        Returns:
            The job; None where there is none of that id.

        Raises:
            TooLateError: If its alias moves, or it has ended.
        """
        while (job := self.get(identity)) is not None:
            if job.state in COMMITTED:
                raise TooLateError(f"job {identity} is {job.state}; there is nothing left to cancel")
            if job.state == "queued":
                moved = self.move(job, "cancelled", code="cancelled", reason="cancelled while it waited")
            else:
                moved = self.move(job, job.state, is_cancelling=True)
            if moved is not None:
                return moved
        return None

    def surplus(self, keep: int) -> list[str]:
        """The ids of jobs that have ended, but for the newest `keep`."""
        found = f"SELECT id FROM jobs WHERE state IN ({_FINAL}) ORDER BY number DESC LIMIT -1 OFFSET ?"
        with self._connected() as database:
            return [row["id"] for row in database.execute(found, (keep,)).fetchall()]

    def forget(self, identity: str) -> None:
        """Delete a job that has ended."""
        with self._writing() as database:
            database.execute(f"DELETE FROM jobs WHERE id = ? AND state IN ({_FINAL})", (identity,))

    def _get(self, database: sqlite3.Connection, identity: str) -> Job:
        return _job(database.execute(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", (identity,)).fetchone())

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction that has the right to write from its beginning on, so that what it reads stays so."""
        with self._connected() as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
            except BaseException:
                database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")

    @contextlib.contextmanager
    def _connected(self, mode: Literal["rw", "rwc"] = "rw") -> Iterator[sqlite3.Connection]:
        """A connection of this call's own: they may not be shared by threads, and one costs a tenth of a millisecond."""
        try:
            address = f"{self.path.absolute().as_uri()}?mode={mode}"
            database = sqlite3.connect(address, timeout=_BUSY_S, isolation_level=None, uri=True)
        except sqlite3.Error as err:
            raise self._unreadable(err) from err
        try:
            database.row_factory = sqlite3.Row
            database.execute("PRAGMA synchronous = FULL")
            yield database
        except sqlite3.DatabaseError as err:
            raise self._unreadable(err) from err
        finally:
            database.close()

    def _unreadable(self, found: sqlite3.Error) -> JobsUnreadableError:
        """A lock or a full disk passes; a file that is no database does not."""
        is_broken = getattr(found, "sqlite_errorname", "").startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT"))
        kind = JobsBrokenError if is_broken else JobsUnreadableError
        return kind(f"the jobs in {self.path} cannot be read or written: {found}")


def boot_s() -> float:
    """Seconds since this machine started, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _known(database: sqlite3.Connection, request: str, asker: Asker) -> Job | None:
    row = database.execute(
        f"SELECT {_COLUMNS}, request FROM jobs WHERE key_id = ? AND idempotency_key = ?",
        (asker.key_id, asker.idempotency_key),
    ).fetchone()
    if row is not None and row["request"] != request:
        raise IdempotencyKeyReusedError(
            f"the idempotency key was used for another request (job {row['id']}); use a new key for a new job"
        )
    return None if row is None else _job(row)


def _job(row: sqlite3.Row) -> Job:
    values = {key: row[key] for key in row.keys() if key != "request"}  # noqa: SIM118 - iterating a Row gives its values
    for key in ("spec", "process"):
        values[key] = json.loads(values[key]) if values[key] else None
    try:
        return Job.model_validate(values)
    except ValidationError as err:
        raise JobsUnreadableError(f"job {row['id']} cannot be read: {err.errors()[0]['msg']}") from err
