"""The documents say what the code does."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import get_args

import service
from models.metrics import DEFAULT_THRESHOLD
from models.recipe import Task
from models.settings import PREFIX
from service.api.classify import ClassifyAnswer
from service.api.feedback import FeedbackAnswer, ReviewQueue
from service.settings import Settings
from training.calibrate import INTERVAL_LEVEL, MIN_IMAGES_FOR_THRESHOLD, fewest_images

ROOT = Path(__file__).resolve().parent.parent.parent


def test_operations_lists_every_setting_with_its_default() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    listed = dict(re.findall(rf"^\| `({PREFIX}[A-Z_]+)` \| (.*?) \|", text, re.MULTILINE))
    expected = {}
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, ()) else f"`{field.default}`"
        expected[PREFIX + name.upper()] = default
    assert listed == expected


def test_every_linked_file_exists() -> None:
    for document in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links {target}"


def test_every_verb_that_the_readme_names_is_in_the_makefile() -> None:
    verbs = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z0-9-]+)", (ROOT / "README.md").read_text(), re.MULTILINE)) <= verbs


def test_answers_that_the_page_on_tasks_shows_are_of_the_form_that_is_answered() -> None:
    text = (ROOT / "docs" / "tasks.md").read_text()
    assert re.findall(r"^## .*: `(\w+)`$", text, re.MULTILINE) == list(get_args(Task))
    shown = [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]
    card = {"name": "x", "version": 1, "runtime": "onnxruntime", "precision": "fp32"}
    read = ClassifyAnswer.model_validate({"model": card, "results": shown})
    assert [type(result).__name__ for result in read.results] == ["SingleLabelResult", "MultiLabelResult", "RegressionResult"]
    assert [result.model_dump() for result in read.results] == shown


def test_numbers_that_the_page_on_tasks_names_are_the_codes() -> None:
    text = " ".join((ROOT / "docs" / "tasks.md").read_text().split())
    assert f"fewer than {MIN_IMAGES_FOR_THRESHOLD} of these images have, or lack, keeps {DEFAULT_THRESHOLD}" in text
    assert f"the one that {INTERVAL_LEVEL:.0%}".replace("%", " %") in text
    assert f"fewer than {fewest_images(INTERVAL_LEVEL)} held-out images" in text


def test_answers_that_the_page_on_retraining_shows_are_of_the_form_that_is_answered() -> None:
    text = (ROOT / "docs" / "retraining.md").read_text()
    section = text.partition("## Label what was served")[2].partition("\n## ")[0]
    shown = [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", section, re.MULTILINE | re.DOTALL)]
    for kind, answer in zip((ReviewQueue, FeedbackAnswer), shown, strict=True):
        assert kind.model_validate(answer).model_dump(mode="json") == answer


def test_version_that_is_answered_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert service.__version__ == project["version"]
