"""The beginning that `fit` and `lr-find` share: from a folder and a recipe to decoded images and a network to train."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from models.merging import scan_all
from models.preprocess import standard_preprocessing
from training import backbone
from training.data import decode_all, default_image_size
from training.device import pick_device, seed_everything
from training.distributed import World, join, leave
from training.normalise import Normalise
from training.objective import make_objective
from training.probe import embed, fit_probe, install
from training.progress import Events, say
from training.step import Setting
from training.stop import Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from models.dataset import Dataset, Split
    from models.holdout import Holdout
    from models.manifest import Preprocessing
    from models.recipe import Recipe
    from models.scan_report import ScanReport
    from training.backbone import Pretrained
    from training.checkpoint import Snapshot
    from training.data import Images
    from training.device import Device
    from training.objective import Objective
    from training.probe import Probe


@dataclass(frozen=True)
class Prepared:
    """Everything before the first step. `recipe` has its image size."""

    dataset: Dataset
    splits: dict[Split, Images]
    report: ScanReport
    copies: dict[str, str]
    pretrained: Pretrained
    normalise: Normalise
    preprocessing: Preprocessing
    objective: Objective
    recipe: Recipe
    device: Device
    world: World
    holdout: Holdout | None

    @property
    def image_size(self) -> int:
        """Pixels a side."""
        assert self.recipe.image_size is not None  # noqa: S101 - `prepare` resolved it
        return self.recipe.image_size


def prepare(
    data: Path | Sequence[Path],
    recipe: Recipe,
    work_root: Path,
    weights: Path | None = None,
    holdout: Holdout | None = None,
) -> Prepared:
    """Scan, build the network, decode.

    Args:
        data: Anything that `models.dataset.scan` understands; several of them are merged.
        recipe: Every choice.
        work_root: Where pixels go that do not fit in memory.
        weights: The folder of a version to start from, instead of what the recipe says.
        holdout: Images that must not be learnt from.

    Raises:
        ContractError: If the data cannot be used.
        TrainingError: If the recipe does not fit the data, or weights are missing.
    """
    seed_everything(recipe.seed)
    device = pick_device(deterministic=recipe.deterministic)
    world = join(device)
    try:
        dataset = scan_all([data] if isinstance(data, Path) else data, recipe)
        given = recipe if weights is None else recipe.model_copy(update={"weights": str(weights)})
        pretrained = backbone.create(given, len(dataset.labels))
        size = recipe.image_size or default_image_size(dataset.of("train"), pretrained.image_size, recipe.seed)
        # The largest centred square, whole: cutting further into it is for photographs of one thing in the middle.
        preprocessing = standard_preprocessing(crop_ratio=1.0)
        what = f"of {len(dataset.labels)} labels" if dataset.task != "regression" else f"with a number ({dataset.labels[0]})"
        say(f"{len(dataset.items)} images {what}; {recipe.backbone} at {size} px, {device.describe()}")
        dataset, splits, report, copies = decode_all(dataset, preprocessing, size, work_root, holdout)
        world.same("images", dataset.fingerprint())
        for line in report.lines():
            say(f"  {line}")
        objective = make_objective(dataset.task, len(dataset.labels), recipe, splits["train"].targets)
    except BaseException:
        leave(world)
        raise
    return Prepared(
        dataset=dataset,
        splits=splits,
        report=report,
        copies=copies,
        pretrained=pretrained,
        normalise=Normalise(pretrained.mean, pretrained.std),
        preprocessing=preprocessing,
        objective=objective,
        recipe=recipe.model_copy(
            update={
                "image_size": size,
                "task": dataset.task,
                "batch_norm": "frozen" if recipe.keeps_statistics else "train",
            }
        ),
        device=device,
        world=world,
        holdout=holdout,
    )


def setting_of(
    prepared: Prepared,
    stop: Stop | None = None,
    events: Events | None = None,
    save: Callable[[Snapshot], None] = lambda snapshot: None,
    *,
    saves_epochs: bool = False,
) -> Setting:
    """What `FineTuner` needs of it; without more, nobody stops it, is told, or keeps checkpoints."""
    return Setting(
        normalise=prepared.normalise,
        objective=prepared.objective,
        recipe=prepared.recipe,
        device=prepared.device,
        world=prepared.world,
        stop=stop or Stop(),
        events=events or Events(),
        save=save,
        saves_epochs=saves_epochs,
    )


@dataclass(frozen=True)
class Probed:
    """The probe, the embeddings that it was fitted on `[N, D]`, and the network's state with it as its head."""

    probe: Probe
    embeddings: dict[Split, torch.Tensor]
    state: dict[str, torch.Tensor]


def fit_head(prepared: Prepared) -> Probed:
    """Fit the linear probe and start the head where the recipe says."""
    network, objective = prepared.pretrained.network, prepared.objective
    network.to(prepared.device.torch)
    embeddings = embed(network, prepared.splits, prepared.normalise, prepared.device, prepared.world)
    pairs = {split: (embeddings[split], objective.tensor(images.targets)) for split, images in prepared.splits.items()}
    probe = fit_probe(pairs["train"], pairs.get("validation"), objective)
    install(probe, network)
    state = copy.deepcopy(network.state_dict())
    if prepared.recipe.head_init == "zeros":
        for parameter in network.get_classifier().parameters():  # type: ignore[operator]
            torch.nn.init.zeros_(parameter)
    return Probed(probe, embeddings, state)
