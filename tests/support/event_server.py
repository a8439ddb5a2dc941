"""A small HTTP server that answers chats with given events, for what a real one can hardly be made to send."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class EventServer:
    """What it answers and what it has seen.

    Attributes:
        url: where it listens.
        events: lines of an answer.
        hangs: goes on until the client leaves.
        status: of the answer.
        left: set when a client has left an answer that hangs.
        authorizations: of the requests.
    """

    url: str = ""
    events: Sequence[str] = ()
    hangs: bool = False
    status: int = 200
    left: threading.Event = field(default_factory=threading.Event)
    authorizations: list[str | None] = field(default_factory=list)


@contextmanager
def event_server() -> Iterator[EventServer]:
    state = EventServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(b'{"data": [{"id": "scripted"}]}', 200)

        def do_POST(self) -> None:
            state.authorizations.append(self.headers["Authorization"])
            self.rfile.read(int(self.headers["Content-Length"]))
            self._send("".join(state.events).encode(), state.status)
            if state.hangs:
                self.wfile.flush()
                assert self.rfile.read(1) == b""
                state.left.set()

        def _send(self, data: bytes, status: int) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
