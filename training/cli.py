"""`python -m training`: the trainer's command line, and the one way in which the service starts it.

Progress and errors go to stderr; the last line of stdout is the result (`NAME:VERSION` of a fit, `promote` or `reject` of the
gate). Exit 0; 2 when the input cannot be used, with one sentence; 69 when the registry's object store cannot be reached, 70 for
a defect, 71 out of memory, 74 no space on the disk; 75 when SIGTERM came and the same command can go on; 130 when interrupted.
torch is imported only by the commands that need it.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from models.open_registry import open_registry
from models.recipe import Recipe
from models.reference import parse_reference
from models.settings import read_home_settings
from models.trainer import EXIT_CHECKPOINTED, EXIT_INTERRUPTED
from training import recipes
from training.arguments import parse
from training.errors import Preempted, TrainingError
from training.failures import failure_of
from training.heartbeat import heartbeat
from training.progress import is_main
from training.stop import Stop

if TYPE_CHECKING:
    import argparse

    from models.registry import Registry
    from models.settings import HomeSettings
    from training.progress import Events

# How long torch's OpenMP threads spin before they sleep, in libgomp's iterations; read when torch is imported. Its default
# is longer than the gaps between layers, so that beside another busy process threads spin away the time of the one that
# they wait for. On two cores this is as fast as any value when alone; OMP_WAIT_POLICY=passive is twice as fast beside a busy
# process, and a fifth slower alone.
WAITING = ("GOMP_SPINCOUNT", "20000")


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit code."""
    options = parse(arguments)
    os.environ.setdefault(*WAITING)
    # Said, since a shell starts what runs in its background with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Before torch is imported, which takes seconds.
    options.stop = Stop()
    options.stop.listen()
    try:
        with heartbeat(getattr(options, "heartbeat", None) if is_main() else None):
            settings = read_home_settings()
            registry = open_registry(settings.registry_place, settings.cache_root, is_patient=True)
            result = _COMMANDS[options.command](options, registry, settings)
    except Preempted as err:
        sys.stderr.write(f"\nstopped{_what_is_kept(options, err)}\n")
        return EXIT_CHECKPOINTED
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; what was in progress is not published\n")
        return EXIT_INTERRUPTED
    except Exception as err:  # noqa: BLE001 - the last one to catch it: every failure has a code
        failure = failure_of(err)
        if failure.code == "internal":
            traceback.print_exception(err)
        sys.stderr.write(f"{failure.sentence}\n")
        return failure.exit_code
    if result and is_main():
        sys.stdout.write(f"{result}\n")
    return 0


def _what_is_kept(options: argparse.Namespace, stopped: Preempted) -> str:
    if options.command != "fit":
        return ""
    again = "the same command" if options.run else "the same command with --resume"
    kept = "what was trained so far is kept, and" if stopped.kept else "nothing was trained yet;"
    return f"; {kept} {again} {'goes on' if stopped.kept else 'begins again'}"


def _recipe(options: argparse.Namespace) -> Recipe:
    flags = [f"{key}={value}" for key in Recipe.model_fields if (value := getattr(options, f"recipe_{key}", None)) is not None]
    return Recipe.load(recipes.path_of(options.recipe), [*options.overrides, *flags])


def _scan(options: argparse.Namespace, registry: Registry, settings: HomeSettings) -> str:
    from training.survey import survey

    recipe = _recipe(options)
    return survey(_folders(options.data, settings), recipe, settings.runs_root).to_bytes().decode().rstrip()


def _folders(data: list[Path], settings: HomeSettings) -> list[Path]:
    """Where the images lie; a zip is unpacked into the cache first."""
    from models.archive import unpacked

    if Path() in data:
        raise TrainingError("the data set's path is empty; pass a folder, a CSV or a zip")
    return [unpacked(path.expanduser(), settings.cache_root) for path in data]


def _fit(options: argparse.Namespace, registry: Registry, settings: HomeSettings) -> str:
    from training.trackers import open_events

    events = open_events(options.events, options.tensorboard, options.mlflow, options.name)
    try:
        return _fit_and_tell(options, registry, settings, events)
    except Exception as err:
        failure = failure_of(err)
        events("failed", code=failure.code, error=failure.sentence)
        raise
    except (Preempted, KeyboardInterrupt) as err:
        events("stopped", kept=getattr(err, "kept", False))
        raise
    finally:
        events.close()


def _fit_and_tell(options: argparse.Namespace, registry: Registry, settings: HomeSettings, events: Events) -> str:
    recipe = _recipe(options)
    from training.fit import Options, fit

    chosen = Options(
        resume=options.resume,
        run=options.run,
        start_from=options.start_from,
        promotes_first=not options.no_promote,
        unrelated=options.unrelated,
        events=events,
        stop=options.stop,
    )
    return fit(_folders(options.data, settings), options.name, recipe, registry, settings.runs_root, chosen).reference


def _lr_find(options: argparse.Namespace, registry: Registry, settings: HomeSettings) -> str:
    recipe = _recipe(options)
    from training.lr_finder import lr_find

    return str(lr_find(_folders(options.data, settings), recipe, options.out, settings.runs_root))


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
    found = evaluate(artifact, scan(_folders([options.data], settings)[0], recipe, for_training=False))
    if options.html is not None:
        options.html.write_text(found.page(), encoding="utf-8")
    return found.evaluation.to_bytes().decode().rstrip()


def _gate(options: argparse.Namespace, registry: Registry, settings: HomeSettings) -> str:
    name, version = parse_reference(options.reference)
    if version is None:
        raise TrainingError(f"say which version of {name} to judge: {name}:N, one of {registry.versions(name)}")
    from training.gate import gate

    report = gate(name, version, registry)
    if options.out is not None:
        options.out.write_bytes(report.to_bytes())
    return report.verdict


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
    "gate": _gate,
    "publish-pretrained": _publish_pretrained,
    "backbones": _backbones,
    "sample-data": _sample_data,
    "quickstart": _quickstart,
}
