"""The card of an artifact: what it is, how to feed it, where it came from.

Owns the schema of `manifest.json` and `confidence.json`. Knows nothing of files on disk (`artifact`) or of names and
aliases (`registry`). There are no defaults for anything that changes a prediction: a field that is missing is an error.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from datetime import datetime  # noqa: TC003 - pydantic reads the annotation
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, Field, StringConstraints, ValidationError, model_validator

from models.errors import ManifestError, describe
from models.frozen import Frozen
from models.recipe import Recipe, Task  # noqa: TC001 - pydantic reads the annotations
from models.scores import METRICS_OF, AnyMetrics, Metrics, MultiLabelMetrics, RegressionMetrics, SplitMetrics, without_tag

# Blocks of a manifest that are defined elsewhere: who reads or writes one finds all of it here.
__all__ = ["AnyMetrics", "Frozen", "Metrics", "MultiLabelMetrics", "RegressionMetrics", "SplitMetrics"]

SCHEMA_VERSION = 1
NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}$"
MAX_CAM_LABELS = 200
# What stands in `sha256` until an artifact is sealed.
UNSEALED = "0" * 64

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# A file, or a file in one folder: so that no manifest can point outside its own directory.
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$")]

T = TypeVar("T", bound=BaseModel)


class InputSpec(Frozen):
    """The one input of the graph: uint8 `[N, height, width, 3]`, RGB."""

    name: Literal["image"]
    dtype: Literal["uint8"]
    layout: Literal["NHWC"]
    height: int = Field(ge=16, le=2048)
    width: int = Field(ge=16, le=2048)


class Preprocessing(Frozen):
    """How bytes become the input. Every field is named; nothing has a default (see `models.preprocess`)."""

    jpeg_decoder: Literal["simplejpeg"]
    decoder: Literal["pillow"]
    orientation: Literal["exif"]
    colour: Literal["rgb"]
    alpha: Literal["over_white"]
    resize: Literal["bicubic_antialias"]
    crop: Literal["centre"]
    crop_ratio: float = Field(gt=0, le=1)


class OutputSpec(Frozen):
    """What the graph answers: float32 logits `[N, K]`, embedding `[N, D]`, and one spatial output `[N, C, h, w]`.

    With task `regression` K is 1 and the logit is the number itself, in its unit. `cam` has K channels whose mean over h
    and w, plus the head's bias, is the logit. `feature_map` has the backbone's channels; it stands where K is over 200 or
    the head is not linear in the pooled features.
    """

    logits: int = Field(ge=1)
    embedding: int = Field(ge=1)
    spatial: Literal["cam", "feature_map"]
    spatial_channels: int = Field(ge=1)
    spatial_height: int = Field(ge=1)
    spatial_width: int = Field(ge=1)


class Backbone(Frozen):
    """The pretrained network: timm's name, where its weights came from, and on what terms."""

    name: str
    weights: str
    licence: str


class DatasetCard(Frozen):
    """What was trained on: a fingerprint of every file, label and split, and the sizes."""

    fingerprint: Sha256
    splits: dict[Literal["train", "validation", "calibration", "test"], int]
    skipped: int = Field(ge=0)


class Temperature(Frozen):
    """The calibration scalar: probabilities are softmax or sigmoid of logits / value. 1 leaves them as they are.

    A regression has none to fit: its value is 1, and the status is that of the evidence for its interval.
    """

    value: float = Field(gt=0)
    status: Literal["ok", "partial", "none"]
    images: int = Field(ge=0)
    reason: str | None


class Interval(Frozen):
    """How far from a regression's answer the truth lies: within `half_width` (in its unit) for the share `level`."""

    level: float = Field(gt=0, lt=1)
    half_width: float = Field(ge=0)
    images: int = Field(ge=1)
    method: Literal["split_conformal"]
    reason: str | None


class Confidence(Frozen):
    """`confidence.json`: everything that turns logits into statements of confidence.

    `thresholds` has, with task `multi_label`, the probability from which on each label is selected. `interval` belongs to
    `regression`; null where too few images were held out to know one, and the temperature's reason says so.
    """

    schema_version: Literal[1]
    temperature: Temperature
    thresholds: dict[str, Annotated[float, Field(ge=0, le=1)]] | None
    interval: Interval | None

    def check_fits(self, manifest: Manifest) -> None:
        """Refuse what belongs to another task or to other labels: the service would have to guess.

        Raises:
            ManifestError: If thresholds are missing or of other labels, or a value stands where its task has none.
        """
        task, has_thresholds = manifest.task, manifest.task == "multi_label"
        given = None if self.thresholds is None else sorted(self.thresholds)
        if given != (sorted(manifest.labels) if has_thresholds else None):
            expected = f"one for each of {list(manifest.labels)!r:.80}" if has_thresholds else "null"
            raise ManifestError(
                f"confidence.thresholds has {given!r:.80}, expected {expected} with task {task}; publish it again with training"
            )
        if self.interval is not None and task != "regression":
            raise ManifestError(f"confidence.interval belongs to regression, and the task of {manifest.reference} is {task}")
        if self.temperature.value != 1 and task == "regression":
            raise ManifestError(f"confidence.temperature.value is {self.temperature.value}, expected 1 with task regression")

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read `confidence.json`.

        Raises:
            ManifestError: If a key is missing, unknown or out of range.
        """
        return _parse(cls, data, "confidence")


class Manifest(Frozen):
    """`manifest.json`, written last: an artifact exists when it does.

    With task `regression` there is one label, the number's name, and `unit` is what it counts, or null.
    """

    schema_version: Literal[1]
    name: Name
    version: int = Field(ge=1)
    created: datetime
    task: Task
    labels: tuple[str, ...] = Field(min_length=1)
    unit: str | None = Field(max_length=20)
    input: InputSpec
    preprocessing: Preprocessing
    outputs: OutputSpec
    backbone: Backbone
    recipe: Recipe | None
    recipe_sha256: Sha256 | None
    dataset: DatasetCard | None
    parent: str | None
    libraries: dict[str, str]
    metrics: Metrics | None
    files: dict[FileName, Sha256]
    sha256: Sha256

    @model_validator(mode="after")
    def _check_labels(self) -> Self:
        repeated = [label for label, count in Counter(self.labels).items() if count > 1]
        if repeated:
            raise ValueError(f"labels must be unique, and {repeated[0]!r} is there more than once")
        if "" in self.labels:
            raise ValueError("a label is empty")
        if len(self.labels) != self.outputs.logits:
            raise ValueError(f"labels has {len(self.labels)} entries, and outputs.logits says {self.outputs.logits}")
        return self

    @model_validator(mode="after")
    def _check_task(self) -> Self:
        if self.task == "single_label" and len(self.labels) < 2:
            raise ValueError("labels has 1 entry, and single_label chooses among at least 2")
        if self.task == "regression" and len(self.labels) != 1:
            raise ValueError(f"labels has {len(self.labels)} entries, and a regression has 1: the number's name")
        if self.unit is not None and self.task != "regression":
            raise ValueError(f"unit belongs to regression, and task is {self.task}")
        strangers = {type(block) for block in self.metrics.blocks()} - {METRICS_OF[self.task]} if self.metrics else set()
        if strangers:
            raise ValueError(
                f"metrics holds {strangers.pop().__name__}, and those of {self.task} are {METRICS_OF[self.task].__name__}"
            )
        return self

    @property
    def reference(self) -> str:
        """`name:version`."""
        return f"{self.name}:{self.version}"

    def to_bytes(self) -> bytes:
        """UTF-8 JSON with sorted keys, so that equal manifests are equal bytes."""
        return canonical_json(self)

    def own_sha256(self) -> str:
        """The hash of this manifest, with zeros where the hash stands."""
        return hashlib.sha256(self.model_copy(update={"sha256": UNSEALED}).to_bytes()).hexdigest()

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read `manifest.json`.

        Raises:
            ManifestError: If a key is missing, unknown or out of range, or the schema is another version's.
        """
        return _parse(cls, data, "manifest")


def canonical_json(value: BaseModel) -> bytes:
    """UTF-8 JSON with sorted keys, indented, with a closing newline."""
    return json.dumps(value.model_dump(mode="json"), indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def recipe_sha256(recipe: Recipe) -> str:
    """Hash of the resolved recipe: equal recipes have equal hashes, whatever file or flags they came from."""
    return hashlib.sha256(recipe.model_dump_json().encode()).hexdigest()


def check_name(name: str) -> str:
    """Return `name` when it may name a model.

    Raises:
        ManifestError: If it holds anything but small letters, digits, `-` and `_`, or is longer than 63 characters.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise ManifestError(
            f"{name!r:.80} cannot name a model; use up to 63 small letters, digits, '-' and '_', starting with a letter or digit"
        )
    return name


def _parse(kind: type[T], data: bytes, prefix: str) -> T:
    try:
        return kind.model_validate_json(data)
    except ValidationError as err:
        findings = describe(err, lambda path: f"{prefix}.{without_tag(path)}")
        raise ManifestError(f"{findings}\nexport it again with training, or use the candor that wrote it") from err


def summary(manifest: Manifest, confidence: Confidence) -> dict[str, Any]:
    """What a list of versions shows of one: plain JSON types only. A score that its task does not have is None."""
    scores = manifest.metrics.calibrated if manifest.metrics else None
    name, value = scores.headline if scores else (None, None)
    return {
        "version": manifest.version,
        "created": manifest.created.isoformat(),
        "task": manifest.task,
        "backbone": manifest.backbone.name,
        "labels": len(manifest.labels),
        "unit": manifest.unit,
        "image_size": manifest.input.height,
        "score": value,
        "score_name": name,
        **{key: getattr(scores, key, None) for key in ("accuracy", "nll", "ece", "mae")},
        "calibration": confidence.temperature.status,
        "calibration_reason": confidence.temperature.reason,
    }
