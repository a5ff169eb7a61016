"""The request that there are most of: `/classify` with one image as its body, from the connection to the predictor and back.

What lies between them for every other request (uvicorn's messages, the guard, BentoML) would take most of the time of the one
thread that runs the network, and do nothing that is not done here (docs/decisions/0010). What is answered is the same, and
whatever is out of the ordinary takes the usual way.
"""

from __future__ import annotations

import contextvars
import time
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from service import access
from service.api.answer import logged_problem
from service.api.classify import answer_classify
from service.budget import Arrival
from service.calls import DEADLINE_HEADER, classify_call, time_left
from service.errors import (
    DeviceLostError,
    DisconnectedError,
    QueueFullError,
    ServiceError,
    is_open_inference,
    problem_of,
)
from service.guard import request_id_of
from service.http import Answer
from service.inputs import ANY_TYPE, is_raw_type
from service.logs import key_id, request_id
from service.refusal import read_query, refusal, status_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.responses import Response
    from starlette.types import Scope

    from service.calls import ClassifyCall
    from service.engine import Engine

_PATH, _METHOD = "/classify", "POST"
_ACCESS = access.find(_METHOD, _PATH)
# Most callers always ask for the same; what is longer is not worth being kept.
_KEPT_QUERIES, _KEPT_BYTES = 256, 200
# Of a length; more would not be a number to everybody.
_MAX_DIGITS = 18


def carry(engine: Engine, method: bytes, target: bytes, scope: Scope) -> Express | Answer | None:
    """A request that is answered here, by its head; or an answer, if it may not ask; or None for the usual way.

    Args:
        engine: What answers.
        method: As it was sent.
        target: Path and query, as they were sent.
        scope: Its headers, and where it came in.
    """
    path, _, query = target.partition(b"?")
    if path != b"/classify" or method != b"POST" or len(query) > _KEPT_BYTES or b"#" in query:
        return None
    # The first of each name, as the usual way reads them.
    headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))
    if engine.observer is not None or engine.is_closing or engine.device.is_lost or not _is_one_image(engine, headers):
        return None
    deadline = headers.get(DEADLINE_HEADER.encode())
    try:
        left_s = time_left(None if deadline is None else deadline.decode("latin-1"))
        call = _asked(query)
        engine.expect(call.model)
    except QueueFullError as err:
        return Answer(refusal(engine, path, headers, err))
    except ServiceError:
        return None
    express = Express(engine, call, left_s, request_id_of(dict(scope["headers"])))
    return express.admit(scope)


def _is_one_image(engine: Engine, headers: dict[bytes, bytes]) -> bool:
    """Whether the body is an image and nothing else, is of a length that is accepted, and comes without being asked for."""
    length = headers.get(b"content-length", b"")
    if not length.isdigit() or len(length) > _MAX_DIGITS or not 0 < int(length) <= engine.body_limits.max_bytes:
        return False
    return b"expect" not in headers and is_raw_type(headers.get(b"content-type", ANY_TYPE.encode()).decode("latin-1"))


@lru_cache(_KEPT_QUERIES)
def _asked(query: bytes) -> ClassifyCall:
    return classify_call(read_query(query), {})


class Express:
    """One of them, from its head to its answer; see the module.

    Attributes:
        context: What is to be known of it wherever its answer is made.
    """

    def __init__(self, engine: Engine, call: ClassifyCall, left_s: Callable[[], float], given_id: bytes) -> None:
        """Begin; it ends with the first method that gives an answer, or with `abandon`."""
        self._engine = engine
        self._call = call
        self._left_s = left_s
        self._id = given_id
        self._since = time.perf_counter()
        self._arrival = Arrival(engine.budget)
        self._parts: list[bytes] = []
        self.context = contextvars.copy_context()
        self.context.run(request_id.set, given_id.decode())
        self.context.run(key_id.set, None)
        self.context.run(is_open_inference.set, False)
        self._has_begun = False
        engine.metrics.in_flight.inc()

    def admit(self, scope: Scope) -> Express | Answer:
        """This request, or why it may not ask."""
        try:
            self.context.run(self._engine.admission.admit, scope, _ACCESS)
        except ServiceError as err:
            return self._refused(err)
        return self

    def add(self, part: bytes) -> Answer | None:
        """Take a part of the body; an answer if there is no room for it."""
        try:
            self._arrival.add(len(part))
        except ServiceError as err:
            return self._refused(err)
        self._parts.append(part)
        return None

    def left_s(self) -> float:
        """How long the next part may take."""
        return self._arrival.left_s()

    def stalled(self) -> Answer:
        """The answer where it took longer."""
        return self._refused(self._arrival.stalled())

    async def answer(self) -> Answer:
        """Classify the body, which is whole. May be cancelled, and is then to be abandoned."""
        self._has_begun = True
        image = b"".join(self._parts)
        # Of a large image there are not to be two.
        self._parts.clear()
        call = replace(self._call, images=(image,), deadline_s=self._left_s())
        try:
            response = await answer_classify(self._engine, call)
        except Exception as err:  # noqa: BLE001 - whatever it is, the caller gets a problem and the log gets the reason
            response = logged_problem(err).response()
        return self._end(response)

    def abandon(self) -> None:
        """The caller hung up. Nobody hears an answer; the status is for the metrics."""
        if self._has_begun:
            self._engine.metrics.shed.labels(DisconnectedError.code).inc()
        self._count(DisconnectedError.status)

    def _refused(self, error: ServiceError) -> Answer:
        return self._end(self.context.run(problem_of(error).response))

    def _end(self, response: Response) -> Answer:
        if response.status_code < 400 and self._engine.device.is_lost:
            # What was computed shortly before the fault showed may be garbage already.
            response = problem_of(DeviceLostError()).response()
        head = [status_line(response.status_code)]
        head += [name + b": " + value for name, value in response.raw_headers if name != b"connection"]
        head.append(b"x-request-id: " + self._id)
        # Whoever keeps this connection should open the next one to somebody else.
        closes = self._engine.is_closing or "connection" in response.headers
        answer = Answer(b"\r\n".join([*head, b"", bytes(response.body)]), closes=closes)
        self._count(response.status_code)
        return answer

    def _count(self, status: int) -> None:
        self._parts.clear()
        self._arrival.give_back()
        self._engine.metrics.in_flight.dec()
        self._engine.metrics.count_request(_PATH, _METHOD, status, time.perf_counter() - self._since)
