"""The words of `python -m training`: commands, flags, and recipe keys from wherever they stand."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from models.recipe import Recipe
from training import recipes
from training.start import PRETRAINED, PRODUCTION

_DATA = (
    "class folders, with or without train/ val/ calibration/ test/ above; images with label_pattern or label_file; a CSV; a zip"
)

# Keys that say where the labels stand; the others are for training.
_DATA_KEYS = frozenset({"task", "label_pattern", "label_file", "image_column", "label_column", "label_separator", "seed"})
_KEY = re.compile(r"[A-Za-z_-]+=")
_SEVERAL = f"{_DATA}; several are merged"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse flags, and take `key=value` from wherever it stands; argparse alone wants it before the first flag."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    strangers = [item for item in rest if item.startswith("-") or "=" not in item]
    if strangers or (rest and "recipe" not in options):
        parser.error(f"unrecognized arguments: {' '.join(strangers or rest)}")
    options.overrides = rest
    if isinstance(getattr(options, "data", None), list):
        # Several paths may be given, so that what stands behind the first is one of them or a key.
        keys = [str(item) for item in options.data[1:] if _KEY.match(str(item))]
        options.data = [options.data[0], *(item for item in options.data[1:] if not _KEY.match(str(item)))]
        options.overrides = [*keys, *rest]
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description="Fine-tune, calibrate, export and publish.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_fit(commands.add_parser("fit", help="fine-tune on a folder of images and publish the result"))
    finder = commands.add_parser("lr-find", help="sweep the learning rate, and suggest one")
    finder.add_argument("data", type=Path, nargs="+", help=_SEVERAL)
    finder.add_argument(
        "--out", type=Path, default=Path(), metavar="FOLDER", help="for lr-find.json and lr-find.png (default: here)"
    )
    _add_recipe(finder)
    scan = commands.add_parser("scan", help="report on a folder of images and train nothing: JSON on stdout, words on stderr")
    scan.add_argument("data", type=Path, nargs="+", help=_SEVERAL)
    _add_recipe(scan)
    published = commands.add_parser("publish-pretrained", help="publish an ImageNet classifier as it comes")
    published.add_argument("--name", required=True, help="the model's name")
    _add_recipe(published)
    page = commands.add_parser("report", help="render a version's report again, from its own files")
    page.add_argument("reference", metavar="NAME:N", help="NAME alone is its production version")
    page.add_argument("--out", type=Path, metavar="FILE", help="the page (default: NAME-N.html here)")
    scored = commands.add_parser("evaluate", help="score a version on other data")
    scored.add_argument("reference", metavar="NAME:N", help="NAME alone is its production version")
    scored.add_argument("data", type=Path, help=_DATA)
    scored.add_argument("--html", type=Path, metavar="FILE", help="write the review as a page too")
    _add_recipe(scored, _DATA_KEYS)
    judged = commands.add_parser("gate", help="compare a version with what is in production, and say promote or reject")
    judged.add_argument("reference", metavar="NAME:N", help="the candidate")
    judged.add_argument("--out", type=Path, metavar="FILE", help="write the report there too (the registry keeps it anyway)")
    judged.add_argument("--heartbeat", type=Path, metavar="FILE", help="touch FILE every second for as long as this lives")
    backbones = commands.add_parser("backbones", help="list the networks to choose from")
    backbones.add_argument("pattern", nargs="?", help="also every other CNN of timm that matches, as in 'convnext*'")
    sample = commands.add_parser("sample-data", help="unpack the sample data (Fashion-MNIST, 10 labels, 4,200 images)")
    sample.add_argument("folder", type=Path)
    commands.add_parser("quickstart", help="publish imagenet and fashion where they are missing (make run does)")
    return parser


def _add_fit(fit: argparse.ArgumentParser) -> None:
    fit.add_argument("data", type=Path, nargs="+", help=_SEVERAL)
    fit.add_argument("--name", required=True, help="the model's name")
    again = fit.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with the run of this name that was stopped")
    again.add_argument("--run", metavar="ID", help="name the run: the same command goes on with it, and publishes once")
    fit.add_argument(
        "--start-from",
        default=PRETRAINED,
        metavar="WHAT",
        help=f"{PRETRAINED}, {PRODUCTION}, or NAME:N: whose weights to begin with (default: {PRETRAINED})",
    )
    fit.add_argument("--no-promote", action="store_true", help="make the version the candidate, for the gate to judge")
    fit.add_argument(
        "--unrelated",
        type=Path,
        metavar="DIR",
        help="images of none of the labels, to test that they are told apart (default: made up)",
    )
    fit.add_argument("--events", type=Path, metavar="FILE", help="append what happens to FILE, as JSON lines")
    fit.add_argument("--heartbeat", type=Path, metavar="FILE", help="touch FILE every second for as long as this lives")
    fit.add_argument("--tensorboard", type=Path, metavar="FOLDER", help="log the epochs to TensorBoard (needs that package)")
    fit.add_argument("--mlflow", metavar="URI", help="log the epochs to MLflow's server there (needs mlflow-skinny)")
    _add_recipe(fit)


def _add_recipe(parser: argparse.ArgumentParser, only: frozenset[str] | None = None) -> None:
    parser.add_argument(
        "--recipe", metavar="NAME|FILE", help=f"{', '.join(recipes.names())}; or a TOML file with any of the keys below"
    )
    keys = parser.add_argument_group("recipe keys, as --key value or key=value")
    for key, field in Recipe.model_fields.items():
        if only is not None and key not in only:
            continue
        default = {"lr": "by rule"}.get(key, "auto") if field.default is None else field.default
        text = f"{field.description or ''} (default: {default})".strip().replace("%", "%%")
        keys.add_argument(f"--{key.replace('_', '-')}", dest=f"recipe_{key}", metavar="VALUE", help=text)
