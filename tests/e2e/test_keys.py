"""A service with keys, as callers meet it: over real sockets, by BentoML's client, with the command line beside it."""

from __future__ import annotations

import http.client
import json
import random
import re
import socket
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import bentoml
import httpx
import pytest

from models.registry import Registry
from service.access import SCOPES, TABLE
from service.keys import create_key
from tests.support.pictures import picture
from tests.support.server import ROOT, environment, free_port, serve
from tests.support.tiny import publish_colours

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from service.access import Need
    from tests.support.server import Server

pytestmark = pytest.mark.e2e
PNG = {"content-type": "image/png"}
METRICS_PORT = free_port()
NO_ROUTE = "there is no such route; /docs shows every one"
VALUES = {"name": "colours", "version": "1", "image_id": "0" * 16}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("keyed")
    publish_colours(Registry(home / "registry"), home / "work")
    (home / "blue.png").write_bytes(picture("blue"))
    return home


@pytest.fixture(scope="module")
def tokens(home: Path) -> dict[str, str]:
    """A key for each scope, named after it, and `no-SCOPE` with all others; `admin` would be all of them."""
    each = {scope: (scope,) for scope in SCOPES}
    but = {f"no-{but}": tuple(scope for scope in SCOPES if scope not in (but, "admin")) for but in SCOPES}
    return {name: create_key(home / "keys.json", scopes, name)[1] for name, scopes in {**each, **but}.items()}


@pytest.fixture(scope="module")
def server(home: Path, tokens: dict[str, str]) -> Iterator[Server]:
    with serve(home, keys=home / "keys.json", metrics_port=METRICS_PORT, mutations_per_minute=100_000) as server:
        yield server


def command(home: Path, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        cwd=ROOT,
        env=environment(home, **settings),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_key_made_by_the_command_works_until_it_is_revoked(home: Path, server: Server, client: httpx.Client) -> None:
    done = command(home, "keys", "create", "--scope", "predict", "--id", "shop", keys=home / "keys.json")
    assert done.returncode == 0, done.stderr
    headers = {**PNG, **bearer(done.stdout.strip())}
    until = time.monotonic() + 3
    while (answer := client.post("/classify", content=picture("green"), headers=headers)).status_code != 200:
        assert time.monotonic() < until, answer.text
        time.sleep(0.1)
    assert answer.json()["results"][0]["predictions"][0]["label"] == "green"
    assert client.post("/explain-confidence", content=picture("green"), headers=headers).json()["code"] == "missing_scope"
    assert command(home, "keys", "revoke", "shop", keys=home / "keys.json").returncode == 0
    until = time.monotonic() + 3
    while client.post("/classify", content=picture("green"), headers=headers).status_code != 401:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert server.process.poll() is None


def test_bentomls_client_shows_its_token(home: Path, server: Server, tokens: dict[str, str]) -> None:
    photo = str(home / "blue.png")
    with bentoml.SyncHTTPClient(server.url, token=tokens["no-train"]) as client:
        answer = client.classify(images=[photo], top_k=1)
        explained = client.explain_confidence(image=photo)
    assert answer["results"][0]["predictions"][0]["label"] == "blue"
    assert explained["model"]["name"] == "colours"
    with (
        bentoml.SyncHTTPClient(server.url, token="candor_unknown") as client,
        pytest.raises(bentoml.exceptions.BentoMLException, match="unauthenticated"),
    ):
        client.classify(images=[photo])


@pytest.mark.parametrize("route", ["POST /classify", "PUT /datasets/x", "POST /nope"])
def test_large_upload_without_a_key_is_refused_before_a_byte_of_it_is_sent(server: Server, route: str) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        lines = (f"{route} HTTP/1.1", f"host: {host}", "content-type: image/png", "content-length: 20000000000", "", "")
        connection.sendall("\r\n".join(lines).encode())
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"www-authenticate: Bearer" in answer


def test_sender_that_waits_to_be_told_is_not_told_to_go_on(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        lines = ("POST /classify HTTP/1.1", f"host: {host}", "expect: 100-continue", "content-length: 1000", "", "")
        connection.sendall("\r\n".join(lines).encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")


def test_open_routes_are_open_and_the_page_of_routes_loads(client: httpx.Client) -> None:
    for path in ("/livez", "/readyz", "/healthz", "/docs", "/openapi.json", "/schema.json", "/static_content/swagger-ui.css"):
        assert client.get(path).status_code == 200, path
    assert client.get("/").headers["location"] == "/docs"


def test_metrics_have_a_port_of_their_own_and_a_scope_here(client: httpx.Client, tokens: dict[str, str]) -> None:
    assert client.get("/metrics").status_code == 401
    assert "candor_in_flight" in client.get("/metrics", headers=bearer(tokens["metrics"])).text
    apart = httpx.get(f"http://127.0.0.1:{METRICS_PORT}/metrics")
    assert 'candor_auth_failures_total{reason="no_key"}' in apart.text


def spellings(path: str, rng: random.Random) -> Iterator[str]:
    """Ways to write a path that some router, proxy or file system takes for the same."""
    yield from (path, path + "/", path + "//", "/" + path, path + "/.", path + "%0a", path + "%0d%0a", path + "%00", path + "%20")
    yield from (path + ";x", path + ";/", path + "?x=/", path + "#x", path + "%3f", path + "%23", path + "%2f", path + "/..%2f")
    yield from (path.upper(), path.title(), "/." + path, "/x/.." + path, "/livez/.." + path, "/livez/%2e%2e" + path)
    yield from (
        "/static_content/.." + path,
        "/static_content/..%2f" + path[1:],
        "http://127.0.0.1" + path,
        path.replace("/", "\\"),
    )
    yield "".join(f"%{ord(char):02x}" if char != "/" else char for char in path)
    yield "".join(f"%{ord(char):02X}" for char in path)
    yield "/" + "".join(f"%{ord(char):02x}" for char in path[1:])
    yield path.replace("/", "%2f")
    yield path.replace("/", "/%2f")
    for _ in range(6):
        place = rng.randrange(len(path) + 1)
        yield (
            path[:place]
            + rng.choice(["/", "%2f", "%0a", "%00", "%09", ".", "/.", "/../", ";", "%c0%af", "%ef%bc%8f"])
            + path[place:]
        )


def test_no_spelling_of_a_path_gets_round_its_scope(server: Server, tokens: dict[str, str]) -> None:
    rng = random.Random(5)
    seen: set[str] = set()
    with closing(http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)) as connection:
        for method, path, need in every_route():
            for spelt in spellings(path, rng):
                for asked in (method, "HEAD" if method == "GET" else "OPTIONS"):
                    status, body = ask(connection, asked, spelt, tokens[f"no-{need}"])
                    # What the HTTP server itself cannot read is its own plain 400.
                    said = json.loads(body) if body and status != 400 else {}
                    about = f"{asked} {spelt!r} with every scope but {need}: {status} {body[:200]!r}"
                    # Refused, or no route at all; HEAD says no more than that.
                    assert status in {400, 403, 404, 405}, about
                    assert status != 404 or not body or said["detail"] == NO_ROUTE, about
                    seen.add(said.get("code", ""))
    # All of these came up, so that none of them is what everything was.
    assert {"missing_scope", "not_found", "method_not_allowed"} <= seen


def every_route() -> Iterator[tuple[str, str, Need]]:
    """Method, path and scope of each route that needs one."""
    for template, needs in TABLE.items():
        path = re.sub(r"\{(\w+)(:path)?\}", lambda match: VALUES.get(match[1], "x"), template)
        yield from ((method, path, need) for method, need in needs.items() if need != "open")


def ask(connection: http.client.HTTPConnection, method: str, path: str, token: str) -> tuple[int, bytes]:
    """Ask for a path exactly as it is written."""
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in {"host": "127.0.0.1", "x-api-key": token, "content-length": "0"}.items():
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    return response.status, response.read()


def test_slash_at_the_end_leads_on_for_who_may(client: httpx.Client, tokens: dict[str, str]) -> None:
    answer = client.get("/models/", headers=bearer(tokens["predict"]))
    assert (answer.status_code, httpx.URL(answer.headers["location"]).path) == (307, "/models")
    assert client.get("/models/").status_code == 401


def test_upgrade_to_a_websocket_is_refused(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        upgrade = (
            "connection: upgrade",
            "upgrade: websocket",
            "sec-websocket-version: 13",
            "sec-websocket-key: eDpy3Q3l2QfvqJk6IXZ3aA==",
        )
        connection.sendall("\r\n".join(("GET /models HTTP/1.1", f"host: {host}", *upgrade, "", "")).encode())
        assert connection.recv(65536).startswith((b"HTTP/1.1 403 ", b"HTTP/1.1 401 "))


def test_mutations_are_on_record_whatever_became_of_them(
    home: Path, server: Server, client: httpx.Client, tokens: dict[str, str]
) -> None:
    token = tokens["train"]
    client.post("/models/colours/promote", headers={"x-request-id": "no-key"})
    client.post("/models/co%0Alours/promote", headers={"x-request-id": "no-route"})
    client.post("/models/colours/promote", headers={**bearer(token), "x-request-id": "no-scope"})
    client.put("/datasets/..%0d%0a%22", headers={**bearer(token), "x-request-id": "odd"})
    client.post("/classify", content=picture("red"), headers={**PNG, **bearer(token), "x-request-id": "inference"})
    records = [json.loads(line) for line in (home / "audit.jsonl").read_text().splitlines()]
    assert {"no-route", "odd", "inference"}.isdisjoint(record["request_id"] for record in records)
    chosen = {record["request_id"]: record for record in records}
    fields = ("key", "client", "action", "object", "result", "status")
    assert [chosen["no-key"][field] for field in fields] == [
        None,
        "127.0.0.1",
        "POST /models/{name}/promote",
        "colours",
        "refused",
        401,
    ]
    assert [chosen["no-scope"][field] for field in ("key", "status")] == ["train", 403]
    assert token not in (home / "audit.jsonl").read_text() + server.log.read_text()


def test_key_file_that_is_no_good_is_one_sentence_and_no_service(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text('{"keys": [')
    done = command(tmp_path, keys=tmp_path / "keys.json", port=free_port())
    assert done.returncode == 2
    assert "keys.json is not a key file: " in done.stderr
    assert done.stderr.count("\n") == 1
