"""Data sets over HTTP: what is kept, what is refused, and that nothing half-made stays, whoever fails."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from models.registry import Registry
from tests.support.pictures import picture
from tests.support.server import Server, serve
from tests.support.tiny import publish_colours
from tests.support.zips import HOSTILE, class_folders, zipped

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

pytestmark = pytest.mark.e2e
ZIP = {"content-type": "application/zip"}
LIMIT = 6_000_000


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("datasets")
    publish_colours(Registry(home / "registry"), home / "work")
    return home


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    # Bodies of other requests may take next to nothing: uploads are not counted among them.
    with serve(home, run="serve", max_dataset_bytes=LIMIT, max_body_bytes=100_000, queue_bytes=100_000) as server:
        yield server


@pytest.fixture(autouse=True)
def _leaves_nothing_half_made_and_still_answers(request: pytest.FixtureRequest, home: Path) -> Iterator[None]:
    yield
    if "client" in request.fixturenames:
        until = time.monotonic() + 10
        while unfinished(home) and time.monotonic() < until:
            time.sleep(0.05)
        assert unfinished(home) == []
        assert classify(request.getfixturevalue("client")) == "green"


def unfinished(home: Path) -> list[str]:
    return [path.name for path in (home / "datasets").glob(".*")]


def classify(client: httpx.Client) -> str:
    response = client.post("/classify", content=picture("green"), headers={"content-type": "image/png"})
    return str(response.json()["results"][0]["predictions"][0]["label"])


def put(client: httpx.Client, name: str, body: bytes, **headers: str) -> httpx.Response:
    return client.put(f"/datasets/{name}", content=body, headers={**ZIP, **headers})


def assert_problem(response: httpx.Response, status: int, code: str, words: str = "") -> None:
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert words in response.json()["detail"]


def connect(server: Server, path: str, length: int) -> socket.socket:
    """Begin an upload of `length` bytes, and send none of them."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    head = f"PUT {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/zip\r\ncontent-length: {length}\r\n\r\n"
    connection.sendall(head.encode())
    return connection


def answer(connection: socket.socket) -> str:
    received = b""
    while b"\r\n\r\n" not in received or not received.endswith(b"}"):
        more = connection.recv(65536)
        if not more:
            break
        received += more
    return received.decode()


def test_an_upload_is_kept_shown_and_deleted(client: httpx.Client, home: Path, tmp_path: Path) -> None:
    entries = class_folders(tmp_path, 20)
    made = put(client, "birds", zipped({**entries, "red/broken.png": b"\x89PNG\r\n\x1a\n"}))
    assert made.status_code == 201, made.text
    card = made.json()
    assert (card["name"], card["images"], card["labels"]) == ("birds", 40, {"green": 20, "red": 20})
    assert [(finding["kind"], finding["count"]) for finding in card["findings"]] == [("unreadable", 1)]
    assert made.headers["location"] == f"/datasets/birds?version={card['version']}"
    assert len(list((home / "datasets" / "birds" / card["version"] / "files" / "red").iterdir())) == 21

    second = put(client, "birds", zipped({f"photos/{name}": content for name, content in entries.items()}))
    assert second.status_code == 201
    assert second.json()["findings"] == []
    assert second.json()["version"] != card["version"]
    same = put(client, "birds", zipped(entries, zipfile.ZIP_STORED))
    assert (same.status_code, same.json()) == (200, second.json())

    shown = client.get("/datasets/birds").json()
    assert shown == {**second.json(), "versions": [second.json()["version"], card["version"]]}
    assert client.get(made.headers["location"]).json()["images"] == 40
    assert [entry["version"] for entry in client.get("/datasets").json()["datasets"]] == [second.json()["version"]]

    gone = client.delete(f"/datasets/birds?version={card['version']}")
    assert gone.json() == {"deleted": [f"birds@{card['version']}"]}
    assert_problem(client.get(made.headers["location"]), 404, "unknown_dataset", card["version"])
    assert client.delete("/datasets/birds").status_code == 200
    assert_problem(client.delete("/datasets/birds"), 404, "unknown_dataset", "birds")
    assert client.get("/datasets").json() == {"datasets": []}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_refused_is_said_and_leaves_nothing(client: httpx.Client, home: Path, name: str) -> None:
    body, words = HOSTILE[name]
    before = sorted(home.rglob("*"))
    response = put(client, "hostile", body)
    assert_problem(response, 422, "invalid_dataset", words)
    assert str(home) not in response.text
    assert [path for path in sorted(home.rglob("*")) if path not in before and ".incoming-" not in str(path)] == []
    assert not Path("/tmp/outside.png").exists()


@pytest.mark.parametrize(
    ("path", "status"),
    [
        # What is no segment of a path at all is no route to the guard.
        ("/datasets/..", 404),
        ("/datasets/%2e%2e", 404),
        ("/datasets/%2e%2e%2f%2e%2e%2fregistry", 404),
        ("/datasets/a/../../registry", 404),
        ("/datasets/birds%00", 404),
        ("/datasets/" + "a" * 300, 400),
        ("/datasets/%E2%80%A4%E2%80%A4", 400),
        ("/datasets/birds.", 400),
        ("/datasets/CON", 400),
        ("/datasets/.incoming-1", 400),
        ("/datasets/birds%0d%0ax", 404),
    ],
)
def test_a_name_never_becomes_another_path(server: Server, client: httpx.Client, home: Path, path: str, status: int) -> None:
    # Sent as it is: clients tidy paths.
    before = sorted(path for path in home.rglob("*") if path.suffix != ".log")
    body = zipped({"cat/1.png": picture(), "dog/1.png": picture("blue")})
    with connect(server, path, len(body)) as connection:
        connection.sendall(body)
        assert answer(connection).startswith(f"HTTP/1.1 {status} ")
    for method in ("GET", "DELETE"):
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(f"{method} {path} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
            assert answer(connection).startswith("HTTP/1.1 404 ")
    assert sorted(path for path in home.rglob("*") if path.suffix != ".log") == before


def test_an_upload_over_the_limit_is_refused_before_it_is_read(server: Server, client: httpx.Client) -> None:
    with connect(server, "/datasets/large", LIMIT + 1) as connection:
        said = answer(connection)
    assert said.startswith("HTTP/1.1 413")
    assert f"the body is {LIMIT + 1} bytes; at most {LIMIT} are accepted" in said

    def chunks() -> Iterator[bytes]:
        for _ in range(200):
            yield bytes(100_000)

    hidden = client.put("/datasets/large", content=chunks(), headers=ZIP)
    assert_problem(hidden, 413, "body_too_large", f"over {LIMIT} bytes")


def test_other_types_are_unsupported(client: httpx.Client) -> None:
    for content_type in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/x-tar",
        "multipart/form-data; boundary=x",
    ):
        assert_problem(
            put(client, "birds", b"x", **{"content-type": content_type}), 415, "unsupported_media_type", "application/zip"
        )


def test_a_slow_upload_arrives_while_others_are_answered(server: Server, client: httpx.Client, tmp_path: Path) -> None:
    body = zipped(class_folders(tmp_path))
    with connect(server, "/datasets/slow", len(body)) as connection:
        for start in range(0, len(body), len(body) // 10):
            connection.sendall(body[start : start + len(body) // 10])
            assert classify(client) == "green"
            time.sleep(0.05)
        assert answer(connection).startswith("HTTP/1.1 201")
    assert client.delete("/datasets/slow").status_code == 200


def test_who_hangs_up_leaves_nothing(server: Server, client: httpx.Client, home: Path) -> None:
    connections = [connect(server, "/datasets/interrupted", LIMIT - 1) for _ in range(4)]
    for connection in connections:
        connection.sendall(bytes(2_500_000))
    wait_for(lambda: len(unfinished(home)) == 4)
    # A fifth would have to wait for a disk that four others write to.
    assert_problem(put(client, "fifth", b""), 429, "queue_full", "at most 4")
    for connection in connections:
        connection.close()
    wait_for(lambda: unfinished(home) == [])
    assert_problem(client.get("/datasets/interrupted"), 404, "unknown_dataset")


def test_many_uploads_of_the_same_make_one_version(server: Server, client: httpx.Client, home: Path, tmp_path: Path) -> None:
    body = zipped(class_folders(tmp_path))

    def one(_: int) -> int:
        with server.client() as mine:
            return put(mine, "twice", body).status_code

    with ThreadPoolExecutor(3) as pool:
        assert sorted(pool.map(one, range(3))) == [200, 200, 201]
    assert len(client.get("/datasets/twice").json()["versions"]) == 1
    assert client.delete("/datasets/twice").status_code == 200
    assert not (home / "datasets" / "twice").exists()


def wait_for(condition: object, seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until
        time.sleep(0.02)


# --- faults


@pytest.mark.fault
def test_what_a_killed_server_left_is_removed_by_the_next_which_stops_in_time(tmp_path: Path) -> None:
    home = tmp_path / "home"
    publish_colours(Registry(home / "registry"), home / "work")
    with serve(home, run="serve") as server, connect(server, "/datasets/birds", 5_000_000) as connection:
        connection.sendall(bytes(2_000_000))
        wait_for(lambda: unfinished(home) != [])
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
    (left,) = unfinished(home)

    with serve(home, run="serve") as server:
        wait_for(lambda: unfinished(home) == [])
        with connect(server, "/datasets/birds", 5_000_000) as connection:
            connection.sendall(bytes(2_000_000))
            wait_for(lambda: unfinished(home) not in ([], [left]))
            server.process.send_signal(signal.SIGTERM)
            threading.Timer(1.0, connection.close).start()
            assert server.process.wait(20) == 0
    assert unfinished(home) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB of its own."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root may mount")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("mounting is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.fault
def test_a_full_disk_is_a_507_that_leaves_nothing_and_passes(tmp_path: Path, small_disk: Path) -> None:
    home = tmp_path / "home"
    publish_colours(Registry(home / "registry"), home / "work")
    (home / "datasets").symlink_to(small_disk)
    good = zipped(class_folders(tmp_path / "photos"))
    unpacked = zipped({"red/1.bmp": bytes(2_500_000), "green/1.bmp": bytes(2_500_000)})

    def endless() -> Iterator[bytes]:
        for _ in range(60):
            yield bytes(100_000)

    with serve(home, run="serve") as server, server.client() as client:
        assert_problem(put(client, "declared", bytes(4_000_000)), 507, "no_space", "the upload is 4000000 bytes")
        assert_problem(client.put("/datasets/streamed", content=endless(), headers=ZIP), 507, "no_space", "the disk is full")
        assert_problem(put(client, "unpacked", unpacked), 507, "no_space", "it unpacks to 5000000 bytes")
        filler = small_disk / "filler"
        # Room for the zip, and for what it says that it unpacks to, but not for the folders around that.
        free = shutil.disk_usage(small_disk).free
        filler.write_bytes(bytes(free - 2 * len(good) - 4096 * 6))
        assert_problem(put(client, "extracted", good), 507, "no_space", "the disk is full")
        assert list(small_disk.iterdir()) == [filler]
        assert classify(client) == "green"
        filler.unlink()
        assert put(client, "birds", good).status_code == 201
        wait_for(lambda: [path.name for path in small_disk.iterdir()] == ["birds"])
