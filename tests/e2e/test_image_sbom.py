"""`make sbom` says what is in each image."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.server import ROOT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e
LOCKS = {
    "candor-serve-{}-cpu": ["service-cpu"],
    "candor-serve-{}-openvino": ["service-cpu", "cpu"],
    "candor-serve-{}": ["service"],
    "candor-trainer-{}": ["service", "training"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("sbom")
    command = ["make", "--assume-old=install", "sbom", f"SBOM={into}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=170)
    assert done.returncode == 0, done.stdout + done.stderr
    return into


def test_there_is_one_for_each_image_and_it_names_every_pinned_package_with_its_hashes(folder: Path) -> None:
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    expected = {f"{name.format(version[1])}.cdx.json": locks for name, locks in LOCKS.items()}
    assert {path.name for path in folder.iterdir()} == expected.keys()
    for name, locks in expected.items():
        bill = json.loads((folder / name).read_text())
        assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "candor")
        named = [(part["name"], part["version"]) for part in bill["components"]]
        text = "".join((ROOT / "requirements" / f"{lock}.txt").read_text() for lock in locks)
        assert sorted(named) == sorted(set(re.findall(r"^([a-z0-9._-]+)==([^\s;]+)", text, re.MULTILINE)))
        assert all(part["externalReferences"][0]["hashes"] for part in bill["components"])
