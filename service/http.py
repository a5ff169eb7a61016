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
    _head_bytes = 0
    _read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._wait_no_more()
        self._is_read()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Begin to wait for somebody to read."""
        super().pause_writing()
        self._is_read()
        # What nobody reads would keep a connection that is only closed.
        self._read_timer = self.loop.call_later(READ_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Somebody reads."""
        self._is_read()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Take what came; a head that has no end by now is refused."""
        waited = self._head_timer
        super().data_received(data)
        # What came with the end of something else does not count: it may be that.
        if waited is not None and waited is self._head_timer:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response("the head of the request is too large")

    def on_message_begin(self) -> None:
        """Begin to wait for the head of a further request."""
        super().on_message_begin()
        self._wait()

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._wait_no_more()
        is_first = self.cycle is None or self.cycle.response_complete
        answer = self.refuse(self.parser.get_method(), self.url, self.headers) if self.refuse is not None and is_first else None
        if answer is None:
            super().on_headers_complete()
            return
        self.cycle = _Refused()  # type: ignore[assignment]
        keeps = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        more = [*self.server_state.default_headers, *(() if keeps else ((b"connection", b"close"),))]
        status, _, rest = answer.partition(b"\r\n")
        self.transport.write(b"\r\n".join([status, *(name + b": " + value for name, value in more), rest]))
        if keeps:
            self.on_response_complete()
        else:
            self.transport.close()

    def _wait(self) -> None:
        if self._head_timer is None:
            self._head_bytes = 0
            self._head_timer = self.loop.call_later(HEAD_S, self._let_go)

    def _wait_no_more(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _is_read(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _let_go(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()


def refusing(refuse: Callable[[bytes, bytes, Headers], bytes | None]) -> type[Protocol]:
    """The protocol that refuses what `refuse` says."""
    # uvicorn makes an instance for each connection, and gives it nothing of ours.
    return type("Refusing", (Protocol,), {"refuse": staticmethod(refuse)})
