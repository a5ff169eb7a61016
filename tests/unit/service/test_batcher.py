"""Batches: who shares one, who does not, and what an error or a cancellation reaches."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batcher import Batcher

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Doubler:
    """Doubles numbers; holds each batch until told to go on; fails on a 13."""

    def __init__(self, *, held: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()
        self.running = 0
        self.most_running = 0
        self._lock = threading.Lock()
        if not held:
            self.go.set()

    def __call__(self, items: Sequence[int]) -> list[int]:
        with self._lock:
            self.batches.append(list(items))
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        assert self.go.wait(10)
        with self._lock:
            self.running -= 1
        if 13 in items:
            raise ValueError("unlucky")
        return [item * 2 for item in items]


def run(scenario: Callable[[ThreadPoolExecutor], object]) -> None:
    with ThreadPoolExecutor(4) as pool:
        asyncio.run(asyncio.wait_for(scenario(pool), 20))  # type: ignore[arg-type]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_lone_item_leaves_at_once_and_what_comes_meanwhile_shares_the_next_batch() -> None:
    async def scenario(pool: ThreadPoolExecutor) -> None:
        work = Doubler(held=True)
        batcher = Batcher(work, pool, max_batch=4, lanes=1)
        first = asyncio.create_task(batcher.submit(1))
        await until(lambda: len(work.batches) == 1)
        rest = [asyncio.create_task(batcher.submit(number)) for number in range(2, 8)]
        await asyncio.sleep(0.01)
        work.go.set()
        assert await asyncio.gather(first, *rest) == [2, 4, 6, 8, 10, 12, 14]
        assert work.batches == [[1], [2, 3, 4, 5], [6, 7]]

    run(scenario)


def test_lane_leaves_the_others_their_share() -> None:
    async def scenario(pool: ThreadPoolExecutor) -> None:
        work = Doubler(held=True)
        batcher = Batcher(work, pool, max_batch=4, lanes=2, is_shared=True)
        first = [asyncio.create_task(batcher.submit(number)) for number in (1, 2)]
        await until(lambda: work.running == 2)
        rest = [asyncio.create_task(batcher.submit(number)) for number in range(3, 6)]
        await asyncio.sleep(0.01)
        work.go.set()
        await asyncio.gather(*first, *rest)
        # Of three that wait the lane that comes first takes two, and the other one the third.
        assert sorted(work.batches) == [[1], [2], [3, 4], [5]]

    run(scenario)


def test_giving_up_what_runs_spells_nothing_out() -> None:
    """Who looks for it in the queue in vain gets an error, which is not to hold the image and thousands of numbers."""

    class Image:
        def __repr__(self) -> str:
            raise AssertionError("spelt out")

    async def scenario(pool: ThreadPoolExecutor) -> None:
        has_begun, go = threading.Event(), threading.Event()

        def work(images: Sequence[Image]) -> list[int]:
            has_begun.set()
            assert go.wait(10)
            return [0 for _ in images]

        asked = asyncio.create_task(Batcher(work, pool, max_batch=1, lanes=1).submit(Image()))
        await until(has_begun.is_set)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        go.set()

    run(scenario)


def test_lanes_run_at_once_and_no_more_than_there_are() -> None:
    async def scenario(pool: ThreadPoolExecutor) -> None:
        work = Doubler(held=True)
        batcher = Batcher(work, pool, max_batch=1, lanes=2)
        tasks = [asyncio.create_task(batcher.submit(number)) for number in range(5)]
        await until(lambda: work.running == 2)
        await asyncio.sleep(0.02)
        work.go.set()
        await asyncio.gather(*tasks)
        assert work.most_running == 2

    run(scenario)


def test_error_reaches_only_the_item_that_it_belongs_to() -> None:
    async def scenario(pool: ThreadPoolExecutor) -> None:
        work = Doubler(held=True)
        batcher = Batcher(work, pool, max_batch=8, lanes=1)
        first = asyncio.create_task(batcher.submit(0))
        await until(lambda: len(work.batches) == 1)
        tasks = [asyncio.create_task(batcher.submit(number)) for number in (12, 13, 14)]
        await asyncio.sleep(0.01)
        work.go.set()
        results = await asyncio.gather(first, *tasks, return_exceptions=True)
        assert results[:2] == [0, 24]
        assert isinstance(results[2], ValueError)
        assert results[3] == 28
        # The lane lives on.
        assert await batcher.submit(5) == 10

    run(scenario)


def test_item_that_was_given_up_is_never_run() -> None:
    async def scenario(pool: ThreadPoolExecutor) -> None:
        work = Doubler(held=True)
        batcher = Batcher(work, pool, max_batch=8, lanes=1)
        first = asyncio.create_task(batcher.submit(1))
        await until(lambda: len(work.batches) == 1)
        dead, alive = (asyncio.create_task(batcher.submit(number)) for number in (2, 3))
        await asyncio.sleep(0)
        dead.cancel()
        await asyncio.sleep(0)
        work.go.set()
        assert await asyncio.gather(first, alive) == [2, 6]
        assert work.batches == [[1], [3]]

    run(scenario)


def test_wrong_number_of_results_is_an_error_and_not_a_shifted_answer() -> None:
    async def scenario(pool: ThreadPoolExecutor) -> None:
        batcher: Batcher[int, int] = Batcher(lambda items: [], pool, max_batch=2, lanes=1)
        with pytest.raises(RuntimeError, match="0 results for 1 items"):
            await batcher.submit(1)

    run(scenario)


def test_drain_waits_for_what_runs_and_what_waits() -> None:
    async def scenario(pool: ThreadPoolExecutor) -> None:
        work = Doubler(held=True)
        batcher = Batcher(work, pool, max_batch=1, lanes=1)
        tasks = [asyncio.create_task(batcher.submit(number)) for number in range(3)]
        await until(lambda: len(work.batches) == 1)
        draining = asyncio.create_task(batcher.drain())
        await asyncio.sleep(0.01)
        assert not draining.done()
        work.go.set()
        await draining
        assert [task.done() for task in tasks] == [True] * 3

    run(scenario)


def test_lane_that_an_earlier_loop_woke_answers_a_later_one() -> None:
    again = threading.Event()

    class Lingering(Batcher[int, int]):
        @staticmethod
        def _deliver(*args: object) -> None:
            Batcher._deliver(*args)
            assert again.wait(10)

    with ThreadPoolExecutor(1) as pool:
        batcher = Lingering(Doubler(), pool, max_batch=1, lanes=1)
        assert asyncio.run(batcher.submit(1)) == 2

        async def later() -> int:
            asking = asyncio.create_task(batcher.submit(2))
            await until(lambda: batcher.oldest_wait_s() > 0)
            again.set()
            return await asyncio.wait_for(asking, 5)

        assert asyncio.run(later()) == 4


def test_each_batch_is_reported_with_how_long_its_items_waited() -> None:
    async def scenario(pool: ThreadPoolExecutor) -> None:
        seen: list[tuple[int, int]] = []
        work = Doubler(held=True)
        batcher = Batcher(work, pool, max_batch=8, lanes=1, on_taken=lambda size, waited: seen.append((size, len(waited))))
        tasks = [asyncio.create_task(batcher.submit(number)) for number in range(4)]
        await until(lambda: len(work.batches) == 1)
        work.go.set()
        await asyncio.gather(*tasks)
        assert seen == [(1, 1), (3, 3)]

    run(scenario)


def test_two_batchers_take_turns_on_the_threads_that_they_share() -> None:
    """A flood of one does not hold up the other: what comes for a batcher that had nothing to do runs next."""

    async def scenario(_: ThreadPoolExecutor) -> None:
        order: list[str] = []
        go = threading.Event()

        def runs(name: str) -> Callable[[Sequence[int]], list[int]]:
            def run(items: Sequence[int]) -> list[int]:
                assert go.wait(10)
                order.append(name)
                return list(items)

            return run

        with ThreadPoolExecutor(1) as one:
            flooded = Batcher(runs("flooded"), one, max_batch=1, lanes=1)
            quiet = Batcher(runs("quiet"), one, max_batch=1, lanes=1)
            tasks = [asyncio.create_task(flooded.submit(number)) for number in range(100)]
            await asyncio.sleep(0.01)
            tasks += [asyncio.create_task(quiet.submit(number)) for number in range(10)]
            await asyncio.sleep(0.01)
            go.set()
            await asyncio.gather(*tasks)
        # The first of the flood ran already; from then on every other one is of the quiet batcher.
        assert order[:21] == ["flooded", *["quiet", "flooded"] * 10]

    run(scenario)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["submit", "submit", "cancel", "yield"]), max_size=60), st.integers(1, 4), st.integers(1, 3))
def test_whoever_waits_is_answered_once_and_nothing_is_left(steps: list[str], max_batch: int, lanes: int) -> None:
    async def scenario(pool: ThreadPoolExecutor) -> None:
        work = Doubler()
        batcher = Batcher(work, pool, max_batch=max_batch, lanes=lanes)
        tasks: list[asyncio.Task[int]] = []
        for step in steps:
            if step == "submit":
                tasks.append(asyncio.create_task(batcher.submit(len(tasks))))
            elif step == "cancel" and tasks:
                tasks[len(tasks) // 2].cancel()
            else:
                await asyncio.sleep(0)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await batcher.drain()
        for number, result in enumerate(results):
            if number == 13 and not isinstance(result, asyncio.CancelledError):
                assert isinstance(result, ValueError)
            else:
                assert isinstance(result, asyncio.CancelledError) or result == number * 2
        # One that failed runs again alone; nothing else runs twice.
        ran = [item for batch in work.batches for item in batch]
        assert 13 in ran or len(ran) == len(set(ran))
        assert work.most_running <= lanes
        assert all(len(batch) <= max_batch for batch in work.batches)
        assert batcher.oldest_wait_s() == 0

    run(scenario)
