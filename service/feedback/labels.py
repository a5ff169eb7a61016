"""What a label may be, by the model's task, so that every label that is taken can be trained on later."""

from __future__ import annotations

import math
import unicodedata
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from service.errors import BadRequestError

if TYPE_CHECKING:
    from models.manifest import Manifest
    from models.recipe import Task
    from service.feedback.schema import Label

MOST_CHARACTERS = 200
MOST_LABELS = 1000
_MOST_NUMBER = 1e30
# Between several labels in the table that is trained on.
SEPARATOR = "|"


def read_label(value: Any, task: Task) -> Label:
    """Understand a label as JSON or a form sends it.

    Args:
        value: A text; with `multi_label` a list of them (in a form, that list as JSON), where an empty list says that the
            image has none of the labels; with `regression` a number, or a text that is one.
        task: The model's.

    Raises:
        BadRequestError: If it is none.
    """
    if task == "regression":
        return _number(value)
    if task == "single_label":
        return _text(value)
    listed = _listed(value)
    if len(listed) > MOST_LABELS:
        raise BadRequestError(f"label has {len(listed)} entries, expected at most {MOST_LABELS}")
    labels = tuple(dict.fromkeys(_text(one) for one in listed))
    for label in labels:
        if SEPARATOR in label:
            raise BadRequestError(f"label {label!r:.80} has a {SEPARATOR!r}, which stands between labels; expected texts without")
    return labels


def is_new(label: Label, manifest: Manifest) -> bool:
    """Whether it is, or holds, a label that the model does not have; a number never is."""
    if isinstance(label, float):
        return False
    return not set(label if isinstance(label, tuple) else (label,)) <= set(manifest.labels)


def _listed(value: Any) -> list[Any]:
    if isinstance(value, str) and value.startswith("["):
        try:
            value = from_json(value)
        except ValueError as err:
            raise BadRequestError(f"label is {value!r:.80}, expected a JSON list of texts: {err}") from err
    return value if isinstance(value, list) else [value]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise BadRequestError(f"label is {value!r:.80}, expected a text")
    text = value.strip()
    if not 1 <= len(text) <= MOST_CHARACTERS:
        raise BadRequestError(f"label has {len(text)} characters, expected 1 to {MOST_CHARACTERS}")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in text):
        raise BadRequestError(f"label is {text!r:.80}, expected no line break or other control character in it")
    return text


def _number(value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, int | float | str) else float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not abs(number) < _MOST_NUMBER:
        raise BadRequestError(
            f"label is {value!r:.80}, expected a number below {_MOST_NUMBER:g} in size, since the model answers one"
        )
    return number
