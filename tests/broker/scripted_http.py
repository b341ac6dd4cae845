"""A real HTTP server on loopback that answers what a test tells it to, and remembers what it was asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Reply(NamedTuple):
    status: int = 200
    body: bytes = b'{"status":"success","data":{}}'
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)
    close_after: int | None = None
    """Hang up after so many bytes of the body."""


class Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class ScriptedServer:
    def __init__(self, address: str) -> None:
        self.url = address
        self.replies: list[Reply] = []
        self.requests: list[Request] = []

    def will(self, *replies: Reply) -> ScriptedServer:
        self.replies += replies
        return self


@contextmanager
def scripted_server() -> Iterator[ScriptedServer]:
    """Give a server; each request takes the next reply, without one 500."""

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            script.requests.append(Request(self.command, self.path, dict(self.headers), self.rfile.read(length)))
            reply = script.replies.pop(0) if script.replies else Reply(500, b"unscripted")
            self.send_response(reply.status)
            for name, value in reply.headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body if reply.close_after is None else reply.body[: reply.close_after])
            self.close_connection = True

        do_GET = do_POST = do_DELETE = _serve  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    script = ScriptedServer(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
