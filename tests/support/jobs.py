"""A supervisor over real processes and a real database, stepped by hand."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from models.errors import ManifestError
from models.open_registry import open_registry
from models.recipe import Recipe
from service.errors import ServiceError
from service.jobs.desk import Desk
from service.jobs.folder import JobFolder
from service.jobs.place import JOBS
from service.jobs.process import kill_group
from service.jobs.schema import ACTIVE, Job, JobSpec
from service.jobs.store import Asker, JobStore
from service.jobs.supervisor import Rules, Supervisor
from service.jobs.trainer import Limits, SubprocessTrainer
from service.jobs.watch import Patience
from tests.support.tiny import colours, tiny_manifest, write_tiny

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from models.registry import Registry

COMMAND = (sys.executable, "-m", "tests.support.trainer")
WAIT_S = 60.0


class NoDatasetError(ServiceError):
    """There is no such data set."""

    status = 404
    code = "unknown_dataset"


def spec(**changes: Any) -> JobSpec:
    """What is asked for, unless the test says otherwise."""
    asked = {"model": "birds", "dataset": ("photos",), "recipe": Recipe(), "start_from": "pretrained", "promote": "gate"}
    return JobSpec.model_validate(asked | changes)


def submit(store: JobStore, key: str = "one", asker: str = "-", most: int = 1000, **changes: Any) -> tuple[Job, bool]:
    """Ask for a job; equal changes are an equal request."""
    asked = spec(**changes)
    return store.submit(asked, asked.model_dump_json(), Asker(asker, key), most)


@dataclass
class Workshop:
    """One home, and the supervisor that works there; `again` is the next one, after the first has died."""

    home: Path
    place: Path | str
    rules: Rules
    store: JobStore
    registry: Registry
    trainer: SubprocessTrainer
    supervisor: Supervisor
    others: list[Workshop] = field(default_factory=list)

    @classmethod
    def open(
        cls,
        home: Path,
        *,
        place: Path | str | None = None,
        devices: int = 1,
        attempts: int = 5,
        deadline_s: float = 60,
        heartbeat_s: float = 30,
    ) -> Workshop:
        store = JobStore(home / "jobs" / JOBS)
        store.open()
        write_tiny(home / "artifact", colours())
        (home / "manifest.json").write_bytes(tiny_manifest("birds", colours()).to_bytes())
        rules = Rules(devices, Patience(deadline_s, heartbeat_s), attempts, 1000)
        return cls._with(home, place or home / "registry", rules, store)

    @classmethod
    def _with(cls, home: Path, place: Path | str, rules: Rules, store: JobStore) -> Workshop:
        registry = open_registry(place, home / "cache")

        def locate(reference: str) -> Path:
            if reference == "gone":
                raise NoDatasetError("there is no data set 'gone'")
            if reference == "broken":
                raise ManifestError("dataset.json is not valid")
            return home / "datasets" / reference

        trainer = SubprocessTrainer(Limits(rules.devices, "normal", None, None), home, place, COMMAND)
        supervisor = Supervisor(Desk(store, home, registry), home / "jobs", trainer, rules, locate)
        return cls(home, place, rules, store, registry, trainer, supervisor)

    def again(self) -> Workshop:
        """Another supervisor in the same place, which knows only what is on disk."""
        after = self._with(self.home, self.place, self.rules, self.store)
        self.others.append(after)
        return after

    def submit(self, key: str = "one", **changes: Any) -> Job:
        return submit(self.store, key, **changes)[0]

    def job(self, job: Job) -> Job:
        found = self.store.get(job.id)
        assert found is not None
        return found

    def folder(self, job: Job) -> JobFolder:
        return JobFolder(self.home / "jobs" / job.id)

    def step_until(self, holds: Callable[[], bool], seconds: float = WAIT_S) -> None:
        until = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < until, [(job.state, job.reason) for job in self.store.find()]
            self.supervisor.step()
            time.sleep(0.02)

    def finish(self, job: Job, seconds: float = WAIT_S) -> Job:
        self.step_until(lambda: self.job(job).is_final, seconds)
        return self.job(job)

    def states(self, job: Job) -> list[str]:
        """Every state that its story tells of."""
        return [event.fields["state"] for event in self.folder(job).read() if event.kind == "state"]


@contextmanager
def workshop(home: Path, **rules: Any) -> Iterator[Workshop]:
    """Open one, and end in the end every trainer that it left."""
    opened = Workshop.open(home, **rules)
    try:
        yield opened
    finally:
        for job in opened.store.find(ACTIVE):
            if job.process is not None:
                kill_group(job.process)
        for shop in (opened, *opened.others):
            for child in shop.trainer._children.values():
                child.wait(10)
