"""`POST /models/{name}/promote`, `/rollback`: move the alias by hand, and only from where the caller saw it."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Header, Response
from pydantic import BaseModel, ConfigDict, Field

from models.errors import ConflictError as AliasMovedError
from models.errors import NothingToRollBackError as NoEarlierVersionError
from models.errors import UnknownModelError as NoSuchModelError
from models.gate_report import GateReport  # noqa: TC001 - FastAPI reads the annotation
from models.manifest import NAME_PATTERN
from service.api.openapi import problems
from service.audit import note
from service.errors import (
    BadRequestError,
    ConflictError,
    NotFoundError,
    NothingToRollBackError,
    PreconditionFailedError,
    UnknownModelError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.registry import Aliases, Registry
    from service.engine import EngineRef

_TAG = re.compile(r'(?:W/)?"(\d{1,18})"|\*')
IfMatch = Annotated[str | None, Header(description="the ETag of `GET /models/{name}`: 412 where the alias moved since")]


class PromoteRequest(BaseModel):
    """Which version."""

    model_config = ConfigDict(extra="forbid")

    version: int = Field(ge=1, le=999_999_999)


class AliasCard(BaseModel):
    """What the aliases of a name point to now."""

    name: str
    production: int | None
    candidate: int | None
    previous: list[int] = Field(description="earlier production versions, newest last; rollback goes to the last")
    epoch: int = Field(description="grows with every move; it is the ETag")


def etag(aliases: Aliases) -> str:
    """The tag of a name's aliases."""
    return f'"{aliases.epoch}"'


def promotion_router(engine: EngineRef) -> APIRouter:
    """The routes, over an engine that exists when they are called."""
    router = APIRouter(tags=["models"])

    @router.post("/models/{name}/promote", summary="Put a version into production", responses=problems(409, 412))
    def promote(name: str, asked: PromoteRequest, response: Response, if_match: IfMatch = None) -> AliasCard:
        registry, expected = engine.get().registry, _expected(if_match)
        move = partial(registry.promote, version=asked.version, expected_epoch=expected)
        return _move(registry, name, response, if_match, move)

    @router.post("/models/{name}/rollback", summary="Put the version before into production", responses=problems(409, 412))
    def rollback(name: str, response: Response, if_match: IfMatch = None) -> AliasCard:
        registry, expected = engine.get().registry, _expected(if_match)
        return _move(registry, name, response, if_match, partial(registry.rollback, expected_epoch=expected))

    @router.get("/models/{name}/versions/{version}/gate", summary="How a version compared with production")
    def show_gate(name: str, version: int) -> GateReport:
        _check_name(name)
        report = engine.get().registry.read_gate(name, version)
        if report is None:
            raise NotFoundError(f"{name}:{version} was never judged by the gate")
        return report

    return router


def _expected(if_match: str | None) -> int | None:
    """The epoch that an If-Match asks for; None where there is none, or any will do."""
    if if_match is None:
        return None
    found = _TAG.fullmatch(if_match.strip())
    if found is None:
        raise BadRequestError(f'If-Match is {if_match!r:.80}, expected the ETag of GET /models/{{name}}, such as "3"')
    return int(found[1]) if found[1] else None


def _move(registry: Registry, name: str, response: Response, if_match: str | None, move: Callable[[str], Aliases]) -> AliasCard:
    _check_name(name)
    try:
        before = registry.aliases(name).production
        aliases = move(name)
    except NoSuchModelError as err:
        raise UnknownModelError(str(err)) from err
    except NoEarlierVersionError as err:
        raise NothingToRollBackError(str(err)) from err
    except AliasMovedError as err:
        raise (ConflictError if if_match is None else PreconditionFailedError)(str(err)) from err
    note(from_version=before, to_version=aliases.production)
    response.headers["etag"] = etag(aliases)
    return AliasCard(
        name=name,
        production=aliases.production,
        candidate=aliases.candidate,
        previous=list(aliases.previous),
        epoch=aliases.epoch,
    )


def _check_name(name: str) -> None:
    if not re.fullmatch(NAME_PATTERN, name):
        raise UnknownModelError(f"there is no model named {name!r:.80}")
