"""The recipes that come with candor, one TOML file each, by the file's name."""

from __future__ import annotations

from pathlib import Path

from models.errors import RecipeError
from models.recipe import Recipe

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Their names, in alphabetical order."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def path_of(recipe: str | None) -> Path | None:
    """The file of a recipe of ours; what is no name of one is a path. None is none.

    Raises:
        RecipeError: If it is neither.
    """
    if recipe is None:
        return None
    if recipe in names():
        return _FOLDER / f"{recipe}.toml"
    if not Path(recipe).exists():
        raise RecipeError(f"recipe {recipe!r} is no file, and none of ours: {', '.join(names())}")
    return Path(recipe)


def named(name: str) -> Recipe:
    """A recipe of ours.

    Raises:
        RecipeError: If there is none of that name.
    """
    return Recipe.load(_FOLDER / f"{name}.toml")
