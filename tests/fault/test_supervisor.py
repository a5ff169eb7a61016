"""Every way that a job can go, with real processes: a trainer that keeps its promises, and one that breaks each of them."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from typing import TYPE_CHECKING

import pytest

from service.errors import TooLateError
from service.jobs.process import identify, is_locked, is_running, try_lock
from service.jobs.schema import ACTIVE
from tests.support.jobs import workshop
from tests.support.tiny import publish_colours

if TYPE_CHECKING:
    from pathlib import Path

    from service.jobs.schema import Job, JobState
    from tests.support.jobs import Workshop

pytestmark = pytest.mark.fault
WHOLE = ["preparing", "running", "evaluating", "publishing", "succeeded"]


def reach(shop: Workshop, job: Job, state: JobState) -> Job:
    """Step until the job is in `state` with a process."""
    shop.step_until(lambda: shop.job(job).state == state and shop.job(job).process is not None)
    return shop.job(job)


def epochs(shop: Workshop, job: Job) -> list[int]:
    return [event.fields["epoch"] for event in shop.folder(job).read() if event.kind == "epoch"]


def test_job_trains_is_judged_and_promoted(tmp_path: Path) -> None:
    with workshop(tmp_path) as shop:
        job = shop.finish(shop.submit())
        assert (job.state, job.version, job.is_promoted, job.code) == ("succeeded", 1, True, "promoted")
        assert shop.states(job) == WHOLE
        assert epochs(shop, job) == [1, 2, 3, 4]
        assert shop.registry.aliases("birds").production == 1
        assert shop.registry.manifest("birds", 1).run == job.id
        assert not (tmp_path / "runs" / job.id).exists()
        assert not is_locked(tmp_path / "jobs" / "device-0.lock")


def test_manual_promotion_leaves_a_candidate(tmp_path: Path) -> None:
    with workshop(tmp_path) as shop:
        job = shop.finish(shop.submit(promote="manual"))
        assert (job.state, job.is_promoted, job.code) == ("succeeded", False, "candidate")
        aliases = shop.registry.aliases("birds")
        assert (aliases.production, aliases.candidate) == (None, 1)


def test_worse_candidate_is_rejected_and_production_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINER_FAULT", "worse")
    with workshop(tmp_path) as shop:
        publish_colours(shop.registry, tmp_path / "work", "birds")
        job = shop.finish(shop.submit())
        assert (job.state, job.version, job.is_promoted) == ("rejected", 2, False)
        assert job.reason == "accuracy 0.41, and production has 0.88"
        aliases = shop.registry.aliases("birds")
        assert (aliases.production, aliases.candidate) == (1, None)
        assert json.loads(shop.folder(job).gate.read_text())["verdict"] == "reject"


def test_what_the_trainer_refuses_fails_with_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINER_FAULT", "refuse")
    with workshop(tmp_path) as shop:
        job = shop.finish(shop.submit())
        assert (job.state, job.code, job.reason) == ("failed", "invalid_dataset", "label 'cat' has no image")


def test_data_set_that_is_gone_by_then_fails_the_job_and_not_the_supervisor(tmp_path: Path) -> None:
    with workshop(tmp_path) as shop:
        lost, good = shop.submit("one", dataset=("gone",)), shop.submit("two")
        assert shop.finish(lost).code == "unknown_dataset"
        assert shop.finish(good).state == "succeeded"


def test_job_that_cannot_be_begun_does_not_hold_up_the_others(tmp_path: Path) -> None:
    with workshop(tmp_path) as shop:
        broken, good = shop.submit("one", dataset=("broken",)), shop.submit("two")
        assert shop.finish(broken).code == "invalid_dataset"
        assert shop.finish(good).state == "succeeded"


def test_trainer_that_was_started_and_not_noted_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINER_EPOCH_S", "0.5")
    with workshop(tmp_path) as shop:
        job = reach(shop, shop.submit(), "running")
        process = job.process
        with sqlite3.connect(shop.store.path) as database:
            database.execute("UPDATE jobs SET state = 'preparing', process = NULL")
        database.close()
        after = shop.again()
        after.supervisor.step()
        assert after.job(job).process == process
        assert after.finish(job).state == "succeeded"
        assert shop.registry.versions("birds") == [1]


def test_what_a_job_that_ended_elsewhere_leaves_is_cleared_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queued again after a stop, and cancelled by the server, which knows nothing of checkpoints."""
    monkeypatch.setenv("TRAINER_EPOCH_S", "0.3")
    with workshop(tmp_path) as shop:
        job = shop.submit()
        shop.step_until(lambda: 2 in epochs(shop, job))
        shop.supervisor.stop()
        assert (tmp_path / "runs" / job.id).exists()
        shop.store.cancel(job.id)
        shop.again().supervisor.step()
        assert not (tmp_path / "runs" / job.id).exists()


def test_end_that_could_not_be_written_is_known_by_the_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINER_FAULT", "full disk")
    with workshop(tmp_path) as shop:
        assert shop.finish(shop.submit()).code == "no_space"


def test_jobs_take_turns_on_one_device_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    with workshop(tmp_path) as shop:
        jobs = [shop.submit(str(number)) for number in range(3)]
        most = 0

        def all_done() -> bool:
            nonlocal most
            most = max(most, len(shop.store.find(ACTIVE)))
            return all(shop.job(job).is_final for job in jobs)

        shop.step_until(all_done, 60)
        assert most == 1
        assert [shop.job(job).version for job in jobs] == [1, 2, 3]


def test_two_devices_run_two_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINER_FAULT", "hang")
    with workshop(tmp_path, devices=2) as shop:
        jobs = [shop.submit(str(number)) for number in range(3)]
        shop.step_until(lambda: sum(shop.job(job).state == "running" for job in jobs) == 2)
        shop.supervisor.step()
        assert [shop.job(job).device for job in jobs] == [0, 1, None] or [shop.job(job).device for job in jobs] == [1, 0, None]


def test_trainer_that_is_killed_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINER_EPOCH_S", "0.3")
    with workshop(tmp_path) as shop:
        job = shop.submit()
        for done in (1, 2):
            shop.step_until(lambda done=done: done in epochs(shop, job))
            process = shop.job(job).process
            assert process is not None
            os.kill(process.pid, signal.SIGKILL)
            shop.step_until(lambda before=process: shop.job(job).process not in {None, before})
        job = shop.finish(job)
        assert (job.state, job.attempt) == ("succeeded", 3)
        # Nothing that was learnt is learnt again.
        assert epochs(shop, job) == [1, 2, 3, 4]
        assert shop.registry.versions("birds") == [1]


def test_trainer_that_dies_every_time_fails_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINER_FAULT", "crash")
    with workshop(tmp_path, attempts=2) as shop:
        job = shop.finish(shop.submit())
        assert (job.state, job.code, job.attempt) == ("failed", "crashed", 2)
        assert job.reason is not None
        assert job.reason.endswith("about to die")


def test_gate_that_cannot_judge_fails_the_job_and_promotes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINER_FAULT", "gate crashes")
    with workshop(tmp_path) as shop:
        job = shop.finish(shop.submit())
        assert (job.state, job.code) == ("failed", "evaluation_failed")
        aliases = shop.registry.aliases("birds")
        assert (aliases.production, aliases.candidate) == (None, None)


@pytest.mark.parametrize("state", ["running", "evaluating"])
def test_next_supervisor_finds_the_trainer_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: JobState) -> None:
    monkeypatch.setenv("TRAINER_EPOCH_S", "0.5")
    with workshop(tmp_path) as shop:
        job = reach(shop, shop.submit(), state)
        process = job.process
        assert process is not None
        after = shop.again()
        after.supervisor.step()
        assert after.job(job).process == process
        assert is_running(process)
        ended = after.finish(job)
        assert (ended.state, ended.attempt) == ("succeeded", 1)
        assert shop.registry.versions("birds") == [1]


def test_all_is_killed_and_the_next_supervisor_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINER_EPOCH_S", "0.3")
    with workshop(tmp_path) as shop:
        job = shop.submit()
        waiting = shop.submit("two")
        shop.step_until(lambda: 2 in epochs(shop, job))
        process = shop.job(job).process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        os.waitpid(process.pid, 0)
        after = shop.again()
        assert after.finish(job).state == "succeeded"
        assert epochs(after, job) == [1, 2, 3, 4]
        assert after.finish(waiting).state == "succeeded"


def test_supervisor_that_dies_between_claim_and_start_loses_nothing(tmp_path: Path) -> None:
    with workshop(tmp_path) as shop:
        job = shop.submit()
        assert shop.store.claim(0, 0.0) is not None
        after = shop.again()
        ended = after.finish(job)
        assert (ended.state, ended.attempt) == ("succeeded", 1)


def test_supervisor_that_dies_after_the_promotion_does_not_repeat_it(tmp_path: Path) -> None:
    with workshop(tmp_path) as shop:
        job = shop.submit()
        shop.step_until(lambda: shop.job(job).state == "publishing")
        aliases = shop.registry.promote("birds", 1)
        after = shop.again()
        assert after.finish(job).is_promoted
        # Withdrawing and promoting leave no further trace.
        assert shop.registry.aliases("birds").epoch == aliases.epoch


def test_promotion_by_hand_meanwhile_has_the_candidate_judged_again(tmp_path: Path) -> None:
    with workshop(tmp_path) as shop:
        publish_colours(shop.registry, tmp_path / "work", "birds")
        publish_colours(shop.registry, tmp_path / "work", "birds", gain=5.0)
        job = shop.submit()
        shop.step_until(lambda: shop.job(job).state == "publishing")
        shop.registry.promote("birds", 2)
        job = shop.finish(job)
        assert shop.states(job) == ["preparing", "running", "evaluating", "publishing", "evaluating", "publishing", "succeeded"]
        assert shop.registry.aliases("birds").production == 3
        assert shop.registry.aliases("birds").previous == (1, 2)


@pytest.mark.parametrize("state", ["queued", "running", "evaluating"])
def test_cancelled_job_ends_soon_and_promotes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: JobState) -> None:
    monkeypatch.setenv("TRAINER_EPOCH_S", "1")
    with workshop(tmp_path) as shop:
        job = shop.submit()
        if state != "queued":
            monkeypatch.setenv("TRAINER_EPOCH_S", "0.2")
            reach(shop, job, state)
        shop.store.cancel(job.id)
        started = time.monotonic()
        job = shop.finish(job)
        assert time.monotonic() - started < 5
        assert (job.state, job.is_promoted) == ("cancelled", False)
        assert shop.registry.aliases("birds").candidate is None
        assert not is_locked(tmp_path / "jobs" / "device-0.lock")
        assert not (tmp_path / "runs" / job.id).exists()
        with pytest.raises(TooLateError, match="cancelled; there is nothing left to cancel"):
            shop.store.cancel(job.id)


def test_trainer_that_does_not_listen_is_ended_by_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINER_FAULT", "deaf")
    monkeypatch.setattr("service.jobs.watch.GRACE_S", 0.5)
    with workshop(tmp_path) as shop:
        job = shop.submit()
        shop.step_until(lambda: 4 in epochs(shop, job))
        shop.store.cancel(job.id)
        assert shop.finish(job).state == "cancelled"


def test_cancelling_comes_too_late_once_the_alias_moves(tmp_path: Path) -> None:
    with workshop(tmp_path) as shop:
        job = shop.submit()
        shop.step_until(lambda: shop.job(job).state == "publishing")
        with pytest.raises(TooLateError):
            shop.store.cancel(job.id)
        assert shop.finish(job).is_promoted


def test_job_over_its_time_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINER_FAULT", "hang")
    with workshop(tmp_path, deadline_s=2) as shop:
        job = shop.finish(shop.submit())
        assert (job.state, job.code) == ("timed_out", "deadline")


def test_trainer_that_is_silent_is_taken_for_hung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINER_FAULT", "silent")
    with workshop(tmp_path, heartbeat_s=1.5) as shop:
        job = shop.finish(shop.submit())
        assert (job.state, job.code) == ("timed_out", "no_heartbeat")


def test_trainer_that_is_frozen_is_ended_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINER_FAULT", "hang")
    with workshop(tmp_path, heartbeat_s=1.5) as shop:
        job = shop.submit()
        shop.step_until(lambda: 4 in epochs(shop, job))
        process = shop.job(job).process
        assert process is not None
        os.kill(process.pid, signal.SIGSTOP)
        ended = shop.finish(job)
        assert (ended.state, ended.code) == ("timed_out", "no_heartbeat")
        assert not is_running(process)


def test_what_a_trainer_started_is_gone_when_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINER_FAULT", "child")
    with workshop(tmp_path) as shop:
        job = shop.submit()
        file = tmp_path / "runs" / job.id / "child"
        shop.step_until(lambda: file.exists() and file.read_text() != "")
        child = identify(int(file.read_text()))
        assert child is not None
        # The child has the lock too, so the device is not given away before it is gone.
        assert shop.finish(job).state == "succeeded"
        assert not is_running(child)


def test_device_that_somebody_holds_is_not_given_away(tmp_path: Path) -> None:
    with workshop(tmp_path) as shop:
        job = shop.submit()
        lock = try_lock(tmp_path / "jobs" / "device-0.lock")
        assert lock is not None
        for _ in range(5):
            shop.supervisor.step()
        assert shop.job(job).state == "queued"
        os.close(lock)
        assert shop.finish(job).state == "succeeded"


def test_orderly_end_keeps_what_was_learnt_and_is_no_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINER_EPOCH_S", "0.3")
    with workshop(tmp_path) as shop:
        job = shop.submit()
        shop.step_until(lambda: 2 in epochs(shop, job))
        shop.supervisor.stop()
        assert (shop.job(job).state, shop.job(job).attempt) == ("queued", 0)
        ended = shop.again().finish(job)
        assert (ended.state, ended.attempt) == ("succeeded", 1)
        assert epochs(shop, job) == [1, 2, 3, 4]


def step_until_away(shop: Workshop, job: Job) -> None:
    shop.step_until(lambda: "could not be reached" in (shop.job(job).reason or ""))


def test_a_registry_that_is_away_is_no_attempt_and_what_was_learnt_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINER_FAULT", "unreachable")
    monkeypatch.setattr("service.jobs.supervisor.AWAY_S", 0.5)
    with workshop(tmp_path, attempts=1) as shop:
        job = shop.submit()
        step_until_away(shop, job)
        waiting = shop.job(job)
        assert (waiting.state, waiting.process, waiting.device) == ("preparing", None, 0)
        job = shop.finish(job)
        assert (job.state, job.attempt, job.version, job.is_promoted) == ("succeeded", 1, 1, True)
        assert shop.states(job) == [*["preparing", "running"] * 4, *WHOLE[2:]]
        assert epochs(shop, job) == [1, 2, 3, 4], "none was trained twice"
        told = [event.fields for event in shop.folder(job).read() if event.kind in {"failed", "plan"}]
        assert [event["event"] for event in told] == ["plan", *["failed", "plan"] * 3]
        assert all(after["time"] - before["time"] > 0.5 for before, after in zip(told[1::2], told[2::2], strict=True))


def test_a_job_waits_for_its_registry_until_its_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINER_FAULT", "unreachable always")
    monkeypatch.setattr("service.jobs.supervisor.AWAY_S", 0.1)
    with workshop(tmp_path, deadline_s=3) as shop:
        job = shop.finish(shop.submit())
        assert (job.state, job.code, job.attempt) == ("timed_out", "deadline", 1)
        assert (tmp_path / "unreached").stat().st_size > 1


def test_a_job_whose_registry_is_away_can_be_cancelled_and_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINER_FAULT", "unreachable always")
    with workshop(tmp_path) as shop:
        cancelled = shop.submit()
        step_until_away(shop, cancelled)
        shop.store.cancel(cancelled.id)
        shop.supervisor.step()
        assert shop.job(cancelled).state == "cancelled"
        job = shop.submit("two")
        step_until_away(shop, job)
        shop.supervisor.stop()
        monkeypatch.delenv("TRAINER_FAULT")
        ended = shop.again().finish(job)
        assert (ended.state, ended.attempt) == ("succeeded", 1)
        assert epochs(shop, job) == [1, 2, 3, 4]


def test_a_gate_that_cannot_reach_the_registry_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINER_FAULT", "gate unreachable")
    monkeypatch.setattr("service.jobs.supervisor.AWAY_S", 0.5)
    with workshop(tmp_path, attempts=1) as shop:
        job = shop.submit()
        step_until_away(shop, job)
        away = time.monotonic()
        assert shop.job(job).state == "evaluating"
        job = shop.finish(job)
        assert (job.state, job.is_promoted) == ("succeeded", True)
        assert time.monotonic() - away > 1.2


def test_jobs_that_ended_are_forgotten_in_order(tmp_path: Path) -> None:
    with workshop(tmp_path) as shop:
        jobs = [shop.finish(shop.submit(str(number))) for number in range(3)]
        shop.supervisor._desk.tidy(1, 0)
        assert [job.id for job in shop.store.find()] == [jobs[2].id]
        assert [path.name for path in (tmp_path / "jobs").iterdir() if path.is_dir()] == [jobs[2].id]
        # The counters that Prometheus reads never go back.
        assert shop.store.finished()["succeeded"] == 3
