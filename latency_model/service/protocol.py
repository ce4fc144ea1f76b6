"""The server's side of one connection, with an end to waiting: for headers, and for a client that takes no answer.

uvicorn's own protocol waits for the end of headers for ever, keeps as many bytes of them as come, and keeps an answer
that nobody takes. Both are how one client with little effort holds a server's connections and memory.
"""

from __future__ import annotations

import asyncio
import functools
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["Guarded", "guarded"]

_ANSWERS = {
    408: b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
    431: b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
}


class Guarded(HttpToolsProtocol):
    """uvicorn's protocol with limits; ``guarded`` gives it their values."""

    def __init__(
        self, *args: Any, header_timeout_s: float, send_timeout_s: float, max_header_bytes: int, **named: Any
    ) -> None:
        super().__init__(*args, **named)
        self._header_timeout_s, self._send_timeout_s = header_timeout_s, send_timeout_s
        self._max_header_bytes = max_header_bytes
        self._header_bytes = 0
        self._header_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._unwait()
        self._cancel_send()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; those of headers are counted and timed."""
        super().data_received(data)
        if self.parser is None or self.transport.is_closing():  # type: ignore[redundant-expr]
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._unwait()
            return
        self._wait()
        self._header_bytes += len(data)
        if self._header_bytes > self._max_header_bytes:
            self._refuse(431)

    def on_headers_complete(self) -> None:
        """Start the request unless its headers, together with its URL, are too large."""
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self._max_header_bytes:
            self._refuse(431)
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of a body, unless its request was refused."""
        if self.cycle is not None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request, unless it was refused."""
        if self.cycle is not None:
            super().on_message_complete()

    def pause_writing(self) -> None:
        """Begin to wait for the client to take what was written."""
        super().pause_writing()
        if self._send_timer is None:
            self._send_timer = self.loop.call_later(self._send_timeout_s, self._abort)

    def resume_writing(self) -> None:
        """The client took it."""
        super().resume_writing()
        self._cancel_send()

    def _wait(self) -> None:
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(self._header_timeout_s, self._too_slow)

    def _unwait(self) -> None:
        self._header_bytes = 0
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _cancel_send(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _too_slow(self) -> None:
        self._header_timer = None
        if self._header_bytes:
            self._refuse(408)
        elif not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, status: int) -> None:
        if not self.transport.is_closing():
            self.transport.write(_ANSWERS[status])
            self.transport.close()
        # What a client leaves unread would keep a closed connection for ever.
        self.loop.call_later(self._send_timeout_s, self._abort)

    def _abort(self) -> None:
        self.transport.abort()


def guarded(*, header_timeout_s: float, send_timeout_s: float, max_header_bytes: int) -> Any:
    """Return the protocol for ``uvicorn.Config(http=...)``."""
    return functools.partial(
        Guarded,
        header_timeout_s=header_timeout_s,
        send_timeout_s=send_timeout_s,
        max_header_bytes=max_header_bytes,
    )
