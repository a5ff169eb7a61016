"""Our own numpy against the libraries that others trust: scikit-learn, MAPIE, torchmetrics, cleanlab. In `make test` only."""

from __future__ import annotations

import numpy as np
import pytest

from models.confidence.conformal import Conformal
from models.decision import probabilities
from models.metrics import expected_calibration_error
from tests.support.judged import made_up
from training.calibrate import fit_temperature
from training.subject import name_images
from training.suspects import out_of_fold, suspects

pytestmark = [
    pytest.mark.oracle,
    # What the libraries warn of among themselves is not ours to mend.
    pytest.mark.filterwarnings("ignore"),
]
LABELS = 5


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Overconfident logits `[N, K]`, and labels `[N]`; every label occurs."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, LABELS)) * 1.5
    p = probabilities(logits, 1.0)
    labels = (rng.random((count, 1)) > p.cumsum(axis=1)).sum(axis=1)
    labels[:LABELS] = np.arange(LABELS)
    return logits * 3, labels


class Known:
    """A classifier, as scikit-learn has them, that answers what it is given: softmax of X, or its logarithm."""

    def __init__(self) -> None:
        self.classes_ = np.arange(LABELS)
        self.n_features_in_ = LABELS
        self.is_fitted_ = True

    def fit(self, given: np.ndarray, labels: np.ndarray) -> Known:
        return self

    def get_params(self, deep: bool = True) -> dict[str, object]:
        return {}

    def decision_function(self, given: np.ndarray) -> np.ndarray:
        return given

    def predict_proba(self, given: np.ndarray) -> np.ndarray:
        return probabilities(given, 1.0)

    def predict(self, given: np.ndarray) -> np.ndarray:
        return given.argmax(axis=1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_temperature_is_scikit_learns(seed: int) -> None:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    class Network(Known, ClassifierMixin, BaseEstimator):
        pass

    logits, labels = drawn(800, seed)
    fitted = CalibratedClassifierCV(FrozenEstimator(Network()), method="temperature").fit(logits, labels)
    theirs = 1 / fitted.calibrated_classifiers_[0].calibrators[0].beta_
    ours = fit_temperature(logits, labels)
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert ours == pytest.approx(3, rel=0.15)


@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
def test_prediction_sets_are_mapies(level: float) -> None:
    """MAPIE's are of all labels together; ours are where no label has enough images of its own."""
    from mapie.classification import SplitConformalClassifier
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Network(Known, ClassifierMixin, BaseEstimator):
        pass

    logits, labels = drawn(900, 0)
    known, new = logits[:500], logits[500:]
    theirs = SplitConformalClassifier(Network(), confidence_level=level, conformity_score="lac", prefit=True)
    theirs.conformalize(known, labels[:500])
    sets = theirs.predict_set(new)[1][:, :, 0]
    fitted = Conformal.fit(probabilities(known, 1.0), labels[:500])
    pooled = Conformal(tuple(np.empty(0) for _ in range(LABELS)), fitted.of_all)
    ours = np.zeros_like(sets)
    for row, p in enumerate(probabilities(new, 1.0)):
        ours[row, list(pooled.prediction_set(p, level).labels)] = True
    # The one difference that is meant: ours always hold the most probable label.
    sets[np.arange(len(new)), new.argmax(axis=1)] = True
    assert np.array_equal(ours, sets)
    assert 1 < ours.sum(axis=1).mean() < LABELS


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_calibration_error_is_torchmetrics(temperature: float) -> None:
    import torch
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, labels = drawn(1000, 0)
    stated = probabilities(logits, temperature)
    theirs = multiclass_calibration_error(torch.from_numpy(stated), torch.from_numpy(labels), LABELS, n_bins=15, norm="l1")
    assert expected_calibration_error(stated, labels) == pytest.approx(float(theirs), abs=1e-6)


def test_suspected_labels_come_in_cleanlabs_order() -> None:
    from cleanlab.rank import get_self_confidence_for_each_label
    from scipy.stats import spearmanr

    subject = made_up(LABELS, {"train": 300, "test": 200})
    for out in subject.outputs.values():
        # wrong labels, in place: a tenth of them
        out.images.targets[::10] = (out.images.targets[::10] + 1) % LABELS
    names = name_images(subject.outputs)
    found, _ = suspects(subject, names)
    assert found is not None
    features, given = (
        np.concatenate([getter(out) for out in subject.outputs.values()])
        for getter in (lambda out: out.embeddings, lambda out: out.images.targets)
    )
    theirs = get_self_confidence_for_each_label(given, out_of_fold(features, given, LABELS).astype(np.float64))
    by_name = dict(zip((name for split in subject.outputs for name in names[split]), theirs, strict=True))
    listed = np.array([by_name[suspect.id] for suspect in found.listed])
    assert len(listed) > 20
    assert np.array([suspect.p_label for suspect in found.listed]) == pytest.approx(listed, rel=1e-5)
    assert spearmanr(np.arange(len(listed)), listed).statistic == 1.0
