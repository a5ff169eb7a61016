"""What `make run` needs before it can serve: the pretrained classifier and one trained on the sample. Once only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.recipe import Recipe
from training import recipes
from training.fit import fit
from training.pretrained import publish_pretrained
from training.progress import say
from training.sample import SAMPLE

if TYPE_CHECKING:
    from pathlib import Path

    from models.dataset_store import DatasetStore
    from models.registry import Registry

PRETRAINED, TRAINED = "imagenet", "fashion"


def quickstart(registry: Registry, store: DatasetStore, runs_root: Path) -> None:
    """Publish `imagenet` and `fashion` where the registry does not have them.

    The sample is kept as a data set like any other, so that `fashion` can be trained again over HTTP.
    """
    if registry.aliases(PRETRAINED).production is None:
        say(f"\n[1/2] publishing the pretrained ImageNet classifier as {PRETRAINED!r}")
        publish_pretrained(PRETRAINED, Recipe(), registry, runs_root)
    if registry.aliases(TRAINED).production is None:
        say(f"\n[2/2] fine-tuning it on the sample (Fashion-MNIST, 10 kinds of clothes) as {TRAINED!r}")
        data = store.put(SAMPLE, SAMPLE.stem, origin="the sample that comes with candor")
        fit(data.path, TRAINED, recipes.named("quick"), registry, runs_root)
