"""A version scored on other data: by its own file and preprocessing, with labels matched by name."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from models.artifact import Artifact
from models.dataset import Dataset, Item, scan
from models.decision import probabilities
from models.errors import DatasetError
from models.metrics import score
from models.recipe import Recipe
from models.registry import Registry
from models.review import by_id
from models.review_schema import MultiLabelReview, RegressionReview, SingleLabelReview
from tests.support.evidence import publish_judged
from tests.support.folders import write_colours
from tests.support.html import Html
from tests.support.judged import digest
from tests.support.tiny import BRIGHTNESS, PRESENCE, SIZE, colours, publish_tiny
from training.evaluate import evaluate
from training.page.parts import NBSP

if TYPE_CHECKING:
    from models.dataset import Target
    from tests.support.tiny import Tiny


def version(folder: Path, tiny: Tiny) -> Artifact:
    registry = Registry(folder / "registry")
    return Artifact.load(registry.path("tiny", publish_tiny(registry, folder / "work", "tiny", tiny).version))


def squares(folder: Path, colour: np.ndarray) -> list[Path]:
    """One PNG of each colour, uint8 `[N, 3]`."""
    folder.mkdir()
    paths = [folder / f"{row:03}.png" for row in range(len(colour))]
    for path, rgb in zip(paths, colour, strict=True):
        Image.new("RGB", (SIZE, SIZE), tuple(rgb.tolist())).save(path)
    return paths


def dataset_of(root: Path, task: str, labels: tuple[str, ...], paths: list[Path], targets: list[Target]) -> Dataset:
    items = tuple(Item(path, target, "train", digest(path.name)) for path, target in zip(paths, targets, strict=True))
    return Dataset(root, task, labels, items)  # type: ignore[arg-type]


def scanned(folder: Path) -> Dataset:
    return scan(folder, Recipe())


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return version(tmp_path_factory.mktemp("evaluate"), colours(3.0))


def test_scores_are_those_of_its_own_answers_with_labels_matched_by_name(artifact: Artifact, tmp_path: Path) -> None:
    """The folder has two of the three labels, in another order than the version's; 4 of 20 greens are filed as blue."""
    data = write_colours(tmp_path / "garden", {"": 20}, labels=("blue", "green"))
    for number in range(4):
        shutil.move(data / "green" / f"{number:03}.png", data / "blue" / f"wrong{number}.png")
    found = evaluate(artifact, scanned(data))
    review = found.evaluation.review
    assert isinstance(review, SingleLabelReview)
    files = sorted(data.rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(path).resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for path in files])
    truth = np.array([artifact.manifest.labels.index(path.parent.name) for path in files])
    expected = score(probabilities(colours(3.0).logits(pixels), artifact.confidence.temperature.value), truth)
    assert review.labels == artifact.manifest.labels == ("red", "green", "blue")
    assert review.scores["test"].accuracy.value == pytest.approx(expected.accuracy) == 36 / 40
    assert review.scores["test"].nll == pytest.approx(expected.nll, abs=1e-4)
    assert [(pair.actual, pair.predicted, pair.count) for pair in review.most_confused()] == [("blue", "green", 4)]
    assert found.evaluation.absent_labels == ("red",)
    assert found.evaluation.data == "garden"
    assert found.evaluation.images == 40
    listed = {image.path for image in review.images}
    assert {f"blue/wrong{number}.png" for number in range(4)} <= listed
    assert {image.split for image in review.images} == {"test"}


def test_what_is_unlike_the_versions_own_data_is_listed_first(artifact: Artifact, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    knowing = Artifact.load(registry.path("tiny", publish_judged(registry, tmp_path / "work", "tiny", colours()).version))
    reds = squares(tmp_path / "garden", np.array([(240, 10, 0), (255, 255, 255), (230, 0, 20)], dtype=np.uint8))
    data = dataset_of(tmp_path / "garden", "single_label", ("red", "green", "blue"), reds, [0, 0, 0])
    review = evaluate(knowing, data).evaluation.review
    assert isinstance(review, SingleLabelReview)
    strangest = review.questions[0].actual.unfamiliar
    assert strangest is not None
    described = by_id(review.images)
    assert described[strangest[0]].path == "001.png"
    p = [described[image_id].p_familiar or 0.0 for image_id in strangest]
    assert p[0] < 0.01 < 0.05 < p[1] <= p[2]
    without = evaluate(artifact, data).evaluation.review
    assert "published without a familiarity model" in without.unavailable["unfamiliar"]


def test_evaluation_is_json_and_a_page(artifact: Artifact, tmp_path: Path) -> None:
    found = evaluate(artifact, scanned(write_colours(tmp_path / "garden", {"": 6})))
    written = json.loads(found.evaluation.to_bytes())
    assert written["model"] == "tiny:1"
    assert written["model_sha256"] == artifact.manifest.files["model.onnx"]
    assert written["review"]["scores"]["test"]["accuracy"]["of"] == 18
    page = Html(found.page())
    text = page.text.replace(NBSP, " ")
    assert "tiny:1 on garden" in text
    assert "Right on 18 of 18 images of “garden”" in text
    assert len(page.of("img")) > 18


def test_labels_that_the_version_does_not_know_are_refused_by_name(artifact: Artifact, tmp_path: Path) -> None:
    data = write_colours(tmp_path / "zoo", {"": 3}, labels=("red", "green"))
    shutil.copytree(data / "red", data / "yellow")
    shutil.copytree(data / "red", data / "violet")
    for copy in [*(data / "yellow").iterdir(), *(data / "violet").iterdir()]:
        Image.open(copy).rotate(90).save(copy)
    message = f"{data} has labels that tiny:1 does not know: violet, yellow; it knows red, green, blue"
    with pytest.raises(DatasetError, match=f"^{re.escape(message)}$"):
        evaluate(artifact, scanned(data))


def test_data_of_another_task_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    paths = squares(tmp_path / "sky", np.full((3, 3), 90, dtype=np.uint8))
    data = dataset_of(tmp_path / "sky", "regression", ("brightness",), paths, [1.0, 2.0, 3.0])
    with pytest.raises(DatasetError, match="is regression data, and tiny:1 answers single_label"):
        evaluate(artifact, data)


def test_unreadable_files_are_left_out_counted_and_named(artifact: Artifact, tmp_path: Path) -> None:
    data = write_colours(tmp_path / "garden", {"": 5})
    (data / "red" / "cut.png").write_bytes((data / "red" / "000.png").read_bytes()[:60])
    found = evaluate(artifact, scanned(data))
    assert found.evaluation.images == 15
    assert [entry.split(":")[0] for entry in found.evaluation.skipped] == ["red/cut.png"]
    assert "1 files were left out, the first is cut.png" in found.evaluation.review.findings


def test_data_without_a_readable_image_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    data = write_colours(tmp_path / "garden", {"": 2})
    for path in data.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:50] + path.parent.name.encode() + path.name.encode())
    with pytest.raises(DatasetError, match="holds no image that can be read"):
        evaluate(artifact, scanned(data))


def test_its_own_training_data_is_recognised(tmp_path: Path) -> None:
    from models.manifest import DatasetCard

    artifact = version(tmp_path, colours())
    data = scanned(write_colours(tmp_path / "data", {"train": 4, "test": 4}))
    card = DatasetCard(fingerprint=data.fingerprint(), splits={"train": 12, "test": 12}, skipped=0)
    own = replace(artifact, manifest=artifact.manifest.model_copy(update={"dataset": card}))
    said = "this is the data that the version was made from"
    assert any(said in finding for finding in evaluate(own, data).evaluation.review.findings)
    assert not any(said in finding for finding in evaluate(artifact, data).evaluation.review.findings)


def test_multi_label_version_is_scored_at_its_thresholds(tmp_path: Path) -> None:
    artifact = version(tmp_path, PRESENCE)
    colour = np.array([[255, 0, 0], [0, 255, 0], [255, 255, 0], [0, 0, 255], [0, 0, 120]], dtype=np.uint8)
    # In the folder's own order of labels: blue, red. Half a blue is under the version's threshold of 0.999.
    data = dataset_of(
        tmp_path / "flags", "multi_label", ("blue", "red"), squares(tmp_path / "flags", colour), [(1,), (), (1,), (0,), (0,)]
    )
    review = evaluate(artifact, data).evaluation.review
    assert isinstance(review, MultiLabelReview)
    by_label = {entry.scores.label: entry for entry in review.per_label}
    assert by_label["red"].scores.recall is not None
    assert by_label["red"].scores.recall.value == 1
    assert by_label["blue"].scores.recall is not None
    assert by_label["blue"].scores.recall.value == 0.5
    assert len(by_label["green"].false_alarms) == 2
    assert review.scores["test"].exact.count == 2


def test_regression_version_is_scored_in_its_unit(tmp_path: Path) -> None:
    artifact = version(tmp_path, BRIGHTNESS)
    greys = np.array([0, 51, 102, 204], dtype=np.uint8)
    paths = squares(tmp_path / "sky", np.repeat(greys[:, None], 3, axis=1))
    data = dataset_of(tmp_path / "sky", "regression", ("how bright",), paths, [0.0, 20.0, 40.0, 90.0])
    review = evaluate(artifact, data).evaluation.review
    assert isinstance(review, RegressionReview)
    assert (review.unit, review.labels) == ("percent", ("brightness",))
    assert review.scores["test"].mae == pytest.approx(2.5, abs=1e-3)
    assert review.images[0].path == "003.png"
    assert review.images[0].error == pytest.approx(-10, abs=1e-3)
