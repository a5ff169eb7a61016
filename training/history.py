"""What happened while a model was trained, epoch by epoch: watched, plotted, and kept in the artifact as `history.json`."""

from __future__ import annotations

from typing import Literal

from models.manifest import Frozen

HISTORY = "history.json"


class Epoch(Frozen):
    """One epoch. `loss` is the mean training loss, with augmentation and smoothing; validation is the average's.

    `validation_loss` is NLL, or RMSE in the unit of a regression; `validation_score` is accuracy, mean average precision or
    R2, by task; `lr` is the head's rate at the end.
    """

    epoch: int
    phase: Literal["frozen", "unfrozen"]
    loss: float
    validation_loss: float | None
    validation_score: float | None
    lr: float
    images_per_s: float
    seconds: float


class Sweep(Frozen):
    """A learning-rate sweep: rates of the head, the loss at each (raw and smoothed), and what they suggest."""

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    valley: float | None
    steepest: float | None
    rule: float
    chosen: float


class Overfit(Frozen):
    """Whether validation got worse while training got better: a verdict, and a sentence for people."""

    verdict: Literal["none", "warn", "severe", "unknown"]
    best_epoch: int | None
    sentence: str


class History(Frozen):
    """Everything about one training run that a plot can show. Epochs are none where only the probe was fitted."""

    epochs: tuple[Epoch, ...]
    sweep: Sweep | None
    overfit: Overfit
