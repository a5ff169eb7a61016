"""uvicorn's HTTP protocol, which lets go of those who make it wait: for the end of a head, or for an answer to be read.

It also refuses by the head alone what `Protocol.refuse` says, with no task and no layer in between: under a flood that takes the
least from those who are answered.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Headers = Sequence[tuple[bytes, bytes]]

# From connecting, or from the first byte of a further request on a connection, to the end of the head.
HEAD_S = 10.0
# The parser itself would take a head without end.
HEAD_BYTES = 2**16
# How long nothing of an answer may be read: it lies in memory meanwhile.
READ_S = 30.0


class _Refused:
    """Stands where uvicorn has a request's cycle: of one that is answered, whose body is passed over."""

    response_complete = True
    disconnected = False

    def __init__(self) -> None:
        self.message_event = asyncio.Event()


class Protocol(HttpToolsProtocol):
    """See the module. A connection that rests between two requests has uvicorn's own time for that.

    Attributes:
        refuse: Method, target and headers of a request to the answer that it gets at once; None where it is to be answered.
    """

    refuse: Callable[[bytes, bytes, Headers], bytes | None] | None = None
    _head_timer: asyncio.TimerHandle | None = None
    _body_timer: asyncio.TimerHandle | None = None
    _read_timer: asyncio.TimerHandle | None = None
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
        for timer in (self._head_timer, self._body_timer, self._read_timer):
            if timer is not None:
                timer.cancel()
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
        self._has_head = self._is_whole = False
        self._wait_for_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a field of the head; one behind the body would come too late to be judged by, and is passed over."""
        if not self._has_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there: answer by it alone, or begin to answer."""
        self._told += 1
        self._has_head = True
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        answer = self._refusal()
        if answer is None:
            super().on_headers_complete()
        else:
            self._answer_at_once(answer)

    def on_body(self, body: bytes) -> None:
        """Pass a part on."""
        self._told += 1
        super().on_body(body)

    def on_message_complete(self) -> None:
        """All of it is there; if it was answered before, the connection rests from now on."""
        self._told += 1
        self._is_whole = True
        super().on_message_complete()
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

    def _refusal(self) -> bytes | None:
        """The answer to a request that is refused by its head; not while others wait here for theirs, or to be read."""
        if self.refuse is None or self.flow.write_paused or self.parser.should_upgrade():
            return None
        if self.cycle is not None and not self.cycle.response_complete:
            return None
        return self.refuse(self.parser.get_method(), self.url, self.headers)

    def _answer_at_once(self, answer: bytes) -> None:
        self.cycle = _Refused()  # type: ignore[assignment]
        # Who asked whether to send the body may leave it out, and then nobody knows where the next request begins.
        keeps = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive() and not self.expect_100_continue
        self._closes_behind_it = not keeps
        more = [*self.server_state.default_headers, *(() if keeps else ((b"connection", b"close"),))]
        status, _, rest = answer.partition(b"\r\n")
        self.transport.write(b"\r\n".join([status, *(name + b": " + value for name, value in more), rest]))
        # Not closed before the body is there: what comes to a closed connection resets it, and the answer is lost.
        self.on_response_complete()

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


def refusing(refuse: Callable[[bytes, bytes, Headers], bytes | None]) -> type[Protocol]:
    """The protocol that refuses what `refuse` says."""
    # uvicorn makes an instance for each connection, and gives it nothing of ours.
    return type("Refusing", (Protocol,), {"refuse": staticmethod(refuse)})
