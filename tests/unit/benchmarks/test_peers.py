"""The table of peers: versions from the locks, and what is sent to them."""

from __future__ import annotations

from email.message import EmailMessage
from email.parser import BytesParser
from pathlib import Path

import pytest

from benchmarks.peers.registry import PEERS, ROOT, Peer, PeerError, running

JPEG = (ROOT / "samples" / "cat.jpg").read_bytes()


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_every_peer_has_a_lock_an_application_and_a_rule_that_installs_it(peer: Peer) -> None:
    assert peer.version[0].isdigit()
    assert (ROOT / "benchmarks" / "peers" / f"{peer.name}_app.py").is_file()
    assert f" {peer.name}" in (ROOT / "Makefile").read_text().split("PEERS :=")[1].split("\n")[0].replace(",", " ")


def test_port_goes_into_the_command() -> None:
    peer = Peer("some", ("program", "--port", "{port}", "serve"))
    assert peer.argv(81) == [str(ROOT / "benchmarks" / ".venv-some" / "bin" / "program"), "--port", "81", "serve"]


def test_body_is_the_image_or_a_form_that_holds_it() -> None:
    raw, form = Peer("raw", ("x",)), Peer("form", ("x",), is_multipart=True)
    assert raw.request(JPEG) == ({"Content-Type": "image/jpeg"}, JPEG)
    headers, body = form.request(JPEG)
    message = BytesParser(EmailMessage).parsebytes(f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode() + body)
    (part,) = message.iter_parts()
    assert part.get_param("name", header="content-disposition") == "image"
    assert part.get_payload(decode=True) == JPEG


def test_peer_that_is_not_installed_says_what_installs_it() -> None:
    with pytest.raises(PeerError, match="make peers"), running(Peer("none", ("x",)), Path(), 1):
        pass
