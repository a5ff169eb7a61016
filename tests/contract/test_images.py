"""The Containerfiles: what a builder that knows little can read, hashes, a numeric user, and nobody's registry."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
FILES = sorted((ROOT / "containers").glob("*.Containerfile"))
BUILT = [file for file in FILES if file.name != "model.Containerfile"]


def name(file: Path) -> str:
    return file.name


def test_there_are_three() -> None:
    assert [file.name for file in FILES] == ["model.Containerfile", "serve.Containerfile", "trainer.Containerfile"]


@pytest.mark.parametrize("file", FILES, ids=name)
def test_base_is_the_builders_to_name_and_there_is_no_heredoc(file: Path) -> None:
    text = file.read_text()
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) <= {"${BASE}", "${BUILD_BASE}", "${IMAGE}"}
    assert re.search(r"^ARG (BASE|IMAGE)$", text, re.MULTILINE)
    assert "<<" not in text


@pytest.mark.parametrize("file", BUILT, ids=name)
def test_image_is_installed_by_hash_and_runs_as_a_number(file: Path) -> None:
    text = file.read_text()
    installs = re.findall(r"(?:pip|uv pip) (?:install|sync) [^\n;&]*", text.replace("\\\n", " "))
    assert len(installs) == 2
    assert all("--require-hashes" in install for install in installs)
    assert re.findall(r"^USER (.*)", text, re.MULTILINE) == ["10001:10001"]
    assert re.findall(r"^ENTRYPOINT (.*)", text, re.MULTILINE) == ['["python", "-m", "service"]']


def test_tags_have_the_projects_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    makefile = (ROOT / "Makefile").read_text()
    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text().splitlines()
    tags = dict(re.findall(r"^TAG_(\w+) := (\S+)", makefile, re.MULTILINE))
    assert tags == {
        "cpu": "candor-serve:$(VERSION)-cpu",
        "openvino": "candor-serve:$(VERSION)-openvino",
        "gpu": "candor-serve:$(VERSION)",
        "trainer": "candor-trainer:$(VERSION)",
    }
