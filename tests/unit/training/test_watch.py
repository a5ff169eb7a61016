"""When a run is said to overfit."""

from __future__ import annotations

import pytest

from training.history import Epoch
from training.watch import Watch, judge

pytestmark = pytest.mark.torch


def epochs(*pairs: tuple[float, float | None]) -> list[Epoch]:
    return [
        Epoch(
            epoch=number,
            phase="unfrozen",
            loss=loss,
            validation_loss=validation,
            validation_score=None if validation is None else 0.5,
            lr=1e-3,
            images_per_s=1,
            seconds=1,
        )
        for number, (loss, validation) in enumerate(pairs, start=1)
    ]


GOOD = epochs((1.0, 0.9), (0.8, 0.7), (0.6, 0.65))
BAD = epochs((1.0, 0.6), (0.5, 0.5), (0.2, 0.7))


def test_a_rise_of_validation_while_training_falls_is_said_once_and_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch([])
    for count in range(1, 4):
        watch.after(BAD[:count])
    watch.after([*BAD, *epochs((0.1, 0.9))])
    said = capsys.readouterr().err
    assert said.count("overfits") == 1
    assert "since epoch 2 the training loss fell from 0.500 to 0.200, and the validation loss rose from 0.500 to 0.700" in said


def test_a_good_run_and_a_wobble_are_not_called_overfitting(capsys: pytest.CaptureFixture[str]) -> None:
    for run in (GOOD, epochs((1.0, 0.50), (0.9, 0.52)), epochs((0.33, 0.0002), (0.3, 0.0006)), epochs((0.5, 0.5), (0.9, 0.9))):
        Watch([]).after(run)
        assert judge(run, 1.1).verdict == "none"
    assert capsys.readouterr().err == ""


def test_the_verdict_says_what_it_rests_on() -> None:
    assert judge(GOOD, 1.0).best_epoch == 3
    warned = judge(BAD, 1.0)
    assert (warned.verdict, warned.best_epoch) == ("warn", 2)
    assert warned.sentence.startswith("The run overfits: since epoch 2")
    assert judge(epochs((1.0, 0.5), (0.1, 0.9)), 1.0).verdict == "severe"
    hot = judge(GOOD, 1.8)
    assert (hot.verdict, hot.sentence) == ("warn", "It is surer than it is right (temperature 1.80).")
    assert judge(GOOD, 3.0).verdict == "severe"


def test_what_was_not_watched_is_unknown() -> None:
    assert judge([], None).sentence == "Whether it overfits is not known: there was no fine-tuning to watch."
    assert judge(epochs((1.0, None)), None).verdict == "unknown"


def test_a_run_that_is_resumed_is_not_warned_of_twice(capsys: pytest.CaptureFixture[str]) -> None:
    Watch(BAD).after(BAD)
    assert capsys.readouterr().err == ""
