"""Schemathesis over the real service: what /openapi.json allows, and what it does not, is answered as it says, never by a 5xx."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from models.registry import Registry
from service.api.app import build_app
from service.api.openapi import complete
from service.engine import EngineRef
from tests.support.server import serve
from tests.support.tiny import PRESENCE, publish_colours, publish_tiny

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.server import Server

pytestmark = pytest.mark.e2e
# Of each operation and mode: some 800 requests in all.
EXAMPLES = 12
CHECKS = [content_type_conformance, response_schema_conformance, status_code_conformance]
# What is there, so that not every path ends at a name that is unknown.
KNOWN = {"name": "colours", "version": 1}
DOCUMENT = complete(build_app(EngineRef()))


@schemathesis.serializer("application/zip")
def _as_bytes(_: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("fuzzed")
    publish_colours(Registry(home / "registry"), home / "work")
    publish_tiny(Registry(home / "registry"), home / "work", "presence", PRESENCE)
    with serve(home, run="serve", mutations_per_minute=1_000_000, keep_images=True, default_model="colours") as server:
        yield server


def ask(server: Server, operation: schemathesis.APIOperation, mode: GenerationMode) -> list[int]:
    """Ask one operation for some cases, look at each answer, and return the statuses."""
    statuses: list[int] = []

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def one(case: schemathesis.Case) -> None:
        # Every other case is of something that is there.
        if len(statuses) % 2 == 0:
            case.path_parameters.update({key: KNOWN[key] for key in case.path_parameters if key in KNOWN})
        answer = case.call(base_url=server.url, timeout=10)
        statuses.append(answer.status_code)
        # Nobody runs jobs here, and a caller may say that it waits a millisecond.
        assert answer.status_code < 500 or answer.json()["code"] in {"no_supervisor", "deadline_exceeded"}, answer.text
        case.validate_response(answer, checks=CHECKS)

    # An operation without anything that could be wrong has no wrong case.
    with contextlib.suppress(Unsatisfiable):
        one()
    return statuses


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_whatever_the_document_allows_or_not_is_answered_as_it_says(server: Server, mode: GenerationMode) -> None:
    asked: dict[str, list[int]] = {}
    for found in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations():
        operation = found.ok()
        asked[f"{operation.method} {operation.path}"] = ask(server, operation, mode)
    if mode is GenerationMode.POSITIVE:
        assert all(asked.values()), asked
        assert sum(200 in statuses for statuses in asked.values()) > 10, asked
    else:
        assert sum(bool({400, 404, 405, 415, 422}.intersection(statuses)) for statuses in asked.values()) > 15, asked
