"""The trainer's command lines, as the supervisor writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from service.jobs.folder import JobFolder
    from service.jobs.schema import Job


def fit_arguments(job: Job, folder: JobFolder, data: Sequence[Path]) -> list[str]:
    """Train, and publish a candidate. The same line goes on where an earlier attempt stopped."""
    return [
        "fit",
        *map(str, data),
        "--name",
        job.spec.model,
        "--recipe",
        str(folder.recipe),
        "--run",
        job.id,
        "--start-from",
        job.spec.start_from,
        "--no-promote",
        "--events",
        str(folder.events),
        "--heartbeat",
        str(folder.heartbeat),
    ]


def gate_arguments(job: Job, folder: JobFolder) -> list[str]:
    """Compare the candidate with what is in production, on the held-out set."""
    return ["gate", f"{job.spec.model}:{job.version}", "--out", str(folder.gate), "--heartbeat", str(folder.heartbeat)]
