"""Every error has its answer, and every code is documented."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from models import errors as contract
from service import errors
from service.api.openapi import _PROBLEMS

ROOT = Path(__file__).resolve().parent.parent.parent


def descendants(kind: type[Exception]) -> Iterator[type[Exception]]:
    for child in kind.__subclasses__():
        yield child
        yield from descendants(child)


ANSWERED = [kind for kind in descendants(errors.ServiceError) if kind is not errors.DisconnectedError]


@pytest.mark.parametrize("kind", list(descendants(contract.ImageError)), ids=lambda kind: kind.__name__)
def test_every_image_error_is_the_callers_fault(kind: type[Exception]) -> None:
    problem = errors.problem_of(kind("what is wrong"))
    assert 400 <= problem.status < 500
    assert problem.detail == "what is wrong"


@pytest.mark.parametrize("kind", ANSWERED, ids=lambda kind: kind.__name__)
def test_every_service_error_has_a_code_that_openapi_and_the_readme_name(kind: type[errors.ServiceError]) -> None:
    problem = errors.problem_of(kind("what is wrong"))
    assert f"`{problem.code}`" in _PROBLEMS[problem.status]
    assert f"`{problem.code}`" in (ROOT / "README.md").read_text()
    assert ("retry-after" in problem.response().headers) is (problem.status in {429, 503, 504})


def test_unexpected_error_says_nothing_of_the_inside() -> None:
    problem = errors.problem_of(RuntimeError("password=hunter2 in /srv/candor/registry"))
    assert (problem.status, problem.code) == (500, "internal")
    assert "hunter2" not in problem.detail
    assert "registry" not in problem.detail


@pytest.mark.parametrize("status", [400, 401, 404, 405, 418, 500, 503, 520])
def test_any_status_becomes_a_problem(status: int) -> None:
    problem = errors.problem_of_status(status)
    assert problem.status == status
    assert problem.body()["code"]
