"""One real fit, shared by the tests that look at its result: a random ResNet-18 on three colours, in seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest
import torch

from models.recipe import Recipe
from models.registry import Registry
from tests.support.folders import write_colours

if TYPE_CHECKING:
    from pathlib import Path

    from models.manifest import Manifest

# These networks are so small that a second thread only waits for the first.
torch.set_num_threads(1)

SMALL = Recipe(backbone="resnet18", pretrained=False, image_size=32, epochs=2, batch_size=8)


class Fitted(NamedTuple):
    home: Path
    data: Path
    registry: Registry
    manifest: Manifest


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    from training.fit import fit

    home = tmp_path_factory.mktemp("fit")
    data = write_colours(home / "data", {"train": 12, "val": 4, "calibration": 6, "test": 24})
    (data / "train" / "red" / "broken.png").write_bytes((data / "train" / "red" / "000.png").read_bytes()[:60])
    (data / "train" / "red" / "notes.txt").write_text("not an image")
    registry = Registry(home / "registry")
    return Fitted(home, data, registry, fit(data, "colours", SMALL, registry, home / "runs"))
