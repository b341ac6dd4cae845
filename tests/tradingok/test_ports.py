"""Ports of this machine."""

from __future__ import annotations

import socket

import pytest

from tradingok import ports


def test_a_listening_port_is_not_free_and_accepts() -> None:
    with socket.socket() as server:
        server.bind((ports.LOOPBACK, 0))
        server.listen()
        port = server.getsockname()[1]
        assert not ports.is_free(port)
        assert ports.accepts(port)
        assert ports.choose(port) != port
    assert ports.is_free(port)
    assert not ports.accepts(port)
    assert ports.choose(port) == port


def test_a_port_just_left_by_its_server_is_free() -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as every server does
        server.bind((ports.LOOPBACK, 0))
        server.listen()
        port = server.getsockname()[1]
        with socket.create_connection((ports.LOOPBACK, port)):
            accepted, _ = server.accept()
            accepted.close()  # the side that closes first is left in TIME_WAIT
    assert ports.is_free(port)


def test_an_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(OSError, match="assign"):
        ports.is_free(8080, "192.0.2.1")


def test_who_listens_on_a_port_is_counted() -> None:
    port = ports.choose()
    assert ports.listeners(port) == 0
    with socket.socket() as one, socket.socket() as two:
        for count, each in enumerate((one, two), start=1):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            each.bind((ports.LOOPBACK, port))
            each.listen()
            assert ports.listeners(port) == count
        with socket.create_connection((ports.LOOPBACK, port)):
            assert ports.listeners(port) == 2
    assert ports.listeners(port) == 0
