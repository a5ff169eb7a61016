"""Every route of the real application has its scope, and there is no way round it.

A route that is new fails here until `service.access.TABLE` has it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.routing import iter_route_contexts
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.routing import Mount, Route, compile_path
from starlette.testclient import TestClient

from models.registry import Registry
from service.access import SCOPES, TABLE, KeyScope, find
from service.app import Classifier
from service.keys import create_key
from tests.support.tiny import publish_colours

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "ODD")
# BentoML's own document; ours is /openapi.json.
NOT_SERVED = {"/docs.json"}
VALUES = {"name": "colours", "version": "1", "image_id": "0" * 16, "id": "j1"}


def routes() -> dict[str, set[str]]:
    """Every path that the router knows, with its methods: BentoML's, the mounted application's, and static files."""
    found: dict[str, set[str]] = {}
    for route in Classifier.to_asgi().routes:
        if isinstance(route, Route):
            found[route.path] = set(route.methods or ())
        elif isinstance(route, Mount) and hasattr(route.app, "router"):
            for context in iter_route_contexts(route.app.routes):
                found.setdefault(context.path, set()).update(context.methods)
        elif isinstance(route, Mount):
            found[f"{route.path}/{{file:path}}"] = {"GET", "HEAD"}
        else:
            raise AssertionError(f"{route} is of a kind that this test does not know")
    return found


ROUTES = routes()


def filled(template: str) -> str:
    return re.sub(r"\{(\w+)(:path)?\}", lambda match: VALUES.get(match[1], "x"), template)


@pytest.fixture(scope="module")
def keys() -> dict[KeyScope, str]:
    return {}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, keys: dict[KeyScope, str]) -> Iterator[TestClient]:
    """The service in this process with a key for each scope; nothing follows redirects."""
    home: Path = tmp_path_factory.mktemp("access")
    publish_colours(Registry(home / "registry"), home / "work")
    for scope in SCOPES:
        keys[scope] = create_key(home / "keys.json", (scope,), scope)[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CANDOR_HOME", str(home))
        patch.setenv("CANDOR_KEYS", str(home / "keys.json"))
        patch.setenv("CANDOR_MUTATIONS_PER_MINUTE", "100000")
        application: Any = Classifier.to_asgi()
        with TestClient(application, "http://127.0.0.1:3000", raise_server_exceptions=False, follow_redirects=False) as client:
            while client.get("/readyz").status_code != 200:
                pass
            yield client


def test_walk_finds_the_routes_of_all_three() -> None:
    assert {"/classify", "/livez", "/models/{name}", "/metrics", "/static_content/{file:path}"} <= ROUTES.keys()


def test_every_route_and_method_has_a_scope() -> None:
    missing = {
        f"{method} {path}"
        for path, methods in ROUTES.items()
        for method in methods - {"HEAD"}
        if path not in NOT_SERVED and method not in TABLE.get(path, {})
    }
    assert missing == set(), "add them to service.access.TABLE, with the scope that they need"


@pytest.mark.parametrize("template", sorted({*ROUTES, *TABLE}))
def test_without_a_key_every_method_of_every_route_is_refused_or_open(client: TestClient, template: str) -> None:
    for method in METHODS:
        needs = TABLE.get(template, {})
        response = client.request(method, filled(template))
        if needs.get("GET" if method == "HEAD" else method) == "open":
            assert response.status_code not in {401, 403}, f"{method} {template}"
        else:
            assert response.status_code == 401, f"{method} {template}"
            assert response.headers["www-authenticate"] == 'Bearer realm="candor"'


def test_each_scope_opens_its_own_routes_and_no_others(client: TestClient, keys: dict[KeyScope, str]) -> None:
    for template, needs in TABLE.items():
        for method, need in needs.items():
            for scope in SCOPES if need != "open" else ():
                response = client.request(method, filled(template), headers={"x-api-key": keys[scope]})
                about = f"{method} {template} with a key for {scope}: {response.status_code} {response.text[:200]}"
                if scope in (need, "admin"):
                    assert response.status_code not in {401, 403, 405, 500}, about
                else:
                    assert (response.status_code, response.json()["code"]) == (403, "missing_scope"), about


def test_unknown_path_needs_a_key_and_is_not_there(client: TestClient, keys: dict[KeyScope, str]) -> None:
    for path in ("/nope", "/docs.json", "/.env", "/models/a/b/c", "/schema.json/x"):
        assert client.get(path).status_code == 401
        assert client.get(path, headers={"x-api-key": keys["admin"]}).json()["code"] == "not_found"


@pytest.mark.parametrize("template", sorted(ROUTES.keys() - NOT_SERVED))
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_whatever_the_router_takes_for_a_route_is_that_route_to_the_guard_or_none(template: str, data: st.DataObject) -> None:
    # As the router does it: its pattern ends in $, which also stands before a line break.
    pattern, _, _ = compile_path(template)
    path = data.draw(st.from_regex(pattern))
    assert pattern.match(path)
    found = find("GET", path)
    if found is not None:
        # The router asks its routes in order, so it may know the path by a more exact name first.
        first = next(known for known in ROUTES if compile_path(known)[0].match(path))
        assert found.template == first


def test_document_says_of_each_route_what_it_needs(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"].keys() == {"bearer", "key"}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            need = TABLE[path][method.upper()]
            if need == "open":
                assert operation["security"] == []
            else:
                # Nothing is needed where there are no keys, which the document cannot know.
                assert operation["security"] == [{"bearer": [need]}, {"key": [need]}, {}]
                assert f"`{need}`" in operation["description"]
                assert "401" in operation["responses"]
    hidden = {"/", "/docs", "/openapi.json", "/schema.json", "/healthz", "/static_content/{file:path}", *NOT_SERVED}
    assert document["paths"].keys() == ROUTES.keys() - hidden
