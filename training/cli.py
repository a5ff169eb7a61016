"""`python -m training`: the trainer's command line, and the one way in which the service starts it.

Progress and errors go to stderr; the last line of stdout is `NAME:VERSION`. Exit 0; 2 when the input cannot be used, with
one sentence; 130 when interrupted. torch is imported only by the commands that need it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from models.errors import ContractError
from models.recipe import Recipe
from models.registry import Registry
from models.settings import read_home_settings
from training.errors import TrainingError

if TYPE_CHECKING:
    from models.settings import HomeSettings

EXIT_INPUT, EXIT_INTERRUPTED = 2, 130
# How long torch's OpenMP threads spin before they sleep, in libgomp's iterations; read when torch is imported. Its default
# is longer than the gaps between layers, so that beside another busy process threads spin away the time of the one that
# they wait for. On two cores this is as fast as any value when alone; OMP_WAIT_POLICY=passive is twice as fast beside a busy
# process, and a fifth slower alone.
WAITING = ("GOMP_SPINCOUNT", "20000")
_DATA = "class folders, with or without train/ val/ calibration/ test/ above them; images with label_pattern or label_file; a zip"


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit code."""
    options = _parse(arguments)
    os.environ.setdefault(*WAITING)
    # Both, since a shell starts what runs in its background with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        settings = read_home_settings()
        result = _COMMANDS[options.command](options, Registry(settings.registry_root), settings)
    except (ContractError, TrainingError, OSError) as err:
        sys.stderr.write(f"{err}\n")
        return EXIT_INPUT
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; what was in progress is not published\n")
        return EXIT_INTERRUPTED
    if result:
        sys.stdout.write(f"{result}\n")
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse flags, and take `key=value` from wherever it stands; argparse alone wants it before the first flag."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    strangers = [item for item in rest if item.startswith("-") or "=" not in item]
    if strangers or (rest and "recipe" not in options):
        parser.error(f"unrecognized arguments: {' '.join(strangers or rest)}")
    options.overrides = rest
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description="Fine-tune, calibrate, export and publish.")
    commands = parser.add_subparsers(dest="command", required=True)
    fit = commands.add_parser("fit", help="fine-tune on a folder of images and publish the result")
    fit.add_argument("data", type=Path, help=_DATA)
    fit.add_argument("--name", required=True, help="the model's name")
    _add_recipe(fit)
    scan = commands.add_parser("scan", help="report on a folder of images and train nothing: JSON on stdout, words on stderr")
    scan.add_argument("data", type=Path, help="as for fit")
    _add_recipe(scan)
    published = commands.add_parser("publish-pretrained", help="publish an ImageNet classifier as it comes")
    published.add_argument("--name", required=True, help="the model's name")
    _add_recipe(published)
    sample = commands.add_parser("sample-data", help="unpack the sample data (Fashion-MNIST, 10 labels, 4,200 images)")
    sample.add_argument("folder", type=Path)
    commands.add_parser("quickstart", help="publish imagenet and fashion where they are missing (make run does)")
    return parser


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", type=Path, help="a TOML file with any of the keys below")
    keys = parser.add_argument_group("recipe keys, as --key value or key=value")
    for key, field in Recipe.model_fields.items():
        default = "auto" if field.default is None else field.default
        text = f"{field.description or ''} (default: {default})".strip().replace("%", "%%")
        keys.add_argument(f"--{key.replace('_', '-')}", dest=f"recipe_{key}", metavar="VALUE", help=text)


def _recipe(options: argparse.Namespace) -> Recipe:
    flags = [f"{key}={value}" for key in Recipe.model_fields if (value := getattr(options, f"recipe_{key}")) is not None]
    return Recipe.load(options.recipe, [*options.overrides, *flags])


def _scan(options: argparse.Namespace, registry: Registry, settings: HomeSettings) -> str:
    from training.survey import survey

    recipe = _recipe(options)
    return survey(_data(options, settings), recipe, settings.runs_root).to_bytes().decode().rstrip()


def _data(options: argparse.Namespace, settings: HomeSettings) -> Path:
    """Where the images lie; a zip is unpacked into the cache first."""
    from models.archive import unpacked

    return unpacked(options.data.expanduser(), settings.home / "cache")


def _fit(options: argparse.Namespace, registry: Registry, settings: HomeSettings) -> str:
    recipe = _recipe(options)
    from training.fit import fit

    return fit(_data(options, settings), options.name, recipe, registry, settings.runs_root).reference


def _publish_pretrained(options: argparse.Namespace, registry: Registry, settings: HomeSettings) -> str:
    recipe = _recipe(options)
    from training.pretrained import publish_pretrained

    return publish_pretrained(options.name, recipe, registry, settings.runs_root).reference


def _sample_data(options: argparse.Namespace, registry: Registry, settings: HomeSettings) -> str:
    from training.sample import unpack_sample

    return str(unpack_sample(options.folder))


def _quickstart(options: argparse.Namespace, registry: Registry, settings: HomeSettings) -> str:
    if all(registry.aliases(name).production for name in ("imagenet", "fashion")):
        return ""
    from training.quickstart import quickstart

    quickstart(registry, settings.home, settings.runs_root)
    return ""


_COMMANDS = {
    "fit": _fit,
    "scan": _scan,
    "publish-pretrained": _publish_pretrained,
    "sample-data": _sample_data,
    "quickstart": _quickstart,
}
