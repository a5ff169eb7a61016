"""Where a fit starts from: published weights, or those of a version of the registry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.errors import UnknownModelError
from models.registry import parse_reference
from models.trainer import PRETRAINED, PRODUCTION
from training.errors import StartError

if TYPE_CHECKING:
    from pathlib import Path

    from models.recipe import Recipe
    from models.registry import Registry


@dataclass(frozen=True)
class Start:
    """The version whose weights are taken, by reference and by folder (both None: the recipe's), and the recipe for them."""

    parent: str | None
    weights: Path | None
    recipe: Recipe


def resolve_start(choice: str, name: str, registry: Registry) -> str | None:
    """Turn `pretrained`, `production` or `NAME:N` into a version's reference, or None for published weights.

    Raises:
        UnknownModelError: If there is no such version, or nothing of `name` is in production.
    """
    if choice == PRETRAINED:
        return None
    if choice != PRODUCTION and parse_reference(choice)[1] is None:
        raise UnknownModelError(f"--start-from {choice} says no version; expected {PRETRAINED}, {PRODUCTION}, or NAME:N")
    found, version = registry.resolve(name if choice == PRODUCTION else choice)
    return f"{found}:{version}"


def start_at(parent: str | None, recipe: Recipe, registry: Registry) -> Start:
    """What a fit needs to begin with the body of a version: its folder, its backbone and, where nobody says otherwise, its size.

    Args:
        parent: From `resolve_start`.
        recipe: As it was given.
        registry: Where the version is.

    Raises:
        UnknownModelError: If it is no longer there.
        StartError: If the recipe asks for another backbone or for other weights.
    """
    if parent is None:
        return Start(None, None, recipe)
    name, version = registry.resolve(parent)
    manifest = registry.manifest(name, version)
    if "backbone" in recipe.model_fields_set and recipe.backbone.partition(".")[0] != manifest.backbone.name.partition(".")[0]:
        raise StartError(
            f"recipe.backbone is {recipe.backbone}, and {parent} is a {manifest.backbone.name}; leave backbone out, or start "
            "from pretrained"
        )
    if recipe.weights is not None or not recipe.pretrained:
        said = f"weights is {recipe.weights}" if recipe.weights is not None else "pretrained is false"
        raise StartError(f"recipe.{said}, and the weights of {parent} were asked for; leave it out, or start from pretrained")
    sized = {"backbone": manifest.backbone.name, "image_size": recipe.image_size or manifest.input.height}
    return Start(parent, registry.path(name, version), recipe.model_copy(update=sized))
