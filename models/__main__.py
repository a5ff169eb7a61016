"""`python -m models`: look at the registry, move its aliases and tidy it; keep a data set.

Exit 0; 2 when what was asked for cannot be done, 65 when data is refused, 74 when the disk is full; with one sentence on
stderr.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from models.dataset_store import DatasetStore
from models.errors import ContractError, DatasetError, NoSpaceError
from models.manifest import summary
from models.open_registry import open_registry
from models.reference import parse_reference
from models.settings import read_home_settings, read_place

if TYPE_CHECKING:
    from models.registry import Registry

EXIT_REFUSED, EXIT_FULL = os.EX_DATAERR, os.EX_IOERR
_EXITS: dict[type[Exception], int] = {DatasetError: EXIT_REFUSED, NoSpaceError: EXIT_FULL}
_BACKGROUND = 5


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        settings = read_home_settings()
        registry = open_registry(settings.registry_place, settings.cache_root)
        _COMMANDS[options.command](registry, options)
    except (ContractError, OSError) as err:
        sys.stderr.write(f"{err}\n")
        return _EXITS.get(type(err), 2)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m models", description="Look at the registry, move its aliases, and tidy it.")
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="names, versions, and which is in production")
    listing.add_argument("name", nargs="?")
    for command, text in (
        ("show", "manifest and calibration of a version, as JSON"),
        ("verify", "hash every file of a version"),
        ("promote", "point production at NAME:N"),
    ):
        commands.add_parser(command, help=text).add_argument("reference", metavar="NAME:N")
    commands.add_parser("rollback", help="point production at the version before it").add_argument("name")
    put = commands.add_parser("put-dataset", help="keep a folder or a zip of images, and say what is in it, as JSON")
    put.add_argument("source", metavar="FOLDER|ZIP", type=Path)
    put.add_argument("--name", required=True)
    put.add_argument("--into", type=Path, help="where data sets are kept; default: datasets in CANDOR_HOME")
    put.add_argument("--origin", default="this machine", help="where it comes from, for its card")
    put.add_argument("--background", action="store_true", help="leave the cores to whoever else wants them")
    delete = commands.add_parser("delete", help="delete a version that no alias needs; its number is not given again")
    delete.add_argument("reference", metavar="NAME:N")
    prune = commands.add_parser("prune", help="delete old versions, but none that an alias needs")
    which = prune.add_mutually_exclusive_group(required=True)
    which.add_argument("name", nargs="?")
    which.add_argument("--all", action="store_true", help="of every name")
    prune.add_argument("--keep", type=_count, required=True, metavar="N", help="how many of the newest stay whatever happens")
    copied = commands.add_parser("copy", help="copy a version into another registry, under its own number")
    copied.add_argument("reference", metavar="NAME:N")
    copied.add_argument("target", metavar="FOLDER|URL", help="the other registry, a folder or an object store")
    exported = commands.add_parser(
        "export-bento", help="put a version into BentoML's model store, for `bentoml build` to bake in"
    )
    exported.add_argument("reference", metavar="NAME[:N]", help="without N the version in production")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of versions, 0 or more")
    return int(text)


def _list(registry: Registry, options: argparse.Namespace) -> None:
    if options.name and not registry.versions(options.name):
        registry.resolve(options.name)
    for name in [options.name] if options.name else registry.names():
        aliases = registry.aliases(name)
        for version in registry.versions(name):
            marks = " ".join(alias for alias in ("production", "candidate") if getattr(aliases, alias) == version)
            sys.stdout.write(f"{name}:{version:<5} {_describe(registry, name, version)} {marks}".rstrip() + "\n")


def _describe(registry: Registry, name: str, version: int) -> str:
    """One version on one line; one that cannot be read does not hide the others."""
    try:
        card = summary(registry.manifest(name, version), registry.confidence(name, version))
    except ContractError as err:
        return f"cannot be read: {str(err).splitlines()[0]}"
    what = f"{'a number':>12}" if card["task"] == "regression" else f"{card['labels']:>5} labels"
    scores = "" if card["score"] is None else f"{card['score_name']} {card['score']:.3f}"
    if card["nll"] is not None:
        scores += f"  nll {card['nll']:.3f}"
    if card["mae"] is not None:
        scores += f"  mae {card['mae']:.3g} {card['unit'] or ''}".rstrip()
    return f"{card['backbone']:22} {what}  {scores:26} calibration {card['calibration']:8}"


def _show(registry: Registry, options: argparse.Namespace) -> None:
    name, version = registry.resolve(options.reference)
    manifest = registry.manifest(name, version)
    shown = {
        "manifest": manifest.model_dump(mode="json"),
        "confidence": registry.confidence(name, version).model_dump(mode="json"),
    }
    sys.stdout.write(json.dumps(shown, indent=2, ensure_ascii=False) + "\n")


def _verify(registry: Registry, options: argparse.Namespace) -> None:
    manifest = registry.verify(*registry.resolve(options.reference))
    sys.stdout.write(f"{manifest.reference}: {len(manifest.files)} files match their sha256\n")


def _exactly(registry: Registry, options: argparse.Namespace) -> tuple[str, int]:
    """Name and version, where a name alone will not do."""
    name, version = parse_reference(options.reference)
    if version is None:
        raise ContractError(f"say which version of {name}: {name}:N, one of {registry.versions(name)}")
    return name, version


def _promote(registry: Registry, options: argparse.Namespace) -> None:
    name, version = _exactly(registry, options)
    before = registry.aliases(name).production
    registry.promote(name, version)
    sys.stdout.write(
        f"{name}: production is {version}" + (" (it was already)" if before == version else f" (was {before})") + "\n"
    )


def _rollback(registry: Registry, options: argparse.Namespace) -> None:
    before = registry.aliases(options.name).production
    after = registry.rollback(options.name)
    sys.stdout.write(f"{options.name}: production is {after.production} (was {before})\n")


def _put_dataset(_: Registry, options: argparse.Namespace) -> None:
    """The last line of stdout is the card, and whether it is of a new version."""
    if options.background:
        os.nice(_BACKGROUND)
    store = DatasetStore(options.into or read_home_settings().datasets_root)
    stored = store.put(options.source, options.name, origin=options.origin)
    sys.stdout.write(json.dumps({"is_new": stored.is_new, "card": stored.card.model_dump(mode="json")}) + "\n")


def _delete(registry: Registry, options: argparse.Namespace) -> None:
    name, version = _exactly(registry, options)
    registry.delete(name, version)
    sys.stdout.write(f"{name}:{version} is deleted\n")


def _prune(registry: Registry, options: argparse.Namespace) -> None:
    if options.name and not registry.versions(options.name):
        registry.resolve(options.name)
    for name in [options.name] if options.name else registry.names():
        deleted = registry.prune(name, options.keep)
        what = ", ".join(map(str, deleted)) or "nothing"
        sys.stdout.write(f"{name}: deleted {what}; {', '.join(map(str, registry.versions(name)))} stay\n")


def _copy(registry: Registry, options: argparse.Namespace) -> None:
    name, version = _exactly(registry, options)
    try:
        place = read_place(options.target)
    except ValueError as err:
        raise ContractError(f"{options.target} {err}") from err
    target = open_registry(place.expanduser() if isinstance(place, Path) else place, read_home_settings().cache_root)
    sys.stdout.write(f"{registry.copy(name, version, target)}\n")


def _export_bento(registry: Registry, options: argparse.Namespace) -> None:
    name, version = registry.resolve(options.reference)
    if importlib.util.find_spec("bentoml") is None:
        raise ContractError("bentoml is not installed here; export where the service is")
    # A store of candor's own, unless somebody chose one. Both are read when bentoml is imported, which takes seconds.
    os.environ.setdefault("BENTOML_HOME", str((read_home_settings().home / "bentoml").absolute()))
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "true")
    tag = importlib.import_module("models.store").export(registry, name, version)
    sys.stderr.write(f"{name}:{version} is in BentoML's model store in {os.environ['BENTOML_HOME']}; its tag there is\n")
    sys.stdout.write(f"{tag}\n")


_COMMANDS = {
    "list": _list,
    "show": _show,
    "verify": _verify,
    "promote": _promote,
    "rollback": _rollback,
    "put-dataset": _put_dataset,
    "delete": _delete,
    "prune": _prune,
    "copy": _copy,
    "export-bento": _export_bento,
}

if __name__ == "__main__":
    sys.exit(main())
