"""What a manifest, its scores and its confidence say of each task, and what they refuse."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.artifact import Artifact
from models.confidence.schema import Confidence, Interval, Temperature
from models.errors import ManifestError
from models.manifest import AnyMetrics, Manifest, Metrics, MultiLabelMetrics, OutputSpec, RegressionMetrics, SplitMetrics, summary
from tests.support.artifacts import make_confidence, make_manifest, write_artifact

SINGLE = SplitMetrics(images=40, accuracy=0.9, macro_recall=0.88, nll=0.31, ece=0.02)
MULTI = MultiLabelMetrics(images=40, mean_average_precision=0.8, macro_f1=0.7, exact_match=0.5, nll=0.2, ece=0.03)
VALUES = RegressionMetrics(images=40, mae=3.5, rmse=5.0, r2=-0.25)
BLOCKS = {"single_label": SINGLE, "multi_label": MULTI, "regression": VALUES}
LABELS: dict[str, tuple[str, ...]] = {"single_label": ("bee", "cat"), "multi_label": ("bee",), "regression": ("angle",)}
INTERVAL = Interval(level=0.9, half_width=7.5, images=40, method="split_conformal", reason=None)

share, positive, anything = st.floats(0, 1), st.floats(0, 1e6), st.floats(-1e6, 1)
BLOCK = st.one_of(
    st.builds(SplitMetrics, images=st.integers(1), accuracy=share, macro_recall=share, nll=positive, ece=share),
    st.builds(
        MultiLabelMetrics,
        images=st.integers(1),
        mean_average_precision=share,
        macro_f1=share,
        exact_match=share,
        nll=positive,
        ece=share,
    ),
    st.builds(RegressionMetrics, images=st.integers(1), mae=positive, rmse=positive, r2=anything),
)


def make_metrics(block: AnyMetrics) -> Metrics:
    return Metrics(
        chosen="ema", validation={"ema": block}, test={"probe": block}, calibrated=block, raw=None, recall={}, unavailable={}
    )


def manifest_of(task: str, **changes: Any) -> Manifest:
    labels = changes.get("labels", LABELS[task])
    outputs = OutputSpec(
        logits=len(labels), embedding=8, spatial="cam", spatial_channels=len(labels), spatial_height=2, spatial_width=3
    )
    fields = {"task": task, "labels": labels, "outputs": outputs, "metrics": make_metrics(BLOCKS[task])}
    return make_manifest(**{**fields, **changes})


def confidence_of(**changes: Any) -> Confidence:
    return make_confidence(1.0).model_copy(update=changes)


# --- scores


@settings(deadline=None)
@given(BLOCK)
def test_a_block_of_scores_is_read_back_as_what_it_was(block: AnyMetrics) -> None:
    metrics = make_metrics(block)

    again = Metrics.model_validate_json(metrics.model_dump_json())

    assert again == metrics
    assert {type(read) for read in again.blocks()} == {type(block)}


@pytest.mark.parametrize(
    ("block", "loss", "headline"),
    [(SINGLE, 0.31, ("accuracy", 0.9)), (MULTI, 0.2, ("mAP", 0.8)), (VALUES, 5.0, ("R2", -0.25))],
)
def test_a_model_is_chosen_by_its_loss_and_shown_by_its_headline(
    block: AnyMetrics, loss: float, headline: tuple[str, float]
) -> None:
    assert (block.loss, block.headline) == (loss, headline)


@pytest.mark.parametrize(
    ("task", "key", "value", "finding"),
    [
        ("single_label", "accuracy", 1.5, "Input should be less than or equal to 1, got 1.5"),
        ("multi_label", "macro_f1", -0.1, "Input should be greater than or equal to 0, got -0.1"),
        ("regression", "rmse", -1.0, "Input should be greater than or equal to 0, got -1.0"),
        ("regression", "r2", 1.1, "Input should be less than or equal to 1, got 1.1"),
        ("multi_label", "accuracy", 0.5, "is not a known key"),
    ],
)
@pytest.mark.parametrize("where", ["calibrated", "validation.ema", "test.probe"])
def test_a_finding_in_a_block_of_scores_is_one_line_named_as_it_was_written(
    task: str, key: str, value: float, finding: str, where: str
) -> None:
    fields = json.loads(manifest_of(task).to_bytes())
    block = fields["metrics"]
    for part in where.split("."):
        block = block[part]
    block[key] = value

    with pytest.raises(ManifestError) as caught:
        Manifest.parse(json.dumps(fields).encode())

    assert str(caught.value).splitlines()[:-1] == [f"manifest.metrics.{where}.{key}: {finding}"]


@pytest.mark.parametrize("value", [3, None, [], "x"])
def test_something_that_is_no_block_of_scores_is_refused(value: object) -> None:
    fields = json.loads(manifest_of("regression").to_bytes())
    fields["metrics"]["validation"]["ema"] = value

    with pytest.raises(ManifestError, match=r"^manifest\.metrics\.validation\.ema: Input should be .*object"):
        Manifest.parse(json.dumps(fields).encode())


# --- the manifest


@pytest.mark.parametrize("task", BLOCKS)
def test_a_manifest_of_each_task_survives_being_written_and_read(task: str) -> None:
    manifest = manifest_of(task, unit="degrees" if task == "regression" else None)

    assert Manifest.parse(manifest.to_bytes()) == manifest


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("single_label", {"labels": ("bee",)}, "labels has 1 entry, and single_label chooses among at least 2"),
        ("regression", {"labels": ("x", "y")}, "labels has 2 entries, and a regression has 1: the number's name"),
        ("multi_label", {"unit": "degrees"}, "unit belongs to regression, and task is multi_label"),
        (
            "regression",
            {"metrics": make_metrics(SINGLE)},
            "metrics holds SplitMetrics, and those of regression are RegressionMetrics",
        ),
        (
            "multi_label",
            {"metrics": make_metrics(VALUES)},
            "metrics holds RegressionMetrics, and those of multi_label are MultiLabelMetrics",
        ),
    ],
)
def test_a_manifest_that_contradicts_its_task_is_refused(task: str, changes: dict[str, Any], message: str) -> None:
    fields = json.loads(manifest_of(task).to_bytes())
    for key, value in changes.items():
        fields[key] = json.loads(value.model_dump_json()) if isinstance(value, Metrics) else value
    fields["outputs"]["logits"] = len(fields["labels"])

    with pytest.raises(ManifestError) as caught:
        Manifest.parse(json.dumps(fields).encode())

    assert str(caught.value).splitlines()[0] == f"manifest: {message}"


# --- the confidence beside it


@pytest.mark.parametrize(
    ("task", "confidence"),
    [
        ("single_label", confidence_of()),
        ("multi_label", confidence_of(thresholds={"bee": 0.25})),
        ("regression", confidence_of(interval=INTERVAL)),
        ("regression", confidence_of()),
    ],
)
def test_a_confidence_that_fits_its_manifest_is_read_back_with_it(task: str, confidence: Confidence) -> None:
    confidence.check_fits(task, LABELS[task])

    assert Confidence.parse(confidence.model_dump_json().encode()) == confidence


HOT = Temperature(value=1.5, status="ok", images=40, reason=None)


@pytest.mark.parametrize(
    ("task", "confidence", "message"),
    [
        (
            "multi_label",
            confidence_of(),
            "confidence.thresholds has None, expected one for each of ['bee'] with task multi_label",
        ),
        (
            "multi_label",
            confidence_of(thresholds={"bee": 0.5, "cat": 0.5}),
            "confidence.thresholds has ['bee', 'cat'], expected one for each of ['bee'] with task multi_label",
        ),
        (
            "single_label",
            confidence_of(thresholds={"bee": 0.5, "cat": 0.5}),
            "confidence.thresholds has ['bee', 'cat'], expected null with task single_label",
        ),
        (
            "single_label",
            confidence_of(interval=INTERVAL),
            "confidence.interval belongs to regression, expected null with task single_label",
        ),
        ("regression", confidence_of(temperature=HOT), "confidence.temperature.value is 1.5, expected 1 with task regression"),
    ],
)
def test_a_confidence_of_another_task_or_other_labels_is_refused(task: str, confidence: Confidence, message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        confidence.check_fits(task, LABELS[task])

    assert str(caught.value).startswith(message)


def test_an_artifact_whose_confidence_does_not_fit_is_not_loaded(tmp_path: Any) -> None:
    write_artifact(
        tmp_path,
        task="multi_label",
        labels=("bee",),
        outputs=OutputSpec(logits=1, embedding=8, spatial="cam", spatial_channels=1, spatial_height=2, spatial_width=3),
    )

    with pytest.raises(ManifestError, match=r"^confidence\.thresholds has None, expected one for each of \['bee'\]"):
        Artifact.load(tmp_path)


@pytest.mark.parametrize("key", ["thresholds", "interval"])
def test_a_confidence_without_thresholds_or_interval_is_refused_by_name(key: str) -> None:
    fields = make_confidence().model_dump(mode="json")
    del fields[key]

    with pytest.raises(ManifestError, match=rf"^confidence\.{key}: Field required"):
        Confidence.parse(json.dumps(fields).encode())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("thresholds.bee", 1.01),
        ("thresholds.bee", -0.01),
        ("interval.level", 1.0),
        ("interval.level", 0.0),
        ("interval.half_width", -1.0),
        ("interval.images", 0),
        ("interval.method", "bayes"),
    ],
)
def test_a_threshold_or_interval_out_of_range_is_refused_with_its_name_and_itself(path: str, value: object) -> None:
    fields = confidence_of(thresholds={"bee": 0.5}, interval=INTERVAL).model_dump(mode="json")
    block, key = path.split(".")
    fields[block][key] = value

    with pytest.raises(ManifestError, match=rf"^confidence\.{path}: .*, got {value!r}\n"):
        Confidence.parse(json.dumps(fields).encode())


# --- the summary


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("single_label", {"score": 0.9, "score_name": "accuracy", "accuracy": 0.9, "nll": 0.31, "ece": 0.02, "mae": None}),
        ("multi_label", {"score": 0.8, "score_name": "mAP", "accuracy": None, "nll": 0.2, "ece": 0.03, "mae": None}),
        ("regression", {"score": -0.25, "score_name": "R2", "accuracy": None, "nll": None, "ece": None, "mae": 3.5}),
    ],
)
def test_the_summary_of_a_task_has_its_scores_and_none_of_the_others(task: str, expected: dict[str, Any]) -> None:
    card = summary(manifest_of(task), confidence_of())

    assert {key: card[key] for key in expected} == expected
    assert card["task"] == task
