"""What is exported before anything has happened."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from service import metrics as module
from service.access import TABLE
from service.metrics import AUTH_FAILURES, FEEDBACK, NO_SPACE, SHED, Metrics

SERVICE = Path(module.__file__).parent
SAMPLES = Metrics().registry.get_sample_value


@pytest.mark.parametrize("status", ["200", "429", "500", "503", "504"])
@pytest.mark.parametrize("route", ["/classify", "/explain-confidence", "/v2/models/{name}/infer"])
def test_answers_that_objectives_count_begin_at_0(route: str, status: str) -> None:
    assert SAMPLES("candor_requests_total", {"route": route, "method": "POST", "status": status}) == 0
    assert SAMPLES("candor_request_duration_seconds_bucket", {"route": route, "le": "0.25"}) == 0


@pytest.mark.parametrize(
    ("series", "label", "values"),
    [
        ("candor_shed_total", "reason", SHED),
        ("candor_auth_failures_total", "reason", AUTH_FAILURES),
        ("candor_model_swaps_total", "outcome", ("ok", "failed")),
        ("candor_feedback_total", "outcome", FEEDBACK),
    ],
)
def test_what_an_alert_sees_rise_begins_at_0(series: str, label: str, values: tuple[str, ...]) -> None:
    assert [SAMPLES(series, {label: value}) for value in values] == [0.0] * len(values)


def test_a_full_disk_is_seen_the_first_time() -> None:
    for route, method in NO_SPACE:
        assert method in TABLE[route]
        assert SAMPLES("candor_requests_total", {"route": route, "method": method, "status": "507"}) == 0


def counted(name: str) -> set[str]:
    """What the code of the service gives as the one label of a counter, as it is written there."""
    found = set()
    for path in SERVICE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(f"metrics.{name}.labels"):
                found |= {ast.unparse(argument) for argument in node.args}
    return found


def test_every_reason_that_is_counted_begins_at_0() -> None:
    assert counted("auth_failures") == {repr(reason) for reason in AUTH_FAILURES}
    # The guard counts one kind of error, which it calls `err`, and which is a `DisconnectedError`.
    errors = ("QueueFullError", "DeadlineExceededError", "DisconnectedError", "RateLimitedError")
    assert counted("shed") == {*(f"{error}.code" for error in errors), "err.code"}
    assert len(SHED) == 4
