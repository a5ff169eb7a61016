"""`publish-pretrained`: the ImageNet classifier as it comes, with its labels, and no claim of calibration."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from timm.data import ImageNetInfo

from models.confidence.schema import Temperature
from models.manifest import check_name
from models.preprocess import standard_preprocessing
from training import backbone
from training.calibrate import Calibration
from training.device import seed_everything
from training.normalise import Normalise
from training.progress import say
from training.publish import GOLDEN_IMAGES, Publication, procedural_images, publish

if TYPE_CHECKING:
    from pathlib import Path

    from models.manifest import Manifest
    from models.recipe import Recipe
    from models.registry import Registry


def publish_pretrained(name: str, recipe: Recipe, registry: Registry, runs_root: Path) -> Manifest:
    """Publish a backbone with the 1,000-label ImageNet head that it was trained with.

    Args:
        name: The model's name.
        recipe: `backbone`, `weights` and the licence switch count; nothing is trained.
        registry: Where the version goes.
        runs_root: Where to work.

    Raises:
        TrainingError: If the weights cannot be had, or the export does not agree with torch.
    """
    check_name(name)
    seed_everything(recipe.seed)
    pretrained = backbone.create(recipe, None)
    image_size = recipe.image_size or pretrained.image_size
    say(f"{recipe.backbone} at {image_size} px, weights from {pretrained.weights}, licence {pretrained.licence}")
    reason = "published as it was trained by others: there are no held-out images here to calibrate on"
    publication = Publication(
        name=name,
        task="single_label",
        labels=imagenet_labels(),
        unit=None,
        pretrained=pretrained,
        normalise=Normalise(pretrained.mean, pretrained.std),
        preprocessing=standard_preprocessing(pretrained.crop_ratio),
        image_size=image_size,
        backbone=recipe.backbone,
        recipe=None,
        dataset=None,
        calibration=Calibration(Temperature(value=1.0, status="none", images=0, reason=reason), None, None),
        metrics=None,
        golden_pool=procedural_images(GOLDEN_IMAGES, image_size, recipe.seed),
    )
    manifest = publish(publication, registry, runs_root)
    say(f"published {manifest.reference} (not calibrated: {reason})")
    return manifest


def imagenet_labels() -> tuple[str, ...]:
    """The first name of each of the 1,000 synsets; where two share it, with the synset's id."""
    info = ImageNetInfo()
    first = [info.index_to_description(index).split(",")[0] for index in range(info.num_classes())]
    count = Counter(first)
    return tuple(
        f"{label} ({info.index_to_label_name(index)})" if count[label] > 1 else label for index, label in enumerate(first)
    )
