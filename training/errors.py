"""Every error that training raises, in one tree.

TrainingError                  the user's input or environment: exit code 2, one sentence
├── WeightsUnavailableError    pretrained weights cannot be had here
├── LicenceError               the weights' licence was not accepted
├── StartError                 the weights to start from do not go with the recipe
├── DivergedError              the loss stopped being finite
└── ParityError                the exported graph does not compute what torch does

Preempted                      SIGTERM: exit code 75; no error, and so not caught as one
"""

from __future__ import annotations


class TrainingError(Exception):
    """Base of everything that `training` raises on purpose."""


class WeightsUnavailableError(TrainingError):
    """Pretrained weights cannot be had here."""


class LicenceError(TrainingError):
    """The weights' licence was not accepted."""


class StartError(TrainingError):
    """The weights to start from do not go with the recipe."""


class DivergedError(TrainingError):
    """The loss stopped being finite."""


class ParityError(TrainingError):
    """The exported graph does not compute what torch does; nothing was published."""


class Preempted(BaseException):
    """The process was asked to end (SIGTERM). Like KeyboardInterrupt, it passes through what catches errors.

    Attributes:
        kept: Whether there is a checkpoint to go on from.
    """

    kept = False
