"""Each part of the evidence: that it keeps its promise over many draws, and what it does with hardly any data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.confidence.conformal import Conformal
from models.confidence.familiarity import Familiarity, unit_length
from models.intervals import is_surely_over
from tests.support.world import LABELS, answers, embeddings_of, material
from training.confidence import bank as bank_module
from training.confidence.acceptance import find_threshold
from training.confidence.answers import fair_share
from training.confidence.bank import MOST_IMAGES, make_bank, trust_left_out
from training.confidence.correctness import FEWEST_OF_A_KIND, fit_correctness
from training.confidence.familiarity import FEWEST_IMAGES, distances, fit_familiarity, p_values
from training.confidence.lacking import Lacking
from training.confidence.parts import OF_LABELS, fit_parts
from training.confidence.separation import auroc


def labels_of(count: int) -> np.ndarray:
    return np.arange(count) % LABELS


def test_images_like_the_data_are_called_strange_as_seldom_as_was_said() -> None:
    """Over 60 draws of training, calibration and new images."""
    rates = []
    for draw in range(60):
        training, calibration, new = (
            embeddings_of(labels_of(count), 3 * draw + part) for part, count in enumerate((90, 120, 200))
        )
        p = p_values(fit_familiarity(training, labels_of(90), calibration), new)
        rates.append([(p < 0.05).mean(), (p < 0.01).mean()])
    unusual, unknown = np.mean(rates, axis=0)
    assert 0.03 <= unusual <= 0.055
    assert 0.002 <= unknown <= 0.0125


def test_images_of_no_label_are_far_away_though_their_embeddings_are_as_long() -> None:
    fitted = fit_familiarity(embeddings_of(labels_of(300), 0), labels_of(300), embeddings_of(labels_of(100), 1))
    known, strange = embeddings_of(labels_of(200), 2), embeddings_of(np.arange(200) % 50 + 500, 3)
    assert auroc(distances(fitted, strange), distances(fitted, known)) > 0.95
    assert distances(fitted, strange * 7) == pytest.approx(distances(fitted, strange), rel=1e-3)


def test_what_is_stored_gives_the_distances_that_p_values_are_taken_from() -> None:
    calibration = embeddings_of(labels_of(50), 1)
    fitted = fit_familiarity(embeddings_of(labels_of(60), 0), labels_of(60), calibration)
    stored = Familiarity.from_arrays(fitted.arrays())
    assert np.array_equal(np.sort(distances(stored, calibration)), stored.distances)
    assert np.array_equal(stored.distances, fitted.distances)


def test_distance_is_that_of_mahalanobis_where_every_direction_is_kept() -> None:
    """In 6 dimensions half are axes; with equal variances along the others it is the textbook's formula."""
    rng = np.random.default_rng(0)
    training, new = rng.normal(size=(4000, 6)).astype(np.float32), rng.normal(size=(50, 6)).astype(np.float32)
    fitted = fit_familiarity(training, np.zeros(4000, dtype=int), new)
    unit, directions = unit_length(training).astype(float), unit_length(new).astype(float)
    offsets = directions - unit.mean(axis=0)
    textbook = np.einsum("nd,de,ne->n", offsets, np.linalg.inv(np.cov(unit.T)), offsets)
    assert distances(fitted, new) == pytest.approx(textbook, rel=0.05)


@pytest.mark.parametrize(("a_label", "rank"), [(2, 3), (4, 9), (100, 12)])
def test_few_training_images_leave_directions_to_measure_the_rest_by(a_label: int, rank: int) -> None:
    training = embeddings_of(labels_of(a_label * LABELS), 0)
    fitted = fit_familiarity(training, labels_of(len(training)), embeddings_of(labels_of(40), 1))
    assert len(fitted.axes) == rank
    assert fitted.axes @ fitted.axes.T == pytest.approx(np.eye(rank), abs=1e-5)
    assert 0 < fitted.rest <= fitted.variances.min()
    assert np.isfinite(fitted.distances).all()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_embeddings_tell_nothing(value: float) -> None:
    same = np.full((60, 8), value, dtype=np.float32)
    with pytest.raises(Lacking, match="the same embedding"):
        fit_familiarity(same, labels_of(60), same)


def test_one_training_image_a_label_has_no_spread() -> None:
    with pytest.raises(Lacking, match="every label has one training image"):
        fit_familiarity(embeddings_of(np.arange(5), 0), np.arange(5), embeddings_of(labels_of(40), 1))


def test_it_takes_twenty_calibration_images_to_call_one_unusual() -> None:
    training = embeddings_of(labels_of(60), 0)
    few = embeddings_of(labels_of(FEWEST_IMAGES), 1)
    with pytest.raises(Lacking, match="19 calibration images are too few"):
        fit_familiarity(training, labels_of(60), few[1:])
    assert fit_familiarity(training, labels_of(60), few).p_value(np.inf) < 0.05


def test_prediction_sets_hold_the_label_as_often_as_promised_whichever_it_is() -> None:
    """Over 200 draws; every label by itself, and one label is much harder than the others."""
    held = np.zeros((200, LABELS))
    for draw in range(200):
        rng = np.random.default_rng(draw)
        targets = np.arange(60 * LABELS) % LABELS
        skill = np.where(targets == 0, 0.5, 3.0)[:, None]
        logits = rng.normal(size=(len(targets), LABELS)) + skill * np.eye(LABELS)[targets]
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        half = len(targets) // 2
        fitted = Conformal.fit(p[:half], targets[:half])
        sets = [fitted.prediction_set(row, 0.9) for row in p[half:]]
        inside = np.array([target in found.labels for target, found in zip(targets[half:], sets, strict=True)])
        held[draw] = [inside[targets[half:] == label].mean() for label in range(LABELS)]
    assert (held.mean(axis=0) > 0.89).all()
    assert held.mean(axis=0)[0] < 0.925  # the hard label is not covered by sets of everything


def test_bank_holds_both_kinds_in_the_order_of_the_labels_and_knows_who_is_who() -> None:
    training, calibration = answers(60, 0), answers(31, 1)
    bank, place = make_bank(training, calibration, LABELS, seed=0)
    assert (len(bank.labels), int(bank.is_held_out.sum())) == (91, 31)
    assert (np.diff(bank.labels) >= 0).all()
    assert len(set(bank.ids)) == 91
    assert bank.directions[place] == pytest.approx(unit_length(calibration.embeddings), abs=1e-3)
    assert np.array_equal(bank.ids[place], calibration.ids)
    assert np.array_equal(bank.labels[place], calibration.targets)
    assert np.array_equal(bank.predicted[place], calibration.logits.argmax(axis=1))
    assert bank.is_held_out[place].all()


def test_bank_is_thinned_evenly_and_never_over_its_size() -> None:
    training, calibration = answers(9000, 0), answers(4000, 1)
    bank, place = make_bank(training, calibration, LABELS, seed=0)
    counts = np.bincount(bank.labels[~bank.is_held_out])
    held_out = np.bincount(bank.labels[bank.is_held_out])
    assert len(bank.labels) <= MOST_IMAGES
    assert counts.tolist() == [300] * LABELS
    assert held_out.tolist() == [300] * LABELS
    assert (place >= 0).sum() == held_out.sum()
    assert np.array_equal(bank.ids[place[place >= 0]], calibration.ids[place >= 0])


def test_bank_of_more_labels_than_it_has_room_for_is_none() -> None:
    many = answers(6000, 0, labels=900)
    bank, _ = make_bank(many, many, 900, seed=0)
    assert len(bank.labels) == 900 * 2 + 900 * 3
    targets = np.arange(6000)
    crowded = replace(answers(6000, 0), targets=targets)
    with pytest.raises(Lacking, match="6000 labels"):
        make_bank(crowded, crowded, 6000, seed=0)


def test_bank_without_room_for_a_held_out_image_of_each_label_has_none_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_module, "MOST_IMAGES", 2 * LABELS - 1)
    unavailable: dict[str, str] = {}
    parts = fit_parts(material(answers(60, 0), answers(60, 1)), unavailable)
    assert parts.evidence.bank is not None
    assert not parts.evidence.bank.is_held_out.any()
    assert unavailable["neighbor_agreement"] == (
        "of 6 labels not each has a place among held-out known images, so neighbours are training images"
    )


def test_calibration_image_is_scored_without_itself() -> None:
    training, calibration = answers(60, 0), answers(30, 1)
    bank, place = make_bank(training, calibration, LABELS, seed=0)
    scores = trust_left_out(bank, place, calibration)
    for row in range(30):
        keep = np.arange(len(bank.labels)) != place[row]
        without = type(bank)(
            bank.directions[keep], bank.labels[keep], bank.predicted[keep], bank.is_held_out[keep], bank.ids[keep]
        )
        similar = without.similarities(unit_length(calibration.embeddings[[row]]))[0]
        assert scores[row] == pytest.approx(without.trust(similar, int(calibration.logits[row].argmax())), rel=1e-6)


def drawn(seed: int, *, tells: bool, count: int = 1500) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities that are right as often as they say; a trust score that knows more than they do, or nothing."""
    rng = np.random.default_rng(seed)
    p_max = rng.uniform(0.5, 1, count)
    correct = rng.random(count) < p_max
    known = np.where(correct, 0.6, -0.6) if tells else np.zeros(count)
    return p_max, np.exp(known + rng.normal(size=count)), correct


def test_p_correct_is_on_where_known_images_tell_more_and_off_where_they_do_not() -> None:
    for seed in range(10):
        card = fit_correctness(*drawn(seed, tells=True))
        assert card.coefficients is not None
        assert card.log_loss < card.log_loss_of_probability - 0.03
        assert card.auroc > card.auroc_of_probability + 0.03
        assert card.coefficients[1] > 0.5
    # A noise wins now and then, by next to nothing.
    by_chance = [card for seed in range(40) if (card := fit_correctness(*drawn(seed, tells=False))).coefficients is not None]
    assert len(by_chance) <= 8
    assert all(card.log_loss > card.log_loss_of_probability - 0.005 for card in by_chance)


@pytest.mark.parametrize("wrong", [0, FEWEST_OF_A_KIND - 1])
def test_a_model_that_is_hardly_ever_wrong_has_nothing_to_learn_from(wrong: int) -> None:
    p_max, trust, correct = np.full(200, 0.99), np.ones(200), np.arange(200) >= wrong
    with pytest.raises(Lacking, match=f"{wrong} of 200 calibration answers are wrong"):
        fit_correctness(p_max, trust, correct)
    with pytest.raises(Lacking, match="are right"):
        fit_correctness(p_max, trust, ~correct)


def test_features_that_part_right_from_wrong_without_an_error_give_numbers() -> None:
    correct = np.arange(200) < 150
    card = fit_correctness(np.where(correct, 1.0, 0.5), np.where(correct, 1e6, 1e-6), correct)
    values = [card.log_loss, card.log_loss_of_probability, card.auroc, card.auroc_of_probability, *(card.coefficients or ())]
    assert np.isfinite(values).all()


def test_threshold_is_the_smallest_that_is_surely_good_enough() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, 800).round(2)
    correct = rng.random(800) < p**0.5
    good = [t for t in np.unique(p) if is_surely_over(int(correct[p >= t].sum()), int((p >= t).sum()), 0.95)]
    assert find_threshold(p, correct, 0.95) == min(good)


def test_accepted_answers_are_right_as_often_as_the_target_over_many_draws() -> None:
    """Each p is right as often as it says, so that what is above a threshold is truly right is known."""
    true = []
    for draw in range(100):
        rng = np.random.default_rng(draw)
        u = rng.random(600)
        p = 1 - u**2 / 2
        threshold = find_threshold(p, rng.random(600) < p)
        assert threshold is not None
        # u is even over 0..v, and p is 1 - v^2 / 6 on average there
        true.append(1 - 2 * (1 - threshold) / 6)
    assert np.mean(np.array(true) < 0.95) <= 0.1
    assert min(true) > 0.93
    assert np.mean(true) < 0.98


def test_no_threshold_where_nothing_is_sure_enough() -> None:
    assert find_threshold(np.linspace(0, 1, 500), np.zeros(500, dtype=bool)) is None
    assert find_threshold(np.full(58, 0.9), np.ones(58, dtype=bool)) is None
    assert find_threshold(np.full(59, 0.9), np.ones(59, dtype=bool)) == 0.9
    assert find_threshold(np.empty(0), np.empty(0, dtype=bool)) is None


def test_auroc_counts_pairs() -> None:
    rng = np.random.default_rng(0)
    above, below = rng.integers(0, 9, 70), rng.integers(0, 7, 50)
    pairs = (above[:, None] > below).mean() + (above[:, None] == below).mean() / 2
    assert auroc(above, below) == pytest.approx(pairs)
    assert (auroc(np.ones(3), np.zeros(2)), auroc(np.ones(3), np.ones(2))) == (1.0, 0.5)


def test_fair_share_is_the_most_that_fits() -> None:
    counts = np.array([3, 50, 500])
    assert fair_share(counts, 10_000, 300) == 300
    assert fair_share(counts, 103, 300) == 50
    assert fair_share(counts, 10, 300) == 3
    assert fair_share(counts, 2, 300) == 0


@pytest.mark.parametrize("calibration", [1, 5, 20])
def test_hardly_any_calibration_images_give_parts_or_reasons_and_no_nan(calibration: int) -> None:
    unavailable: dict[str, str] = {}
    parts = fit_parts(material(answers(60, 0), answers(calibration, 1)), unavailable)
    assert parts.conformal is not None
    assert sum(parts.conformal.images.values()) == calibration
    assert (parts.familiarity is None) == (calibration < 20) == ("familiarity" in unavailable)
    assert (parts.correctness is None) == ("correctness" in unavailable)
    assert (parts.acceptance is None) == ("acceptance" in unavailable)
    assert parts.reference is not None
    assert sum(parts.reference.p_max) == pytest.approx(1)


def test_labels_without_calibration_images_are_judged_by_all() -> None:
    calibration = answers(60, 1)
    kept = calibration.targets != 2
    some = replace(calibration, **{name: getattr(calibration, name)[kept] for name in ("targets", "ids", "logits", "embeddings")})
    parts = fit_parts(material(answers(60, 0), some), {})
    assert parts.conformal is not None
    assert parts.conformal.images["label 2"] == 0
    assert parts.evidence.conformal is not None
    assert 2 in parts.evidence.conformal.prediction_set(np.array([0.1, 0.1, 0.5, 0.1, 0.1, 0.1]), 0.8).pooled


def test_perfect_model_accepts_everything_and_learns_nothing_of_errors() -> None:
    sure = replace(answers(120, 1), logits=(40 * np.eye(LABELS)[np.arange(120) % LABELS]).astype(np.float32))
    unavailable: dict[str, str] = {}
    parts = fit_parts(material(answers(60, 0), sure), unavailable)
    assert unavailable.keys() == {"correctness"}
    assert parts.acceptance is not None
    assert parts.acceptance.threshold == pytest.approx(1)
    assert parts.evidence.percentiles is not None
    assert np.isfinite(parts.evidence.percentiles).all()


def test_usual_shares_are_even_for_familiarity_and_sum_to_one() -> None:
    parts = fit_parts(material(answers(60, 0), answers(200, 1)), {})
    assert parts.reference is not None
    assert parts.reference.p_familiar == pytest.approx([0.05] * 20, abs=0.011)
    assert sum(parts.reference.p_max) == pytest.approx(1)


@pytest.mark.parametrize("task", ["multi_label", "regression"])
def test_other_tasks_have_familiarity_and_say_why_they_have_no_more(task: str) -> None:
    training, calibration = answers(60, 0), answers(40, 1)
    shape = (-1, 1) if task == "regression" else (-1, LABELS)
    width = shape[1]
    given = [
        replace(one, targets=(one.logits[:, :width] > 0).astype(np.float32), logits=one.logits[:, :width])
        for one in (training, calibration)
    ]
    unavailable: dict[str, str] = {}
    parts = fit_parts(replace(material(*given), task=task, temperature=1.0), unavailable)
    assert set(unavailable) == {*OF_LABELS, "unknown"}
    assert unavailable["unknown"] == "40 calibration images are too few to call one unknown; it takes 100"
    assert parts.evidence.familiarity is not None
    assert len(parts.evidence.familiarity.centres) == 1
    if task == "regression":
        assert parts.evidence.residuals is not None
        errors = np.abs(given[1].logits.astype(float) - given[1].targets)[:, 0]
        assert np.array_equal(parts.evidence.residuals, np.sort(errors))
