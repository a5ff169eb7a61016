"""How much is kept: by count, by bytes, by age; the oldest go first, and never what has a label."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from service.feedback.files import Files
from service.feedback.room import Bounds, Room
from service.feedback.store import FeedbackStore
from tests.support.kept import NOON, keep, label


class Clock:
    def __init__(self) -> None:
        self.now = NOON.timestamp()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> FeedbackStore:
    return FeedbackStore(Files(str(tmp_path / "feedback")))


def fill(store: FeedbackStore, room: Room, count: int, *, model: str = "colours", start: int = 0) -> list[str | None]:
    """Images of 100 bytes, a second apart, in the order in which they come; None where there was no room."""
    found: list[str | None] = []
    for number in range(start, start + count):
        has_room, _ = room.make(100)
        data, at = b"%100d" % number, NOON + timedelta(seconds=number)
        found.append(keep(store, data, model=model, at=at, request=("r", number)) if has_room else None)
    return found


def held(store: FeedbackStore) -> set[str]:
    return {entry.id for model in store.models() for entry in store.entries(model)}


@pytest.mark.parametrize("bounds", [Bounds(5, 10**6, 30), Bounds(1000, 599, 30)], ids=["count", "bytes"])
def test_the_oldest_go_and_the_bound_holds_at_every_moment(store: FeedbackStore, bounds: Bounds) -> None:
    room = Room(store, bounds, Clock())
    ids: list[str | None] = []
    for number in range(12):
        ids += fill(store, room, 1, start=number)
        assert len(held(store)) <= 5
    assert None not in ids
    assert held(store) == set(ids[-5:])
    # Their requests are forgotten with them.
    assert [store.find_request("r", number) is None for number in range(12)] == [True] * 7 + [False] * 5


def test_bounds_are_for_all_models_together_and_hold_for_another_process(store: FeedbackStore) -> None:
    first = fill(store, Room(store, Bounds(5, 10**6, 30), Clock()), 4)
    second = fill(store, Room(store, Bounds(5, 10**6, 30), Clock()), 3, model="other", start=4)
    assert held(store) == {*first[2:], *second}


def test_labelled_images_stay_and_count(store: FeedbackStore) -> None:
    room = Room(store, Bounds(3, 10**6, 30), Clock())
    first = fill(store, room, 3)
    for image in first[:2]:
        label(store, str(image), "red")
    (last,) = fill(store, room, 1, start=3)
    assert held(store) == {first[0], first[1], last}
    label(store, str(last), "red")
    assert fill(store, room, 2, start=4) == [None, None]
    assert held(store) == {first[0], first[1], last}


def test_full_of_labels_is_not_listed_at_every_image(store: FeedbackStore) -> None:
    clock = Clock()
    room = Room(store, Bounds(1, 10**6, 30), clock)
    (image,) = fill(store, room, 1)
    label(store, str(image), "red")
    assert room.make(100) == (False, 0)
    store.delete(str(image))
    # Not looked for at once, but soon.
    assert room.make(100) == (False, 0)
    clock.now += 11
    assert room.make(100) == (True, 0)


def test_an_image_over_the_bound_makes_nobody_go(store: FeedbackStore) -> None:
    room = Room(store, Bounds(10, 1000, 30), Clock())
    ids = fill(store, room, 3)
    assert room.make(1001) == (False, 0)
    assert held(store) == set(ids)


def test_too_old_goes_whether_or_not_there_is_room_and_a_clock_set_back_harms_nobody(store: FeedbackStore) -> None:
    clock = Clock()
    room = Room(store, Bounds(100, 10**6, days=1), clock)
    ids = fill(store, room, 4)
    label(store, str(ids[0]), "red")
    clock.now += 86_400 + 2
    assert room.sweep() == 1
    assert held(store) == {ids[0], ids[2], ids[3]}
    clock.now -= 10 * 86_400
    assert room.sweep() == 0
    clock.now += 20 * 86_400
    assert room.sweep() == 2
    assert held(store) == {ids[0]}


def test_requests_of_one_image_are_bounded_too(store: FeedbackStore) -> None:
    room = Room(store, Bounds(10, 10**6, 30), Clock())
    for number in range(25):
        keep(store, b"health check", at=NOON + timedelta(seconds=number), request=("r", number))
    room.sweep()
    assert sum(store.find_request("r", number) is not None for number in range(25)) == 10
    assert store.find_request("r", 24) is not None


def test_more_than_needed_goes_at_once_where_much_is_kept(store: FeedbackStore) -> None:
    room = Room(store, Bounds(40, 10**6, 30), Clock())
    ids = fill(store, room, 41)
    # A twentieth of 40, and the one that came.
    assert held(store) == set(ids[3:])
