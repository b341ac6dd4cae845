"""A real feed process (`manage.py runfeed`) against an exchange, for tests of the whole way into the store.

from tests.fakes.feed import RunningFeed, start_feed  # noqa: F401 (a fixture)
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.conf import settings

from marketdata.domain.feed_status import FeedStatus
from marketdata.live_state import statuses_read

ROOT = Path(__file__).resolve().parents[2]
STOP_SECONDS = 60
StartFeed = Callable[..., "RunningFeed"]


class RunningFeed:
    """One feed process; `stop` ends it. What it logged is in `log()`."""

    def __init__(self, exchange_url: str, var: Path, **environment: str) -> None:
        """Start it.

        Args:
            exchange_url: where the broker is.
            var: its data folder; the journal lies in `var/journal/0`.
            environment: further variables, TRADINGOK_… names.
        """
        self.var = var
        self.journal = var / "journal" / "0"
        self._log = (var / "feed.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", "runfeed"],
            cwd=ROOT,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "TRADINGOK_EXCHANGE_URL": exchange_url,
                "TRADINGOK_VAR": str(var),
                "SECRET_KEY": settings.SECRET_KEY,
                **environment,
            },
        )

    def log(self) -> str:
        """Return what it wrote so far."""
        return (self.var / "feed.log").read_text()

    def status(self) -> FeedStatus | None:
        """Return its last report."""
        statuses = statuses_read()
        return statuses[0] if statuses else None

    def wait_for(self, holds: Callable[[FeedStatus], bool], seconds: float = 60) -> FeedStatus:
        """Poll its report until `holds(report)`; return it. Raises AssertionError after `seconds` or when it has ended."""
        deadline = time.monotonic() + seconds
        status = None
        while time.monotonic() < deadline:
            status = self.status()
            if status is not None and holds(status):
                return status
            assert self.process.poll() is None, f"the feed ended with {self.process.returncode}:\n{self.log()}"
            time.sleep(0.05)
        raise AssertionError(f"not within {seconds} s; report: {status}\n{self.log()}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
        finally:
            self._log.close()


@pytest.fixture
def start_feed(tmp_path: Path) -> Iterator[StartFeed]:
    """Starts feeds; each is stopped after the test."""
    running: list[RunningFeed] = []

    def start(exchange_url: str, var: Path = tmp_path, **environment: str) -> RunningFeed:
        running.append(RunningFeed(exchange_url, var, **environment))
        return running[-1]

    yield start
    for feed in running:
        feed.stop()
