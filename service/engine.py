"""Everything that serves, put together once, in one place: registry, slots, decoder, predictor, metrics.

`Classifier` makes one when BentoML makes it; importing the application makes none.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from models.dataset_store import DatasetStore
from models.errors import SettingsError
from models.open_registry import open_registry
from models.preprocess import Limits
from service.admission import Admission
from service.audit import Audit
from service.backlog import Backlog
from service.budget import Budget
from service.cores import available_cores
from service.datasets import Datasets, locate
from service.decode import Decoder
from service.device import Device
from service.errors import ServiceError
from service.feedback.desk import FeedbackDesk
from service.feedback.files import Files
from service.feedback.keeper import Keeper
from service.feedback.room import Bounds as FeedbackBounds
from service.feedback.room import Room
from service.feedback.store import FeedbackStore
from service.forward import Forward, is_about_jobs
from service.gpus import Gpus
from service.inputs import BodyLimits
from service.jobs.place import JOBS, SUPERVISOR_LOCK
from service.jobs.process import is_locked
from service.jobs.schema import UNFINISHED
from service.jobs.store import JobStore
from service.keys import Keyring
from service.metrics import Metrics
from service.observer import make_observer
from service.predictor import Predictor
from service.published import PublishedVersions
from service.slots import Slots

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from service.settings import Settings


class Engine:
    """The parts of a running service."""

    def __init__(self, settings: Settings) -> None:
        """Build the parts; nothing but the keys is read until `start`.

        Raises:
            SettingsError: If the key file or the registry's URL is no good, feedback cannot be kept where it is to be, or there
                is no GPU and one is to compute.
        """
        cores = available_cores()
        self.settings = settings
        self.metrics = Metrics()
        self.registry = open_registry(settings.registry_place, settings.cache_root)
        self._lanes = ThreadPoolExecutor(max(2, cores), thread_name_prefix="infer")
        self.published = PublishedVersions(self.registry)
        self.device = Device()
        self.slots = Slots(self.registry, settings, self._lanes, self.metrics, self.device)
        self.metrics.ready.labels(settings.run).set_function(lambda: self.is_ready)
        self.metrics.queue_age.set_function(self.slots.oldest_wait_s)
        if settings.run != "jobs":
            self.metrics.registry_age.set_function(self.slots.registry_age_s)
        self.metrics.follow_gpus(Gpus(os.environ.get("CUDA_VISIBLE_DEVICES")).read)
        limits = Limits(header_px=settings.max_image_pixels, decoded_px=settings.max_decoded_pixels)
        self.decoder = Decoder(max(2, cores), limits, self.metrics)
        self.backlog = Backlog(settings.queue_limit, settings.queue_wait_s, self.metrics)
        self.predictor = Predictor(self.decoder, self.backlog, settings.deadline_s, self.metrics)
        self.body_limits = BodyLimits(settings.max_body_bytes, settings.max_json_bytes, settings.max_images)
        self.datasets = Datasets(DatasetStore(settings.datasets_root), settings.max_dataset_bytes, self._needed_by)
        store = FeedbackStore(Files(settings.feedback_place))
        room = Room(store, FeedbackBounds(settings.keep_images_count, settings.keep_images_bytes, settings.keep_images_days))
        self.keeper = Keeper(store, room, self.metrics, is_on=settings.keep_images)
        self.feedback = FeedbackDesk(store, room, self.registry, settings.default_model, self.metrics)
        self.budget = Budget(settings.queue_bytes)
        self.jobs = JobStore(settings.jobs_root / JOBS)
        self.forward = None if settings.jobs_url is None else Forward(settings.jobs_url, lambda: self.is_closing)
        if self.forward is None:
            self.metrics.follow_jobs(self.jobs.counts, self.jobs.finished)
        # Whether the service drains: who streams is to end.
        self.is_closing = False
        # Callers who follow a job.
        self.followers = 0
        keyring = None if settings.keys is None else Keyring(settings.keys)
        self.admission = Admission(settings, keyring, self.metrics)
        self.audit = Audit(settings.home / "audit.jsonl")
        self.observer = make_observer(settings)
        self._following: asyncio.Task[None] | None = None
        self._close_metrics: Callable[[], None] | None = None

    def has_supervisor(self) -> bool:
        """Whether a process runs the jobs."""
        return is_locked(self.settings.jobs_root / SUPERVISOR_LOCK)

    def expect(self, reference: str | None) -> None:
        """Refuse a request for a model before its body is read, where that is certain.

        Raises:
            ServiceError: As `Slots.get` and `Backlog.check`.
        """
        self.backlog.check(self.slots.get(reference).manifest.name)

    def elsewhere(self, path: str) -> Forward | None:
        """What answers a path in another service; None where this one does."""
        return self.forward if self.forward is not None and is_about_jobs(path) else None

    def _needed_by(self, data: Path) -> str | None:
        """Which job has yet to train on a data set."""
        if not self.jobs.exists:
            return None
        for job in self.jobs.find(UNFINISHED, limit=-1):
            for reference in job.spec.dataset:
                with contextlib.suppress(ServiceError):
                    path = locate(reference, self.datasets.store, self.settings.dataset_roots)
                    if data in (path, path.parent):
                        return f"job {job.id}"
        return None

    def start(self) -> None:
        """Begin to follow the registry; the service is ready when `slots.is_ready` says so.

        Raises:
            SettingsError: If the metrics cannot have their port.
        """
        host, port = self.settings.host, self.settings.metrics_port
        if port is not None:
            try:
                self._close_metrics = self.metrics.listen(host, port)
            except OSError as err:
                raise SettingsError(f"CANDOR_METRICS_PORT={port} cannot be listened on ({err.strerror}); choose another") from err
        self.datasets.start()
        self.keeper.start()
        if self.settings.run != "jobs":
            self._following = asyncio.get_running_loop().create_task(self.slots.follow())

    @property
    def is_alive(self) -> bool:
        """Whether the task that follows the registry still runs; it never ends by itself."""
        return self.settings.run == "jobs" or (self._following is not None and not self._following.done())

    @property
    def is_ready(self) -> bool:
        """Whether every production model is loaded, verified and warm, or jobs are run; and whether this is to go on."""
        if self.is_closing:
            return False
        return self.has_supervisor() if self.settings.run == "jobs" else self.slots.is_ready

    async def stop(self) -> None:
        """Stop following, answer what is in flight, and stop the threads."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        await self.slots.close()
        await asyncio.to_thread(self.decoder.close)
        await asyncio.to_thread(self.keeper.close)
        if self.forward is not None:
            await self.forward.close()
        if self._close_metrics is not None:
            await asyncio.to_thread(self._close_metrics)
        if self.observer is not None:
            await asyncio.to_thread(self.observer.close)
        self.datasets.close()
        self._lanes.shutdown(wait=False, cancel_futures=True)


class EngineRef:
    """Where the engine will be: guard and routes are made at import, the engine when the service starts."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._engine: Engine | None = None

    def set(self, engine: Engine | None) -> None:
        """Put the engine there, or take it away."""
        self._engine = engine

    @property
    def is_closing(self) -> bool:
        """Whether there is an engine, and it drains."""
        return self._engine is not None and self._engine.is_closing

    @property
    def is_loading(self) -> bool:
        """Whether there is an engine, and a thread of it loads a version."""
        return self._engine is not None and self._engine.slots.is_loading

    def close(self) -> None:
        """Say that this service is going; where it has not started there is nobody to tell."""
        if self._engine is not None:
            self._engine.is_closing = True

    def get(self) -> Engine:
        """The engine.

        Raises:
            RuntimeError: If the service has not started.
        """
        if self._engine is None:
            raise RuntimeError("the service has not started")
        return self._engine
