"""Keeping behind everybody's back: nobody waits, nobody fails, and everything that was offered is counted."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from models.confidence.judge import Trust
from service.feedback import keeper as keeping
from service.feedback.files import Files
from service.feedback.keeper import Keeper
from service.feedback.room import Bounds, Room
from service.feedback.served import Served
from service.feedback.store import FeedbackStore
from service.live import Judged
from service.metrics import FEEDBACK, Metrics
from service.predictor import Estimate, Prediction
from tests.support.kept import NOON, label
from tests.support.tiny import BRIGHTNESS, colours, tiny_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

TRUST = Trust(p_correct=0.75, p_familiar=0.25, familiarity="familiar", trust_score=None, action="review")
JUDGED = Judged(np.array([1.5], np.float32), np.array([0.625]), TRUST)
ANSWER = Prediction((("red", 0.625),), None, TRUST, probability=0.625, margin=0.5, judged=JUDGED)
MANIFEST = tiny_manifest("colours", colours())


class Stuck(Files):
    """A disk that hangs until it is let go."""

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self.go = threading.Event()

    def write(self, path: str, data: bytes, *, is_synced: bool = False) -> None:
        assert self.go.wait(10)
        super().write(path, data, is_synced=is_synced)


def served(data: bytes, index: int = 0) -> Served:
    return Served(data, "request", index, MANIFEST, ANSWER, NOON)


def build(files: Files, count: int = 1000, *, is_on: bool = True) -> tuple[Keeper, FeedbackStore, Metrics]:
    store, metrics = FeedbackStore(files), Metrics()
    # Kept at noon of a day that is long ago.
    return Keeper(store, Room(store, Bounds(count, 10**9, 10**5)), metrics, is_on=is_on), store, metrics


def counted(metrics: Metrics) -> dict[str, float]:
    values = {outcome: metrics.registry.get_sample_value("candor_feedback_total", {"outcome": outcome}) for outcome in FEEDBACK}
    assert None not in values.values(), "every outcome is there from the start"
    return {outcome: value for outcome, value in values.items() if value}


@pytest.fixture
def stuck(tmp_path: Path) -> Iterator[Stuck]:
    files = Stuck(str(tmp_path / "feedback"))
    yield files
    files.go.set()


def test_what_is_offered_is_written_before_the_end(tmp_path: Path) -> None:
    keeper, store, metrics = build(Files(str(tmp_path / "feedback")))
    keeper.start()
    for index in range(20):
        keeper.offer(served(b"%d" % (index % 15), index))
    keeper.close()
    assert counted(metrics) == {"kept": 15, "duplicate": 5}
    ids = [store.find_request("request", index) for index in range(20)]
    assert len(set(ids) - {None}) == 15
    assert ids[15:] == ids[:5]
    (entry,) = [entry for entry in store.entries("colours") if entry.id == ids[3]]
    sidecar = store.sidecar("colours", entry)
    assert (sidecar.request_id, sidecar.index, sidecar.version, sidecar.task) == ("request", 3, 1, "single_label")
    assert sidecar.prediction is not None
    assert sidecar.prediction.model_dump() == {
        "label": "red",
        "probability": 0.625,
        "selected": None,
        "value": None,
        "margin": 0.5,
        "p_correct": 0.75,
        "familiarity": "familiar",
        "p_familiar": 0.25,
        "action": "review",
    }


def test_a_number_is_kept_without_a_margin(tmp_path: Path) -> None:
    keeper, store, _ = build(Files(str(tmp_path / "feedback")))
    keeper.start()
    manifest = tiny_manifest("light", BRIGHTNESS)
    keeper.offer(Served(b"x", "r", 0, manifest, Estimate(12.5, "percent", None, TRUST, JUDGED), NOON))
    keeper.close()
    (entry,) = store.entries("light")
    said = store.sidecar("light", entry).prediction
    assert said is not None
    assert (said.value, said.label, said.margin, entry.margin, entry.p_familiar) == (12.5, None, None, "-", "0250000")


def test_off_means_that_nothing_is_written(tmp_path: Path) -> None:
    keeper, _, metrics = build(Files(str(tmp_path / "feedback")), is_on=False)
    keeper.start()
    keeper.offer(served(b"x"))
    keeper.close()
    assert counted(metrics) == {}
    assert list(tmp_path.iterdir()) == []


def test_nobody_waits_for_a_disk_that_hangs(stuck: Stuck, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "MOST_WAITING", 3)
    keeper, store, metrics = build(stuck)
    keeper.start()
    keeper.offer(served(b"0"))
    until = time.monotonic() + 10
    while keeper._waiting and time.monotonic() < until:
        time.sleep(0.001)
    for index in range(1, 10):
        keeper.offer(served(b"%d" % index, index))
    # One is being written, three wait.
    assert counted(metrics) == {"dropped": 6}
    stuck.go.set()
    keeper.close()
    assert counted(metrics) == {"dropped": 6, "kept": 4}
    assert len(store.entries("colours")) == 4


def test_what_waits_is_bounded_in_bytes_too(stuck: Stuck, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "MOST_WAITING_BYTES", 1000)
    keeper, _, metrics = build(stuck)
    for size in (600, 500, 400, 1):
        keeper.offer(served(bytes(size)))
    assert counted(metrics) == {"dropped": 2}
    stuck.go.set()
    keeper.start()
    keeper.close()
    assert counted(metrics) == {"dropped": 2, "kept": 2}


def test_a_disk_that_fails_is_counted_logged_once_and_used_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = tmp_path / "feedback"
    place.write_bytes(b"a file where the folder should be")
    keeper, store, metrics = build(Files(str(place)))
    keeper.start()
    for index in range(3):
        keeper.offer(served(b"%d" % index, index))
    until = time.monotonic() + 10
    while counted(metrics) != {"dropped": 3} and time.monotonic() < until:
        time.sleep(0.001)
    assert counted(metrics) == {"dropped": 3}
    assert [record.message for record in caplog.records] == ["images cannot be kept"]
    place.unlink()
    keeper.offer(served(b"again"))
    keeper.close()
    assert counted(metrics) == {"dropped": 3, "kept": 1}
    assert len(store.entries("colours")) == 1


def test_no_room_is_counted_as_what_it_is(tmp_path: Path) -> None:
    keeper, store, metrics = build(Files(str(tmp_path / "feedback")), count=2)
    keeper.start()
    for index in range(4):
        keeper.offer(served(b"%d" % index, index))
    until = time.monotonic() + 10
    while sum(counted(metrics).values()) != 6 and time.monotonic() < until:
        time.sleep(0.001)
    assert counted(metrics) == {"kept": 4, "evicted": 2}
    for entry in store.entries("colours"):
        label(store, entry.id, "red")
    keeper.offer(served(b"one more"))
    keeper.close()
    assert counted(metrics) == {"kept": 4, "evicted": 2, "dropped": 1}
