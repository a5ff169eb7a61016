"""`scan`: everything that can be found out about a data set before anything is learnt from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.merging import scan_all
from models.preprocess import standard_preprocessing
from training.data import SMALL_IMAGE_SIZE, decode_all
from training.progress import say

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from models.recipe import Recipe
    from models.scan_report import ScanReport


def survey(data: Sequence[Path], recipe: Recipe, work_root: Path) -> ScanReport:
    """Find, decode and compare every image, as `fit` would, and say what came of it.

    Images are decoded at the recipe's size, or at 96 pixels; a copy that is nearly none may be one at one size only.

    Raises:
        DatasetError: If the data set cannot be trained on.
    """
    image_size = recipe.image_size or SMALL_IMAGE_SIZE
    report = decode_all(scan_all(data, recipe), standard_preprocessing(crop_ratio=1.0), image_size, work_root).report
    for line in report.lines():
        say(line)
    return report
