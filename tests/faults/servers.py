"""A mongod and a valkey of a scenario's own, and what may be done to any process: kill it, stop it in its tracks, look at it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pymongo

from tradingok.children import process_ended
from tradingok.embedded import EmbeddedServer, Mongod, Valkey, start_server, stop_server

DEADLINE = 60.0
"""Seconds that anything may take on a loaded machine; never a measure."""


class FaultyMongod(Mongod):
    """The embedded mongod with MongoDB's own fail points."""

    def command(self, binary: Path, port: int) -> list[str]:
        return [*super().command(binary, port), "--setParameter", "enableTestCommands=1"]


class Servers:
    """Both servers on a folder, on ports that they keep through every restart.

    Attributes:
        mongod, valkey: the servers, for `pid_of`, `kill_server` and so on.
        mongodb_uri, redis_url: where they answer.
    """

    def __init__(self, folder: Path) -> None:
        self.mongod, self.valkey = FaultyMongod(folder), Valkey(folder)
        self.mongodb_uri = start_server(self.mongod)
        try:
            self.redis_url = start_server(self.valkey)
        except BaseException:
            stop_server(self.mongod)
            raise

    def stop(self) -> None:
        """End both, paused ones too."""
        for server in (self.valkey, self.mongod):
            if server.running():
                os.kill(pid_of(server), signal.SIGCONT)
            stop_server(server)

    @contextmanager
    def fail_point(self, commands: list[str], **what: Any) -> Iterator[Callable[[], int]]:
        """Let mongod fail these commands, as `failCommand` is told to; gives how often it has done so.

        Source: MongoDB's `failCommand` (src/mongo/db/commands/fail_command.idl); `configureFailPoint` answers with `count`.

        Args:
            commands: names, "insert", "update", …
            what: `errorCode`, `closeConnection`, `writeConcernError`, `namespace`, `appName` …
        """
        with pymongo.MongoClient[dict[str, Any]](self.mongodb_uri) as client:

            def configure(mode: str) -> int:
                answer = client.admin.command("configureFailPoint", "failCommand", mode=mode, data={"failCommands": commands, **what})
                return int(answer["count"])

            before = configure("alwaysOn")
            try:
                yield lambda: configure("alwaysOn") - before
            finally:
                client.admin.command("configureFailPoint", "failCommand", mode="off")


def pid_of(server: EmbeddedServer) -> int:
    """The pid of a server that was started."""
    address = server.remembered()
    assert address is not None, f"{server.name} was never started"
    return address.pid


def kill_server(server: EmbeddedServer) -> int:
    """End a server as a crash does; return the pid that is gone. `start_server` brings it back on its port and data."""
    pid = pid_of(server)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not server.running(), f"{server.name} is gone")
    assert process_ended(pid)
    return pid


@contextmanager
def paused(pid: int) -> Iterator[None]:
    """Stop a process in its tracks, as a machine does that swaps: it answers nobody, its connections stay open."""
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: process_state(pid) == "T", f"process {pid} has stopped")
        yield
        assert process_state(pid) == "T", f"process {pid} was let go too early"
    finally:
        os.kill(pid, signal.SIGCONT)


def process_state(pid: int) -> str:
    """The state letter of /proc/<pid>/stat: T is stopped by a signal."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def memory_mb(pid: int) -> float:
    """Resident memory of a process, MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def until(holds: Callable[[], object], what: str, seconds: float = DEADLINE) -> None:
    """Poll until `holds()`.

    Raises:
        AssertionError: it does not within `seconds`; says `what` was awaited.
    """
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.02)
