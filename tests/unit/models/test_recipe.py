from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import RecipeError
from models.recipe import CATALOGUE, DEFAULT_BACKBONE, Recipe

if TYPE_CHECKING:
    from pathlib import Path

AUTO = {name for name, field in Recipe.model_fields.items() if type(None) in get_args(field.annotation)}


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


# --- values


def test_an_empty_recipe_is_the_defaults_and_leaves_to_auto_what_depends_on_data_and_device() -> None:
    recipe = Recipe.from_mapping({})

    assert recipe == Recipe.load(None) == Recipe()
    assert recipe.backbone == DEFAULT_BACKBONE
    assert {name for name, value in recipe if value is None} == AUTO
    assert {"weights", "image_size", "epochs", "budget_minutes", "batch_size", "lr"} <= AUTO


@pytest.mark.parametrize("backbone", CATALOGUE)
def test_every_backbone_of_the_catalogue_is_accepted(backbone: str) -> None:
    assert Recipe(backbone=backbone).backbone == backbone


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Recipe().seed = 1


def test_every_error_is_named_at_once_with_what_was_got() -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.from_mapping(
            {"lr": 5, "epochs": "many", "learning_rate": 1e-3, "flip": "perhaps", "min_crop": 0, "augment": "heavy"}
        )

    assert set(str(caught.value).splitlines()) == {
        "recipe.lr: Input should be a number over 0 and at most 1, slice(low, high), or auto, got 5",
        "recipe.epochs: Input should be a valid integer, unable to parse string as an integer, got 'many'",
        "recipe.learning_rate: is not a known key",
        "recipe.flip: Input should be a valid boolean, unable to interpret input, got 'perhaps'",
        "recipe.min_crop: Input should be greater than 0, got 0",
        "recipe.augment: Input should be 'none', 'basic' or 'trivial', got 'heavy'",
    }


@pytest.mark.parametrize(
    ("key", "lowest", "below"),
    [
        ("image_size", 32, 31),
        ("epochs", 0, -1),
        ("batch_size", 2, 1),
        ("weight_decay", 0, -0.1),
        ("warmup", 0, -0.1),
        ("seed", 0, -1),
    ],
)
def test_a_lower_bound_is_accepted_and_what_is_below_is_refused(key: str, lowest: float, below: float) -> None:
    assert getattr(Recipe.from_mapping({key: lowest}), key) == lowest
    with pytest.raises(RecipeError, match=rf"^recipe\.{key}: Input should be greater than or equal to {lowest}, got {below}$"):
        Recipe.from_mapping({key: below})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_size", 1025),
        ("epochs", 1001),
        ("batch_size", 4097),
        ("lr", 0),
        ("lr", 1.01),
        ("budget_minutes", 0),
        ("stem_lr_scale", 0),
        ("warmup", 1),
        ("label_smoothing", 1),
        ("clip_norm", 0),
        ("ema_epochs", 0),
        ("min_crop", 1.01),
        ("seed", 2**32),
        ("backbone", "../resnet18"),
        ("backbone", ""),
        ("batch_norm", "sync"),
        ("epochs", 1.5),
        ("lr", float("nan")),
        ("clip_norm", float("inf")),
        ("warmup", None),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_name_and_itself(key: str, value: object) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.from_mapping({key: value})

    assert str(caught.value).startswith(f"recipe.{key}: Input should be ") or "String should match" in str(caught.value)
    assert str(caught.value).endswith(f", got {value!r}")


# --- files


def test_a_file_is_read_and_what_it_leaves_out_is_default(tmp_path: Path) -> None:
    path = written(tmp_path, 'backbone = "resnet18"\nepochs = 3\nlr = 1e-4\nflip = true\n')

    assert Recipe.load(path) == Recipe(backbone="resnet18", epochs=3, lr=1e-4, flip=True)


def test_an_override_wins_over_the_file_and_the_last_override_over_the_first(tmp_path: Path) -> None:
    path = written(tmp_path, "epochs = 3\nseed = 4\n")

    assert Recipe.load(path, ["epochs=5", "epochs=7"]) == Recipe(epochs=7, seed=4)


def test_auto_takes_back_what_the_file_says(tmp_path: Path) -> None:
    assert Recipe.load(written(tmp_path, "epochs = 3\n"), ["epochs=auto"]).epochs is None


def test_a_file_that_is_missing_is_refused_by_path(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.load(tmp_path / "none.toml")

    assert str(caught.value) == (
        f"recipe {tmp_path / 'none.toml'} cannot be read: [Errno 2] No such file or directory: '{tmp_path / 'none.toml'}'"
    )


def test_a_folder_is_refused_as_a_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"^recipe .* cannot be read: .*Is a directory"):
        Recipe.load(tmp_path)


@pytest.mark.parametrize("text", ["epochs = ", "epochs 3", "[", "epochs = 3\nepochs = 4"])
def test_a_broken_file_is_refused_by_path_and_place(text: str, tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"^recipe .*/recipe\.toml cannot be read: .*\((at line \d+, column \d+|at end of document)\)"
    ):
        Recipe.load(written(tmp_path, text))


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_bytes(b"\xff\xfe\x00\x80")

    with pytest.raises(RecipeError, match=r"^recipe .*/recipe\.toml cannot be read: .*can't decode byte 0xff"):
        Recipe.load(tmp_path / "recipe.toml")


def test_an_unknown_key_of_a_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"^recipe\.optimiser: is not a known key$"):
        Recipe.load(written(tmp_path, 'optimiser = "sgd"\n'))


# --- overrides


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("epochs=auto", "epochs", None),
        ("weights=auto", "weights", None),
        ("epochs=3", "epochs", 3),
        ("epochs=1_000", "epochs", 1000),
        (" epochs = 3 ", "epochs", 3),
        ("lr=1e-4", "lr", 1e-4),
        ("lr=0.001", "lr", 0.001),
        ("lr=.001", "lr", 0.001),
        ("flip=true", "flip", True),
        ("flip=True", "flip", True),
        ("pretrained=false", "pretrained", False),
        ("pretrained=no", "pretrained", False),
        ("backbone=resnet18", "backbone", "resnet18"),
        ('backbone="resnet18"', "backbone", "resnet18"),
        ("weights=/a folder/weights.pt", "weights", "/a folder/weights.pt"),
        ("weights=a=b.pt", "weights", "a=b.pt"),
        ("image-size=64", "image_size", 64),
        ("batch_norm=train", "batch_norm", "train"),
    ],
)
def test_an_override_is_read_as_auto_number_boolean_or_text(override: str, key: str, value: object) -> None:
    got = getattr(Recipe.load(None, [override]), key)

    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize("override", ["epochs", "", "--epochs"])
def test_an_override_without_an_equals_sign_is_refused_with_the_keys(override: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.load(None, [override])

    assert str(caught.value) == f"{override!r} is not key=value; the keys are {', '.join(Recipe.model_fields)}"
    assert "epochs" in str(caught.value)


@pytest.mark.parametrize("override", ["optimiser=sgd", "Epochs=3", "epochs.max=3"])
def test_an_override_of_an_unknown_key_is_refused_by_name(override: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.load(None, [override])

    assert str(caught.value) == f"recipe.{override.partition('=')[0]}: is not a known key"


def test_auto_for_a_key_that_has_a_default_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"^recipe\.warmup: Input should be a valid number, .*got 'auto'$"):
        Recipe.load(None, ["warmup=auto"])


def test_wrong_overrides_are_named_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.load(None, ["epochs=-1", "lr=fast", "colour=red"])

    assert sorted(str(caught.value).splitlines()) == [
        "recipe.colour: is not a known key",
        "recipe.epochs: Input should be greater than or equal to 0, got -1",
        "recipe.lr: Input should be a number over 0 and at most 1, slice(low, high), or auto, got 'fast'",
    ]


@settings(deadline=None)
@given(st.sampled_from(sorted(Recipe.model_fields)), st.text(max_size=30))
def test_any_override_gives_a_recipe_or_a_recipe_error(key: str, text: str) -> None:
    try:
        recipe = Recipe.load(None, [f"{key}={text}"])
    except RecipeError as err:
        assert str(err).startswith((f"recipe.{key}: ", "recipe: "))  # noqa: PT017 - either outcome is right
    else:
        # Whatever was accepted is a recipe that can be written down and read again.
        assert Recipe.from_mapping(recipe.model_dump()) == recipe


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 5000], ids=["digits", "brackets"])
def test_an_override_that_toml_chokes_on_is_refused(text: str) -> None:
    with pytest.raises(RecipeError):
        Recipe.load(None, [f"epochs={text}"])


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 5000], ids=["digits", "brackets"])
def test_a_file_that_toml_chokes_on_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError):
        Recipe.load(written(tmp_path, f"epochs = {text}"))


@pytest.mark.parametrize("text", ["3\nseed = 4", "3\n# and four", "3\r\nepochs = 4"])
def test_an_override_of_two_lines_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match=r"^recipe\.epochs: Input should be a valid integer"):
        Recipe.load(None, [f"epochs={text}"])


# --- what belongs together


def test_slice_is_the_rate_of_the_head_and_the_share_of_the_stem() -> None:
    recipe = Recipe.load(None, ["lr=slice(1e-5, 1e-3)"])

    assert recipe.lr == 1e-3
    assert recipe.stem_lr_scale == pytest.approx(1e-2)
    with pytest.raises(RecipeError, match="low first"):
        Recipe.load(None, ["lr=slice(1e-3, 1e-5)"])
    with pytest.raises(RecipeError, match="give one of them"):
        Recipe.load(None, ["lr=slice(1e-5, 1e-3)", "stem_lr_scale=0.5"])


def test_lr_auto_is_the_search_and_no_lr_is_the_rule() -> None:
    assert Recipe.load(None, ["lr=auto"]).lr == "auto"
    assert Recipe().lr is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"pretrained": False, "weights": "w.safetensors"}, "pretrained=false asks for none"),
        ({"pretrained": False, "freeze_epochs": 1}, "freeze_epochs would keep random layers"),
        ({"label_pattern": "(a)", "label_file": "labels.csv"}, "give one of them"),
        ({"label_column": "species"}, "say where to look in label_file"),
        ({"unit": "degrees", "task": "single_label"}, "unit belongs to regression, task is single_label"),
        ({"label_smoothing": 0.1, "task": "multi_label"}, "label_smoothing belongs to single_label"),
        ({"imbalance": "logit_adjustment", "task": "regression"}, "imbalance belongs to single_label"),
        ({"augment": "none", "flip": True}, "augment=none"),
        ({"augment": "none", "erase": 0.5}, "augment=none"),
        ({"label_separator": "|", "task": "single_label"}, "label_separator belongs to multi_label, task is single_label"),
        ({"momentum": 0.5, "schedule": "one_cycle"}, "momentum is given, and schedule=one_cycle moves it"),
        ({"accumulate": 8, "batch_size": 4}, "accumulate is 8, more parts than the 4 images of batch_size"),
    ],
)
def test_a_contradiction_is_refused_and_names_its_keys(values: dict[str, object], words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.from_mapping(values)

    assert words in str(caught.value)
    assert str(caught.value).startswith("recipe: ")


def test_unknown_out_of_range_and_contradictory_are_said_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.from_mapping({"epoch": 3, "lr": 7, "pretrained": False, "weights": "w", "augment": "none", "flip": True})

    message = str(caught.value)
    assert "recipe.epoch: is not a known key" in message
    assert "recipe.lr: Input should be" in message
    assert "pretrained=false asks for none" in message
    assert "augment=none leaves them as they are" in message


@pytest.mark.parametrize(("pattern", "words"), [("(", "no regular expression"), ("x", "0 groups"), ("(a)(b)", "2 groups")])
def test_a_label_pattern_needs_one_group(pattern: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        Recipe(label_pattern="(ok)").from_mapping({"label_pattern": pattern})


@pytest.mark.parametrize("path", ["/etc/passwd", "../labels.csv", "a/../../b.csv", ""])
def test_a_label_file_lies_inside_the_data(path: str) -> None:
    with pytest.raises(RecipeError, match="inside the data set's folder"):
        Recipe.from_mapping({"label_file": path})


@pytest.mark.parametrize(
    ("lr", "words"),
    [("slice(1e-2, 1e-3)", "low first"), ("slice(1e-3, 2)", "at most 1"), ("slice(1e-4, 1e-3)", "give one of them")],
)
def test_what_is_wrong_with_a_slice_is_said_with_everything_else(lr: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.from_mapping({"lr": lr, "stem_lr_scale": 0.5, "bogus": 1, "epochs": -1})

    message = str(caught.value)
    assert words in message
    assert "recipe.lr: " in message
    assert "recipe.bogus: is not a known key" in message
    assert "recipe.epochs: " in message


def test_true_is_no_rate() -> None:
    with pytest.raises(RecipeError, match=r"recipe\.lr: "):
        Recipe.from_mapping({"lr": True})


def test_random_weights_have_no_statistics_to_keep() -> None:
    assert Recipe().keeps_statistics
    assert not Recipe(pretrained=False).keeps_statistics
    assert Recipe(pretrained=False, batch_norm="frozen").keeps_statistics
    assert not Recipe(batch_norm="train").keeps_statistics
