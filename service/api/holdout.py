"""`PUT /models/{name}/holdout`: say which images decide what goes into production. Scope admin, since they decide it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from models.dataset import scan
from models.errors import DatasetError, HoldoutError, RecipeError
from models.holdout import Holdout
from models.recipe import Recipe
from service.api.openapi import problems
from service.audit import note
from service.datasets import locate
from service.errors import InvalidDatasetError, InvalidRecipeError
from service.published import require_model

if TYPE_CHECKING:
    from pathlib import Path

    from models.dataset import Dataset
    from service.engine import EngineRef


class HoldoutRequest(BaseModel):
    """Which images."""

    model_config = ConfigDict(extra="forbid")

    dataset: str = Field(description="its test split, where it has one, and all of it where not")
    recipe: dict[str, Any] = Field(default_factory=dict, description="where the labels stand, as with /retrain")


class HoldoutCard(BaseModel):
    """The held-out set that counts now."""

    name: str
    sha256: str
    images: int
    labels: list[str]


def holdout_router(engine: EngineRef) -> APIRouter:
    """The route, over an engine that exists when it is called."""
    router = APIRouter(tags=["models"])

    @router.put(
        "/models/{name}/holdout",
        summary="Replace the images on which candidates are compared with production",
        description="They are copied, and never trained on again. Versions that were trained before this may know them.",
        responses=problems(422),
    )
    def put_holdout(name: str, asked: HoldoutRequest) -> HoldoutCard:
        here = engine.get()
        require_model(here.registry, name)
        try:
            recipe = Recipe.from_mapping(asked.recipe)
            if recipe.label_pattern is not None or recipe.weights is not None:
                raise RecipeError("recipe.label_pattern and recipe.weights are not taken here; labels stand in folders or a CSV")
            dataset = _for_test(locate(asked.dataset, here.datasets.store, here.settings.dataset_roots), recipe)
            held = Holdout.replace(here.registry, name, dataset)
        except RecipeError as err:
            raise InvalidRecipeError(str(err)) from err
        except (DatasetError, HoldoutError) as err:
            raise InvalidDatasetError(str(err)) from err
        if held is None:
            raise InvalidDatasetError(f"{asked.dataset} holds no image to compare by")
        note(sha256=held.sha256)
        return HoldoutCard(name=name, sha256=held.sha256, images=len(held.index.images), labels=list(dataset.labels))

    return router


def _for_test(path: Path, recipe: Recipe) -> Dataset:
    """The images that are to be held out: those of the test split, or all where there is none."""
    dataset = scan(path, recipe, for_training=False)
    if dataset.of("test"):
        return dataset
    return replace(dataset, items=tuple(replace(item, split="test") for item in dataset.items))
