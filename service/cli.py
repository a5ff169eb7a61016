"""`python -m service` serves; `… score NAME FOLDER` classifies a folder; `… keys …` looks after the keys that callers show."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from models.errors import ContractError, SettingsError
from models.trainer import EXIT_INTERRUPTED
from service import launcher
from service.access import SCOPES
from service.keys import create_key, read_keys, revoke_key
from service.logs import EXIT_SETTINGS
from service.settings import read_settings

if TYPE_CHECKING:
    from service.access import KeyScope


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit code."""
    options = _parser().parse_args(arguments)
    if options.command is None:
        return launcher.main()
    if options.command == "score":
        return _score(options)
    try:
        path = read_settings().keys
        if path is None:
            raise SettingsError("CANDOR_KEYS is not set; say which file holds the keys, such as CANDOR_KEYS=var/keys.json")
        _COMMANDS[options.action](path, options)
    except SettingsError as err:
        sys.stderr.write(f"{err}\n")
        return EXIT_SETTINGS
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m service", description="Serve; or classify a folder; or look after the keys that callers show."
    )
    commands = parser.add_subparsers(dest="command", metavar="score|keys")
    score = commands.add_parser("score", help="classify every image of a folder, as /classify does, in lines of JSON on stdout")
    score.add_argument("model", metavar="NAME[:N]", help="a model; without N its version in production")
    score.add_argument("source", metavar="FOLDER", type=Path, help="images, in it and in folders below; or one image")
    score.add_argument("--top-k", metavar="N", help="labels to name for each image; as many as /classify without it")
    score.add_argument("--raw", action="store_true", help="probabilities as the network states them, and not calibrated")
    score.add_argument("--no-trust", action="store_true", help="leave out how far to believe each result")
    keys = commands.add_parser("keys", help="make, show and revoke keys in the file that CANDOR_KEYS names")
    actions = keys.add_subparsers(dest="action", required=True)
    create = actions.add_parser("create", help="make a key; its token is shown once, on stdout")
    create.add_argument("--scope", required=True, type=_scopes, help=f"what it may do, with commas between: {', '.join(SCOPES)}")
    create.add_argument("--id", help="how it is called; default: by its first scope")
    actions.add_parser("list", help="every key, its scopes, and when it was made")
    actions.add_parser("revoke", help="take a key away; a running service follows within a second").add_argument("id")
    return parser


def _scopes(text: str) -> tuple[KeyScope, ...]:
    given = {part.strip() for part in text.split(",") if part.strip()}
    unknown = sorted(given.difference(SCOPES))
    if unknown or not given:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown) or 'nothing'} is no scope, expected some of {', '.join(SCOPES)}")
    return tuple(scope for scope in SCOPES if scope in given)


def _score(options: argparse.Namespace) -> int:
    try:
        # Only here: the runtime takes a second to import, and nothing else of this module needs it.
        scoring = importlib.import_module("service.score")
        wish = scoring.read_wish(options.model, options.source, options.top_k, is_raw=options.raw, has_trust=not options.no_trust)
        return int(scoring.score(read_settings(), wish))
    except ContractError as err:
        sys.stderr.write(f"{err}\n")
        return EXIT_SETTINGS
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _create(path: Path, options: argparse.Namespace) -> None:
    key, token = create_key(path, options.scope, options.id)
    sys.stderr.write(f"key {key.id} may {', '.join(key.scopes)}; this is its token, which is not kept and not shown again:\n")
    sys.stdout.write(f"{token}\n")


def _list(path: Path, options: argparse.Namespace) -> None:
    del options
    for key in read_keys(path).keys:
        sys.stdout.write(f"{key.id:24} {key.created:%Y-%m-%d %H:%M}  {','.join(key.scopes)}\n")


def _revoke(path: Path, options: argparse.Namespace) -> None:
    revoke_key(path, options.id)
    sys.stdout.write(f"{options.id} is revoked\n")


_COMMANDS = {"create": _create, "list": _list, "revoke": _revoke}
