"""`python -m training`: the trainer's command line, and the one way in which the service starts it.

Progress and errors go to stderr; the last line of stdout is the result (`NAME:VERSION` of a fit). Exit 0; 2 when the input cannot
be used, with one sentence; 75 when SIGTERM came and `--resume` can go on; 130 when interrupted. torch is imported only by the
commands that need it.
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
from training import recipes
from training.errors import Preempted, TrainingError
from training.progress import is_main
from training.stop import Stop

if TYPE_CHECKING:
    from models.settings import HomeSettings

# 75 is sysexits' EX_TEMPFAIL: come again.
EXIT_INPUT, EXIT_CHECKPOINTED, EXIT_INTERRUPTED = 2, 75, 130
# How long torch's OpenMP threads spin before they sleep, in libgomp's iterations; read when torch is imported. Its default
# is longer than the gaps between layers, so that beside another busy process threads spin away the time of the one that
# they wait for. On two cores this is as fast as any value when alone; OMP_WAIT_POLICY=passive is twice as fast beside a busy
# process, and a fifth slower alone.
WAITING = ("GOMP_SPINCOUNT", "20000")
_DATA = (
    "class folders, with or without train/ val/ calibration/ test/ above; images with label_pattern or label_file; a CSV; a zip"
)

# Keys that say where the labels stand; the others are for training.
_DATA_KEYS = frozenset({"task", "label_pattern", "label_file", "image_column", "label_column", "label_separator", "seed"})


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit code."""
    options = _parse(arguments)
    os.environ.setdefault(*WAITING)
    # Said, since a shell starts what runs in its background with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Before torch is imported, which takes seconds.
    options.stop = Stop()
    options.stop.listen()
    try:
        settings = read_home_settings()
        result = _COMMANDS[options.command](options, Registry(settings.registry_root), settings)
    except (ContractError, TrainingError, OSError) as err:
        sys.stderr.write(f"{err}\n")
        return EXIT_INPUT
    except Preempted as err:
        kept = "what was trained so far is kept, and" if err.kept else "nothing was trained yet;"
        goes_on = "goes on" if err.kept else "begins again"
        sys.stderr.write(
            f"\nstopped; {kept} the same command with --resume {goes_on}\n" if options.command == "fit" else "\nstopped\n"
        )
        return EXIT_CHECKPOINTED
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; what was in progress is not published\n")
        return EXIT_INTERRUPTED
    if result and is_main():
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
    fit.add_argument("--resume", action="store_true", help="go on with the run of this name that was stopped")
    fit.add_argument(
        "--unrelated",
        type=Path,
        metavar="DIR",
        help="images of none of the labels, to test that they are told apart (default: made up)",
    )
    fit.add_argument("--events", type=Path, metavar="FILE", help="append what happens to FILE, as JSON lines")
    fit.add_argument("--tensorboard", type=Path, metavar="FOLDER", help="log the epochs to TensorBoard (needs that package)")
    fit.add_argument("--mlflow", metavar="URI", help="log the epochs to MLflow's server there (needs mlflow-skinny)")
    _add_recipe(fit)
    finder = commands.add_parser("lr-find", help="sweep the learning rate, and suggest one")
    finder.add_argument("data", type=Path, help=_DATA)
    finder.add_argument(
        "--out", type=Path, default=Path(), metavar="FOLDER", help="for lr-find.json and lr-find.png (default: here)"
    )
    _add_recipe(finder)
    scan = commands.add_parser("scan", help="report on a folder of images and train nothing: JSON on stdout, words on stderr")
    scan.add_argument("data", type=Path, help=_DATA)
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
    backbones = commands.add_parser("backbones", help="list the networks to choose from")
    backbones.add_argument("pattern", nargs="?", help="also every other CNN of timm that matches, as in 'convnext*'")
    sample = commands.add_parser("sample-data", help="unpack the sample data (Fashion-MNIST, 10 labels, 4,200 images)")
    sample.add_argument("folder", type=Path)
    commands.add_parser("quickstart", help="publish imagenet and fashion where they are missing (make run does)")
    return parser


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


def _recipe(options: argparse.Namespace) -> Recipe:
    flags = [f"{key}={value}" for key in Recipe.model_fields if (value := getattr(options, f"recipe_{key}", None)) is not None]
    return Recipe.load(recipes.path_of(options.recipe), [*options.overrides, *flags])


def _scan(options: argparse.Namespace, registry: Registry, settings: HomeSettings) -> str:
    from training.survey import survey

    recipe = _recipe(options)
    return survey(_data(options, settings), recipe, settings.runs_root).to_bytes().decode().rstrip()


def _data(options: argparse.Namespace, settings: HomeSettings) -> Path:
    """Where the images lie; a zip is unpacked into the cache first."""
    from models.archive import unpacked

    if options.data == Path():
        raise TrainingError("the data set's path is empty; pass a folder, a CSV or a zip")
    return unpacked(options.data.expanduser(), settings.cache_root)


def _fit(options: argparse.Namespace, registry: Registry, settings: HomeSettings) -> str:
    recipe = _recipe(options)
    from training.fit import Options, fit
    from training.trackers import open_events

    events = open_events(options.events, options.tensorboard, options.mlflow, options.name)
    try:
        chosen = Options(resume=options.resume, unrelated=options.unrelated, events=events, stop=options.stop)
        return fit(_data(options, settings), options.name, recipe, registry, settings.runs_root, chosen).reference
    finally:
        events.close()


def _lr_find(options: argparse.Namespace, registry: Registry, settings: HomeSettings) -> str:
    recipe = _recipe(options)
    from training.lr_finder import lr_find

    return str(lr_find(_data(options, settings), recipe, options.out, settings.runs_root))


def _report(options: argparse.Namespace, registry: Registry, settings: HomeSettings) -> str:
    name, version = registry.resolve(options.reference)
    from training.report import render_from_artifact

    out: Path = options.out or Path(f"{name}-{version}.html")
    out.write_text(render_from_artifact(registry.path(name, version)), encoding="utf-8")
    return str(out)


def _evaluate(options: argparse.Namespace, registry: Registry, settings: HomeSettings) -> str:
    recipe = _recipe(options)
    from models.artifact import Artifact
    from models.dataset import scan
    from training.evaluate import evaluate

    if options.html is not None and not options.html.parent.is_dir():
        raise TrainingError(f"--html {options.html}: there is no folder {options.html.parent}")
    artifact = Artifact.load(registry.path(*registry.resolve(options.reference)))
    if recipe.task is None:
        recipe = recipe.model_copy(update={"task": artifact.manifest.task})
    found = evaluate(artifact, scan(_data(options, settings), recipe, for_training=False))
    if options.html is not None:
        options.html.write_text(found.page(), encoding="utf-8")
    return found.evaluation.to_bytes().decode().rstrip()


def _publish_pretrained(options: argparse.Namespace, registry: Registry, settings: HomeSettings) -> str:
    recipe = _recipe(options)
    from training.pretrained import publish_pretrained

    return publish_pretrained(options.name, recipe, registry, settings.runs_root).reference


def _backbones(options: argparse.Namespace, registry: Registry, settings: HomeSettings) -> str:
    from training.catalogue import table

    for line in table(options.pattern):
        sys.stdout.write(f"{line}\n")
    return ""


def _sample_data(options: argparse.Namespace, registry: Registry, settings: HomeSettings) -> str:
    from training.sample import unpack_sample

    return str(unpack_sample(options.folder))


def _quickstart(options: argparse.Namespace, registry: Registry, settings: HomeSettings) -> str:
    if all(registry.aliases(name).production for name in ("imagenet", "fashion")):
        return ""
    from models.dataset_store import DatasetStore
    from training.quickstart import quickstart

    quickstart(registry, DatasetStore(settings.datasets_root), settings.runs_root)
    return ""


_COMMANDS = {
    "fit": _fit,
    "lr-find": _lr_find,
    "scan": _scan,
    "report": _report,
    "evaluate": _evaluate,
    "publish-pretrained": _publish_pretrained,
    "backbones": _backbones,
    "sample-data": _sample_data,
    "quickstart": _quickstart,
}
