"""The proxy against a plain server: each fault is seen by a client as a network's would be, and counted."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.fakes.proxy import StartProxy, TcpProxy, start_proxy  # noqa: F401 - a fixture

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def server() -> Iterator[str]:
    """Answers each line with CONTENT, until the client goes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(connection: socket.socket) -> None:
        with connection:
            try:
                while connection.recv(100):
                    connection.sendall(CONTENT)
            except OSError:
                pass

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture
def proxy(server: str, start_proxy: StartProxy) -> TcpProxy:  # noqa: F811
    return start_proxy(server)


def connect(proxy: TcpProxy) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", int(urlsplit(proxy.url).port or 0)))
    client.settimeout(60)
    return client


def read(client: socket.socket, count: int) -> bytes:
    """So many bytes, or what came before the end."""
    found = b""
    while len(found) < count and (piece := client.recv(count - len(found))):
        found += piece
    return found


def asked(client: socket.socket) -> bytes:
    """The whole answer to one question."""
    client.sendall(b"?\n")
    return read(client, len(CONTENT))


def wait_for(proxy: TcpProxy, name: str, count: int = 1) -> None:
    deadline = time.monotonic() + 20
    while proxy.counts[name] < count:
        assert time.monotonic() < deadline, f"{name}: {proxy.counts}"
        time.sleep(0.01)


def test_it_forwards_both_ways(proxy: TcpProxy) -> None:
    with connect(proxy) as client:
        assert [asked(client), asked(client)] == [CONTENT, CONTENT]
    assert (proxy.counts["up"], proxy.counts["down"], proxy.counts["accepted"]) == (4, 2 * len(CONTENT), 1)


def test_cut_ends_open_connections_and_lets_new_ones_in(proxy: TcpProxy) -> None:
    with connect(proxy) as client:
        assert asked(client) == CONTENT
        assert proxy.cut() == 1
        assert client.recv(1) == b""
    with connect(proxy) as client:
        assert asked(client) == CONTENT
    assert proxy.counts["cut"] == 1


def test_a_reset_is_seen_as_one(proxy: TcpProxy) -> None:
    with connect(proxy) as client:
        assert asked(client) == CONTENT
        assert proxy.cut(reset=True) == 1
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert proxy.counts["reset"] == 1


def test_cut_after_ends_within_an_answer_once(proxy: TcpProxy) -> None:
    with connect(proxy) as client:
        assert asked(client) == CONTENT
        proxy.cut_after(1000)
        assert asked(client) == CONTENT[:1000]
    with connect(proxy) as client:
        assert asked(client) == CONTENT
    assert proxy.counts["cut"] == 1


def test_a_drip_is_whole_and_in_small_pieces(proxy: TcpProxy) -> None:
    with connect(proxy) as client:
        assert asked(client) == CONTENT
        proxy.drip(20_000)
        assert asked(client) == CONTENT
        assert proxy.counts["dripped"] >= len(CONTENT) // 1000
        proxy.clear()
        assert asked(client) == CONTENT


def test_a_stall_keeps_connections_open_and_loses_nothing(proxy: TcpProxy) -> None:
    with connect(proxy) as client, connect(proxy) as second:
        assert asked(client) == CONTENT
        assert asked(second) == CONTENT
        proxy.stall()
        client.sendall(b"?\n")
        wait_for(proxy, "stalled")
        with connect(proxy) as later:
            wait_for(proxy, "accepted", 3)
            later.sendall(b"?\n")
            for one in (client, later):
                one.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    one.recv(1)
                one.settimeout(60)
            proxy.clear()
            assert [read(client, len(CONTENT)), read(later, len(CONTENT))] == [CONTENT, CONTENT]


def test_refuse_resets_new_connections_and_leaves_open_ones(proxy: TcpProxy) -> None:
    with connect(proxy) as client:
        assert asked(client) == CONTENT
        proxy.refuse()
        with connect(proxy) as later, pytest.raises(ConnectionResetError):
            later.recv(1)
        assert asked(client) == CONTENT
        proxy.clear()
        with connect(proxy) as later:
            assert asked(later) == CONTENT
    assert proxy.counts["refused"] == 1


def test_a_server_that_is_gone_resets_the_client(start_proxy: StartProxy) -> None:  # noqa: F811
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with connect(start_proxy(address)) as client, pytest.raises(ConnectionResetError):
        client.recv(1)
