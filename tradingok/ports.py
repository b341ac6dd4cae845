"""TCP ports on this machine: which are free, which answer."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"
LISTENING = "0A"
"""State of a listening socket in the kernel's tables. Source: linux/include/net/tcp_states.h, TCP_LISTEN."""


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server could listen on `port` of `host` now.

    Raises:
        OSError: `host` is no address of this machine; final.
    """
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: connections in TIME_WAIT do not count
        try:
            probe.bind((host, port))
        except PermissionError:
            return False
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def accepts(port: int) -> bool:
    """Whether some server takes connections on `port` of the loopback address; known at once, since a closed port refuses."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1.0):
            return True
    except OSError:
        return False


def listeners(port: int) -> int:
    """How many sockets listen on `port` of this machine, at any address: so many processes where they share it (Linux; else 0)."""
    found = 0
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            found += fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port
    return found


def choose(preferred: int | None = None) -> int:
    """A free port of the loopback address: `preferred` when it is free, else one that the kernel picks."""
    if preferred and is_free(preferred):
        return preferred
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
