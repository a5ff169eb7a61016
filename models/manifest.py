"""The card of an artifact: what it is, how to feed it, where it came from.

Owns the schema of `manifest.json`. Knows nothing of files on disk (`artifact`) or of names and
aliases (`registry`). There are no defaults for anything that changes a prediction: a field that is missing is an error.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from datetime import datetime  # noqa: TC003 - pydantic reads the annotation
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, StringConstraints, model_validator

from models.errors import ManifestError
from models.frozen import Frozen, parse_json
from models.recipe import Recipe, Task  # noqa: TC001 - pydantic reads the annotations
from models.scores import METRICS_OF, AnyMetrics, Metrics, MultiLabelMetrics, RegressionMetrics, SplitMetrics, without_tag

if TYPE_CHECKING:
    from models.confidence.schema import Confidence

# Blocks of a manifest that are defined elsewhere: who reads or writes one finds all of it here.
__all__ = ["AnyMetrics", "Frozen", "Metrics", "MultiLabelMetrics", "RegressionMetrics", "SplitMetrics"]

SCHEMA_VERSION = 1
NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}$"
# A run is a folder below `runs/`.
RUN_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
MAX_CAM_LABELS = 200
# What stands in `sha256` until an artifact is sealed.
UNSEALED = "0" * 64

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
RunId = Annotated[str, StringConstraints(pattern=RUN_PATTERN)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# A file, or a file in one folder: so that no manifest can point outside its own directory.
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$")]


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
    and w, plus the head's bias, is the logit. `feature_map` stands where K is over 200: it has D channels whose
    mean is the embedding; or where no such map is exact, and then it has the backbone's channels.
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


class Manifest(Frozen):
    """`manifest.json`, written last: an artifact exists when it does.

    With task `regression` there is one label, the number's name, and `unit` is what it counts, or null. `parent` is the
    version whose weights it started from, and `run` the job that made it, or null.
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
    run: RunId | None
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
        return parse_json(cls, data, lambda path: f"manifest.{without_tag(path)}")


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


def check_run(run: str) -> str:
    """Return `run` when it may name a run.

    Raises:
        ManifestError: If it holds anything but letters, digits, `-` and `_`, or is longer than 64 characters.
    """
    if not re.fullmatch(RUN_PATTERN, run):
        raise ManifestError(f"{run!r:.80} cannot name a run; use up to 64 letters, digits, '-' and '_'")
    return run


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
