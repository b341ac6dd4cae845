"""The embedded servers: a mongod and a valkey from PyPI, for development and tests. Production sets MONGODB_URI and REDIS_URL.

with embedded_servers(Path("var")) as addresses:
    os.environ.update(addresses)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tradingok.embedded.errors import EmbeddedServerError, make_folders
from tradingok.embedded.mongod import Mongod
from tradingok.embedded.server import EmbeddedServer
from tradingok.embedded.valkey import Valkey
from tradingok.locks import FileLock, LockHeld

__all__ = ["EmbeddedServer", "EmbeddedServerError", "Mongod", "Valkey", "embedded_servers", "needed_servers", "start_server", "stop_server"]

LOCK_SECONDS = 90.0  # longer than one start may take


def needed_servers(var: Path, *, cache_gigabytes: float = 0.25) -> list[EmbeddedServer]:
    """The servers that the environment does not name, in the order in which they start."""
    servers: list[EmbeddedServer] = [Mongod(var, cache_gigabytes=cache_gigabytes), Valkey(var)]
    return [server for server in servers if not os.environ.get(server.environment_name)]


def start_server(server: EmbeddedServer) -> str:
    """Find or start one server while no other process does so on the same data folder. Returns its address.

    Raises:
        EmbeddedServerError: it cannot be had.
    """
    make_folders(server.var)
    try:
        with _start_lock(server):
            return server.start()
    except LockHeld as error:
        raise EmbeddedServerError(
            f"{server.name}: process {error.holder} has been starting it for {LOCK_SECONDS:.0f} s.",
            f"End that process, or look into {server.log.parent}.",
        ) from error


def stop_server(server: EmbeddedServer) -> None:
    """End the server if it is ours to end; a process that wants to start it meanwhile waits."""
    with _start_lock(server):
        server.stop()


def _start_lock(server: EmbeddedServer) -> FileLock:
    return FileLock(server.var / f"{server.name}.lock", wait_seconds=LOCK_SECONDS)


@contextmanager
def embedded_servers(var: Path, *, cache_gigabytes: float = 0.25) -> Iterator[dict[str, str]]:
    """Have both servers up. Gives MONGODB_URI and REDIS_URL: the environment's own where set, else the embedded servers'.

    Servers that run already on `var` are used and left running; those started here end with the block, and also when this
    process is killed. Enter it from the main thread (see `tradingok.children`).

    Raises:
        EmbeddedServerError: one cannot be had; what was started before it is ended.
    """
    addresses = {name: os.environ[name] for name in ("MONGODB_URI", "REDIS_URL") if os.environ.get(name)}
    with ExitStack() as stack:
        for server in needed_servers(var, cache_gigabytes=cache_gigabytes):
            stack.callback(stop_server, server)
            addresses[server.environment_name] = start_server(server)
        yield addresses
