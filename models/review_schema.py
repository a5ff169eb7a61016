"""The schema of `review.json`: what a version is sure and unsure of, image by image.

Written by training, read by the report and by the service (`models.review`). Images are named by id, the beginning of the
sha256 of their file, and described once; lists hold ids. Every list is of held-out images, but for the suspected labels,
which are looked for everywhere. What the data does not allow is null or empty, and `unavailable` says why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from models.confidence.schema import Share  # noqa: TC001 - pydantic reads the annotation
from models.dataset import Split  # noqa: TC001 - pydantic reads the annotation
from models.frozen import Frozen

if TYPE_CHECKING:
    import numpy.typing as npt


class Rate(Frozen):
    """A share that was counted, `count` of `of`, with its 95 % interval (Wilson)."""

    value: Share
    low: Share
    high: Share
    count: int = Field(ge=0)
    of: int = Field(ge=1)


class Estimate(Frozen):
    """A number that was computed from counts, with its 95 % interval."""

    value: Share
    low: Share
    high: Share


class Scores(Frozen):
    """How good on one split, with one label an image.

    `nll` (nats), `ece` and `typical_p_actual` are of the calibrated probabilities, `*_raw` before temperature.
    `typical_p_actual` is exp(-nll): the geometric mean of the probability that the true label was given. `ece_by_chance` is
    the largest ECE (95 %) that perfect calibration would show on as few images.
    """

    images: int = Field(ge=1)
    accuracy: Rate
    error_rate: Share
    nll: float = Field(ge=0)
    nll_raw: float = Field(ge=0)
    typical_p_actual: Share
    ece: Share
    ece_raw: Share
    ece_by_chance: Share


class LabelScores(Frozen):
    """How good on one label: `actual` images have it, `predicted` images were said to.

    Null where there is nothing to count; F1 where no image has the label.
    """

    label: str
    actual: int = Field(ge=0)
    predicted: int = Field(ge=0)
    precision: Rate | None
    recall: Rate | None
    f1: Estimate | None


class Confused(Frozen):
    """How often images of one label were taken for another; the rate is of all images with the actual label."""

    actual: str
    predicted: str
    count: int
    rate_of_actual: float


class Bin(Frozen):
    """Images whose largest probability is over `low` and at most `high`: what was stated, and how often it was right."""

    low: Share
    high: Share
    images: int = Field(ge=0)
    stated: Share | None
    right: Rate | None


class Reliability(Frozen):
    """Stated against observed, in equal bins, with the calibrated and with the raw probabilities."""

    calibrated: tuple[Bin, ...]
    raw: tuple[Bin, ...]


class ReviewedImage(Frozen):
    """One held-out image, and what the version says of it. Probabilities are calibrated; `loss` is -ln p_actual.

    `margin` is p_predicted less the probability of the runner-up. `p_familiar` is how often an image like the data is as
    strange; null where the familiarity model was not asked about it.
    """

    id: str
    path: str
    split: Split
    actual: str
    predicted: str
    p_predicted: Share
    p_actual: Share
    margin: Share
    loss: float = Field(ge=0)
    p_familiar: Share | None


class Lists(Frozen):
    """What to look at of one label, as ids. `over_threshold` counts the confident errors, listed or not.

    `most_confident` are right, the most probable first; `least_confident` right or not, the least probable first.
    `confidently_wrong` has the errors from `threshold` on, the most probable first; where there are fewer than five, the
    five most probable errors. `unfamiliar` are the strangest, right or not, the strangest first; null where nothing says
    which are.
    """

    most_confident: tuple[str, ...]
    least_confident: tuple[str, ...]
    confidently_wrong: tuple[str, ...]
    over_threshold: int = Field(ge=0)
    unfamiliar: tuple[str, ...] | None


class LabelReview(Frozen):
    """The lists of a label, over the images that were said to have it and over those that have it."""

    label: str
    threshold: Share
    predicted: Lists
    actual: Lists


class Suspect(Frozen):
    """An image whose label may be wrong: what a model that never saw this label thinks of it."""

    id: str
    path: str
    split: Split
    label: str
    suggested: str
    p_label: Share
    p_suggested: Share


class Suspects(Frozen):
    """Suspected label errors, the worst first; `found` counts all, `images` those that were looked at.

    `accuracy` is how often the out-of-fold model agrees with the labels: how far to believe it.
    """

    method: str
    folds: int = Field(ge=2)
    images: int = Field(ge=1)
    accuracy: Share
    found: int = Field(ge=0)
    listed: tuple[Suspect, ...]


class _Review(Frozen):
    """`held_out` are the splits that lists are drawn from; `judged_on` the one that tables and plots are of."""

    schema_version: Literal[1]
    labels: tuple[str, ...]
    temperature: float = Field(gt=0)
    held_out: tuple[Split, ...]
    judged_on: Split | None
    findings: tuple[str, ...]
    unavailable: dict[str, str]


class SingleLabelReview(_Review):
    """With one label an image. `confusion` has the cells that are not 0: actual, predicted (indices of labels), count."""

    task: Literal["single_label"]
    scores: dict[Split, Scores]
    per_label: tuple[LabelScores, ...]
    confusion: tuple[tuple[int, int, int], ...]
    reliability: Reliability | None
    images: tuple[ReviewedImage, ...]
    questions: tuple[LabelReview, ...]
    top_losses: tuple[str, ...]
    suspects: Suspects | None

    def confusion_matrix(self) -> npt.NDArray[np.int64]:
        """Counts `[K, K]` on the split `judged_on`: rows are the actual label, columns the predicted one."""
        matrix = np.zeros((len(self.labels), len(self.labels)), dtype=np.int64)
        for actual, predicted, count in self.confusion:
            matrix[actual, predicted] = count
        return matrix

    def most_confused(self, min_val: int = 1) -> list[Confused]:
        """The pairs of labels that are taken for one another at least `min_val` times, the most frequent first."""
        totals = dict.fromkeys(range(len(self.labels)), 0)
        for actual, _, count in self.confusion:
            totals[actual] += count
        cells = [cell for cell in self.confusion if cell[0] != cell[1] and cell[2] >= min_val]
        return [
            Confused(
                actual=self.labels[actual],
                predicted=self.labels[predicted],
                count=count,
                rate_of_actual=count / totals[actual],
            )
            for actual, predicted, count in sorted(cells, key=lambda cell: (-cell[2], -cell[2] / totals[cell[0]], cell))
        ]


class TaggedImage(Frozen):
    """One held-out image of a model with any number of labels an image: what it has, and what was selected."""

    id: str
    path: str
    split: Split
    actual: tuple[str, ...]
    selected: tuple[str, ...]


class Listed(Frozen):
    """An image in a list of one label, with the calibrated probability of that label."""

    id: str
    p: Share


class TagReview(Frozen):
    """One label: how good, and which images. `threshold` is the probability from which on it is selected.

    `most_sure` have the label and were said to, the most probable first; `unsure` are nearest to the threshold;
    `false_alarms` lack it and were said to have it, the most probable first; `missed` have it, the least probable first.
    """

    scores: LabelScores
    average_precision: Share | None
    threshold: Share
    most_sure: tuple[Listed, ...]
    unsure: tuple[Listed, ...]
    false_alarms: tuple[Listed, ...]
    missed: tuple[Listed, ...]


class TagScores(Frozen):
    """How good on one split, with any number of labels an image: as `scores.MultiLabelMetrics`, calibrated.

    `exact` is where every label is right at once.
    """

    images: int = Field(ge=1)
    exact: Rate
    mean_average_precision: Share
    macro_f1: Share
    nll: float = Field(ge=0)
    ece: Share


class MultiLabelReview(_Review):
    """With any number of labels an image."""

    task: Literal["multi_label"]
    scores: dict[Split, TagScores]
    per_label: tuple[TagReview, ...]
    images: tuple[TaggedImage, ...]


class MeasuredImage(Frozen):
    """One held-out image of a regression; `error` is predicted less actual, in the number's unit."""

    id: str
    path: str
    split: Split
    actual: float
    predicted: float
    error: float


class NumberScores(Frozen):
    """How good on one split, in the number's unit: as `scores.RegressionMetrics`. `bias` is the mean error."""

    images: int = Field(ge=1)
    mae: float = Field(ge=0)
    rmse: float = Field(ge=0)
    bias: float
    r2: float
    # The errors' 5, 25, 50, 75 and 95 % quantiles.
    quantiles: tuple[float, float, float, float, float]


class RegressionReview(_Review):
    """With a number an image. `points` are (actual, predicted) on `judged_on`, a fair sample where there are many."""

    task: Literal["regression"]
    unit: str | None
    scores: dict[Split, NumberScores]
    points: tuple[tuple[float, float], ...]
    images: tuple[MeasuredImage, ...]
    largest_errors: tuple[str, ...]


Review = SingleLabelReview | MultiLabelReview | RegressionReview
