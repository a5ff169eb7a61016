"""Overfitting, in words: validation gets worse while training gets better.

Accuracy hides it: on the sample it fell by one point while validation NLL more than doubled. So the loss is what is watched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from training.history import Overfit
from training.progress import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from training.history import Epoch

# Share by which validation loss may stand over its best before it is called a rise.
_RISE = 1.1
# And by how much, as a share of the training loss: a loss that is almost 0 may double and mean nothing.
_LEAST_RISE = 0.05
_SEVERE_RISE = 1.5
# A temperature this high says that answers are more certain than they are right (Guo et al. 2017 found 1.2 to 2.4).
_HOT, _SEVERELY_HOT = 1.5, 2.5


class Watch:
    """Warns once while a run goes on."""

    def __init__(self, epochs: Sequence[Epoch]) -> None:
        """Take up a run, whose warning may have been given before it was stopped."""
        self._has_warned = _rise(epochs) is not None

    def after(self, epochs: Sequence[Epoch]) -> None:
        """Look at the epochs so far, and say it where the run overfits."""
        found = _rise(epochs)
        if found is not None and not self._has_warned:
            self._has_warned = True
            say(f"  warning: {found}")


def judge(epochs: Sequence[Epoch], temperature: float | None) -> Overfit:
    """The verdict on a whole run.

    Args:
        epochs: All of them.
        temperature: The one fitted on held-out images, or None where it was not.
    """
    watched = [entry for entry in epochs if entry.validation_loss is not None]
    if not watched:
        why = "there was no fine-tuning to watch" if not epochs else "there are no validation images to watch"
        return Overfit(verdict="unknown", best_epoch=None, sentence=f"Whether it overfits is not known: {why}.")
    best = min(watched, key=_validation)
    rise = _rise(epochs)
    ratio = _validation(watched[-1]) / max(_validation(best), 1e-12)
    hot = temperature is not None and temperature > _HOT
    if rise is None and not hot:
        return Overfit(
            verdict="none", best_epoch=best.epoch, sentence="Validation kept up with training: no sign of overfitting."
        )
    severe = (rise is not None and ratio > _SEVERE_RISE) or (temperature is not None and temperature > _SEVERELY_HOT)
    parts = [rise] if rise else []
    if hot:
        parts.append(f"it is surer than it is right (temperature {temperature:.2f})")
    sentence = "; ".join(parts)
    return Overfit(
        verdict="severe" if severe else "warn", best_epoch=best.epoch, sentence=sentence[0].upper() + sentence[1:] + "."
    )


def _rise(epochs: Sequence[Epoch]) -> str | None:
    """A sentence where the validation loss stands over its best while the training loss fell since."""
    watched = [entry for entry in epochs if entry.validation_loss is not None]
    if len(watched) < 2:
        return None
    best, last = min(watched, key=_validation), watched[-1]
    rise = _validation(last) - _validation(best)
    if rise <= max((_RISE - 1) * _validation(best), _LEAST_RISE * best.loss) or last.loss >= best.loss:
        return None
    return (
        f"the run overfits: since epoch {best.epoch} the training loss fell from {best.loss:.3f} to {last.loss:.3f}, and the "
        f"validation loss rose from {_validation(best):.3f} to {_validation(last):.3f}; fewer epochs, more images or stronger "
        f"augmentation would help"
    )


def _validation(entry: Epoch) -> float:
    return entry.validation_loss if entry.validation_loss is not None else float("inf")
