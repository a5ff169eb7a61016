"""How many may wait, learnt from how fast they are answered; and who may come in when that many do."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.backlog import Backlog
from service.errors import QueueFullError
from service.metrics import Metrics


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def answer(backlog: Backlog, clock: Clock, pace_s: float, count: int, model: str = "a") -> None:
    """Answer an image of a queue of three, and then `count` more, one every `pace_s` seconds."""
    backlog.enter(model, 3)
    backlog.answered()
    for _ in range(count):
        clock.now += pace_s
        backlog.answered()
    backlog.leave(model, 3)


def fill(backlog: Backlog, model: str = "a") -> int:
    """Enter one by one until there is no more room, and return how many came in; all leave again."""
    entered = 0
    try:
        while True:
            backlog.enter(model, 1)
            entered += 1
    except QueueFullError:
        pass
    for _ in range(entered):
        backlog.leave(model, 1)
    return entered


def test_before_anything_was_answered_the_number_alone_bounds(clock: Clock) -> None:
    assert fill(Backlog(512, 1.5, Metrics(), clock)) == 512


@pytest.mark.parametrize(("pace_s", "room"), [(0.001, 512), (0.01, 150), (0.1, 15), (10.0, 2)])
def test_room_is_what_is_answered_in_the_time_that_anybody_waits(clock: Clock, pace_s: float, room: int) -> None:
    backlog = Backlog(512, 1.5, Metrics(), clock)
    answer(backlog, clock, pace_s, 300)
    assert abs(fill(backlog) - room) <= 1


def test_one_slow_answer_among_many_hardly_counts(clock: Clock) -> None:
    backlog = Backlog(512, 1.5, Metrics(), clock)
    answer(backlog, clock, 0.01, 300)
    answer(backlog, clock, 0.5, 1)
    assert 70 < fill(backlog) < 150


def test_pause_in_which_nobody_waited_is_not_taken_for_slowness(clock: Clock) -> None:
    """Two come, one is answered, the other hangs up; the next comes an hour later."""
    backlog = Backlog(512, 1.5, Metrics(), clock)
    answer(backlog, clock, 0.01, 300)
    backlog.enter("a", 1)
    backlog.enter("a", 1)
    backlog.answered()
    backlog.leave("a", 1)
    backlog.leave("a", 1)
    clock.now += 3600
    backlog.enter("a", 1)
    backlog.answered()
    backlog.leave("a", 1)
    assert abs(fill(backlog) - 150) <= 1


def test_process_that_was_stopped_for_an_hour_takes_as_many_as_before_soon_after(clock: Clock) -> None:
    backlog = Backlog(512, 1.5, Metrics(), clock)
    answer(backlog, clock, 0.01, 300)
    answer(backlog, clock, 3600, 1)
    assert fill(backlog) >= 2
    answer(backlog, clock, 0.01, 100)
    assert fill(backlog) > 100


def test_what_was_slow_from_the_start_is_found_to_be_fast_again(clock: Clock) -> None:
    """However few may wait, they are enough to see how fast they are answered."""
    backlog = Backlog(512, 1.5, Metrics(), clock)
    answer(backlog, clock, 60, 50)
    assert fill(backlog) == 2
    for _ in range(400):
        backlog.enter("a", 1)
        backlog.enter("a", 1)
        clock.now += 0.01
        backlog.answered()
        backlog.leave("a", 1)
        clock.now += 0.01
        backlog.answered()
        backlog.leave("a", 1)
    assert fill(backlog) > 100


def test_flood_for_one_model_leaves_another_its_share(clock: Clock) -> None:
    backlog = Backlog(100, 1.5, Metrics(), clock)
    for _ in range(100):
        backlog.enter("flooded", 1)
    with pytest.raises(QueueFullError, match="100 images wait, and at most 100 may"):
        backlog.enter("flooded", 1)
    assert fill(backlog, "quiet") == 50
    # And three models have a third each.
    backlog.enter("quiet", 1)
    assert fill(backlog, "third") == 34


def test_two_models_under_flood_share_what_is_answered_evenly(clock: Clock) -> None:
    """One comes early and fills all; from then on both ask for more than there is, and one image is answered at a time."""
    backlog = Backlog(60, 10, Metrics(), clock)
    waiting = ["a"] * 60
    for model in waiting:
        backlog.enter(model, 1)
    answered: Counter[str] = Counter()
    for step in range(3000):
        for model in ("a", "b"):
            try:
                backlog.enter(model, 1)
                waiting.append(model)
            except QueueFullError:
                pass
        clock.now += 0.001
        backlog.answered()
        model = waiting.pop(0)
        backlog.leave(model, 1)
        answered[model] += step > 200
    assert answered["b"] / answered.total() == pytest.approx(0.5, abs=0.05)


def test_request_of_many_images_comes_in_whole_or_not_at_all(clock: Clock) -> None:
    metrics = Metrics()
    backlog = Backlog(64, 1.5, metrics, clock)
    answer(backlog, clock, 0.1, 300)
    # Sixteen are answered in 1.5 s, and yet the largest request that there may be is taken where nothing waits.
    backlog.enter("a", 64)
    with pytest.raises(QueueFullError):
        backlog.enter("b", 64 + 1)
    backlog.leave("a", 64)
    assert "candor_queue_depth 0.0" in metrics.render().decode()
    assert 'candor_shed_total{reason="queue_full"} 1.0' in metrics.render().decode()


Step = st.tuples(st.sampled_from(["enter", "leave", "answered", "wait"]), st.sampled_from("abc"), st.integers(1, 9))


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 40), st.lists(Step, max_size=120))
def test_whatever_happens_it_counts_right_never_exceeds_its_limits_and_always_takes_somebody(
    limit: int, steps: list[tuple[str, str, int]]
) -> None:
    clock = Clock()
    metrics = Metrics()
    backlog = Backlog(limit, 1.5, metrics, clock)
    inside: list[tuple[str, int]] = []
    for kind, model, number in steps:
        if kind == "enter":
            try:
                backlog.enter(model, number)
                inside.append((model, number))
            except QueueFullError:
                pass
        elif kind == "leave" and inside:
            backlog.leave(*inside.pop(number % len(inside)))
        elif kind == "answered" and inside:
            backlog.answered()
        else:
            clock.now += number * 10.0 ** (number - 5)
        total = sum(count for _, count in inside)
        assert f"candor_queue_depth {float(total)}" in metrics.render().decode()
        for name in "abc":
            assert sum(count for model, count in inside if model == name) <= limit
        if not inside:
            backlog.check("a", limit)
    for entered in inside:
        backlog.leave(*entered)
    backlog.check("a", limit)
