"""The servers that candor's is measured against answer what candor answers, and leave nothing behind."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

import psutil
import pytest

from benchmarks.peers.core import HOST
from benchmarks.peers.registry import PEERS, Peer, PeerError, running
from benchmarks.photos import SMALL
from models.registry import Registry
from tests.support.server import ROOT, Server, free_port

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e
IMAGES = 6


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    samples = [(ROOT / "samples" / name).read_bytes() for name in ("cat.jpg", "coffee.jpg")]
    return samples + SMALL.load(tmp_path_factory.mktemp("photos"))[: IMAGES - 2]


def of_candor(server: Server, jpegs: list[bytes]) -> list[list[dict[str, float]]]:
    with server.client() as client:
        answers = [
            client.post("/classify?raw=true&top_k=5", content=jpeg, headers={"content-type": "image/jpeg"}) for jpeg in jpegs
        ]
    return [answer.raise_for_status().json()["results"][0]["predictions"] for answer in answers]


def listening(ours: set[int]) -> set[str]:
    return {link.laddr.ip for link in psutil.net_connections("inet") if link.status == psutil.CONN_LISTEN and link.pid in ours}


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_peer_answers_as_candor_does(peer: Peer, real: Server, quickstart_home: Path, jpegs: list[bytes]) -> None:
    if not peer.is_installed:
        pytest.skip(f"{peer.name} is not installed (make peers)")
    expected, port = of_candor(real, jpegs), free_port()
    before = set(psutil.Process().children(recursive=True))
    with running(peer, Registry(quickstart_home / "registry").path("imagenet", 1), port):
        found = [peer.ask(jpeg, port) for jpeg in jpegs]
        started = set(psutil.Process().children(recursive=True)) - before
        addresses = listening({one.pid for one in started})
    for answer, candors in zip(found, expected, strict=True):
        assert answer[0]["label"] == candors[0]["label"]
        if peer.decodes_alike:
            assert [entry["label"] for entry in answer] == [entry["label"] for entry in candors]
            probabilities = [entry["probability"] for entry in candors]
            assert [entry["probability"] for entry in answer] == pytest.approx(probabilities, abs=1e-4)
    assert addresses
    assert addresses <= {HOST, "::1", "::ffff:127.0.0.1"}
    assert [one for one in started if one.is_running()] == []
    with socket.socket() as asking:
        assert asking.connect_ex((HOST, port)) == errno.ECONNREFUSED


def test_peer_that_ends_at_once_says_why(quickstart_home: Path) -> None:
    peer = next((peer for peer in PEERS if peer.name == "fastapi" and peer.is_installed), None)
    if peer is None:
        pytest.skip("fastapi is not installed (make peers)")
    with pytest.raises(PeerError, match="not an artifact"), running(peer, quickstart_home, free_port()):
        pass


def test_answer_of_a_peer_that_is_not_there_is_an_error() -> None:
    with pytest.raises(PeerError, match="does not answer"):
        PEERS[0].ask(b"", free_port())
