"""The server process itself: clients that do not read, SIGTERM, bodies. Real processes and sockets; the application is tiny."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from tests.tradingok.embedded_runs import PROJECT, until
from tests.tradingok.tiny_application import SIZES
from tradingok import ports

STOP_SECONDS = 60.0


class Run:
    """One server process; `lines` are what it has printed."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port
        self.lines: list[str] = []

    def reads(self, line: str) -> bool:
        """Read one more line; whether it is `line`."""
        assert self.process.stdout is not None
        self.lines.append(self.process.stdout.readline().strip())
        return self.lines[-1] == line

    def deaf_client(self) -> socket.socket:
        """A WebSocket client that shakes hands and then never reads."""
        client = socket.create_connection(("127.0.0.1", self.port))
        client.sendall(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        until(lambda: self.reads("accepted"), "the deaf client is accepted")
        return client


@contextmanager
def running(mode: str) -> Iterator[Run]:
    port = ports.choose()
    line = [sys.executable, "-m", "tests.tradingok.tiny_application", str(port), mode]
    with subprocess.Popen(line, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as process:
        try:
            until(lambda: ports.accepts(port), "the server accepts")
            yield Run(process, port)
        finally:
            process.kill()


@pytest.fixture
def server() -> Iterator[Run]:
    with running("abort") as run:
        yield run


def test_a_client_that_stops_reading_is_gone_once_aborted(server: Run) -> None:
    with server.deaf_client() as client:
        until(lambda: server.reads("aborting"), "the application aborts the client")
        until(lambda: server.reads("disconnected"), "the application is told that the client is gone")
        client.settimeout(60)  # with the connection still open, what is buffered would be followed by this timeout
        with contextlib.suppress(ConnectionResetError):
            assert until(lambda: not client.recv(1 << 20), "the connection is at its end")


def test_a_deaf_client_does_not_disturb_another(server: Run) -> None:
    with server.deaf_client(), connect(f"ws://127.0.0.1:{server.port}/quiet", ping_interval=None) as client:
        client.send("abc")
        assert client.recv(timeout=60) == "3"


def test_the_line_sends_whole_frames_of_every_size_among_those_of_asgi(server: Run) -> None:
    with connect(f"ws://127.0.0.1:{server.port}/line", ping_interval=None, max_size=None) as client:
        assert [len(client.recv(timeout=60)) for _ in SIZES] == list(SIZES)
        client.send("abc")
        assert client.recv(timeout=60) == "3"


def test_the_line_says_when_it_is_full_and_goes_on_when_it_is_read(server: Run) -> None:
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
    small.connect(("127.0.0.1", server.port))
    with connect(f"ws://127.0.0.1:{server.port}/line", sock=small, ping_interval=None, max_size=None, max_queue=1) as client:
        until(lambda: server.reads("accepted"), "the client is accepted")
        until(lambda: server.reads("full at 2000000, backlog over a million: True"), "the line is full")
        assert [len(client.recv(timeout=60)) for _ in SIZES] == list(SIZES)


@pytest.mark.parametrize("mode", ["abort", "stubborn"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_in_time_and_with_code_0_despite_a_deaf_client(mode: str, number: signal.Signals) -> None:
    with running(mode) as run, run.deaf_client():
        os.kill(run.process.pid, number)
        assert run.process.wait(timeout=STOP_SECONDS) == 0
        assert run.process.stdout is not None
        assert run.process.stdout.read().split().count("good-bye") == 1


def test_a_client_that_reads_is_closed_with_a_code(server: Run) -> None:
    with connect(f"ws://127.0.0.1:{server.port}/quiet", ping_interval=None) as client:
        server.process.terminate()
        with pytest.raises(ConnectionClosedError) as caught:
            client.recv(timeout=60)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1012


def test_a_message_over_the_limit_closes_its_connection_with_1009(server: Run) -> None:
    with connect(f"ws://127.0.0.1:{server.port}/quiet", ping_interval=None) as client:
        client.send("a" * 2000)
        assert client.recv(timeout=60) == "2000"
        client.send("a" * 2001)
        with pytest.raises(ConnectionClosedError) as caught:
            client.recv(timeout=60)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1009


@pytest.mark.parametrize(("size", "status"), [(0, 200), (1000, 200), (1001, 413), (10_000_000, 413)])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_refused_however_it_comes(server: Run, size: int, status: int, chunked: bool) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    pieces = (b"x" * min(500, size - sent) for sent in range(0, min(size, 5000), 500)) if chunked else None
    try:
        connection.request("POST", "/", body=pieces if chunked else b"x" * size, encode_chunked=chunked)
    except (BrokenPipeError, ConnectionResetError):
        assert status == 413  # the server has answered and closed while we were still sending
    response = connection.getresponse()
    body = response.read()
    assert response.status == status
    assert body == str(size).encode() if status == 200 else b"too_large" in body


def test_a_port_in_use_is_an_error_at_once(server: Run) -> None:
    line = [sys.executable, "-m", "tests.tradingok.tiny_application", str(server.port), "abort"]
    done = subprocess.run(line, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Address already in use" in done.stderr
