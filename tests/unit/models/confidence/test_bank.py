from __future__ import annotations

import numpy as np
import pytest

from models.confidence.bank import Bank
from models.confidence.familiarity import unit_length


def made(labels: list[int], held_out: list[bool] | None = None, seed: int = 0) -> Bank:
    rng = np.random.default_rng(seed)
    count = len(labels)
    return Bank(
        unit_length(rng.normal(size=(count, 6))),
        np.array(labels),
        np.array(labels)[::-1].copy(),
        np.array(held_out if held_out is not None else [True] * count),
        np.array([f"sha256:{row:04}" for row in range(count)]),
    )


def distance(similar: np.ndarray, rows: np.ndarray) -> float:
    return float(1 - np.sort(similar[rows])[-3:].astype(np.float64).mean())


def test_trust_is_the_nearest_other_label_over_the_own() -> None:
    bank = made([0] * 5 + [1] * 5 + [2] * 5)
    similar = bank.similarities(unit_length(np.random.default_rng(1).normal(size=(1, 6))))[0]
    by_label = [distance(similar, np.flatnonzero(bank.labels == label)) for label in range(3)]
    assert bank.trust(similar, 1) == pytest.approx(min(by_label[0], by_label[2]) / by_label[1])
    assert bank.trust(similar, 0) == pytest.approx(min(by_label[1], by_label[2]) / by_label[0])


def test_an_image_that_is_left_out_does_not_vouch_for_itself() -> None:
    bank = made([0, 0, 1, 1])
    similar = bank.similarities(bank.directions[:1])[0]
    with_itself = bank.trust(similar, 0)
    similar[0] = -np.inf
    assert bank.trust(similar, 0) < with_itself
    assert np.isfinite(bank.trust(similar, 0))


@pytest.mark.parametrize(("labels", "predicted"), [([0, 0], 0), ([1, 1], 0), ([0, 0, 1], 2)])
def test_trust_says_nothing_where_there_is_nothing_to_compare(labels: list[int], predicted: int) -> None:
    bank = made(labels)
    assert bank.trust(bank.similarities(bank.directions[:1])[0], predicted) == 1.0


def test_equal_images_have_a_finite_trust() -> None:
    bank = Bank(
        np.tile(unit_length(np.ones((1, 4))), (6, 1)), np.array([0, 0, 0, 1, 1, 1]), np.zeros(6, dtype=np.int64),
        np.ones(6, dtype=bool), np.array(["a"] * 6),
    )  # fmt: skip
    assert bank.trust(bank.similarities(bank.directions[:1])[0], 0) == pytest.approx(1.0, abs=0.5)


def test_neighbours_are_held_out_images_nearest_first() -> None:
    bank = made([0, 0, 1, 1], [True, False, True, False])
    similar = np.array([0.1, 0.9, 0.3, 0.8], dtype=np.float32)
    assert [one.row for one in bank.neighbours(similar, 5)] == [2, 0]
    assert bank.agreement(similar, 1) == 0.5
    trained_on = made([0, 0, 1, 1], [False] * 4)
    assert [one.row for one in trained_on.neighbours(similar, 2)] == [1, 3]
    assert trained_on.agreement(similar, 1) is None


def test_what_is_written_is_what_is_read() -> None:
    bank = made([0, 0, 1], [True, False, True])
    again = Bank.from_arrays(bank.arrays())
    np.testing.assert_allclose(again.directions, bank.directions, atol=1e-3)
    assert again.ids.tolist() == bank.ids.tolist()
    assert again.is_held_out.tolist() == [True, False, True]
    assert again.predicted.tolist() == bank.predicted.tolist()
