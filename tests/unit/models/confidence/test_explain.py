from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models.confidence.bank import Bank
from models.confidence.case import Ask, Seen
from models.confidence.conformal import Conformal
from models.confidence.evidence import Evidence
from models.confidence.explain import explain
from models.confidence.explanation import MultiLabelExplanation, RegressionExplanation, SingleLabelExplanation
from models.confidence.familiarity import Familiarity, unit_length
from models.confidence.heatmap import Head
from models.confidence.judge import Judge
from models.confidence.schema import (
    Acceptance,
    Confidence,
    ConformalCard,
    CorrectnessCard,
    Counted,
    ExpectedAccuracy,
    FamiliarityCard,
    KnownConfusion,
    Temperature,
)
from models.decision import probabilities
from models.errors import ArtifactError
from models.manifest import OutputSpec

LABELS = ("bee", "cat", "dog")
K, D, N = 3, 8, 240
CENTRES = np.eye(K, D) * 4 + 1
ASK = Ask(confidence_level=0.9, top_k=5, neighbors=4, heatmap="grid", versus=None)
OUTPUTS = OutputSpec(logits=K, embedding=D, spatial="cam", spatial_channels=K, spatial_height=2, spatial_width=2)


def embeddings(labels: np.ndarray, seed: int) -> np.ndarray:
    return (CENTRES[labels] + np.random.default_rng(seed).normal(size=(len(labels), D)) * 0.4).astype(np.float32)


def evidence() -> Evidence:
    labels = np.arange(N) % K
    order = np.argsort(labels, kind="stable")
    known, held_out = embeddings(labels, 0), embeddings(labels, 1)
    logits = held_out[:, :K] * 2
    offsets = unit_length(known) - np.stack([unit_length(known)[labels == k].mean(axis=0) for k in range(K)])[labels]
    values, axes = np.linalg.eigh(np.cov(offsets.T))
    familiarity = Familiarity(
        np.stack([unit_length(known)[labels == k].mean(axis=0) for k in range(K)]).astype(np.float64),
        axes[:, -4:].T,
        values[-4:],
        float(values[:-4].mean()),
        np.zeros(0),
    )
    return Evidence(
        conformal=Conformal.fit(probabilities(logits, 1.0), labels),
        familiarity=replace(familiarity, distances=np.sort(familiarity.distance(held_out))),
        bank=Bank(
            unit_length(held_out)[order],
            labels[order],
            labels[order],
            np.ones(N, dtype=bool),
            np.array([f"sha256:{row:016x}" for row in order]),
        ),
        percentiles=np.tile(np.linspace(0.34, 1.0, 101), (K, 1)),
        head=Head(None, np.array([0.1, -0.2, 0.3], dtype=np.float32)),
    )


def counted(count: int, of: int) -> Counted:
    return Counted(value=count / of, low=max(0.0, count / of - 0.1), high=min(1.0, count / of + 0.1), count=count, of=of)


def confidence(**changes: Any) -> Confidence:
    fitted = Temperature(value=1.0, status="ok", images=N, reason=None)
    return Confidence.without_evidence(fitted, None, None, "none").model_copy(
        update={
            "conformal": ConformalCard(method="class_conditional_lac", images=dict.fromkeys(LABELS, N // K)),
            "familiarity": FamiliarityCard(method="mahalanobis_pp", images=N, rank=4, weak=None, left_out=None),
            "correctness": CorrectnessCard(
                coefficients=(1.0, 1.0, 0.0),
                images=N,
                log_loss=0.1,
                log_loss_of_probability=0.2,
                auroc=0.9,
                auroc_of_probability=0.8,
            ),
            "acceptance": Acceptance(target=0.95, threshold=0.8, on_test=counted(90, 92)),
            "expected_accuracy": (ExpectedAccuracy(low=0.9, high=1.0, right=counted(97, 100)),),
            "precision": {"bee": counted(95, 100), "cat": counted(60, 100)},
            "known_confusions": (KnownConfusion(actual="dog", predicted="cat", count=12, share_of_predicted=0.12),),
            "unavailable": {},
        }
        | changes
    )  # fmt: skip


def seen(label: int, logits: np.ndarray | None = None, embedding: np.ndarray | None = None) -> Seen:
    embedding = embeddings(np.array([label]), 7)[0] if embedding is None else embedding
    logits = (embedding[:K] * 2).astype(np.float32) if logits is None else logits.astype(np.float32)
    bias = np.array([0.1, -0.2, 0.3])
    cam = np.random.default_rng(3).normal(size=(K, 2, 2))
    cam += (logits - bias - cam.mean((1, 2)))[:, None, None]
    return Seen(logits, embedding, cam.astype(np.float32), np.full((20, 20, 3), 90, dtype=np.uint8), (0.1, 0.0, 0.9, 1.0))


def single(shown: Seen, ask: Ask = ASK, **changes: Any) -> SingleLabelExplanation:
    found = explain(Judge("single_label", confidence(**changes), evidence()), LABELS, None, shown, ask)
    assert isinstance(found, SingleLabelExplanation)
    return found


def test_an_image_like_the_others_is_accepted_and_says_why() -> None:
    found = single(seen(0))
    assert (found.prediction.label, found.decision.action, found.decision.reasons) == ("bee", "accept", ())
    assert found.confidence.level == "high"
    assert found.confidence.p_correct is not None
    assert found.confidence.p_correct > 0.9
    assert found.confidence.expected_accuracy == counted(97, 100)
    assert found.familiarity is not None
    assert found.familiarity.verdict == "familiar"
    assert found.prediction_set is not None
    assert found.prediction_set.labels == ("bee",)
    assert [one.label for one in found.evidence.neighbors] == ["bee"] * 4
    assert found.evidence.neighbor_agreement == 1.0
    assert [one.label for one in found.alternatives] == ["cat", "dog"] or [one.label for one in found.alternatives] == [
        "dog",
        "cat",
    ]
    assert found.summary.startswith("over 99 % bee; answers like this one are right")


def test_an_image_like_nothing_is_rejected_whatever_the_softmax_says() -> None:
    strange = single(seen(0, np.array([9.0, 0.0, 0.0]), np.array([0, 0, 0, 9, -9, 9, -9, 9], dtype=np.float32)))
    assert strange.prediction.probability > 0.99
    assert (strange.confidence.p_correct, strange.confidence.p_correct_method, strange.confidence.level) == (
        None,
        None,
        "unknown",
    )
    assert strange.decision.action == "reject"
    assert strange.decision.reasons[:2] == ("UNFAMILIAR", "BELOW_AUTO_ACCEPT")
    assert "none of the images that the model knows" in strange.summary


def test_a_close_call_is_for_review_with_every_reason_in_order() -> None:
    found = single(
        seen(1, np.array([0.0, 2.0, 1.9])),
        replace(ASK, confidence_level=0.999),
        temperature=Temperature(value=1.0, status="none", images=0, reason="x"),
        acceptance=Acceptance(target=0.95, threshold=None, on_test=None),
    )
    reasons = found.decision.reasons
    assert found.decision.action == "review"
    order = [
        "UNFAMILIAR", "BELOW_AUTO_ACCEPT", "SET_SIZE_GT_1", "CLOSE_RUNNER_UP", "NEIGHBORS_DISAGREE", "KNOWN_CONFUSION",
        "WEAK_CLASS", "UNCALIBRATED_MODEL",
    ]  # fmt: skip
    assert list(reasons) == [reason for reason in order if reason in reasons]
    assert {"SET_SIZE_GT_1", "CLOSE_RUNNER_UP", "KNOWN_CONFUSION", "WEAK_CLASS", "UNCALIBRATED_MODEL"} <= set(reasons)
    assert found.known_confusion is not None
    assert found.known_confusion.actual == "dog"


def test_an_answer_says_which_image_is_which_and_how_far_familiarity_goes() -> None:
    found = single(seen(2))
    assert [found.prediction.index, *(one.index for one in found.alternatives)] == np.argsort(-seen(2).logits).tolist()
    assert LABELS[found.prediction.index] == found.prediction.label
    assert {one.split for one in found.evidence.neighbors} == {"calibration"}
    assert found.familiarity is not None
    assert (found.familiarity.false_alarm_rate, found.familiarity.weak) == (0.01, None)
    card = FamiliarityCard(method="mahalanobis_pp", images=N, rank=4, weak="it hardly tells", left_out=None)
    doubted = single(seen(2), familiarity=card).familiarity
    assert doubted is not None
    assert doubted.weak == "it hardly tells"


def test_neighbours_of_a_bank_without_held_out_images_say_that_they_were_trained_on() -> None:
    known = evidence()
    assert known.bank is not None
    learnt = replace(known, bank=replace(known.bank, is_held_out=np.zeros(N, dtype=bool)))
    found = explain(Judge("single_label", confidence(), learnt), LABELS, None, seen(0), ASK)
    assert isinstance(found, SingleLabelExplanation)
    assert {one.split for one in found.evidence.neighbors} == {"train"}
    assert found.evidence.neighbor_agreement is None


@pytest.mark.parametrize(
    ("asked", "reasons"),
    [
        ({}, {}),
        ({"versus": 1}, {}),
        ({"versus": 0}, {"versus": "bee is the first label itself"}),
        ({"heatmap": "none"}, {"heatmap": "heatmap=none asks for no map"}),
        (
            {"heatmap": "none", "versus": 1},
            {"heatmap": "heatmap=none asks for no map", "versus": "heatmap=none asks for no map"},
        ),
        (
            {"confidence_level": 0.999},
            {
                "prediction_set": "no label can be ruled out: "
                "at confidence_level 0.999 it takes 999 calibration images, and there are 240"
            },
        ),
    ],
)
def test_what_was_asked_for_and_has_no_answer_has_a_reason(asked: dict[str, Any], reasons: dict[str, str]) -> None:
    found = single(seen(0), replace(ASK, **asked))
    assert found.unavailable == reasons
    if "versus" in asked:
        assert (found.evidence.versus is None) == ("versus" in reasons)
    assert found.prediction_set is not None
    assert (found.prediction_set.size == K) == ("prediction_set" in reasons)


def test_heatmap_and_contrast_add_up() -> None:
    shown = seen(0)
    found = single(shown, replace(ASK, versus=2))
    assert found.evidence.heatmap is not None
    assert found.evidence.heatmap.values is not None
    mean = np.mean(found.evidence.heatmap.values)
    assert mean + found.evidence.heatmap.bias == pytest.approx(float(shown.logits[0]), abs=1e-4)
    assert found.evidence.heatmap.image_box == (0.1, 0.0, 0.9, 1.0)
    versus = found.evidence.versus
    assert versus is not None
    assert versus.label == "dog"
    assert np.mean(versus.heatmap.values) == pytest.approx(versus.logit_margin, abs=1e-4)  # type: ignore[arg-type]


def test_heatmap_can_be_a_picture_or_left_out() -> None:
    pictured = single(seen(0), replace(ASK, heatmap="png")).evidence.heatmap
    assert pictured is not None
    assert pictured.values is None
    assert base64.b64decode(pictured.png or "").startswith(b"\x89PNG")
    left_out = single(seen(0), replace(ASK, heatmap="none", versus=1)).evidence
    assert (left_out.heatmap, left_out.versus) == (None, None)


def test_the_same_image_has_the_same_answer_to_the_byte() -> None:
    assert single(seen(1)).model_dump_json() == single(seen(1)).model_dump_json()


def test_a_version_without_evidence_says_so_and_makes_nothing_up() -> None:
    bare = Confidence.without_evidence(
        Temperature(value=1.0, status="none", images=0, reason="no"), None, None, "published as it came"
    )
    found = explain(Judge("single_label", bare, Evidence()), LABELS, None, seen(0), ASK)
    assert isinstance(found, SingleLabelExplanation)
    assert (found.prediction_set, found.familiarity, found.known_confusion, found.evidence.heatmap) == (None, None, None, None)
    assert (found.evidence.neighbors, found.evidence.neighbor_agreement, found.evidence.trust_score) == ((), None, None)
    assert found.confidence.p_correct_method == "calibrated_probability"
    assert found.decision.action == "review"
    assert "UNCALIBRATED_MODEL" in found.decision.reasons
    assert found.unavailable == {"evidence": "published as it came"}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_output_that_is_no_number_has_no_explanation(bad: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        single(seen(0, np.array([bad, 0.0, 0.0])))


def test_several_labels_are_each_judged_by_their_threshold() -> None:
    thresholds = {"bee": 0.5, "cat": 0.5, "dog": 0.9}
    judge = Judge("multi_label", confidence(thresholds=thresholds), replace(evidence(), conformal=None))
    found = explain(judge, LABELS, None, seen(0, np.array([3.0, 0.1, 1.5])), ASK)
    assert isinstance(found, MultiLabelExplanation)
    assert [(one.label, one.selected) for one in found.predictions] == [("bee", True), ("dog", False), ("cat", True)]
    assert found.selected == ("bee", "cat")
    assert "CLOSE_RUNNER_UP" in found.decision.reasons
    assert found.summary == "Shows bee, cat. Close to the threshold, either way: dog, cat."


def test_a_number_has_an_interval_at_any_level_that_there_are_images_for() -> None:
    residuals = np.arange(1.0, 100.0)
    judge = Judge("regression", confidence(), Evidence(residuals=residuals, head=Head(None, np.zeros(1, dtype=np.float32))))
    shown = seen(0, np.array([40.0]))
    for level, half_width in ((0.9, 90.0), (0.5, 50.0)):
        found = explain(judge, ("angle",), "degrees", shown, replace(ASK, confidence_level=level))
        assert isinstance(found, RegressionExplanation)
        assert found.interval is not None
        assert (found.interval.low, found.interval.high) == (40 - half_width, 40 + half_width)
    too_sure = explain(judge, ("angle",), "degrees", shown, replace(ASK, confidence_level=0.999))
    assert isinstance(too_sure, RegressionExplanation)
    assert too_sure.interval is None
    assert too_sure.unavailable == {"interval": "at confidence_level 0.999 it takes 999 calibration images, and there are 99"}
    unknown = confidence(temperature=Temperature(value=1.0, status="none", images=0, reason="no calibration split"))
    bare = explain(Judge("regression", unknown, Evidence()), ("angle",), "degrees", shown, ASK)
    assert bare.unavailable["interval"] == "no calibration split"
    assert too_sure.summary == "About 40 degrees."


def test_evidence_is_read_as_it_was_written() -> None:
    given = evidence()
    again = Evidence.from_bytes(given.to_bytes())
    again.check_fits("single_label", confidence(), OUTPUTS)
    one, other = (explain(Judge("single_label", confidence(), these), LABELS, None, seen(2), ASK) for these in (given, again))
    assert isinstance(one, SingleLabelExplanation)
    assert isinstance(other, SingleLabelExplanation)
    assert one.decision == other.decision
    assert one.prediction_set == other.prediction_set
    assert one.evidence.trust_score == pytest.approx(other.evidence.trust_score, rel=0.02)


@pytest.mark.parametrize(
    ("changed", "card", "message"),
    [
        ({"conformal": None}, {}, "disagree on whether there is conformal"),
        ({}, {"familiarity": None}, "disagree on whether there is familiarity"),
        ({"bank": None}, {}, "has no bank, and confidence.json's p_correct needs one"),
        ({"head": Head(None, np.zeros(4, dtype=np.float32))}, {}, "head_bias is of 4, expected 3"),
        (
            {"head": Head(np.zeros((3, 8), dtype=np.float32), np.zeros(3, dtype=np.float32))},
            {},
            "head_weight stands beside a cam",
        ),
        ({"residuals": np.ones(3)}, {}, "has residuals, which belong to regression"),
        ({"percentiles": np.zeros((2, 101))}, {}, "percentiles is of 2, expected 3"),
    ],
)
def test_evidence_of_another_model_is_refused(changed: dict[str, Any], card: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        replace(evidence(), **changed).check_fits("single_label", confidence(**card), OUTPUTS)


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04 no zip", Evidence(head=Head(None, np.zeros(3, dtype=np.float32))).to_bytes()[:80]]
)
def test_a_file_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError, match=r"confidence\.npz cannot be read"):
        Evidence.from_bytes(data)
