"""The recipes that come with candor: each is valid, says when to use it, and names a command that works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import training
from models.recipe import Recipe
from training import recipes
from training.arguments import parse
from training.cli import _recipe

FOLDER = Path(training.__file__).parent / "recipes"


def test_these_are_the_recipes() -> None:
    assert recipes.names() == ["default", "fine_tune", "from_scratch", "linear_probe", "one_cycle", "quick"]


def test_the_default_recipe_is_the_defaults() -> None:
    assert recipes.named("default") == Recipe()


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_says_when_to_use_it_and_its_command_is_understood(name: str) -> None:
    comment = " ".join(line[1:].strip() for line in (FOLDER / f"{name}.toml").read_text().splitlines() if line[:1] == "#")
    assert re.search(r"\b[Uu]se it\b", comment)
    command = re.search(r"python -m (training fit DATA --name NAME.*?)(?:  |$)", comment + "  ")
    assert command is not None
    arguments = shlex.split(command[1])[1:]
    recipe = _recipe(parse(arguments))
    expected = recipes.named(name)
    given = {key for key in Recipe.model_fields if f"--{key.replace('_', '-')}" in arguments}
    assert recipe == expected.model_copy(update={key: getattr(recipe, key) for key in given})


def test_a_file_of_your_own_is_a_recipe_too(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("epochs = 3\n")
    options = parse(["fit", "DATA", "--name", "x", "--recipe", str(tmp_path / "mine.toml"), "--seed", "5", "lr=1e-4"])
    assert _recipe(options) == Recipe(epochs=3, seed=5, lr=1e-4)
