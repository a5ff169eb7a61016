"""What the report says of trust: in words that a newcomer understands, with the numbers that are in `confidence.json`."""

from __future__ import annotations

import numpy as np

from models.confidence.schema import (
    Acceptance,
    Confidence,
    ConformalCard,
    CorrectnessCard,
    FamiliarityCard,
    LeftOut,
    SelfTest,
    Temperature,
)
from training.confidence.tables import counted, expected_accuracy
from training.page.parts import NBSP, Bullets, Table, Text
from training.page.trust import trust_section

BARE = Confidence.without_evidence(Temperature(value=1.5, status="ok", images=40, reason=None), None, None, "not enough images")
CARD = CorrectnessCard(
    coefficients=(0.5, 2.0, 0.1),
    images=400,
    log_loss=0.31,
    log_loss_of_probability=0.35,
    auroc=0.91,
    auroc_of_probability=0.85,
)
FULL = BARE.model_copy(
    update={
        "acceptance": Acceptance(target=0.95, threshold=0.8125, on_test=counted(60, 62)),
        "correctness": CARD,
        "familiarity": FamiliarityCard(method="mahalanobis_pp", images=400, rank=64, weak=None, left_out=None),
        "conformal": ConformalCard(method="class_conditional_lac", images={"heron": 380, "kite": 20}),
        "expected_accuracy": expected_accuracy(np.linspace(0.5, 1, 100), np.ones(100, dtype=bool)),
        "self_tests": (
            SelfTest(name="coverage", passed=True, found="0.90: 0.91", expected="0.90: 0.88 to 0.92"),
            SelfTest(name="false alarms", passed=False, found="0.05: 0.20", expected="0.05: 0.02 to 0.08"),
        ),
        "unavailable": {},
    }
)


def told(confidence: Confidence) -> str:
    return " ".join(part.text for part in trust_section(confidence).parts if isinstance(part, Text)).replace(NBSP, " ")


def test_every_number_is_said_in_words() -> None:
    text = told(FULL)
    assert "when the image is familiar and its p_correct is 0.812 or more, where 95 % are right." in text
    assert "On test that was 62.0 % of the images, and 96.8 % of those answers were right (88.8\N{EN DASH}99.6 %" in text
    assert "better than the calibrated probability alone (log-loss 0.310 against 0.350" in text
    assert "compared with 400 images that were kept from training" in text
    assert "“kite” has the fewest, 20." in text
    assert "1 of 2 self-tests failed." in text


def test_familiarity_that_failed_its_test_is_not_to_be_relied_on_and_near_things_are_told_apart_so_well() -> None:
    left_out = (LeftOut(label="heron", auroc=0.98), LeftOut(label="kite", auroc=0.75))
    card = FamiliarityCard(method="mahalanobis_pp", images=400, rank=64, weak="it hardly tells", left_out=left_out)
    text = told(FULL.model_copy(update={"familiarity": card}))
    assert "Do not rely on it: it hardly tells." in text
    assert "with an AUROC of 0.865 on average and 0.750 at worst, of “kite”" in text
    assert "rely on it" not in told(FULL)
    assert "Kept from knowing" not in told(FULL)


def test_every_self_test_is_a_row_and_a_failure_stands_out() -> None:
    (table,) = [part for part in trust_section(FULL).parts if isinstance(part, Table)]
    assert table.rows == (
        ("coverage", "passed", "0.90: 0.91", "0.90: 0.88 to 0.92"),
        ("false alarms", "FAILED", "0.05: 0.20", "0.05: 0.02 to 0.08"),
    )


def test_what_is_off_or_out_of_reach_is_said_too() -> None:
    off = FULL.model_copy(
        update={
            "correctness": CARD.model_copy(update={"coefficients": None}),
            "acceptance": Acceptance(target=0.95, threshold=None, on_test=None),
            "self_tests": FULL.self_tests[:1],
        }
    )
    text = told(off)
    assert "Here it does not (log-loss 0.310" in text
    assert "No answer is accepted without a look" in text
    assert "All of 1 self-test passed." in text


def test_missing_parts_are_listed_once_for_each_reason() -> None:
    missing = BARE.model_copy(update={"unavailable": {"bank": "no split", "known_confusions": "no split", "head": "not linear"}})
    (bullets,) = [part for part in trust_section(missing).parts if isinstance(part, Bullets)]
    assert bullets.items == ("No bank, known confusions: No split.", "No head: Not linear.")
