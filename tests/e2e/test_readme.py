"""What the README shows is run, and what it says comes out."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.server import ROOT, Server, environment

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e
README = (ROOT / "README.md").read_text()


RETRAINING = re.search(r"^## Retrain it\n.*?(?=^## )", README, re.MULTILINE | re.DOTALL)[0]  # type: ignore[index]


def blocks(language: str, text: str = README.replace(RETRAINING, "")) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


CATS = {"tiger cat", "Egyptian cat", "tabby", "Persian cat", "Siamese cat"}


def run(command: list[str], **options: Any) -> str:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60, **options).stdout


def classify(server: Server, photo: str) -> dict[str, Any]:
    command = f"curl --data-binary @samples/{photo} -H 'content-type: image/jpeg' localhost:3000/classify"
    return json.loads(shell(command, server))["results"][0]["predictions"][0]


def shell(command: str, server: Server, seconds: float = 60) -> str:
    address = server.url.removeprefix("http://")
    local = command.replace("localhost:3000", address)
    assert local != command, f"no address in {command}"
    done = subprocess.run(
        ["bash", "-c", f'curl() {{ command curl -sS "$@"; }}; {local}'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds,
    )
    return done.stdout


def test_shown_commands_give_the_shown_answers(real: Server) -> None:
    exchanges = re.findall(r"^\$ (.*)\n(.*)\n", blocks("console")[0], re.MULTILINE)
    assert len(exchanges) == 2
    for command, shown in exchanges:
        expected, got = json.loads(shown), json.loads(shell(command, real))
        assert got["model"] == expected["model"]
        for ours, theirs in zip(got["results"][0]["predictions"], expected["results"][0]["predictions"], strict=True):
            assert ours["label"] == theirs["label"]
            assert ours["probability"] == pytest.approx(theirs["probability"], abs=0.02)


def test_the_clothes_model_says_that_a_cat_is_nothing_it_knows(real: Server) -> None:
    ((command, shown),) = re.findall(r"^\$ (.*)\n(.*)\n", blocks("console")[1], re.MULTILINE)
    # What it would call it may differ from one training to the next.
    known, _, _ = shown.partition("; it would call it")
    assert shell(command, real).startswith(known)


def test_cat_is_a_cat_and_coffee_is_an_espresso_with_the_weights_own_probability(real: Server) -> None:
    assert classify(real, "cat.jpg")["label"] in CATS
    best = classify(real, "coffee.jpg")
    assert best["label"] == "espresso"
    # 0.78 would mean the wrong normalisation.
    assert best["probability"] == pytest.approx(0.95, abs=0.02)


def test_every_other_curl_answers_with_predictions(real: Server) -> None:
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("curl ")]
    commands += [c for c in re.findall(r"`(curl [^`]*)`", README) if "@/tmp" not in c]
    assert len(commands) >= 2
    for command in commands:
        answer = json.loads(shell(command, real))
        assert all(result["predictions"] for result in answer["results"])


def test_clothes_are_answered_as_the_readme_says(real: Server, tmp_path: Path) -> None:
    unzip, curl = re.findall(r"`(unzip -q [^`]*|curl [^`]*@/tmp[^`]*)`", README)
    if shutil.which("unzip") is None:
        pytest.skip("unzip is not installed")
    subprocess.run(["bash", "-c", unzip.replace("/tmp", str(tmp_path))], cwd=ROOT, check=True)
    answer = json.loads(shell(curl.replace("/tmp", str(tmp_path)), real))
    assert answer["model"]["name"] == "fashion"
    assert answer["results"][0]["predictions"][0]["label"] == "bag"


def test_python_example_runs(real: Server) -> None:
    (code,) = blocks("python")
    code = code.replace("http://localhost:3000", real.url) + "\nimport json\nprint(json.dumps(answer))"
    answer = json.loads(run([sys.executable, "-c", code]))
    assert [result["predictions"][0]["label"] for result in answer["results"]] == ["tiger cat", "espresso"]


@pytest.mark.torch
@pytest.mark.timeout(1200)
def test_retraining_by_curl_alone(real: Server, tmp_path: Path) -> None:
    with zipfile.ZipFile(ROOT / "samples" / "fashion-mnist.zip") as archive:
        archive.extractall(tmp_path)
    first, second = (block.replace("/tmp", str(tmp_path)) for block in blocks("sh", RETRAINING))
    # As one terminal: what the first block defines the second one uses.
    said = shell(f"set -e\n{first}\necho\necho ----\n{second}", real, 1000)
    first, second = said.split("----")
    for part, version in ((first, 1), (second, 2)):
        states = [json.loads(line[6:]) for line in part.splitlines() if line.startswith("data: ") and '"event":"state"' in line]
        assert [event["state"] for event in states] == ["preparing", "running", "evaluating", "publishing", "succeeded"]
        assert (states[-1]["version"], states[-1]["promoted"]) == (version, True), part
    assert '"verdict":"promote"' in second
    assert '{"name":"clothes","version":2,' in second
    assert '"label":"bag"' in second
    assert '"production":1,"candidate":null,"previous":[]' in second.splitlines()[-1]


def test_models_commands_run(tiny_home: Path) -> None:
    (commands,) = [block for block in blocks("sh") if "models list" in block]
    listing = commands.splitlines()[0].split()[1:]
    shown = run([str(ROOT / ".venv" / "bin" / "python"), *listing], env=environment(tiny_home))
    assert shown.startswith("colours:1")
    assert "production" in shown
