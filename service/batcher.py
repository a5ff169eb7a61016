"""Batches from concurrent requests: whatever waits when a lane is free runs together.

There is no window to wait for: a lone request leaves at once, and under load the batch is what came meanwhile. A lane takes its
batch itself, in its own thread, at the moment it begins: nothing waits for the event loop to hand it on, and what was given up by
then is not run. After each batch a lane goes to the end of the executor's queue, so batchers that share one take turns. Knows
neither images nor HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from service import stopwatch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

    from service.stopwatch import Stage, Stopwatch

Item = TypeVar("Item")
Result = TypeVar("Result")
_LOOK_S = 0.01


# `deque.remove` words its error with the whole of what it did not find: of an answer, thousands of numbers.
@dataclass(eq=False, repr=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    answer: asyncio.Future[Result]
    since: float
    watch: Stopwatch | None

    def note(self, stage: Stage, started: float) -> None:
        """A stage that began at `started` ends now; told to whoever watches the request."""
        if self.watch is not None:
            self.watch.note(stage, started, time.monotonic())


class Batcher(Generic[Item, Result]):
    """Runs items together, at most `max_batch` at a time and `lanes` batches at once."""

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result | Exception]],
        executor: Executor,
        *,
        max_batch: int,
        lanes: int,
        is_shared: bool = False,
        on_taken: Callable[[int, Sequence[float]], Any] = lambda size, waited: None,
    ) -> None:
        """Take the function that runs a batch.

        Args:
            run: Items to results, or what went wrong with an item, one each, in order. Called in `executor`, never on the
                event loop.
            executor: Threads, at least `lanes`; several batchers may share it.
            max_batch: Most items run together.
            lanes: Most batches in flight.
            is_shared: Whether a lane leaves the others their share of what waits, which they will come for soon.
            on_taken: Told of each batch, in its lane: its size and the seconds that each of its items waited.
        """
        self._run = run
        self._executor = executor
        self._max_batch = max_batch
        self._lanes = lanes
        self._is_shared = is_shared
        self._on_taken = on_taken
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        # Lanes that are at work or about to be. The lock is held for a few instructions, never while anything runs.
        self._busy = 0
        self._lock = threading.Lock()

    async def submit(self, item: Item) -> Result:
        """Answer one item. Cancelling the call takes the item out of the queue.

        Raises:
            Exception: Whatever `run` raised for this item; a batch mate's error stays the mate's.
        """
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(item, answer, time.monotonic(), stopwatch.current.get())
        with self._lock:
            self._waiting.append(waiting)
            is_lane_free = self._busy < self._lanes
            self._busy += is_lane_free
        if is_lane_free:
            self._executor.submit(self._work)
        try:
            return await waiting.answer
        except asyncio.CancelledError:
            # Not only when a lane comes to it: what is given up is to take no memory.
            with self._lock, contextlib.suppress(ValueError):
                self._waiting.remove(waiting)
            raise

    def oldest_wait_s(self) -> float:
        """Seconds since the oldest waiting item came; 0 where none waits. May be called from any thread."""
        try:
            return time.monotonic() - self._waiting[0].since
        except IndexError:
            return 0.0

    async def drain(self) -> None:
        """Wait until nothing waits or runs."""
        while self._busy:
            await asyncio.sleep(_LOOK_S)

    def _work(self) -> None:
        """Run one batch in a lane, and come again if there is more."""
        try:
            batch = self._take()
            if batch:
                self._deliver(batch, self._results(batch))
        finally:
            with self._lock:
                is_more = bool(self._waiting)
                self._busy -= not is_more
            if is_more:
                self._executor.submit(self._work)

    def _take(self) -> list[_Waiting[Item, Result]]:
        """The oldest items whose callers still want them; what was given up is never run."""
        batch: list[_Waiting[Item, Result]] = []
        with self._lock:
            share = math.ceil(len(self._waiting) / self._lanes) if self._is_shared else self._max_batch
            while self._waiting and len(batch) < min(share, self._max_batch):
                waiting = self._waiting.popleft()
                if not waiting.answer.done():
                    waiting.note("queue", waiting.since)
                    batch.append(waiting)
        if batch:
            now = time.monotonic()
            self._on_taken(len(batch), [now - waiting.since for waiting in batch])
        return batch

    def _results(self, batch: Sequence[_Waiting[Item, Result]]) -> Sequence[Result | Exception]:
        """Run a batch; where it fails, run its items one by one, so that an error reaches only the one it belongs to."""
        started = time.monotonic()
        try:
            results = self._run([waiting.item for waiting in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"the batch function gave {len(results)} results for {len(batch)} items")
        except Exception as err:  # noqa: BLE001 - whatever it is, it belongs to the callers and must not end the lane
            return [err] if len(batch) == 1 else [self._results([waiting])[0] for waiting in batch]
        for waiting in batch:
            waiting.note("inference", started)
        return results

    @staticmethod
    def _deliver(batch: Sequence[_Waiting[Item, Result]], results: Sequence[Result | Exception]) -> None:
        # The loop of who waits now: the one that woke the lane may be closed. A closed one has nobody left who waits.
        with contextlib.suppress(RuntimeError):
            batch[0].answer.get_loop().call_soon_threadsafe(_answer, batch, results)


def _answer(batch: Sequence[_Waiting[Any, Any]], results: Sequence[Any]) -> None:
    for waiting, result in zip(batch, results, strict=True):
        if waiting.answer.done():
            continue
        if isinstance(result, Exception):
            # A future takes no StopIteration, and the others of the batch wait behind it.
            waiting.answer.set_exception(RuntimeError(repr(result)) if isinstance(result, StopIteration) else result)
        else:
            waiting.answer.set_result(result)
