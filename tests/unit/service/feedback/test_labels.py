"""What may be a label, by task: everything that is taken can be trained on."""

from __future__ import annotations

import pytest

from models.recipe import Task
from service.errors import BadRequestError
from service.feedback.labels import is_new, read_label
from tests.support.tiny import BRIGHTNESS, PRESENCE, colours, tiny_manifest


@pytest.mark.parametrize(
    ("value", "task", "label"),
    [
        ("red", "single_label", "red"),
        ('  a/b, "c" | ü 漢 ', "single_label", 'a/b, "c" | ü 漢'),
        ("[red", "single_label", "[red"),
        ("7", "single_label", "7"),
        ("null", "single_label", "null"),
        ("x" * 200, "single_label", "x" * 200),
        (["green", " red", "green"], "multi_label", ("green", "red")),
        ([], "multi_label", ()),
        ("red", "multi_label", ("red",)),
        ('["red", "hot dog"]', "multi_label", ("red", "hot dog")),
        (3, "regression", 3.0),
        ("-2.5e3", "regression", -2500.0),
    ],
)
def test_label_is_read(value: object, task: Task, label: object) -> None:
    read = read_label(value, task)
    assert (read, type(read)) == (label, type(label))


@pytest.mark.parametrize(
    ("value", "task", "words"),
    [
        ("  ", "single_label", "0 characters, expected 1 to 200"),
        ("x" * 201, "single_label", "201 characters, expected 1 to 200"),
        ("two\nlines", "single_label", "expected no line break"),
        ("nul\0", "single_label", "expected no line break"),
        ("half \ud800", "single_label", "control character"),
        (3, "single_label", "label is 3, expected a text"),
        (["red"], "single_label", "expected a text"),
        ([["red"]], "multi_label", "expected a text"),
        ([""], "multi_label", "0 characters"),
        ("[red", "multi_label", "expected a JSON list"),
        ("red|green", "multi_label", "stands between labels"),
        ([str(number) for number in range(1001)], "multi_label", "1001 entries, expected at most 1000"),
        ("red", "regression", "expected a number"),
        (True, "regression", "expected a number"),
        ("nan", "regression", "expected a number"),
        ("inf", "regression", "expected a number"),
        (10**400, "regression", "expected a number"),
        (None, "regression", "expected a number"),
    ],
)
def test_what_is_no_label_is_said(value: object, task: Task, words: str) -> None:
    with pytest.raises(BadRequestError, match=words):
        read_label(value, task)


def test_new_labels_are_told() -> None:
    single, several, number = (tiny_manifest("m", tiny) for tiny in (colours(), PRESENCE, BRIGHTNESS))
    assert [is_new(label, single) for label in ("red", "Red", "pink")] == [False, True, True]
    assert [is_new(label, several) for label in ((), ("red",), ("red", "pink"))] == [False, False, True]
    assert not is_new(3.0, number)
