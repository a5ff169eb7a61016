"""What befalls the serving process: it is killed, stopped, told to end, or cannot begin."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from models.registry import Registry
from tests.support.pictures import picture
from tests.support.processes import processes
from tests.support.server import ROOT, environment, free_port, serve
from tests.support.tiny import colours, publish_colours, publish_tiny

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Record = Callable[[str, object], None]

pytestmark = [pytest.mark.e2e, pytest.mark.fault]
# What is promised of a machine that has nothing else to do, and how much longer a test machine may take.
AGAIN_S, REFUSED_S, SLACK_S = 5.0, 5.0, 15.0


@pytest.fixture
def home(tmp_path: Path) -> Path:
    publish_colours(Registry(tmp_path / "registry"), tmp_path / "work")
    return tmp_path


def classify(client: httpx.Client, colour: str = "green") -> httpx.Response:
    return client.post("/classify", content=picture(colour), headers={"content-type": "image/png"})


def assert_good(client: httpx.Client) -> None:
    answer = classify(client)
    assert answer.status_code == 200, answer.text
    assert answer.json()["results"][0]["predictions"][0]["label"] == "green"


def test_server_that_is_killed_serves_the_same_version_again_within_seconds(home: Path, record_property: Record) -> None:
    registry = Registry(home / "registry")
    publish_colours(registry, home / "work", gain=6.0)
    registry.promote("colours", 2)
    with serve(home) as server:
        (first,) = processes(home, "service.serving")
        os.kill(first, signal.SIGKILL)
        started, seen = time.monotonic(), set()
        while True:
            try:
                seen.add(status := httpx.get(f"{server.url}/readyz", timeout=5).status_code)
                if status == 200 and processes(home, "service.serving") != [first]:
                    break
            except httpx.TransportError:
                seen.add(None)
            assert time.monotonic() - started < AGAIN_S + SLACK_S
            time.sleep(0.02)
        took_s = time.monotonic() - started
        # Nobody took it for ready in between: no connection, or 503.
        assert seen <= {None, 503, 200}
        assert None in seen
        with server.client() as client:
            assert_good(client)
            assert classify(client).headers["x-model-version"] == "colours:2"
        record_property("serving again after s", round(took_s, 1))
        assert took_s < AGAIN_S + SLACK_S


def test_drain_says_so_first_answers_meanwhile_and_fails_nobody(home: Path) -> None:
    """Eight clients that keep their connections, and open the next one elsewhere when they are told to close."""
    drain_s, failures, answered = 2.0, [], [0]
    stop = threading.Event()

    def ask(url: str) -> None:
        with httpx.Client(base_url=url, timeout=30) as client:
            while not stop.is_set():
                try:
                    answer = classify(client)
                except httpx.HTTPError as err:
                    failures.append(repr(err))
                    return
                if answer.status_code != 200:
                    failures.append(answer.text)
                answered[0] += 1
                if answer.headers.get("connection") == "close":
                    # A balancer has seen /readyz by now, and asks another instance.
                    return

    with serve(home, run="serve", drain_s=drain_s) as server:
        threads = [threading.Thread(target=ask, args=(server.url,), daemon=True) for _ in range(8)]
        for thread in threads:
            thread.start()
        while answered[0] < 200:
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        server.wait("/readyz", 503, 2)
        assert time.monotonic() - started < 1
        # It still takes new connections, and answers them.
        with server.client() as client:
            assert_good(client)
            assert client.get("/livez").status_code == 200
            assert classify(client).headers["connection"] == "close"
        for thread in threads:
            thread.join(10)
        stop.set()
        assert server.process.wait(drain_s + SLACK_S) == 0
        assert time.monotonic() - started > drain_s * 0.9
    assert failures == []


@pytest.mark.parametrize("run", ["serve", "all"])
def test_term_at_any_moment_of_the_start_ends_cleanly_and_leaves_nothing(home: Path, run: str) -> None:
    """While it imports, while a slow model loads, and when it is ready."""
    publish_tiny(Registry(home / "registry"), home / "work", "slow", replace(colours(), slow=4))
    rng = random.Random(3)
    temporary = home / "tmp"
    temporary.mkdir()
    for wait_s in (0.9, 1.2, 1.5, 1.8, *(rng.uniform(0.9, 4.0) for _ in range(3))):
        process = subprocess.Popen(
            [sys.executable, "-m", "service"],
            cwd=ROOT,
            env={**environment(home, port=free_port(), run=run), "TMPDIR": str(temporary)},
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            time.sleep(wait_s)
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=30)
        if process.returncode == -signal.SIGTERM and not errors:
            # It had not come to its first line yet.
            continue
        assert process.returncode == 0, errors
        assert "Traceback" not in errors
        assert processes(home, "service.serving") + processes(home, "service.jobs") == []
        assert list(temporary.glob("candor-*")) == []


def test_process_that_was_stopped_goes_on_where_it_was(home: Path) -> None:
    with serve(home, run="serve") as server, server.client() as client, ThreadPoolExecutor(8) as pool:
        assert_good(client)
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            # A probe that waits a second sees that it does not answer.
            for _ in range(3):
                with pytest.raises(httpx.TimeoutException):
                    httpx.get(f"{server.url}/livez", timeout=1)
            waiting = [pool.submit(classify, client) for _ in range(8)]
            time.sleep(2)
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        assert [answer.result().status_code for answer in waiting] == [200] * 8
        assert client.get("/livez").status_code == 200
        # It holds nobody off for the time that it slept.
        for answer in pool.map(lambda _: classify(client), range(200)):
            assert answer.status_code == 200, answer.text


@contextlib.contextmanager
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def refused(home: Path, **settings: Any) -> tuple[int, list[str], float]:
    """Start a service that cannot serve: its code, what it said, and how long it took."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "service"],
        cwd=ROOT,
        env=environment(home, **{"port": free_port(), **settings}),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stderr.strip().splitlines(), time.monotonic() - started


@pytest.mark.parametrize("run", ["serve", "all"])
def test_port_that_is_taken_is_said_in_a_line_and_ends_it(home: Path, run: str, record_property: Record) -> None:
    with taken_port() as port:
        code, lines, took_s = refused(home, port=port, run=run)
    assert code == (69 if run == "serve" else 1), lines
    assert sum("address already in use" in line for line in lines) == 1, lines
    assert len(lines) <= 2
    assert took_s < REFUSED_S + SLACK_S
    record_property("ended after s", round(took_s, 1))


@pytest.mark.parametrize(
    ("settings", "code", "words"),
    [
        ({"port": "many"}, 2, "CANDOR_PORT"),
        ({"prot": 3000}, 2, "CANDOR_PROT is not a setting; did you mean CANDOR_PORT?"),
        ({"registry": "/nowhere/registry"}, 2, "CANDOR_REGISTRY=/nowhere/registry is no folder"),
        ({"registry": "ftp://host/registry"}, 2, "CANDOR_REGISTRY: is a URL of no object store; expected a folder, or s3://"),
        ({"registry": "az://container/registry"}, 2, "az://container/registry cannot be used as a registry"),
        ({"keys": "/nowhere/keys.json"}, 2, "keys.json"),
        ({"device": "cuda", "run": "serve"}, 69, "CANDOR_DEVICE=cuda, and no GPU is visible"),
        ({"device": "cuda"}, 1, "CANDOR_DEVICE=cuda, and no GPU is visible"),
        ({"device": "tpu"}, 2, "CANDOR_DEVICE"),
        ({"feedback": "ftp-nobody-knows://x", "run": "serve"}, 69, "CANDOR_FEEDBACK"),
    ],
)
def test_setting_that_is_no_good_is_said_in_a_line_and_ends_it(
    home: Path, settings: dict[str, Any], code: int, words: str
) -> None:
    found, lines, took_s = refused(home, **settings)
    assert found == code, lines
    assert words in lines[0]
    # The launcher adds that a part of it ended.
    assert len(lines) == (2 if code == 1 else 1), lines
    assert took_s < REFUSED_S + SLACK_S
