"""What is refused by its head alone, before anything is made of it: inference that would find the queue full.

Ten times as many requests as can be answered must not cost those who are answered their time. Who asks is not looked at, so a
caller without a key learns here that the service is busy, and by asking for it that a model is there.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from pydantic_core import to_json

from service.errors import PROBLEM_TYPE, QueueFullError, ServiceError, phrase, problem_of
from service.guard import request_id_of
from service.inputs import is_raw_type

if TYPE_CHECKING:
    from service.engine import Engine
    from service.http import Headers

_INFERENCE = (b"/classify", b"/explain-confidence")


def read_query(query: bytes) -> dict[str, str]:
    """Its parameters; the last of each name, as the router reads them."""
    return dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))


@cache
def status_line(status: int) -> bytes:
    """The first line of an answer."""
    return f"HTTP/1.1 {status} {phrase(status)}".encode()


def refuse(engine: Engine, method: bytes, target: bytes, headers: Headers) -> bytes | None:
    """The whole answer to a request that is refused; None where its body, or more than its head, decides.

    What is to be logged or traced, or is asked of a service that drains, takes the usual way.
    """
    if (
        not engine.backlog.is_full
        or method != b"POST"
        or engine.observer is not None
        or engine.is_closing
        or engine.device.is_lost
    ):
        return None
    path, _, query = target.partition(b"?")
    given = dict(headers)
    if path not in _INFERENCE or not is_raw_type(given.get(b"content-type", b"application/octet-stream").decode("latin-1")):
        return None
    try:
        engine.expect(read_query(query).get("model") or None)
    except QueueFullError as err:
        return refusal(engine, path, given, err)
    except ServiceError:
        pass
    return None


def refusal(engine: Engine, path: bytes, given: dict[bytes, bytes], error: QueueFullError) -> bytes:
    """The whole answer to a request that finds the queue full, counted."""
    problem, route = problem_of(error), path.decode()
    engine.metrics.count_request(route, "POST", problem.status, 0)
    body = to_json(problem.body())
    lines = (
        f"content-type: {PROBLEM_TYPE}",
        f"content-length: {len(body)}",
        f"retry-after: {problem.retry_after_s}",
        f"x-request-id: {request_id_of(given).decode()}",
    )
    return status_line(problem.status) + "\r\n".join(("", *lines, "", "")).encode() + body
