"""Which version answers under each name, following the registry's `production` alias.

A new version is loaded beside the one that answers, and takes over by the change of one reference; requests that hold the
old one finish on it. A version that may not serve is reported and not served: the old one stays. The version that was
replaced stays loaded, so that rolling back is a change of reference too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.errors import ContractError, UnreachableError
from models.errors import UnknownModelError as NoSuchModelError
from models.registry import Registry, parse_reference
from service.cores import available_cores
from service.errors import DeviceLostError, ModelLoadError, ModelRequiredError, NotReadyError, OutOfMemoryError, UnknownModelError
from service.live import LiveModel, Plan, load
from service.memory import give_back
from service.runtime.onnx import chosen_provider

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

    from service.device import Device
    from service.metrics import Metrics
    from service.settings import Settings

logger = logging.getLogger("candor.slots")
# A version that failed is tried again after this long: memory may have been short, its bytes cannot have changed.
RETRY_S = 10.0


@dataclass(frozen=True)
class Failure:
    """Why a version does not answer, and when it is tried again."""

    version: int
    reason: str
    retry_at: float


@dataclass
class Slot:
    """One name: what answers, what answered before, and why the wanted version does not, if it does not."""

    wanted: int
    current: LiveModel | None = None
    previous: LiveModel | None = None
    failure: Failure | None = None

    @property
    def is_ready(self) -> bool:
        """Whether some version of this name answers."""
        return self.current is not None

    @property
    def problem(self) -> str | None:
        """Why the wanted version does not answer; None where it does, or was not tried yet."""
        return self.failure.reason if self.failure and self.failure.version == self.wanted else None

    @property
    def is_behind(self) -> bool:
        """Whether the wanted version does not answer, and is to be tried now."""
        if self.current is not None and self.current.manifest.version == self.wanted:
            return False
        return not (self.problem and self.failure and time.monotonic() < self.failure.retry_at)

    def loaded(self) -> list[LiveModel]:
        """The versions in memory."""
        return [model for model in (self.current, self.previous) if model is not None]


class Slots:
    """Every name that is served."""

    def __init__(self, registry: Registry, settings: Settings, executor: Executor, metrics: Metrics, device: Device) -> None:
        """Load nothing yet; `follow` does.

        Raises:
            SettingsError: If a GPU is to compute and none is visible.
        """
        self._registry = registry
        self._follower = registry.follower()
        self._is_reachable = True
        self._settings = settings
        self._executor = executor
        self._metrics = metrics
        self._device = device
        self._slots: dict[str, Slot] = {}
        self._is_ready = False
        # At most one for each name; a download may take minutes, and nobody waits for it.
        self._bringing: dict[str, asyncio.Task[None]] = {}
        # Of their own: where all of them download, the registry is still looked at.
        self._loaders = ThreadPoolExecutor(thread_name_prefix="load")
        self._loads: set[Future[LiveModel]] = set()
        provider = chosen_provider(settings.device)
        if settings.run != "jobs":
            metrics.provider_info.labels(provider).set(1)
        self._read_at = time.monotonic()
        self.plan = Plan(provider, available_cores(), settings.max_batch, settings.runtime, settings.precision)

    @property
    def is_ready(self) -> bool:
        """Whether every model that was in production when the service started is loaded, verified and warm.

        A name that is published later is loaded beside them: it must not take a running service out of its load balancer.
        Until it answers, `GET /models` shows why, and asking for it gives 503.
        """
        return self._is_ready

    @property
    def names(self) -> list[str]:
        """The names with a production version, in alphabetical order."""
        return sorted(self._slots)

    def slot(self, name: str) -> Slot | None:
        """The slot of a name."""
        return self._slots.get(name)

    def failures(self) -> dict[str, str]:
        """For each name whose wanted version does not answer: why."""
        return {name: slot.problem for name, slot in self._slots.items() if slot.problem}

    def get(self, reference: str | None) -> LiveModel:
        """The live version that `reference` (`name` or `name:N`) means; without one, the default model.

        Raises:
            ModelRequiredError: If there is no reference, no default, and not exactly one name.
            UnknownModelError: If nothing of that name or version is loaded.
            NotReadyError: If the name is known and nothing of it is loaded yet.
        """
        try:
            name, version = parse_reference(reference or self._default())
        except NoSuchModelError as err:
            raise UnknownModelError(str(err)) from err
        slot = self._slots.get(name)
        if slot is None:
            known = ", ".join(self.names) or "none"
            raise UnknownModelError(f"no model named {name!r} is served; served are: {known}")
        if version is None:
            if slot.current is None:
                raise NotReadyError(f"{name} is not loaded yet")
            return slot.current
        for model in slot.loaded():
            if model.manifest.version == version:
                return model
        if version == slot.wanted:
            raise NotReadyError(f"{name}:{version} is not loaded yet")
        versions = [model.manifest.version for model in slot.loaded()]
        raise UnknownModelError(f"{name}:{version} is not loaded; of {name} the loaded versions are {versions}")

    def oldest_wait_s(self) -> float:
        """Seconds that the image which waits longest has waited; read by the metrics from another thread."""
        return max((model.oldest_wait_s() for slot in list(self._slots.values()) for model in slot.loaded()), default=0.0)

    def registry_age_s(self) -> float:
        """Seconds since the registry was last read; read by the metrics from another thread."""
        return time.monotonic() - self._read_at

    async def follow(self) -> None:
        """Refresh for ever. Nothing that goes wrong ends it."""
        while True:
            try:
                await self._look()
            except Exception:
                logger.exception("the registry could not be followed; trying again")
            await asyncio.sleep(self._settings.follow_s or self._follower.interval_s)

    async def refresh(self) -> None:
        """Read the aliases, and wait until what answers is what they say, or cannot be."""
        await self._look()
        await asyncio.gather(*self._bringing.values())

    async def _look(self) -> None:
        """Read the aliases and swap, drop, or begin to load what they say."""
        wanted = await asyncio.to_thread(self._read_wanted)
        if wanted is None:
            return
        for name in self._slots.keys() - wanted.keys():
            gone = self._slots.pop(name)
            if gone.current is not None:
                self._metrics.model_info.remove(*self._labels(gone.current))
                gone.current.monitor.hide()
        for name, version in wanted.items():
            self._slots.setdefault(name, Slot(version)).wanted = version
        for name, slot in self._slots.items():
            if slot.is_behind:
                self._begin(name, slot)
        self._note_ready()

    def _begin(self, name: str, slot: Slot) -> None:
        if slot.previous is not None and slot.previous.manifest.version == slot.wanted:
            self._swap(slot, slot.previous)
        elif name not in self._bringing:
            self._bringing[name] = task = asyncio.create_task(self._bring(name, slot))
            task.add_done_callback(lambda _: self._bringing.pop(name))

    def _note_ready(self) -> None:
        self._is_ready = self._is_ready or all(slot.is_ready for slot in self._slots.values())

    @property
    def is_loading(self) -> bool:
        """Whether a thread still downloads or loads a version, which nothing can interrupt."""
        return bool(self._loads)

    async def close(self) -> None:
        """Wait for what is in flight on every version, and for none that is being brought."""
        for task in self._bringing.values():
            task.cancel()
        self._loaders.shutdown(wait=False, cancel_futures=True)
        await asyncio.gather(*(model.drain() for slot in self._slots.values() for model in slot.loaded()))

    def _default(self) -> str:
        if self._settings.default_model is not None:
            return self._settings.default_model
        if len(self._slots) == 1:
            return next(iter(self._slots))
        raise ModelRequiredError(f"say which model: ?model=NAME; served are: {', '.join(self.names) or 'none'}")

    def _read_wanted(self) -> dict[str, int] | None:
        """Name to the version that is to answer; None where nobody can tell.

        A registry that went away is no reason to stop answering: what is loaded stays, and who has just started serves what
        there is a copy of.
        """
        try:
            wanted = self._read_aliases()
        except UnreachableError as err:
            self._note_reachable(str(err))
            return {name: slot.wanted for name, slot in self._slots.items()} or self._follower.kept() or None
        self._note_reachable(None)
        return wanted

    def _note_reachable(self, problem: str | None) -> None:
        if problem is None:
            self._read_at = time.monotonic()
        if problem and self._is_reachable:
            logger.warning("%s; what is loaded, or kept here, goes on answering", problem)
        self._is_reachable = problem is None

    def _read_aliases(self) -> dict[str, int]:
        """Name to production version.

        Raises:
            UnreachableError: If the registry went away.
        """
        wanted: dict[str, int] = {}
        for name in self._follower.names():
            try:
                production = self._follower.aliases(name).production
            except UnreachableError:
                raise
            except ContractError as err:
                logger.error("the aliases of %s cannot be read: %s", name, err)
                slot = self._slots.get(name)
                production = slot.wanted if slot else None
            if production is not None:
                wanted[name] = production
        return wanted

    async def _bring(self, name: str, slot: Slot) -> None:
        """Make `slot.wanted` the version that answers, or say why not."""
        version, started = slot.wanted, time.monotonic()
        future = self._loaders.submit(self._load, name, version)
        self._loads.add(future)
        future.add_done_callback(self._loads.discard)
        try:
            model = await asyncio.wrap_future(future)
        except (ModelLoadError, ContractError, DeviceLostError, OutOfMemoryError) as err:
            self._fail(slot, name, version, str(err))
            return
        except Exception:
            logger.exception("%s:%s could not be loaded", name, version)
            self._fail(slot, name, version, "it could not be loaded; the log has the reason")
            return
        finally:
            # It holds the model, which is to be gone when nobody answers with it.
            del future
        logger.info("%s:%s loaded, verified and warm in %.1f s", name, version, time.monotonic() - started)
        if self._slots.get(name) is slot and slot.wanted == version:
            self._swap(slot, model)
            self._note_ready()
        else:
            logger.info("%s:%s is no longer what is wanted, and does not take over", name, version)
        del model
        await asyncio.to_thread(give_back)

    def _load(self, name: str, version: int) -> LiveModel:
        path = self._registry.path(name, version)
        return load(path, self._executor, self.plan, self._metrics, self._device)

    def _fail(self, slot: Slot, name: str, version: int, reason: str) -> None:
        slot.failure = Failure(version, reason, time.monotonic() + RETRY_S)
        self._metrics.model_swaps.labels("failed").inc()
        logger.error("%s:%s may not serve: %s", name, version, reason)

    def _swap(self, slot: Slot, model: LiveModel) -> None:
        # A request holds the version that it began with, so what is let go of here lives until it is answered.
        if slot.current is not None:
            self._metrics.model_info.remove(*self._labels(slot.current))
        slot.current, slot.previous = model, slot.current
        slot.failure = None
        model.monitor.show()
        self._metrics.model_info.labels(*self._labels(model)).set(1)
        self._metrics.model_swaps.labels("ok").inc()

    @staticmethod
    def _labels(model: LiveModel) -> tuple[str, str, str, str, str]:
        manifest = model.manifest
        return (manifest.name, str(manifest.version), manifest.backbone.name, model.runtime.name, model.runtime.precision)
