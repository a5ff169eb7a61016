"""The schema of `confidence.json`: how much an answer may be believed, and how that is known.

Beside it `confidence.npz` has the numbers by the thousand (`arrays`). Everything was fitted on the calibration split, which
neither trained nor chose the model, and everything that is published as a share was counted on the test split. What the data
does not allow is null, and `unavailable` says why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field

from models.errors import ManifestError
from models.frozen import Frozen, parse_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.recipe import Task

Share = Annotated[float, Field(ge=0, le=1)]


class Temperature(Frozen):
    """The calibration scalar: probabilities are softmax or sigmoid of logits / value. 1 leaves them as they are.

    A regression has none to fit: its value is 1, and the status is that of the evidence for its interval. With one label an
    image `partial` may also mean that the test images contradict it: their ECE is larger than chance explains.
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


class ConformalCard(Frozen):
    """Prediction sets: how many calibration images each label has."""

    method: Literal["class_conditional_lac"]
    images: dict[str, int]


class LeftOut(Frozen):
    """A label that familiarity was kept from knowing: how well it then tells its test images from those of the others."""

    label: str
    auroc: Share


class FamiliarityCard(Frozen):
    """Whether an image is like those of the data: how many calibration images that is judged by.

    `weak` says why not to rely on it; null where it told unrelated images from test images. `left_out` has up to 20 labels
    in turn, and is null where labels do not part the images or there is no test split. The network did learn that label: what
    it never saw may be told less well.
    """

    method: Literal["mahalanobis_pp"]
    images: int = Field(ge=1)
    rank: int = Field(ge=1)
    weak: str | None
    left_out: tuple[LeftOut, ...] | None


class CorrectnessCard(Frozen):
    """p_correct: its coefficients, and how it compares with the calibrated probability, cross-fitted on calibration images.

    `coefficients` are of logit(p_max), of log(trust), and the constant; null where the probability itself is at least as
    good, and is what p_correct then is. Log-losses are in nats; AUROC is how well right and wrong answers are told apart.
    """

    coefficients: tuple[float, float, float] | None
    images: int = Field(ge=1)
    log_loss: float = Field(ge=0)
    log_loss_of_probability: float = Field(ge=0)
    auroc: Share
    auroc_of_probability: Share


class Counted(Frozen):
    """A share that was counted, `count` of `of`, with its exact 95 % interval (Clopper-Pearson)."""

    value: Share
    low: Share
    high: Share
    count: int = Field(ge=0)
    of: int = Field(ge=1)


class ExpectedAccuracy(Frozen):
    """Of test images whose largest probability was over `low` and at most `high`: how many were right."""

    low: Share
    high: Share
    right: Counted | None


class Acceptance(Frozen):
    """From which p_correct on answers are right as often as `target`, with 95 % confidence on the calibration images.

    `threshold` is null where there is no such value. `on_test` is how often accepted test images were right.
    """

    target: float = Field(gt=0, lt=1)
    threshold: Share | None
    on_test: Counted | None


class KnownConfusion(Frozen):
    """How many of the test images that were taken for `predicted` were `actual`."""

    actual: str
    predicted: str
    count: int = Field(ge=1)
    share_of_predicted: Share


class Reference(Frozen):
    """What is usual, to see a drift by: shares of the calibration images in equal bins over 0..1."""

    p_max: tuple[Share, ...]
    p_familiar: tuple[Share, ...]


class SelfTest(Frozen):
    """One thing that was checked of this very version before it was published."""

    name: str
    passed: bool
    found: str
    expected: str


class Confidence(Frozen):
    """`confidence.json`: everything that turns a network's outputs into statements of confidence.

    `thresholds` has, with task `multi_label`, the probability from which on each label is selected. `interval` belongs to
    `regression`; null where too few images were held out to know one, and the temperature's reason says so. `precision` is
    of each label that test images were taken for.
    """

    schema_version: Literal[1]
    temperature: Temperature
    thresholds: dict[str, Share] | None
    interval: Interval | None
    conformal: ConformalCard | None
    familiarity: FamiliarityCard | None
    correctness: CorrectnessCard | None
    acceptance: Acceptance | None
    expected_accuracy: tuple[ExpectedAccuracy, ...]
    precision: dict[str, Counted]
    known_confusions: tuple[KnownConfusion, ...]
    reference: Reference | None
    self_tests: tuple[SelfTest, ...]
    unavailable: dict[str, str]

    def check_fits(self, task: Task, labels: Sequence[str]) -> None:
        """Refuse what belongs to another task or to other labels: the service would have to guess.

        Raises:
            ManifestError: If thresholds are missing or of other labels, or a value stands where its task has none.
        """
        given = None if self.thresholds is None else sorted(self.thresholds)
        if given != (sorted(labels) if task == "multi_label" else None):
            expected = f"one for each of {list(labels)!r:.80}" if task == "multi_label" else "null"
            raise ManifestError(
                f"confidence.thresholds has {given!r:.80}, expected {expected} with task {task}; publish it again with training"
            )
        if self.interval is not None and task != "regression":
            raise ManifestError(f"confidence.interval belongs to regression, expected null with task {task}")
        if self.temperature.value != 1 and task == "regression":
            raise ManifestError(f"confidence.temperature.value is {self.temperature.value}, expected 1 with task regression")

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read `confidence.json`.

        Raises:
            ManifestError: If a key is missing, unknown or out of range.
        """
        return parse_json(cls, data, "confidence.{}".format)

    @classmethod
    def without_evidence(
        cls, temperature: Temperature, thresholds: dict[str, float] | None, interval: Interval | None, why: str
    ) -> Self:
        """A version of which nothing else is known, for one reason."""
        return cls(
            schema_version=1,
            temperature=temperature,
            thresholds=thresholds,
            interval=interval,
            conformal=None,
            familiarity=None,
            correctness=None,
            acceptance=None,
            expected_accuracy=(),
            precision={},
            known_confusions=(),
            reference=None,
            self_tests=(),
            unavailable={"evidence": why},
        )
