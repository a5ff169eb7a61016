"""The gate on real ONNX files and a real held-out set: two versions that tell colours, one of them badly."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from models.artifact import CONFIDENCE
from models.confidence.schema import Confidence, SelfTest
from models.dataset import scan
from models.errors import ArtifactError, HoldoutError
from models.holdout import Holdout
from models.manifest import canonical_json
from models.recipe import Recipe
from models.registry import Registry
from tests.support.tiny import LABELS, Tiny, colours, golden_images, tiny_manifest, write_tiny
from training.cli import main
from training.errors import TrainingError
from training.gate import PARITY_TEST, gate

if TYPE_CHECKING:
    from pathlib import Path

    from models.gate_report import GateReport

pytestmark = pytest.mark.torch
PROVEN = SelfTest(name=PARITY_TEST, passed=True, found="1e-06", expected="at most 1e-03")


def publish(registry: Registry, work: Path, tiny: Tiny, *, proven: bool = True, golden: np.ndarray | None = None) -> int:
    """A version of `colours`, whose graph is said to be what was trained where `proven`."""
    folder = work / f"source-{len(registry.versions('colours'))}"
    write_tiny(folder, tiny, golden=golden)
    confidence = Confidence.parse((folder / CONFIDENCE).read_bytes())
    tested = confidence.model_copy(update={"self_tests": (PROVEN,) if proven else ()})
    (folder / CONFIDENCE).write_bytes(canonical_json(tested))
    return registry.publish(folder, tiny_manifest("colours", tiny)).version


def weak(mistake: float) -> Tiny:
    """Takes much of the red for green."""
    plain = colours(3.0)
    return replace(plain, weight=((3.0, mistake, 0.0), (0.0, 3.0, 0.0), (0.0, 0.0, 3.0)))


def write_images(folder: Path, count: int = 24) -> Path:
    """Noisy images of red, green and blue, `count` of each; some are hard."""
    rng = np.random.default_rng(0)
    for channel, label in enumerate(LABELS):
        (folder / "test" / label).mkdir(parents=True)
        (folder / "train" / label).mkdir(parents=True)
        for number in range(count + 1):
            pixels = rng.integers(0, 100, (32, 32, 3))
            pixels[:, :, channel] += 30 + 5 * number
            where = folder / ("test" if number < count else "train") / label
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(where / f"{number}.png")
    return folder


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A held-out set of 72 images, and a first version that is often wrong."""
    monkeypatch.setenv("CANDOR_HOME", str(tmp_path))
    monkeypatch.delenv("CANDOR_REGISTRY", raising=False)
    registry = Registry(tmp_path / "registry")
    held = Holdout.fix(registry, "colours", scan(write_images(tmp_path / "data"), Recipe()))
    assert held is not None
    publish(registry, tmp_path, weak(2.8))
    return registry


def failing(report: GateReport) -> list[str]:
    return [check.name for check in report.checks if check.is_required and not check.passed]


def test_a_better_version_is_measured_promoted_and_the_report_is_kept(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(registry, tmp_path, colours(12.0))
    out = tmp_path / "gate.json"

    assert main(["gate", "colours:2", "--out", str(out), "--heartbeat", str(tmp_path / "alive")]) == 0

    captured = capsys.readouterr()
    assert captured.out == "promote\n"
    report = registry.read_gate("colours", 2)
    assert report is not None
    assert json.loads(out.read_text()) == json.loads(report.to_bytes())
    assert (report.production, report.images, report.reasons) == (1, 72, ())
    assert {check.name for check in report.checks} == {
        "golden", "parity", "better", "accuracy", "nll", "recall", "calibration", "ece", "latency"
    }  # fmt: skip
    assert all(check.sentence in captured.err for check in report.checks)
    assert (tmp_path / "alive").exists()


def test_scores_are_those_of_the_file_on_the_images_that_were_held_out(registry: Registry, tmp_path: Path) -> None:
    """Counted here from the very images, by numpy."""
    publish(registry, tmp_path, colours(12.0))
    files = sorted((tmp_path / "data" / "test").rglob("*.png"))
    images = np.stack([np.asarray(Image.open(file)) for file in files])
    targets = [LABELS.index(file.parent.name) for file in files]

    report = gate("colours", 2, registry)

    accuracy = next(check for check in report.checks if check.name == "accuracy")
    assert accuracy.candidate == pytest.approx((colours(12.0).logits(images).argmax(axis=1) == targets).mean())
    assert accuracy.production == pytest.approx((weak(2.8).logits(images).argmax(axis=1) == targets).mean())
    assert accuracy.production < accuracy.candidate


def test_a_worse_version_is_rejected_for_its_scores(registry: Registry, tmp_path: Path) -> None:
    publish(registry, tmp_path, replace(colours(12.0), weight=((0.0, 12.0, 0.0), (12.0, 0.0, 0.0), (0.0, 0.0, 12.0))))
    assert {"better", "accuracy", "nll", "recall"} <= set(failing(gate("colours", 2, registry)))


def test_a_version_that_does_not_reproduce_itself_or_proves_nothing_is_rejected(registry: Registry, tmp_path: Path) -> None:
    publish(registry, tmp_path, colours(12.0), golden=colours(6.0).logits(golden_images()))
    publish(registry, tmp_path, colours(12.0), proven=False)
    assert failing(gate("colours", 2, registry)) == ["golden"]
    assert failing(gate("colours", 3, registry)) == ["parity"]


def test_answers_that_are_not_numbers_are_rejected(registry: Registry, tmp_path: Path) -> None:
    broken = replace(colours(12.0), weight=((float("nan"), 0.0, 0.0), (0.0, 12.0, 0.0), (0.0, 0.0, 12.0)))
    publish(registry, tmp_path, broken)
    assert failing(gate("colours", 2, registry)) == ["golden", "answers"]


def test_a_first_candidate_is_compared_with_knowing_nothing(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    Holdout.fix(registry, "colours", scan(write_images(tmp_path / "data"), Recipe()))
    write_tiny(tmp_path / "source", colours(12.0))
    confidence = Confidence.parse((tmp_path / "source" / CONFIDENCE).read_bytes())
    (tmp_path / "source" / CONFIDENCE).write_bytes(canonical_json(confidence.model_copy(update={"self_tests": (PROVEN,)})))
    registry.publish(tmp_path / "source", tiny_manifest("colours", colours(12.0)), first_is_production=False)

    report = gate("colours", 1, registry)

    assert (report.verdict, report.production) == ("promote", None)
    assert "latency" not in {check.name for check in report.checks}


def test_a_name_without_a_held_out_set_is_never_promoted(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    publish(registry, tmp_path, weak(2.8))
    publish(registry, tmp_path, colours(12.0))
    report = gate("colours", 2, registry)
    assert failing(report) == ["held_out"]
    assert (report.images, report.holdout_sha256) == (0, None)


def test_what_cannot_be_judged_is_refused(registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(registry, tmp_path, colours(12.0))
    with pytest.raises(TrainingError, match="colours:1 is in production"):
        gate("colours", 1, registry)
    assert main(["gate", "colours"]) == 2
    assert "say which version of colours to judge: colours:N, one of [1, 2]" in capsys.readouterr().err
    held = Holdout.read(registry, "colours")
    assert held is not None
    images = held.path / "images.zip"
    images.write_bytes(images.read_bytes().replace(b"PNG", b"BNG"))
    with pytest.raises(HoldoutError, match="was altered|cannot be read"):
        gate("colours", 2, registry)
    (registry.path("colours", 2) / "model.onnx").write_bytes(b"")
    with pytest.raises(ArtifactError, match="was altered"):
        gate("colours", 2, registry)
