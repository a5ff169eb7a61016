"""What a fit publishes: from a trained network and what was found on the way to a version of the registry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.dataset import SPLITS
from models.manifest import DatasetCard, canonical_json
from models.scan_report import SCAN_REPORT
from training.confidence.answers import Known
from training.history import HISTORY
from training.interpret import interpret
from training.progress import say
from training.publish import Publication
from training.report import write_report, write_review
from training.subject import Subject, name_images
from training.thumbnails import make_thumbnails

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from models.dataset import Split
    from training.data import Images
    from training.history import History
    from training.plan import Plan
    from training.prepare import Prepared
    from training.selection import Verdict
    from training.subject import Outputs, Strange


@dataclass(frozen=True)
class Trained:
    """What training came to; the network has the weights that were chosen."""

    verdict: Verdict
    plan: Plan
    history: History
    outputs: dict[Split, Outputs]


def assemble(name: str, prepared: Prepared, trained: Trained, unrelated: np.ndarray | None) -> Publication:
    """Everything of a version but where it stands in the registry. A regression's unit is folded into the network.

    Args:
        name: The model's.
        prepared: The data, and the network.
        trained: What training came to.
        unrelated: Images of none of the labels, uint8 `[N, H, W, 3]`; None to have them made up.
    """
    prepared.objective.fold(prepared.pretrained.network)
    sizes = {split: len(prepared.splits[split]) for split in SPLITS if split in prepared.splits}
    dataset = prepared.dataset
    return Publication(
        name=name,
        task=dataset.task,
        labels=dataset.labels,
        unit=prepared.recipe.unit,
        pretrained=prepared.pretrained,
        normalise=prepared.normalise,
        preprocessing=prepared.preprocessing,
        image_size=prepared.image_size,
        backbone=prepared.recipe.backbone,
        recipe=prepared.recipe.model_copy(update=trained.plan.resolved()),
        dataset=DatasetCard(fingerprint=dataset.fingerprint(), splits=sizes, skipped=len(dataset.skipped)),
        calibration=trained.verdict.calibration,
        metrics=trained.verdict.metrics,
        golden_pool=_golden_pool(prepared.splits),
        known=Known(prepared.splits, name_images(trained.outputs), prepared.copies, prepared.recipe.seed, unrelated),
        add_files=lambda folder, gathered: _add_files(folder, prepared, trained, gathered.strange),
        finish=write_report,
    )


def _add_files(folder: Path, prepared: Prepared, trained: Trained, strange: Strange) -> None:
    """What people and the service ask of a version besides its answers: how it was trained, and what it is unsure of."""
    (folder / HISTORY).write_bytes(canonical_json(trained.history))
    (folder / SCAN_REPORT).write_bytes(prepared.report.to_bytes())
    say("reviewing what it is sure and unsure of")
    calibration = trained.verdict.calibration
    subject = Subject(
        task=prepared.dataset.task,
        labels=prepared.dataset.labels,
        outputs=trained.outputs,
        temperature=calibration.temperature.value,
        root=prepared.dataset.root,
        findings=tuple(prepared.report.lines()),
        thresholds=calibration.thresholds,
        unit=prepared.recipe.unit,
        strange=strange,
    )
    review = interpret(subject)
    write_review(folder, review, make_thumbnails(review, trained.outputs))


def _golden_pool(splits: dict[Split, Images]) -> np.ndarray:
    """Images that the network was not trained on, where there are any."""
    return next(splits[split].pixels for split in ("test", "calibration", "validation", "train") if split in splits)
