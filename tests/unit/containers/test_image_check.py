"""The parts of `make image-check` that need no image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from containers import check
from containers.check import Asked, CheckError, measure, mirror, require_tools
from containers.running import command

DEB822 = """Types: deb
# http://archive.example/older
URIs: http://mirror.example/debian
Suites: bookworm

Types: deb
URIs: http://mirror.example/debian-security
"""


@pytest.mark.parametrize(
    ("sources", "named"),
    [
        (DEB822, "http://mirror.example/debian"),
        ("deb [signed-by=/x.gpg] http://mirror.example/debian/ bookworm main\n", "http://mirror.example/debian"),
        ("deb http://mirror.example/debian-security bookworm main\n", None),
        ("# deb http://mirror.example/debian bookworm main\n", None),
        ("", None),
    ],
)
def test_mirror_is_the_one_of_apt(sources: str, named: str | None) -> None:
    assert mirror(sources) == named


def test_size_over_the_limit_is_refused_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    asked = Asked("cpu", "candor-serve:1-cpu", [])
    measure(asked, 260_000_000)
    with pytest.raises(CheckError, match="candor-serve:1-cpu is 261 MB above its base, over the limit of 260"):
        measure(asked, 261_000_000)
    measure(Asked("trainer", "candor-trainer:1", []), 7_000_000_000)
    assert capsys.readouterr().out.splitlines()[0] == "candor-serve:1-cpu: 260 MB above its base, of at most 260"


def test_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check.shutil, "which", lambda name: None)
    with pytest.raises(CheckError, match="buildah and debootstrap not found; apt-get install buildah debootstrap"):
        require_tools()


def test_image_runs_as_its_user_on_a_root_that_nobody_writes() -> None:
    settings: dict[str, Any] = {
        "Env": ["CANDOR_HOST=0.0.0.0", "PATH=/opt/venv/bin"],
        "User": "10001:10001",
        "WorkingDir": "/app",
        "Entrypoint": ["python", "-m", "service"],
    }
    *start, script = command(Path("/some image"), settings, {"CANDOR_HOST": "127.0.0.1"})
    assert start == ["unshare", "--mount", "sh", "-ec"]
    assert script.splitlines()[1] == "mount -o remount,bind,ro '/some image'"
    assert script.splitlines()[-1] == (
        "exec chroot --userspec=10001:10001 --groups= '/some image' /usr/bin/env --ignore-environment --chdir=/app "
        "CANDOR_HOST=127.0.0.1 PATH=/opt/venv/bin python -m service"
    )
