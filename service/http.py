"""uvicorn's HTTP protocol, which lets go of those who make it wait: for the end of a head, or for an answer to be read.

It also refuses by the head alone what `Protocol.refuse` says, with no task and no layer in between: under a flood that takes the
least from those who are answered. And it gathers the body of what `Protocol.carry` takes over, and writes its answer.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from typing import Protocol as Interface

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable, Coroutine, Sequence

    Headers = Sequence[tuple[bytes, bytes]]

# From connecting, or from the first byte of a further request on a connection, to the end of the head.
HEAD_S = 10.0
# The parser itself would take a head without end.
HEAD_BYTES = 2**16
# How long nothing of an answer may be read: it lies in memory meanwhile.
READ_S = 30.0


logger = logging.getLogger("candor.http")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it goes over the wire, without date and connection; `closes` where nothing is to come behind it."""

    data: bytes
    closes: bool = False


class Carried(Interface):
    """A request that a connection carries: its body is handed over in parts, and its answer awaited, in its context."""

    context: contextvars.Context

    def add(self, part: bytes) -> Answer | None:
        """Take a part; an answer ends it."""

    def left_s(self) -> float:
        """How long the next part may take, in seconds."""

    def stalled(self) -> Answer:
        """End it for taking longer."""

    def answer(self) -> Coroutine[Any, Any, Answer]:
        """End it, when the body is whole."""

    def abandon(self) -> None:
        """End it: the caller hung up."""


class _Cycle:
    """Stands where uvicorn has a request's cycle: of one that is answered here, or is already, and its body passed over."""

    disconnected = False

    def __init__(self, carried: Carried | None, *, keep_alive: bool) -> None:
        self.carried = carried
        self.keep_alive = keep_alive
        self.response_complete = False
        self.message_event = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class Protocol(HttpToolsProtocol):
    """See the module. A connection that rests between two requests has uvicorn's own time for that.

    Attributes:
        refuse: Method, target and headers of a request to the answer that it gets at once; None where it is to be answered.
        carry: Method, target and scope of a request to what is carried, or to the answer; None where uvicorn does it.
    """

    refuse: Callable[[bytes, bytes, Headers], bytes | None] | None = None
    carry: Callable[[bytes, bytes, Any], Carried | Answer | None] | None = None
    _head_timer: asyncio.TimerHandle | None = None
    _body_timer: asyncio.TimerHandle | None = None
    _read_timer: asyncio.TimerHandle | None = None
    # Until the next part of what is carried must be there.
    _part_timer: asyncio.TimerHandle | None = None
    # What is carried and not answered, and uvicorn's or ours of the message that is parsed.
    _carried: _Cycle | None = None
    cycle: Any
    # Of the message that is parsed.
    _has_head = False
    _is_whole = True
    _closes_behind_it = False
    # How often the parser told something, and how much came since.
    _told = 0
    _silent_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        for timer in (self._head_timer, self._body_timer, self._read_timer, self._part_timer):
            if timer is not None:
                timer.cancel()
        if self._carried is not None:
            self._abandon(self._carried)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Begin to wait for somebody to read."""
        super().pause_writing()
        self._wait_for_reader()

    def resume_writing(self) -> None:
        """Somebody read."""
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Take what came; a head, or what stands between and behind chunks, that has no end by now is refused."""
        told = self._told
        super().data_received(data)
        self._silent_bytes = self._silent_bytes + len(data) if told == self._told else 0
        if self._silent_bytes > HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("the head of the request is too large")

    def on_message_begin(self) -> None:
        """Begin to wait for the head of a further request."""
        super().on_message_begin()
        self._told += 1
        self._has_head = False
        self._wait_for_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a field of the head; one behind the body would come too late to be judged by, and is passed over."""
        if not self._has_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there: answer by it alone, or begin to answer."""
        self._told += 1
        self._has_head, self._is_whole = True, False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        found = self._by_head()
        if found is None:
            super().on_headers_complete()
            return
        # Who asked whether to send the body may leave it out, and then nobody knows where the next request begins.
        keeps = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive() and not self.expect_100_continue
        if isinstance(found, Answer):
            self.cycle = _Cycle(None, keep_alive=keeps)
            self._answer(self.cycle, found)
        else:
            self.cycle = self._carried = _Cycle(found, keep_alive=keeps)
            self._wait_for_part(found)

    def on_body(self, body: bytes) -> None:
        """Pass a part on."""
        self._told += 1
        cycle = self.cycle
        if not isinstance(cycle, _Cycle):
            super().on_body(body)
        elif cycle.carried is not None and cycle.task is None:
            answer = cycle.carried.add(body)
            if answer is not None:
                self._answer(cycle, answer)

    def on_message_complete(self) -> None:
        """All of it is there; if it was answered before, the connection rests from now on."""
        self._told += 1
        self._is_whole = True
        cycle = self.cycle
        if not isinstance(cycle, _Cycle):
            super().on_message_complete()
        elif cycle.carried is not None and cycle.task is None:
            # Once: what uvicorn would hand to another protocol ends here too, and has no cycle of its own.
            self._stop_waiting_for_part()
            cycle.task = self.loop.create_task(self._carry(cycle, cycle.carried), context=cycle.carried.context)
            # As uvicorn does: what is in there is waited for when it drains.
            self.tasks.add(cycle.task)
            cycle.task.add_done_callback(self.tasks.discard)
        if self._body_timer is None or self.transport.is_closing():
            return
        self._body_timer.cancel()
        self._body_timer = None
        if self._closes_behind_it:
            self.transport.close()
        elif not self.pipeline:
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def on_response_complete(self) -> None:
        """Begin to wait for the rest of what was answered before it had all come."""
        super().on_response_complete()
        if self.cycle.response_complete and not self._is_whole and self._body_timer is None:
            self._body_timer = self.loop.call_later(HEAD_S, self._let_go)

    def _by_head(self) -> Answer | Carried | None:
        """What the head of a request decides; nothing while others wait here for their answers, or to have them read."""
        if self.refuse is None or self.flow.write_paused or self.parser.should_upgrade():
            return None
        if self.cycle is not None and not self.cycle.response_complete:
            return None
        method = self.parser.get_method()
        refusal = self.refuse(method, self.url, self.headers)
        if refusal is not None:
            return Answer(refusal)
        return None if self.carry is None else self.carry(method, self.url, self.scope)

    async def _carry(self, cycle: _Cycle, carried: Carried) -> None:
        try:
            answer = await carried.answer()
        except asyncio.CancelledError:
            self._abandon(cycle)
            raise
        except Exception:
            logger.exception("a request could not be answered")
            self._abandon(cycle)
            self.transport.close()
        else:
            self._answer(cycle, answer)

    def _abandon(self, cycle: _Cycle) -> None:
        """End what is carried without an answer, once."""
        carried, task = cycle.carried, cycle.task
        self._finish(cycle)
        if task is not None:
            task.cancel()
        if carried is not None:
            carried.abandon()

    def _finish(self, cycle: _Cycle) -> None:
        """The request has its answer, or needs none: nothing is to hold on to its body, as this stands until the next one."""
        self._stop_waiting_for_part()
        self._carried = cycle.carried = cycle.task = None
        cycle.response_complete = True

    def _answer(self, cycle: _Cycle, answer: Answer) -> None:
        """Write the answer to the request that has its turn."""
        self._finish(cycle)
        if self.transport.is_closing():
            return
        self._closes_behind_it = answer.closes or not cycle.keep_alive
        more = [*self.server_state.default_headers, *(((b"connection", b"close"),) if self._closes_behind_it else ())]
        status, _, rest = answer.data.partition(b"\r\n")
        self.transport.write(b"\r\n".join([status, *(name + b": " + value for name, value in more), rest]))
        # Not closed before the body is there: what comes to a closed connection resets it, and the answer is lost.
        if self._closes_behind_it and (self._is_whole or self.cycle is not cycle):
            self.transport.close()
        self.on_response_complete()

    def _wait_for_part(self, carried: Carried) -> None:
        self._part_timer = self.loop.call_later(carried.left_s(), self._look_at_part, carried)

    def _look_at_part(self, carried: Carried) -> None:
        self._part_timer = None
        if carried.left_s():
            self._wait_for_part(carried)
        else:
            self._answer(self.cycle, carried.stalled())
            self._let_go()

    def _stop_waiting_for_part(self) -> None:
        if self._part_timer is not None:
            self._part_timer.cancel()
            self._part_timer = None

    def _wait_for_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S, self._let_go_of_head)

    def _let_go_of_head(self) -> None:
        self._head_timer = None
        if self.cycle is not None and not self.cycle.response_complete:
            # The one before it is being answered, and reading may be paused until it is.
            self._wait_for_head()
        else:
            self._let_go()

    def _let_go(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def _wait_for_reader(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
        unread = self.transport.get_write_buffer_size()
        self._read_timer = self.loop.call_later(READ_S, self._look_at_reader, unread)

    def _look_at_reader(self, unread: int) -> None:
        self._read_timer = None
        if self.transport.get_write_buffer_size() < unread:
            self._wait_for_reader()
        else:
            # What nobody reads would keep a connection that is only closed.
            self.transport.abort()


def protocol(
    refuse: Callable[[bytes, bytes, Headers], bytes | None],
    carry: Callable[[bytes, bytes, Any], Carried | Answer | None] | None = None,
) -> type[Protocol]:
    """The protocol that refuses what `refuse` says, and carries what `carry` takes."""
    # uvicorn makes an instance for each connection, and gives it nothing of ours.
    return type("Bound", (Protocol,), {"refuse": staticmethod(refuse), "carry": None if carry is None else staticmethod(carry)})
