"""What `python -m training` refuses: one clear sentence, exit code 2, nothing published."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from models.registry import Registry
from tests.support.folders import write_colours
from training.cli import main

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.torch


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CANDOR_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CANDOR_REGISTRY", raising=False)
    return tmp_path / "home"


def refused(home: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert not Registry(home / "registry").names()
    return captured.err


def test_missing_folder_is_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "/no/such/folder does not exist" in refused(home, capsys, "fit", "/no/such/folder", "--name", "birds")


def test_folder_without_images_says_what_was_expected(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert "holds no images" in refused(home, capsys, "fit", str(tmp_path / "empty"), "--name", "birds")


def test_one_class_is_not_enough(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_colours(tmp_path / "data", {"": 4}, labels=("red",))
    message = refused(home, capsys, "fit", str(data), "--name", "birds")
    assert "'red'" in message
    assert "at least two" in message


def test_label_whose_images_are_all_unreadable_ends_it(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_colours(tmp_path / "data", {"": 4}, labels=("red", "green"))
    for path in (data / "green").iterdir():
        path.write_bytes(b"\x89PNG\r\n\x1a\n and then nothing" + path.name.encode())
    message = refused(home, capsys, "fit", str(data), "--name", "birds", "backbone=resnet18", "pretrained=false", "image_size=32")
    assert "'green'" in message
    assert "4 files were left out" in message


@pytest.mark.parametrize("name", ["Birds", "a b", "../x", "", "x" * 64])
def test_name_that_cannot_be_one_is_refused(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    data = write_colours(tmp_path / "data", {"": 2})
    assert "cannot name a model" in refused(home, capsys, "fit", str(data), "--name", name)


def test_everything_wrong_with_a_recipe_is_said_at_once(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_colours(tmp_path / "data", {"": 2})
    message = refused(home, capsys, "fit", str(data), "--name", "birds", "epoch=3", "lr=-1", "--batch-size", "many")
    assert "recipe.epoch: is not a known key" in message
    assert "recipe.lr" in message
    assert "recipe.batch_size" in message
    assert "'many'" in message


def test_unknown_backbone_suggests_others(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_colours(tmp_path / "data", {"": 2})
    message = refused(home, capsys, "fit", str(data), "--name", "birds", "backbone=resnet9000")
    assert "resnet9000" in message


def test_weights_that_cannot_be_had_say_how_to_get_them(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    data = write_colours(tmp_path / "data", {"": 2})
    message = refused(home, capsys, "fit", str(data), "--name", "birds", "backbone=resnet18")
    assert "pretrained weights of resnet18 cannot be had" in message
    assert "tf_efficientnet_lite0" in message


def test_weights_file_that_does_not_fit_is_refused(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.numpy import save_file

    save_file({"conv1.weight": np.zeros((1, 1), dtype=np.float32)}, tmp_path / "x.safetensors")
    data = write_colours(tmp_path / "data", {"": 2})
    for file, words in ((tmp_path / "x.safetensors", "does not fit resnet18"), (tmp_path / "none", "is not a file")):
        assert words in refused(home, capsys, "fit", str(data), "--name", "birds", "backbone=resnet18", f"weights={file}")


def test_network_that_could_not_be_exported_is_refused_before_it_is_trained(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_colours(tmp_path / "data", {"": 2})
    for name in ("vit_tiny_patch16_224", "resnetv2_50x1_bit"):
        message = refused(home, capsys, "fit", str(data), "--name", "birds", f"backbone={name}", "pretrained=false")
        assert f"{name} cannot be served" in message


def test_export_that_computes_something_else_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm
    import torch

    from training import export
    from training.errors import ParityError
    from training.normalise import Normalise

    network = timm.create_model("resnet18", num_classes=3)
    unseen = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    genuine = export._check_parity

    def spoil_then_check(graph: torch.nn.Module, path: Path, images: np.ndarray, task: str) -> float:
        with torch.no_grad():
            graph.network.fc.bias += 0.01
        return genuine(graph, path, images, task)

    monkeypatch.setattr(export, "_check_parity", spoil_then_check)
    with pytest.raises(ParityError, match="logits differs from torch's by 0.01"):
        export.export(network, Normalise((0.5,) * 3, (0.5,) * 3), 32, unseen, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_recipe_that_is_neither_a_name_nor_a_file_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(home, capsys, "fit", "/no/such/folder", "--name", "birds", "--recipe", "fine_tun")
    assert "recipe 'fine_tun' is no file, and none of ours: default, fine_tune" in message
