"""uvicorn's HTTP protocol within `HttpLimits`: it has bounds neither of sizes nor of times."""

import asyncio
from http import HTTPStatus
from typing import Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from quire.services.frontend.http.errors import INVALID, Refusal
from quire.services.frontend.http.limits import HttpLimits

# How long what a refused peer still sends is read and dropped: closed at once, the connection would lose the answer.
_LINGER_SECONDS: Final = 1.0
_MAX_HEADER_FIELDS: Final = 128


class LimitedProtocol(HttpToolsProtocol):
    """One connection.

    Args:
        limits: that it keeps.
        waiting: the connections without a request, the one that has waited longest first; shared by all.
    """

    def __init__(
        self,
        limits: HttpLimits,
        waiting: "dict[LimitedProtocol, None]",
        config: uvicorn.Config,
        server_state: ServerState,
    ) -> None:
        super().__init__(config, server_state, {})
        self._limits = limits
        self._waiting = waiting
        self._reads_header = True
        self._header_bytes = 0
        self._is_refused = False
        self._read_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def drop(self) -> None:
        """Closes it for another's sake."""
        self._waiting.pop(self, None)
        self.connections.discard(self)
        self.transport.abort()

    def leave(self, seconds: float) -> None:
        """Closes it when it has had no request for `seconds`: from now on, or behind an answer."""
        self.timeout_keep_alive = max(1, round(seconds))
        if self in self._waiting:
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    # ── of the transport ──

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._waiting[self] = None
        self._start_read_timer(self._limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._waiting.pop(self, None)
        self._stop_read_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        if self._reads_header:
            self._header_bytes += len(data)
            if self._read_timer is None:
                self._start_read_timer(self._limits.header_seconds)
        super().data_received(data)
        if self._is_refused or self.transport.is_closing():
            return
        if self._reads_header:
            # Of one that is complete, the fields are counted.
            if self._header_bytes > self._limits.max_header_bytes:
                self._refuse_header()
        elif self._read_timer is None:
            self._start_read_timer(self._limits.body_seconds)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(self._limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_timer()

    # ── of the parser ──

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self._limits.max_header_bytes or len(self.headers) > _MAX_HEADER_FIELDS:
            self._refuse_header()
        if self._is_refused:
            return
        self._reads_header = False
        self._stop_read_timer()
        self._waiting.pop(self, None)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._is_refused:
            return
        super().on_message_complete()
        self._reads_header, self._header_bytes = True, 0
        self._stop_read_timer()

    # ── of the request ──

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._reads_header and self.cycle.response_complete and not self.transport.is_closing():
            self._waiting[self] = None

    def _refuse_header(self) -> None:
        limit = f"must be at most {self._limits.max_header_bytes} bytes in {_MAX_HEADER_FIELDS} fields"
        self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"header: {limit}")

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        """Answers, and ends the connection; a request that runs on it loses its client."""
        self._is_refused = True
        self._waiting.pop(self, None)
        self._stop_read_timer()
        is_busy = self.cycle is not None and not self.cycle.response_complete
        if is_busy:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if is_busy and self.cycle.response_started:
            self.transport.abort()
            return
        self.transport.write(refusal_bytes(Refusal(status, message, INVALID)))
        # The end of an encrypted stream is that of the connection.
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._read_timer = self.loop.call_later(_LINGER_SECONDS, self.transport.abort)

    def _on_read_timeout(self) -> None:
        self._read_timer = None
        is_busy = self.cycle is not None and not self.cycle.response_complete
        if self.flow.read_paused or (is_busy and self._reads_header):
            # The client waits for this server.
            self._start_read_timer(self._limits.header_seconds)
        elif self._reads_header and self._header_bytes == 0:
            self.transport.abort()
        else:
            part = "header" if self._reads_header else "body"
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"{part}: it has not come in time")

    def _start_read_timer(self, seconds: float) -> None:
        self._read_timer = self.loop.call_later(seconds, self._on_read_timeout)

    def _stop_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


def refusal_bytes(refusal: Refusal) -> bytes:
    """The whole response, after which the connection ends."""
    response = refusal.response()
    status = f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}\r\n".encode()
    headers = [*response.raw_headers, (b"connection", b"close")]
    return status + b"".join(b"%s: %s\r\n" % each for each in headers) + b"\r\n" + bytes(response.body)
