"""What the sample's model says of its own confidence: held against its test split, and against images of nothing it knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from models.artifact import Artifact
from models.confidence.conformal import coverage
from models.confidence.familiarity import unit_length
from models.confidence.heatmap import Head, activation_map, incompleteness
from models.confidence.judge import Judge
from models.confidence.schema import Confidence
from models.dataset_store import DatasetStore
from models.decision import probabilities
from models.intervals import covered_by_chance, largest_chance_ece
from models.metrics import expected_calibration_error, negative_log_likelihood
from models.preprocess import load_image
from models.registry import Registry
from tests.support.photographs import photographs
from tests.support.server import ROOT
from training.calibrate import calibrate
from training.confidence.answers import Answers
from training.confidence.parts import Material, fit_parts
from training.confidence.separation import auroc
from training.confidence.unrelated import made_up
from training.export import open_session

if TYPE_CHECKING:
    from pathlib import Path

    from models.confidence.judge import Trust

pytestmark = [pytest.mark.e2e, pytest.mark.torch]
UInt8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Asked:
    """Images, and everything that the published graph and its evidence say of them."""

    logits: npt.NDArray[np.float32]
    embeddings: npt.NDArray[np.float32]
    spatial: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float64]
    trust: list[Trust]


class Version:
    """A published version, asked without a service in between."""

    def __init__(self, registry: Path, name: str) -> None:
        """Read and verify it."""
        self.artifact = Artifact.load(Registry(registry).path(name, 1))
        self.judge = Judge("single_label", self.artifact.confidence, self.artifact.evidence)
        self._session = open_session(self.artifact.path / "model.onnx")

    def ask(self, images: UInt8Array) -> Asked:
        """Ask about images of the version's size."""
        parts = [self._session.run(None, {"image": images[start : start + 64]}) for start in range(0, len(images), 64)]
        logits, embeddings, spatial = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        rows = self.judge.probabilities(logits)
        trust = [
            one
            for start in range(0, len(rows), 64)
            for one in self.judge.trust(rows[start : start + 64], embeddings[start : start + 64])
        ]
        return Asked(logits, embeddings, spatial, rows, trust)

    def logits(self, images: UInt8Array) -> npt.NDArray[np.float32]:
        """Logits alone, `[N, K]`."""
        parts = [self._session.run(["logits"], {"image": images[start : start + 64]})[0] for start in range(0, len(images), 64)]
        return np.concatenate(parts)


@pytest.fixture(scope="module")
def fashion(quickstart_home: Path) -> Version:
    return Version(quickstart_home / "registry", "fashion")


@pytest.fixture(scope="module")
def test_split(quickstart_home: Path, fashion: Version) -> tuple[Asked, npt.NDArray[np.int64]]:
    manifest, folder = (
        fashion.artifact.manifest,
        DatasetStore(quickstart_home / "datasets").resolve("fashion-mnist").path / "test",
    )
    files = [(path, label) for label, name in enumerate(manifest.labels) for path in sorted((folder / name).iterdir())]
    size = manifest.input.height
    pixels = np.stack([load_image(path.read_bytes(), manifest.preprocessing, size, size) for path, _ in files])
    return fashion.ask(pixels), np.array([label for _, label in files])


@pytest.fixture(scope="module")
def strange(fashion: Version) -> dict[str, Asked]:
    """Photographs, scikit-learn's digits, noise, and what the self-test makes up: none of them is a piece of clothing."""
    size = fashion.artifact.manifest.input.height
    digits = np.rint(load_digits().images[:600] * 255 / 16).astype(np.uint8)
    upright = np.stack([np.kron(digit, np.ones((size // 8, size // 8), dtype=np.uint8)) for digit in digits])
    noise = np.random.default_rng(0).integers(0, 256, (200, size, size, 3), dtype=np.uint8)
    return {
        "photographs": fashion.ask(photographs(600, size)),
        "digits": fashion.ask(np.repeat(upright[..., None], 3, axis=3)),
        "noise": fashion.ask(noise),
        "made up": fashion.ask(made_up(size, seed=1)),
    }


@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
def test_prediction_sets_cover_as_often_as_they_say_of_all_labels_and_of_each(
    level: float, fashion: Version, test_split: tuple[Asked, npt.NDArray[np.int64]]
) -> None:
    asked, actual = test_split
    conformal = fashion.artifact.evidence.conformal
    assert conformal is not None
    # Without the first label, which is always in and would hide a set that covers too little.
    p_true = np.array([conformal.p_value(row, label) for row, label in zip(asked.probabilities, actual, strict=True)])
    held = p_true > 1 - level + 1e-9
    low, high = covered_by_chance(len(conformal.of_all), len(actual), level)
    assert low <= held.mean() <= high
    for label, known in enumerate(conformal.of_label):
        rows = actual == label
        # Ten labels: each interval is wide enough that all ten hold together with 99 %.
        low, high = covered_by_chance(len(known), int(rows.sum()), level, confidence=1 - 0.01 / 10)
        assert low <= held[rows].mean() <= high, fashion.artifact.manifest.labels[label]
    assert coverage([conformal.prediction_set(row, level) for row in asked.probabilities], actual) >= held.mean()


def test_probabilities_are_right_as_often_as_they_say_and_fewer_errors_are_sure(
    test_split: tuple[Asked, npt.NDArray[np.int64]],
) -> None:
    asked, actual = test_split
    plain = probabilities(asked.logits, 1.0)
    assert expected_calibration_error(asked.probabilities, actual) <= max(
        0.02, largest_chance_ece(asked.probabilities.max(axis=1))
    )
    assert negative_log_likelihood(asked.probabilities, actual) <= negative_log_likelihood(plain, actual) + 1e-4
    wrong = asked.probabilities.argmax(axis=1) != actual
    p_correct = np.array([one.p_correct or 0.0 for one in asked.trust])
    # Of the answers that one is surest of, equally many by either number, p_correct has fewer errors among them.
    sure = int((p_correct >= 0.9).sum())
    by_softmax, by_p_correct = (
        wrong[np.argsort(-stated, kind="stable")[:sure]].sum() for stated in (plain.max(axis=1), p_correct)
    )
    assert by_p_correct < by_softmax
    assert wrong[p_correct >= 0.9].mean() <= 0.1


def test_confident_errors_of_an_overconfident_model_are_halved_and_no_answer_changes(
    fashion: Version, test_split: tuple[Asked, npt.NDArray[np.int64]]
) -> None:
    """The sample's model is too unsure to show it. So its head is fitted again, without restraint, to images that the rest of it
    knows by heart, and what makes its logits statements of confidence is fitted on the calibration images as in any run.
    """
    bank, (asked, actual) = fashion.artifact.evidence.bank, test_split
    assert bank is not None
    learnt = ~bank.is_held_out
    head = LogisticRegression(C=1e6, max_iter=2000).fit(bank.directions[learnt], bank.labels[learnt])

    def answers(rows: npt.NDArray[np.bool_]) -> Answers:
        logits = head.decision_function(bank.directions[rows]).astype(np.float32)
        return Answers(bank.labels[rows], bank.ids[rows], logits, bank.directions[rows])

    training, calibration = answers(learnt), answers(bank.is_held_out)
    temperature = calibrate((calibration.logits, calibration.targets), None)
    labels = fashion.artifact.manifest.labels
    parts = fit_parts(Material("single_label", labels, temperature.value, training, calibration, seed=0), {})
    confidence = Confidence.without_evidence(temperature, None, None, "").model_copy(update={"correctness": parts.correctness})
    judge = Judge("single_label", confidence, parts.evidence)

    logits = head.decision_function(unit_length(asked.embeddings)).astype(np.float32)
    raw, calibrated = probabilities(logits, 1.0), judge.probabilities(logits)
    p_correct = np.array([one.p_correct or 0.0 for one in judge.trust(calibrated, asked.embeddings)])
    wrong = raw.argmax(axis=1) != actual
    assert np.array_equal(calibrated.argmax(axis=1), raw.argmax(axis=1))
    assert temperature.value > 1.5
    sure_but_wrong = [int((wrong & (stated >= 0.9)).sum()) for stated in (raw.max(axis=1), calibrated.max(axis=1), p_correct)]
    assert sure_but_wrong[0] >= 40
    assert max(sure_but_wrong[1:]) <= sure_but_wrong[0] / 2


def test_familiarity_raises_few_false_alarms_and_knows_what_is_strange(
    fashion: Version, test_split: tuple[Asked, npt.NDArray[np.int64]], strange: dict[str, Asked]
) -> None:
    asked, _ = test_split
    familiarity = fashion.artifact.evidence.familiarity
    assert familiarity is not None
    p_familiar = np.array([one.p_familiar for one in asked.trust])
    for rate in (0.05, 0.01):
        low, high = covered_by_chance(len(familiarity.distances), len(p_familiar), 1 - rate)
        assert 1 - high <= (p_familiar < rate).mean() <= 1 - low
    known, sure = familiarity.distance(asked.embeddings), asked.probabilities.max(axis=1)
    for kind, others in strange.items():
        found = auroc(familiarity.distance(others.embeddings), known)
        assert found > auroc(sure, others.probabilities.max(axis=1)), kind
        assert found >= 0.95, kind


def test_hardly_any_strange_image_is_accepted_and_none_that_is_not_familiar(strange: dict[str, Asked]) -> None:
    answers = [one for asked in strange.values() for one in asked.trust]
    accepted = [one for one in answers if one.action == "accept"]
    assert len(accepted) <= 0.005 * len(answers)
    assert all(one.familiarity == "familiar" for one in accepted)


def test_every_self_test_of_the_sample_passes(fashion: Version) -> None:
    tests = fashion.artifact.confidence.self_tests
    assert len(tests) >= 12
    assert [test for test in tests if not test.passed] == []


@pytest.fixture(scope="module")
def imagenet(quickstart_home: Path) -> Version:
    return Version(quickstart_home / "registry", "imagenet")


@pytest.fixture(scope="module")
def pasted(imagenet: Version) -> tuple[UInt8Array, list[int]]:
    """A cat or a cup of coffee somewhere on each of 40 photographs, about a quarter of it; and what each is called alone."""
    manifest, rng = imagenet.artifact.manifest, np.random.default_rng(0)
    size = manifest.input.height
    images = photographs(40, size, seed=7)
    things = [ROOT / "samples" / name for name in ("cat.jpg", "coffee.jpg")]
    alone = np.stack([load_image(thing.read_bytes(), manifest.preprocessing, size, size) for thing in things])
    names = imagenet.logits(alone).argmax(axis=1).tolist()
    assert [manifest.labels[name] for name in names] == ["tiger cat", "espresso"]
    for row, image in enumerate(images):
        side = int(size * rng.uniform(0.4, 0.6))
        top, left = rng.integers(0, size - side + 1, 2)
        image[top : top + side, left : left + side] = np.asarray(Image.fromarray(alone[row % 2]).resize((side, side)))
    return images, [names[row % 2] for row in range(len(images))]


def test_maps_add_up_and_show_what_the_answer_rests_on(imagenet: Version, pasted: tuple[UInt8Array, list[int]]) -> None:
    """Deletion and insertion (Petsiuk et al. 2018): hiding what a map marks lowers the answer, showing it alone raises it."""
    head, (images, names), rng = imagenet.artifact.evidence.head, pasted, np.random.default_rng(0)
    assert head is not None
    asked, better = imagenet.ask(images), []
    for row, (image, label) in enumerate(zip(images, names, strict=True)):
        heatmap = activation_map(asked.spatial[row], head, label)
        assert incompleteness(heatmap, float(head.bias[label]), float(asked.logits[row, label])) <= 1e-3
        deleted, inserted = _curves(imagenet, image, heatmap, label)
        by_chance = _curves(imagenet, image, rng.permutation(heatmap.ravel()).reshape(heatmap.shape), label)
        better.append((deleted < by_chance[0], inserted > by_chance[1]))
    by_deletion, by_insertion = np.mean(better, axis=0)
    assert by_deletion >= 0.9
    assert by_insertion >= 0.9


def test_a_head_with_its_labels_mixed_up_has_other_maps(imagenet: Version) -> None:
    """The sanity check of Adebayo et al. 2018: a map that did not depend on the head would be an edge detector."""
    head = imagenet.artifact.evidence.head
    assert head is not None
    assert head.weight is not None
    asked = imagenet.ask(photographs(40, imagenet.artifact.manifest.input.height, seed=7))
    mixed = Head(head.weight[np.random.default_rng(0).permutation(len(head.weight))], head.bias)
    alike = []
    for spatial, logits in zip(asked.spatial, asked.logits, strict=True):
        label = int(logits.argmax())
        alike.append(spearmanr(activation_map(spatial, head, label).ravel(), activation_map(spatial, mixed, label).ravel())[0])
    assert abs(np.median(alike)) <= 0.3


def _curves(version: Version, image: UInt8Array, heatmap: npt.NDArray[np.float64], label: int) -> tuple[float, float]:
    """The mean probability of `label` while the map's cells are hidden, and while they are shown, the strongest first."""
    size, (rows, cols) = len(image), heatmap.shape
    plain = np.broadcast_to(image.mean(axis=(0, 1)).astype(np.uint8), image.shape)
    order = np.argsort(-heatmap, axis=None)
    steps = np.unique(np.linspace(0, rows * cols, 11).astype(int))
    hidden, shown = [], []
    for count in steps:
        cells = np.zeros(rows * cols, dtype=bool)
        cells[order[:count]] = True
        where = np.kron(cells.reshape(rows, cols), np.ones((size // rows, size // cols), dtype=bool))[..., None]
        hidden.append(np.where(where, plain, image))
        shown.append(np.where(where, image, plain))
    p = version.judge.probabilities(version.logits(np.stack([*hidden, *shown])))[:, label]
    return float(p[: len(steps)].mean()), float(p[len(steps) :].mean())
