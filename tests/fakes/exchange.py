"""A real exchange process (`manage.py runexchange`) on a free loopback port, for tests of whatever talks to the broker.

In a test module:

    from tests.fakes.exchange import RunningExchange, start_exchange  # noqa: F401 (a fixture)

    def test_x(start_exchange):
        exchange = start_exchange("--instruments", "40", "--seed", "7")
        exchange.url, exchange.token, exchange.state(), exchange.ledger.updates(), exchange.fault(kind="drop")
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.simulator.ledger import LedgerReader

ROOT = Path(__file__).resolve().parents[2]
REAL_DATA = ROOT.parent / "shared" / "upstox" / "data"
READY_SECONDS = 90
StartExchange = Callable[..., "RunningExchange"]


class RunningExchange:
    """One exchange process; `stop` ends it. Its standard output is in `lines`."""

    def __init__(self, *arguments: str, ledger: Path | None = None, token: str = "simulated-token") -> None:
        """Start it and wait until it is ready.

        Args:
            arguments: options of runexchange, besides --port, --token and --ledger.
            ledger: folder of the ledger; None: no ledger.
            token: the access token it accepts.

        Raises:
            AssertionError: it ended, or was not ready in time.
        """
        self.token, self._ledger = token, ledger
        command = [sys.executable, "manage.py", "runexchange", "--port", "0", "--token", token, *arguments]
        command += ["--ledger", str(ledger)] if ledger else []
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ)
        )
        self.lines: list[str] = []
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = self._wait_until_ready()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                self.lines.append(line.rstrip())
                if "ready at" in line:
                    self._ready.set()
        self._ready.set()

    def _wait_until_ready(self) -> str:
        if not self._ready.wait(READY_SECONDS):
            self.stop()
        for line in self.lines:
            if match := re.search(r"ready at (\S+)", line):
                return match[1]
        raise AssertionError("the exchange did not start:\n" + "\n".join(self.lines))

    @property
    def ledger(self) -> LedgerReader:
        """What it sent. Call `state` first to have it all flushed while it runs."""
        assert self._ledger is not None, "started without a ledger"
        return LedgerReader(self._ledger)

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers of an authorised request."""
        return {"Authorization": f"Bearer {self.token}", "Accept": "application/json"}

    def get(self, path: str, **parameters: str) -> httpx.Response:
        """An authorised GET."""
        return httpx.get(self.url + path, params=parameters or None, headers=self.headers, timeout=30)

    def state(self) -> dict[str, Any]:
        """The figures of /simulator/state."""
        state: dict[str, Any] = httpx.get(f"{self.url}/simulator/state", timeout=30).raise_for_status().json()
        return state

    def fault(self, **fault: object) -> dict[str, Any]:
        """Inject a fault (`kind` and its fields); returns the figures."""
        state: dict[str, Any] = httpx.post(f"{self.url}/simulator/faults", json=fault, timeout=30).raise_for_status().json()
        return state

    def authorized_url(self) -> str:
        """A fresh single-use feed URL."""
        url: str = self.get("/v3/feed/market-data-feed/authorize").raise_for_status().json()["data"]["authorized_redirect_uri"]
        return url

    def wait_for(self, holds: Callable[[dict[str, Any]], bool], seconds: float = 60) -> dict[str, Any]:
        """Poll the figures until `holds(figures)`; returns them. Raises AssertionError after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            state = self.state()
            if holds(state):
                return state
            assert time.monotonic() < deadline, f"not within {seconds} s; figures: {state}"
            time.sleep(0.05)

    def stop(self, signal_number: int = signal.SIGTERM, seconds: float = 60) -> int:
        """End it and return its exit code; killed after `seconds`."""
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
        finally:
            self._reader.join(5)


@pytest.fixture
def start_exchange() -> Iterator[StartExchange]:
    """Starts exchanges; each is stopped after the test."""
    running: list[RunningExchange] = []

    def start(*arguments: str, ledger: Path | None = None, token: str = "simulated-token") -> RunningExchange:
        running.append(RunningExchange(*arguments, ledger=ledger, token=token))
        return running[-1]

    yield start
    for exchange in running:
        exchange.stop()


def real_data(*names: str) -> list[str]:
    """Paths of captured files; skips the test where the captured data is absent."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"the captured data is not in {REAL_DATA}")
    return [str(REAL_DATA / name) for name in names]
