"""Batches from concurrent requests: whatever waits when a lane is free runs together.

There is no window to wait for: a lone request leaves at once, and under load the batch is what came meanwhile. All state
belongs to the event loop, so there are no locks; only `run` happens in threads. Knows neither images nor HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
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


@dataclass
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
        run: Callable[[Sequence[Item]], Sequence[Result]],
        executor: Executor,
        *,
        max_batch: int,
        lanes: int,
        on_taken: Callable[[int, Sequence[float]], Any] = lambda size, waited: None,
    ) -> None:
        """Take the function that runs a batch.

        Args:
            run: Items to results, one each, in order. Called in `executor`, never on the event loop.
            executor: Threads, at least `lanes`; several batchers may share it.
            max_batch: Most items run together.
            lanes: Most batches in flight.
            on_taken: Told of each batch: its size and the seconds that each of its items waited.
        """
        self._run = run
        self._executor = executor
        self._max_batch = max_batch
        self._free_lanes = lanes
        self._on_taken = on_taken
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._in_flight: set[asyncio.Task[None]] = set()

    async def submit(self, item: Item) -> Result:
        """Answer one item. Cancelling the call takes the item out of the queue.

        Raises:
            Exception: Whatever `run` raised for this item; a batch mate's error stays the mate's.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting[Item, Result](item, loop.create_future(), time.monotonic(), stopwatch.current.get())
        self._waiting.append(waiting)
        self._pump()
        return await waiting.answer

    def oldest_wait_s(self) -> float:
        """Seconds since the oldest waiting item came; 0 where none waits. May be called from any thread."""
        try:
            return time.monotonic() - self._waiting[0].since
        except IndexError:
            return 0.0

    async def drain(self) -> None:
        """Wait until nothing waits or runs."""
        while self._in_flight:
            await asyncio.wait(self._in_flight)

    def _pump(self) -> None:
        while self._free_lanes and (batch := self._take()):
            self._free_lanes -= 1
            task = asyncio.get_running_loop().create_task(self._run_batch(batch))
            self._in_flight.add(task)
            task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        self._free_lanes += 1
        self._pump()

    def _take(self) -> list[_Waiting[Item, Result]]:
        """The oldest items whose callers still want them; what was given up is never run."""
        batch: list[_Waiting[Item, Result]] = []
        while self._waiting and len(batch) < self._max_batch:
            waiting = self._waiting.popleft()
            if not waiting.answer.done():
                waiting.note("queue", waiting.since)
                batch.append(waiting)
        if batch:
            now = time.monotonic()
            self._on_taken(len(batch), [now - waiting.since for waiting in batch])
        return batch

    async def _run_batch(self, batch: list[_Waiting[Item, Result]]) -> None:
        """Run a batch; where it fails, run its items one by one, so that an error reaches only the one it belongs to."""
        started = time.monotonic()
        try:
            results = await self._call([waiting.item for waiting in batch])
        except Exception as err:  # noqa: BLE001 - whatever it is, it belongs to the callers and must not end the lane
            if len(batch) == 1:
                _fail(batch[0].answer, err)
                return
            for waiting in batch:
                await self._run_batch([waiting])
            return
        for waiting, result in zip(batch, results, strict=True):
            if not waiting.answer.done():
                waiting.note("inference", started)
                waiting.answer.set_result(result)

    async def _call(self, items: list[Item]) -> Sequence[Result]:
        results = await asyncio.get_running_loop().run_in_executor(self._executor, self._run, items)
        if len(results) != len(items):
            raise RuntimeError(f"the batch function gave {len(results)} results for {len(items)} items")
        return results


def _fail(answer: asyncio.Future[Any], error: Exception) -> None:
    with contextlib.suppress(asyncio.InvalidStateError):
        answer.set_exception(error)
