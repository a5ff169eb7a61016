"""The store of kept images: in a folder and in an object store alike, found by id and by request, labelled, deleted whole."""

from __future__ import annotations

import os
import stat
import statistics
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from models.errors import SettingsError
from service.errors import BadRequestError
from service.feedback.files import Files
from service.feedback.review import Strategy, review
from service.feedback.store import FeedbackStore
from tests.support.buckets import s3
from tests.support.kept import NOON, keep, kept, label, prediction


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3() as bucket:
        yield bucket.name


@pytest.fixture(params=["folder", "file", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    unique = uuid.uuid4().hex
    if request.param == "s3":
        return f"s3://{request.getfixturevalue('bucket')}/{unique}"
    return {"folder": str(tmp_path / "feedback"), "file": f"file://{tmp_path}/feedback", "memory": f"memory://{unique}/f"}[
        request.param
    ]


@pytest.fixture
def store(place: str) -> FeedbackStore:
    return FeedbackStore(Files(place))


def test_nothing_is_there_before_something_is_kept(store: FeedbackStore, tmp_path: Path) -> None:
    assert (store.models(), store.entries("colours"), store.labelled("colours"), store.references()) == ([], [], set(), [])
    assert store.find("0" * 32) is None
    assert store.find_request("r", 0) is None
    assert store.delete("0" * 32) is None
    assert list(tmp_path.iterdir()) == []


def test_what_is_kept_is_found_by_id_and_by_request_and_reads_as_it_was(place: str, store: FeedbackStore) -> None:
    image = kept(b"a picture", request=("abc", 3), said=prediction(0.25, 0.125))
    assert store.keep(image, b"a picture")
    # Another process, which has only the place.
    other = FeedbackStore(Files(place))
    assert other.models() == ["colours"]
    assert other.find_request("abc", 3) == image.id
    assert other.find_request("abc", 2) is None
    assert other.find(image.id) == "colours"
    assert other.image("colours", image.id) == b"a picture"
    (entry,) = other.entries("colours")
    assert other.sidecar("colours", entry) == image
    assert entry[:5] == (image.id, "1767268800000", "9", "0250000", "0125000")
    assert (entry.at_ms, entry.size_bytes) == (NOON.timestamp() * 1000, 9)


def test_the_same_image_is_kept_once_for_each_model_and_every_request_finds_it(store: FeedbackStore) -> None:
    assert store.keep(kept(b"x", request=("one", 0)), b"x")
    assert not store.keep(kept(b"x", request=("two", 5)), b"x")
    assert store.keep(kept(b"x", model="other", request=("three", 0)), b"x")
    assert len(store.entries("colours")) == 1
    assert store.find_request("one", 0) == store.find_request("two", 5) == kept(b"x").id
    assert store.find_request("three", 0) == kept(b"x", model="other").id != kept(b"x").id


def test_of_two_requests_with_one_id_the_newest_is_meant(store: FeedbackStore) -> None:
    keep(store, b"later", at=NOON + timedelta(seconds=1))
    keep(store, b"sooner")
    assert store.find_request("r", 0) == kept(b"later").id


def test_labelling_again_replaces_and_remembers(store: FeedbackStore) -> None:
    one = keep(store, b"x")
    assert label(store, one, "red").before == ()
    again = label(store, one, "crimson")
    assert (again.last.label, [(old.label, old.by, old.at) for old in again.before]) == ("crimson", [("red", "alice", NOON)])
    assert list(store.labels("colours", "single_label")) == [(one, "crimson")]
    # What was labelled for another task is of no use to this one.
    assert list(store.labels("colours", "regression")) == []
    with pytest.raises(FileNotFoundError):
        label(store, "0" * 32, "red")


@pytest.mark.parametrize("value", ["red", ("red", "green"), (), 2.5, "2.5"], ids=repr)
def test_label_of_any_kind_is_read_as_it_was_written(store: FeedbackStore, value: object) -> None:
    label(store, keep(store, b"x"), value)  # type: ignore[arg-type]
    ((_, read),) = store.labels("colours", "single_label")
    assert (read, type(read)) == (value, type(value))


def test_deleting_leaves_nothing_of_an_image_and_nothing_else_goes(place: str, store: FeedbackStore, tmp_path: Path) -> None:
    one, other = keep(store, b"x", request=("r", 0)), keep(store, b"y", request=("r", 1))
    keep(store, b"x", request=("s", 0))
    label(store, one, "red")
    assert store.delete(one) == "colours"
    assert store.delete(one) is None
    assert (store.find(one), store.find_request("r", 0), store.find_request("s", 0)) == (None, None, None)
    assert store.labelled("colours") == set()
    assert [entry.id for entry in store.entries("colours")] == [store.find_request("r", 1)] == [other]
    assert list(tmp_path.rglob(f"*{one}*")) == []


def test_eviction_spares_what_was_labelled_in_between(store: FeedbackStore) -> None:
    one, other = keep(store, b"x"), keep(store, b"y")
    entries = {entry.id: entry for entry in store.entries("colours")}
    label(store, one, "red")
    assert [store.evict("colours", entries[image]) for image in (one, other)] == [False, True]
    assert [entry.id for entry in store.entries("colours")] == [one]


@pytest.mark.parametrize("image", ["../../etc/passwd", "", "0" * 31, "0" * 33, "G" * 32, "0" * 31 + "\n"])
def test_no_id_leads_out_of_the_store(store: FeedbackStore, image: str) -> None:
    keep(store, b"x")
    assert store.find(image) is None
    assert store.delete(image) is None


def test_only_the_owner_may_read_and_what_was_cut_off_is_cleared(tmp_path: Path) -> None:
    store = FeedbackStore(Files(str(tmp_path / "feedback")))
    keep(store, b"x")
    below = list((tmp_path / "feedback").rglob("*"))
    assert {stat.S_IMODE(path.stat().st_mode) for path in below if path.is_file()} == {0o600}
    left = tmp_path / "feedback" / ".unfinished" / "left"
    left.write_bytes(b"half a picture")
    store.tidy()
    assert left.exists(), "somebody may be writing it"
    os.utime(left, (0, 0))
    store.tidy()
    assert not left.exists()
    assert store.models() == ["colours"]


@pytest.mark.parametrize("place", ["nonsense://x/y", "s4://bucket"])
def test_place_that_cannot_be_reached_is_a_setting_that_is_wrong(place: str) -> None:
    with pytest.raises(SettingsError, match=f"CANDOR_FEEDBACK={place}.*expected a folder or an fsspec URL"):
        Files(place)


# --- the review queue


def fill(store: FeedbackStore, count: int) -> list[str]:
    """Images whose margin falls and whose familiarity grows with their number."""
    return [
        keep(store, b"%d" % number, said=prediction(1 - number / count, (number + 1) / count), request=("r", number))
        for number in range(count)
    ]


def pages(store: FeedbackStore, strategy: Strategy, limit: int) -> list[str]:
    found, cursor = [], None
    while True:
        page = review(store, "colours", strategy, limit, cursor)
        found += [entry.id for entry in page.entries]
        cursor = page.next_cursor
        if cursor is None:
            return found


def test_orders_are_what_they_are_called_and_pages_add_up(store: FeedbackStore) -> None:
    ids = fill(store, 10)
    assert pages(store, "margin", 3) == ids[::-1]
    assert pages(store, "unknown", 4) == ids
    assert pages(store, "random", 5) == pages(store, "random", 7) == sorted(ids)


def test_pages_stay_in_place_while_images_are_labelled_kept_and_deleted(store: FeedbackStore) -> None:
    ids = fill(store, 10)
    first = review(store, "colours", "unknown", 4, None)
    label(store, ids[3], "red")
    store.delete(ids[0])
    keep(store, b"stranger than all", said=prediction(0.5, 0.001))
    second = review(store, "colours", "unknown", 4, first.next_cursor)
    assert [entry.id for entry in second.entries] == ids[4:8]
    assert (second.total, second.labelled) == (9, 1)


def test_equal_numbers_are_all_seen(store: FeedbackStore) -> None:
    ids = {keep(store, b"%d" % number, said=prediction(0.5)) for number in range(7)}
    assert len(pages(store, "margin", 2)) == 7
    assert set(pages(store, "margin", 2)) == ids


def test_what_has_no_such_number_is_counted_apart(store: FeedbackStore) -> None:
    keep(store, b"x", said=prediction(None, None))
    for strategy, total in (("margin", 0), ("unknown", 0), ("random", 1)):
        page = review(store, "colours", strategy, 5, None)  # type: ignore[arg-type]
        assert (page.total, page.unordered) == (total, 1 - total)


@pytest.mark.parametrize("cursor", ["", "x", "margin.0.5", "unknown.0500000." + "0" * 32, "margin.0500000." + "0" * 32 + "\n"])
def test_cursor_of_another_order_is_refused(store: FeedbackStore, cursor: str) -> None:
    with pytest.raises(BadRequestError, match="begin again without one"):
        review(store, "colours", "margin", 5, cursor)


class Full(Files):
    """A folder of ten thousand images that were not written one by one. Names are all that the queue looks at."""

    def names(self, folder: str) -> list[str]:
        if folder != "colours/kept":
            return super().names(folder)
        return [f"{number:032x}.1767268800000.50000.{number % 997:07d}.-.json" for number in range(10_000)]


def test_queue_of_ten_thousand_images_is_quick(tmp_path: Path) -> None:
    store = FeedbackStore(Full(str(tmp_path / "feedback")))
    seconds = []
    for _ in range(5):
        started = time.thread_time()
        page = review(store, "colours", "margin", 20, None)
        seconds.append(time.thread_time() - started)
    assert (page.total, len(page.entries)) == (10_000, 20)
    # Of this thread's own time: the machine may be busy. 100 ms are promised.
    assert statistics.median(seconds) < 0.1
