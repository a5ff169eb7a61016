"""What `/explain-confidence` says of one image, by task: the schema, for people, programs and OpenAPI alike.

Filled in by `explain`. A part that the version has no evidence for is null, and `unavailable` says why.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from models.confidence.familiarity import Verdict  # noqa: TC001 - pydantic reads the annotation
from models.confidence.judge import Action, Level, Reason  # noqa: TC001 - pydantic reads the annotation
from models.confidence.schema import Counted, KnownConfusion, Share  # noqa: TC001 - pydantic reads the annotation
from models.frozen import Frozen

Unavailable = Annotated[
    dict[str, str],
    Field(
        description="why a part is null or empty. Of the version: conformal (the prediction set), familiarity, correctness "
        "(p_correct is then the probability), acceptance, expected_accuracy, percentiles, known_confusions, head (maps), bank "
        "(neighbours, trust score), neighbor_agreement; evidence is all of them. Of this answer: prediction_set, interval, "
        "heatmap, versus, where what was asked for has no answer"
    ),
]


class Predicted(Frozen):
    """A label: how probable it is, and what the plain softmax would have said."""

    label: str
    index: int = Field(ge=0, description="of the label in the model's list of them")
    probability: Share = Field(description="calibrated; of all labels they sum to 1")
    raw_softmax: Share = Field(description="of the logits as they are, which trained networks overstate")


class Alternative(Predicted):
    """What else it could be."""

    p_value: Share | None = Field(
        description="share of calibration images of that label that looked no more like it; null where there are none"
    )


class Sureness(Frozen):
    """How sure, in several ways that answer different questions."""

    level: Level
    p_correct: Share | None = Field(description="probability that the first label is right; null for what is unknown")
    p_correct_method: Literal["logit_p+log_trust", "calibrated_probability"] | None
    expected_accuracy: Counted | None = Field(
        description="of test images whose first label was about as probable; null where there were none"
    )
    margin: Share = Field(description="probability of the first label less that of the second")
    normalized_entropy: Share = Field(description="0: one label has it all; 1: all labels are equally probable")
    percentile_for_label: Share | None = Field(
        description="share of right answers with this label, on calibration images, that were less sure; null without such"
    )


class PredictedSet(Frozen):
    """Labels that hold the true one as often as `confidence_level` says, for images like the calibration images."""

    confidence_level: float
    labels: tuple[str, ...]
    size: int
    method: Literal["class_conditional_lac"]
    pooled: tuple[str, ...] = Field(description="labels with too few calibration images of their own; judged by those of all")


class Familiar(Frozen):
    """Whether the image is like those that the model was made from."""

    p_value: Share = Field(description="how often an image like those is at least as strange")
    verdict: Verdict
    method: Literal["mahalanobis_pp"]
    false_alarm_rate: Share = Field(description="how often an image like those is called unknown, at most")
    weak: str | None = Field(description="why not to rely on it; null where it told unrelated images from test images")


class Heatmap(Frozen):
    """What in the image speaks for the label, or against it, on a coarse grid over the part that the model saw."""

    rows: int
    cols: int
    values: tuple[tuple[float, ...], ...] | None = Field(description="row by row; null where a PNG was asked for")
    png: str | None = Field(description="base64 of a PNG, laid over what the model saw; null where a grid was asked for")
    unit: Literal["logit", "value"] = Field(description="value: the number's own unit, with regression")
    bias: float = Field(description="mean of the values + bias = the logit; of a contrast, the difference of two logits")
    image_box: tuple[Share, Share, Share, Share] = Field(
        description="what the model saw of the upright image: left, top, right, bottom, as shares of its width and height"
    )


class Contrast(Frozen):
    """Why the first label, and not another one."""

    label: str
    logit_margin: float
    heatmap: Heatmap


class NeighbourImage(Frozen):
    """A known image that looks like this one to the network."""

    id: str
    label: str
    split: Literal["calibration", "train"] = Field(
        description="calibration: held out from training. train: learnt by heart, and shown only where none was held out"
    )
    predicted: str
    similarity: float = Field(ge=-1, le=1, description="cosine of the embeddings")


class EvidenceShown(Frozen):
    """What can be looked at."""

    heatmap: Heatmap | None
    versus: Contrast | None
    neighbors: tuple[NeighbourImage, ...]
    neighbor_agreement: Share | None = Field(description="share of the 20 nearest held-out images that have the first label")
    trust_score: float | None = Field(description="distance to the nearest other label over that to the first; over 1 is good")


class Decision(Frozen):
    """What to do with the answer, and why not to accept it."""

    action: Action
    reasons: tuple[Reason, ...]


class SingleLabelExplanation(Frozen):
    """Of a model with one label an image."""

    prediction: Predicted
    alternatives: tuple[Alternative, ...]
    confidence: Sureness
    prediction_set: PredictedSet | None
    familiarity: Familiar | None
    evidence: EvidenceShown
    known_confusion: KnownConfusion | None
    decision: Decision
    summary: str
    unavailable: Unavailable


class LabelVerdict(Frozen):
    """One label of a model with any number of labels an image."""

    label: str
    probability: Share
    threshold: Share
    selected: bool
    margin: float = Field(description="probability less threshold")


class MultiLabelExplanation(Frozen):
    """Of a model with any number of labels an image; the heatmap is of the most probable one, or of `versus`."""

    predictions: tuple[LabelVerdict, ...]
    selected: tuple[str, ...]
    familiarity: Familiar | None
    heatmap: Heatmap | None
    decision: Decision
    summary: str
    unavailable: Unavailable


class ValueRange(Frozen):
    """Between which numbers the truth lies for the share `confidence_level` of images like the calibration images."""

    confidence_level: float
    low: float
    high: float
    method: Literal["split_conformal"]


class RegressionExplanation(Frozen):
    """Of a model that answers a number."""

    value: float
    unit: str | None
    interval: ValueRange | None
    familiarity: Familiar | None
    heatmap: Heatmap | None
    decision: Decision
    summary: str
    unavailable: Unavailable


Explanation = SingleLabelExplanation | MultiLabelExplanation | RegressionExplanation
