"""`fit`: the whole way from a folder of images to a published version, readable top to bottom."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from models.dataset import SPLITS, scan
from models.manifest import DatasetCard, check_name
from models.preprocess import standard_preprocessing
from training import backbone
from training.data import decode_all, default_image_size
from training.device import pick_device, seed_everything
from training.loop import FineTuner
from training.normalise import Normalise
from training.probe import embed, fit_probe, install
from training.progress import say
from training.publish import Publication, publish
from training.selection import choose, report

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from torch import nn

    from models.dataset import Dataset, Split
    from models.manifest import Manifest
    from models.recipe import Recipe
    from models.registry import Registry
    from training.data import Images
    from training.device import Device
    from training.loop import Plan
    from training.probe import Probe
    from training.selection import Candidate, Verdict


def fit(data: Path, name: str, recipe: Recipe, registry: Registry, runs_root: Path) -> Manifest:
    """Fine-tune on a folder of images and publish the result as the next version of `name`.

    Args:
        data: Class folders, or `train/ val/ ...` with class folders in them.
        name: The model's name.
        recipe: Every choice; what is None is decided here and written into the manifest.
        registry: Where the version goes.
        runs_root: Where to work.

    Raises:
        ContractError: If the data or the name cannot be used.
        TrainingError: If weights are missing, the loss diverges, or the export does not agree with torch.
    """
    started = time.monotonic()
    check_name(name)
    seed_everything(recipe.seed)
    device = pick_device()
    dataset = scan(data, recipe)
    pretrained = backbone.create(recipe, len(dataset.labels))
    image_size = recipe.image_size or default_image_size(dataset.of("train"), pretrained.image_size, recipe.seed)
    # The largest centred square, whole: cutting further into it is for photographs of one thing in the middle.
    preprocessing = standard_preprocessing(crop_ratio=1.0)
    say(f"{len(dataset.items)} images of {len(dataset.labels)} labels; {recipe.backbone} at {image_size} px, {device.describe()}")
    dataset, splits, scanned = decode_all(dataset, preprocessing, image_size, runs_root)
    for line in scanned.lines():
        say(f"  {line}")
    normalise = Normalise(pretrained.mean, pretrained.std)
    trained = _train(pretrained.network, normalise, splits, dataset.labels, recipe, device)
    publication = Publication(
        name=name,
        labels=dataset.labels,
        pretrained=pretrained,
        normalise=normalise,
        preprocessing=preprocessing,
        image_size=image_size,
        backbone=recipe.backbone,
        recipe=recipe.model_copy(update={"image_size": image_size, **trained.plan.resolved()}),
        dataset=_card(dataset, splits),
        temperature=trained.verdict.temperature,
        metrics=trained.verdict.metrics,
        golden_pool=_golden_pool(splits),
    )
    manifest = publish(publication, registry, runs_root)
    say(f"published {manifest.reference} in {time.monotonic() - started:.0f} s")
    production = registry.aliases(name).production
    if production != manifest.version:
        say(f"production is still {name}:{production}; to serve the new one: python -m models promote {manifest.reference}")
    return manifest


@dataclass(frozen=True)
class _Trained:
    verdict: Verdict
    plan: Plan


def _train(
    network: nn.Module,
    normalise: Normalise,
    splits: dict[Split, Images],
    labels: tuple[str, ...],
    recipe: Recipe,
    device: Device,
) -> _Trained:
    """Probe, fine-tune, choose; `network` ends with the weights that were chosen."""
    network.to(device.torch)
    embeddings = embed(network, splits, normalise, device)
    probe = _fit_probe(embeddings, splits, len(labels))
    install(probe, network)
    states: dict[Candidate, dict[str, torch.Tensor]] = {"probe": copy.deepcopy(network.state_dict())}
    tuned: dict[Candidate, nn.Module] = {}

    tuner = FineTuner(network, normalise, recipe, device)
    plan = tuner.plan(splits["train"])
    if plan.epochs > 0:
        say(f"fine-tuning: {plan.epochs} epochs of {plan.steps_per_epoch} steps of {plan.batch_size}, lr {plan.lr:.1e}")
        result = tuner.run(splits["train"], splits.get("validation"), plan)
        tuned = {"last": result.last, "ema": result.ema}
        states |= {candidate: weights.state_dict() for candidate, weights in tuned.items()}

    def logits(candidate: Candidate, split: Split) -> np.ndarray:
        if candidate == "probe":
            return probe.logits(embeddings[split])
        return tuner.logits(tuned[candidate], splits[split])

    verdict = choose(list(states), logits, splits, labels)
    report(verdict)
    network.load_state_dict(states[verdict.chosen])
    return _Trained(verdict, plan)


def _fit_probe(embeddings: dict[Split, torch.Tensor], splits: dict[Split, Images], num_labels: int) -> Probe:
    pairs = {split: (embeddings[split], torch.from_numpy(images.targets)) for split, images in splits.items()}
    return fit_probe(pairs["train"], pairs.get("validation"), num_labels)


def _card(dataset: Dataset, splits: dict[Split, Images]) -> DatasetCard:
    sizes = {split: len(splits[split]) for split in SPLITS if split in splits}
    return DatasetCard(fingerprint=dataset.fingerprint(), splits=sizes, skipped=len(dataset.skipped))


def _golden_pool(splits: dict[Split, Images]) -> np.ndarray:
    """Images that the network was not trained on, where there are any."""
    return next(splits[split].pixels for split in ("test", "calibration", "validation", "train") if split in splits)
