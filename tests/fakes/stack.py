"""The whole of TradingOK as real processes, for tests of what users see: exchange, instrument master, feed, web.

In a test module (or a conftest.py):

    from tests.fakes.stack import Stack, stack  # noqa: F401 (a fixture, one stack for the module)

    def test_x(stack: Stack) -> None:
        stack.get("/api/broker-status"), stack.url, stack.ws_url, stack.api_key, stack.sign_in_link()
        stack.exchange.fault(kind="mute"), stack.web.kill(), stack.web.start()

It runs in the test run's own namespace and servers with a data folder of its own. Do not use the `db` fixture beside it: that
empties the database after each test; this one does when the module is done. Everything is asked of the processes by HTTP or by
`manage.py`, so that it may be used where an event loop runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pymongo
import pytest
import redis
from django.conf import settings

from tests.fakes import MADE_BY_MIGRATE
from tests.fakes.exchange import ROOT, RunningExchange
from tradingok import ports
from tradingok.children import end, spawn

READY_SECONDS = 90.0
STOP_SECONDS = 20.0


class Process:
    """One process of the stack that may be ended and started again. Its output is in `log`."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.out"
        self._command = command
        self._environment = environment
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def pid(self) -> int:
        assert self._child is not None, f"{self.name} was never started"
        return self._child.pid

    def start(self) -> None:
        """Start it, from the main thread: it ends with the thread that started it."""
        assert not self.running, f"{self.name} is running"
        with self.log.open("ab") as output:
            self._child = spawn(self._command, output=output, cwd=ROOT, environment=self._environment)

    def stop(self) -> int:
        """End it in order and return its exit code."""
        assert self._child is not None, f"{self.name} was never started"
        return end(self._child, seconds=STOP_SECONDS)

    def kill(self) -> int:
        """End it as a crash does; return its exit code, which says that it was this signal."""
        assert self._child is not None, f"{self.name} was never started"
        self._child.kill()
        return self._child.wait()

    def told(self) -> str:
        """The end of its output."""
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""


class Stack:
    """A running TradingOK.

    Attributes:
        exchange: the simulated exchange; its market time is now, and its faults are at hand.
        feed, web: the processes.
        url, ws_url: where the web server answers.
        api_key: of the local owner.
        var: the data folder.
    """

    def __init__(self, var: Path, *exchange_arguments: str, **environment: str) -> None:
        """Start everything and wait until the feed is live and quotes are there.

        Args:
            var: an empty folder.
            exchange_arguments: options of runexchange.
            environment: settings of the processes, beside what the stack sets itself.

        Raises:
            AssertionError: something did not start; its output is in the message.
        """
        self.var = var
        self.port = ports.choose()
        self.url = f"http://127.0.0.1:{self.port}"
        self.ws_url = f"ws://127.0.0.1:{self.port}/ws/market/"
        self._started = ExitStack()
        try:
            self._start(exchange_arguments, environment)
        except BaseException:
            self.stop()
            raise

    def _start(self, exchange_arguments: tuple[str, ...], environment: dict[str, str]) -> None:
        self.exchange = RunningExchange(*exchange_arguments)
        self._started.callback(self.exchange.stop)
        self.environment = {
            **os.environ,
            "TRADINGOK_VAR": str(self.var),
            "TRADINGOK_NAMESPACE": settings.NAMESPACE,
            "MONGODB_URI": settings.MONGODB_URI,
            "REDIS_URL": settings.REDIS_URL,
            "SECRET_KEY": settings.SECRET_KEY,
            "TRADINGOK_EXCHANGE_URL": self.exchange.url,
            "UPSTOX_ACCESS_TOKEN": self.exchange.token,
            "PORT": str(self.port),
            **environment,
        }
        self.manage("migrate", "--verbosity", "0")
        self.manage("refresh_instruments", "--verbosity", "0")
        self.api_key = self.manage("apikey", "create", "stack")
        self.feed = self._process("feed", "manage.py", "runfeed")
        self.web = self._process("web", "-m", "tradingok.server")
        self.feed.start()
        self.web.start()
        self.wait_for(self.answers)
        self.wait_for(lambda: self.get("/api/broker-status")["state"] == "live")

    def _process(self, name: str, *arguments: str) -> Process:
        process = Process(name, [sys.executable, *arguments], self.environment, self.var)
        self._started.callback(lambda: process.running and process.stop())
        return process

    def manage(self, *arguments: str) -> str:
        """Run a management command in the stack's environment and return what it printed.

        Raises:
            AssertionError: it failed.
        """
        command = [sys.executable, "manage.py", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=READY_SECONDS, check=False)
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def sign_in_link(self) -> str:
        """A fresh link that signs the local owner in, once."""
        return self.manage("signinlink", "--base-url", self.url)

    def request(self, path: str, **parameters: Any) -> httpx.Response:
        """GET with the API key."""
        return httpx.get(self.url + path, params=parameters or None, headers={"Authorization": f"Bearer {self.api_key}"}, timeout=30)

    def get(self, path: str, **parameters: Any) -> Any:
        """GET with the API key and return the JSON. Raises httpx.HTTPStatusError on an error status."""
        return self.request(path, **parameters).raise_for_status().json()

    def answers(self) -> bool:
        """Whether the web server is alive."""
        try:
            return httpx.get(f"{self.url}/api/health/live", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def wait_for(self, holds: Callable[[], object], seconds: float = READY_SECONDS) -> None:
        """Poll until `holds()` is true.

        Raises:
            AssertionError: it was not within `seconds`, or a process has ended; with the end of their output.
        """
        deadline = time.monotonic() + seconds
        while not holds():
            for process in (self.feed, self.web):
                assert process.running, f"{process.name} has ended:\n{process.told()}"
            assert time.monotonic() < deadline, f"not within {seconds:.0f} s\nfeed: {self.feed.told()}\nweb: {self.web.told()}"
            time.sleep(0.1)

    def stop(self) -> None:
        """End everything, the last started first."""
        self._started.close()


def empty_namespace(*, drop: bool) -> None:
    """Remove the test run's documents and Redis keys; with `drop` the whole database. Plain clients: an event loop may run here."""
    with pymongo.MongoClient[dict[str, Any]](settings.MONGODB_URI) as client:
        database = client[settings.NAMESPACE]
        if drop:
            client.drop_database(database)
        for name in database.list_collection_names():
            if name not in MADE_BY_MIGRATE and not name.startswith("system."):
                database[name].delete_many({})
    with redis.Redis.from_url(settings.REDIS_URL) as server:
        for key in server.scan_iter(match=f"{settings.NAMESPACE}*", count=1000):
            server.delete(key)


@pytest.fixture(scope="module")
def stack(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One running stack for the module, which follows about 130 instruments: few enough to leave the machine to the test.

    pytest-django makes the database only where some test of the run uses `db`; else it is made here, and dropped at the end.
    """
    with pymongo.MongoClient[dict[str, Any]](settings.MONGODB_URI) as client:
        ours = settings.NAMESPACE not in client.list_database_names()
    running = Stack(tmp_path_factory.mktemp("stack"), "--seed", "7", TRADINGOK_STRIKES="5")
    yield running
    running.stop()
    empty_namespace(drop=ours)
