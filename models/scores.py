"""The blocks of scores that a manifest holds, one kind for each task. Computed in `metrics`."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Discriminator, Field, Tag

from models.frozen import Frozen
from models.recipe import Task  # noqa: TC001 - pydantic reads the annotation


class _Scored(Frozen):
    """What the blocks of all tasks have in common: which of their scores decides, and which one is shown."""

    _loss: ClassVar[str]
    _headline: ClassVar[tuple[str, str]]

    images: int = Field(ge=1)

    @property
    def loss(self) -> float:
        """What a model is chosen by; lower is better."""
        return float(getattr(self, self._loss))

    @property
    def headline(self) -> tuple[str, float]:
        """The one score that a list shows, with its name; higher is better."""
        name, key = self._headline
        return name, float(getattr(self, key))


class SplitMetrics(_Scored):
    """One label an image. `nll` is in nats; `ece` uses 15 equal-width bins (Guo et al. 2017, eq. 3)."""

    _loss = "nll"
    _headline = ("accuracy", "accuracy")

    accuracy: float = Field(ge=0, le=1)
    macro_recall: float = Field(ge=0, le=1)
    nll: float = Field(ge=0)
    ece: float = Field(ge=0, le=1)


class MultiLabelMetrics(_Scored):
    """Any number of labels an image.

    The two means are over the labels that some image has. `exact_match` is the share of images whose selected labels are
    all of theirs and no other. `nll` is the binary cross-entropy, mean over images and labels, in nats. `ece` compares the
    probability of a label with how often it is there, all labels of all images in the same 15 bins.
    """

    _loss = "nll"
    _headline = ("mAP", "mean_average_precision")

    mean_average_precision: float = Field(ge=0, le=1)
    macro_f1: float = Field(ge=0, le=1)
    exact_match: float = Field(ge=0, le=1)
    nll: float = Field(ge=0)
    ece: float = Field(ge=0, le=1)


class RegressionMetrics(_Scored):
    """A number an image. `mae` and `rmse` are in the number's unit; `r2` is 0 where always saying the mean is as good."""

    _loss = "rmse"
    _headline = ("R2", "r2")

    mae: float = Field(ge=0)
    rmse: float = Field(ge=0)
    r2: float = Field(le=1)


AnyMetrics = SplitMetrics | MultiLabelMetrics | RegressionMetrics
METRICS_OF: dict[Task, type[AnyMetrics]] = {
    "single_label": SplitMetrics,
    "multi_label": MultiLabelMetrics,
    "regression": RegressionMetrics,
}


def _task_of(value: Any) -> Task:
    """Which block this is, by a key that no other has: so that a finding is about that one and not about all three."""
    keys = value if isinstance(value, dict) else type(value).model_fields if isinstance(value, BaseModel) else ()
    if "mean_average_precision" in keys:
        return "multi_label"
    return "regression" if "r2" in keys else "single_label"


_Block = Annotated[
    Annotated[SplitMetrics, Tag("single_label")]
    | Annotated[MultiLabelMetrics, Tag("multi_label")]
    | Annotated[RegressionMetrics, Tag("regression")],
    Discriminator(_task_of),
]
_TAG = re.compile(rf"^(metrics\.(?:calibrated|raw|(?:validation|test)\.[^.]+))\.(?:{'|'.join(METRICS_OF)})(?=\.|$)")


class Metrics(Frozen):
    """Scores as published (`calibrated`), before temperature (`raw`), and of every candidate that was not chosen.

    `recall` is by label, with one label an image; with the other tasks it is empty.
    """

    chosen: Literal["probe", "last", "ema"] | None
    validation: dict[str, _Block]
    test: dict[str, _Block]
    calibrated: _Block | None
    raw: _Block | None
    recall: dict[str, float]
    unavailable: dict[str, str]

    def blocks(self) -> list[AnyMetrics]:
        """Every block of scores that there is."""
        found = [*self.validation.values(), *self.test.values(), self.calibrated, self.raw]
        return [block for block in found if block is not None]


def without_tag(path: str) -> str:
    """A finding's path as it was written: pydantic puts in which block it read, which is no key of anybody's."""
    return _TAG.sub(r"\1", path)
