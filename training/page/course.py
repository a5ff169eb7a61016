"""How training went: curves, the learning-rate sweep, and every epoch."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from training import plots
from training.page.parts import Beside, Fold, Part, Plot, Table, Text, counted, number
from training.plots import DARK, LIGHT, Curve

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.recipe import Task
    from training.history import Epoch, History
    from training.plots import Theme

_SCORE_NAMES: dict[Task, str] = {"single_label": "accuracy", "multi_label": "mAP", "regression": "R2"}
_DASH = "\N{EN DASH}"


def plot(name: str, alt: str, caption: str, draw: Callable[[Theme], bytes], width_px: int = 460) -> Plot:
    """A plot in both themes."""
    return Plot(name=name, alt=alt, caption=caption, width_px=width_px, light=draw(LIGHT), dark=draw(DARK))


def course(history: History | None, task: Task) -> list[Part]:
    """What was recorded of training, if anything was."""
    if history is None:
        return [Text("The course of training was not recorded.", is_note=True)]
    shown: list[Part] = []
    if history.epochs:
        alt = f"Training and validation loss over {counted(len(history.epochs), 'epoch')}; the table below has the numbers."
        caption = "The training loss is of images that were altered at random, so it may stay above validation's."
        shown.append(plot("loss", alt, caption, partial(plots.epoch_curves, _panels(history, task), _thawed(history))))
    if history.sweep is not None:
        taken = f"{history.sweep.chosen:.1e}"
        shown.append(
            plot(
                "learning-rate",
                f"Loss at each learning rate of the sweep; {taken} was taken.",
                f"Learning-rate sweep; {taken} was taken, the rule alone would have been {history.sweep.rule:.1e}.",
                partial(plots.sweep_curve, history.sweep),
            )
        )
    parts: list[Part] = [Beside(tuple(shown))] if shown else []
    if history.epochs:
        parts.append(Fold("Every epoch", "", (_epochs(history, task),)))
    return parts


def _panels(history: History, task: Task) -> list[tuple[str, list[Curve]]]:
    training = Curve("training loss", tuple((epoch.epoch, epoch.loss) for epoch in history.epochs), is_training=True)
    score = (_SCORE_NAMES[task], [Curve(_SCORE_NAMES[task], _known(history, "validation_score"))])
    losses = _known(history, "validation_loss")
    if task == "regression":
        # Training counts deviations of the numbers, validation their unit: one axis cannot hold both.
        return [("training loss", [training]), ("validation RMSE", [Curve("validation RMSE", losses)]), score]
    return [("nats", [training, Curve("validation NLL", losses)]), score]


def _known(history: History, key: str) -> tuple[tuple[int, float], ...]:
    return tuple((epoch.epoch, value) for epoch in history.epochs if (value := getattr(epoch, key)) is not None)


def _thawed(history: History) -> int | None:
    unfrozen = [epoch.epoch for epoch in history.epochs if epoch.phase == "unfrozen"]
    return unfrozen[0] if unfrozen and unfrozen[0] > history.epochs[0].epoch else None


def _epochs(history: History, task: Task) -> Table:
    is_number = task == "regression"
    units = "Training loss in deviations of the numbers" if is_number else "Losses in nats"
    loss = "RMSE" if is_number else "NLL"
    head = ("epoch", "layers", "training loss", f"validation {loss}", f"validation {_SCORE_NAMES[task]}", "rate", "images/s", "s")
    rows = tuple(_epoch(epoch, is_number) for epoch in history.epochs)
    return Table(f"{units}; the rate is the head's at the end of the epoch.", head, rows)


def _epoch(epoch: Epoch, is_number: bool) -> tuple[str, ...]:
    loss, score = epoch.validation_loss, epoch.validation_score
    return (
        str(epoch.epoch),
        "head" if epoch.phase == "frozen" else "all",
        f"{epoch.loss:.3f}",
        _DASH if loss is None else number(loss) if is_number else f"{loss:.3f}",
        _DASH if score is None else f"{score:.3f}",
        f"{epoch.lr:.1e}",
        f"{epoch.images_per_s:,.0f}",
        f"{epoch.seconds:.1f}",
    )
