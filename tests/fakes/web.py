"""One real web process, alone: no feed, no exchange. It uses the test run's own database and Redis, unless told otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.fakes.exchange import ROOT
from tradingok import ports
from tradingok.children import end, spawn

START_SECONDS = 60.0
STOP_SECONDS = 20.0


@contextmanager
def web_process(**environment: str) -> Iterator[int]:
    """Start `tradingok.server` as `make run` does, wait until it answers, give its port, stop it.

    Args:
        environment: settings that differ from this process's.

    Raises:
        RuntimeError: it did not start; its output is in the message.
    """
    port = ports.choose()
    settings = {**os.environ, "PORT": str(port), **environment}
    with tempfile.TemporaryFile() as output:
        child = spawn([sys.executable, "-m", "tradingok.server"], output=output, cwd=ROOT, environment=settings)
        try:
            if not _answers(port, child):
                output.seek(0)
                raise RuntimeError(output.read().decode(errors="replace")[-4000:])
            yield port
        finally:
            end(child, seconds=STOP_SECONDS)


def _answers(port: int, child: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and child.poll() is None:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/api/health/live", timeout=START_SECONDS).status_code == 200
        except httpx.TransportError:
            time.sleep(0.1)
    return False
