"""What a report is made from: a card with scores, a history, and a folder with all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from models.manifest import DatasetCard, Manifest, Metrics, SplitMetrics
from models.recipe import Recipe
from tests.support.artifacts import make_manifest, write_files
from training.history import HISTORY, Epoch, History, Overfit, Sweep
from training.interpret import interpret
from training.report import write_review
from training.thumbnails import make_thumbnails

if TYPE_CHECKING:
    from pathlib import Path

    from training.subject import Subject

LABELS = ("heron", "kite", "owl", "wren")
EPOCHS = tuple(
    Epoch(
        epoch=number,
        phase="frozen" if number == 1 else "unfrozen",
        loss=1.2 / number,
        validation_loss=0.8 / number,
        validation_score=0.6 + number / 20,
        lr=1e-3,
        images_per_s=70.0,
        seconds=8.0,
    )
    for number in (1, 2, 3)
)
SWEEP = Sweep(
    lrs=(1e-5, 1e-4, 1e-3, 1e-2),
    losses=(1.4, 1.3, 0.8, 2.9),
    smoothed=(1.4, 1.3, 0.9, 2.0),
    valley=8e-4,
    steepest=5e-4,
    rule=2e-4,
    chosen=6e-4,
)
HISTORY_OF = History(
    epochs=EPOCHS, sweep=SWEEP, overfit=Overfit(verdict="none", best_epoch=3, sentence="No sign of overfitting.")
)


def split_metrics(accuracy: float, nll: float) -> SplitMetrics:
    return SplitMetrics(images=80, accuracy=accuracy, macro_recall=accuracy, nll=nll, ece=0.03)


METRICS = Metrics(
    chosen="ema",
    validation={"probe": split_metrics(0.7, 0.8), "last": split_metrics(0.81, 0.6), "ema": split_metrics(0.8, 0.55)},
    test={"probe": split_metrics(0.71, 0.81), "last": split_metrics(0.79, 0.61), "ema": split_metrics(0.82, 0.56)},
    calibrated=split_metrics(0.82, 0.5),
    raw=split_metrics(0.82, 0.56),
    recall={},
    unavailable={},
)


def make_card(**changes: Any) -> Manifest:
    card = DatasetCard(fingerprint="a" * 64, splits={"train": 60, "test": 80}, skipped=2)
    fields = {"labels": LABELS, "metrics": METRICS, "recipe": Recipe(epochs=3), "recipe_sha256": "b" * 64, "dataset": card}
    return make_manifest(**(fields | changes))


def write_all(folder: Path, subject: Subject, history: History | None = None) -> Path:
    """Everything that a page is made from, and the model's files."""
    write_files(folder)
    review = interpret(subject)
    write_review(folder, review, make_thumbnails(review, subject.outputs))
    if history is not None:
        (folder / HISTORY).write_text(history.model_dump_json())
    return folder
