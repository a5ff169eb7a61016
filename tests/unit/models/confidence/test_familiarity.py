from __future__ import annotations

import numpy as np
import pytest

from models.confidence.familiarity import Familiarity, unit_length, verdict

D = 12


def made(seed: int = 0, groups: int = 3, rank: int = 4) -> Familiarity:
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(D, D)))[0].T[:rank]
    return Familiarity(
        unit_length(rng.normal(size=(groups, D))).astype(np.float64),
        axes,
        rng.uniform(0.5, 2.0, rank),
        0.3,
        np.sort(rng.uniform(0, 9, 99)),
    )


def test_distance_is_that_of_the_whole_covariance() -> None:
    familiarity, embeddings = made(), np.random.default_rng(1).normal(size=(7, D))
    rank = len(familiarity.axes)
    rest = np.eye(D) - familiarity.axes.T @ familiarity.axes
    precision = familiarity.axes.T @ np.diag(1 / familiarity.variances) @ familiarity.axes + rest / familiarity.rest
    assert np.linalg.matrix_rank(precision) == D > rank
    offsets = unit_length(embeddings)[:, None].astype(np.float64) - familiarity.centres[None]
    expected = np.einsum("ngd,de,nge->ng", offsets, precision, offsets).min(axis=1)
    np.testing.assert_allclose(familiarity.distance(embeddings), expected, rtol=1e-9)


def test_length_does_not_count_and_nothing_is_no_error() -> None:
    familiarity, embedding = made(), np.random.default_rng(2).normal(size=(1, D))
    np.testing.assert_allclose(familiarity.distance(embedding), familiarity.distance(embedding * 1000), rtol=1e-4)
    assert np.isfinite(familiarity.distance(np.zeros((1, D)))).all()


def test_p_value_is_how_many_known_images_are_as_far_away() -> None:
    familiarity = made()
    assert familiarity.p_value(-1.0) == 1.0
    assert familiarity.p_value(1e9) == pytest.approx(1 / 100)
    assert familiarity.p_value(float(familiarity.distances[49])) == pytest.approx(51 / 100)


@pytest.mark.parametrize(
    ("p_value", "name"), [(1.0, "familiar"), (0.05, "familiar"), (0.049, "unusual"), (0.01, "unusual"), (0.0099, "unknown")]
)
def test_a_p_value_has_a_name(p_value: float, name: str) -> None:
    assert verdict(p_value) == name


def test_what_is_written_is_what_is_read() -> None:
    familiarity = made()
    again = Familiarity.from_arrays(familiarity.arrays())
    embeddings = np.random.default_rng(3).normal(size=(5, D))
    np.testing.assert_allclose(again.distance(embeddings), familiarity.distance(embeddings), rtol=1e-5)
    np.testing.assert_array_equal(again.distances, familiarity.distances)
