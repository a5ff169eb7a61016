"""The names below `CANDOR_HOME/jobs` that server and supervisor must agree on."""

from __future__ import annotations

JOBS = "jobs.sqlite3"
SUPERVISOR_LOCK = "supervisor.lock"
