"""Real `python -m tradingok.embedded` processes for tests: started, watched, always ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tradingok.children import process_ended

PROJECT = Path(__file__).resolve().parents[2]
SERVERS = ("mongod", "valkey")


def until(condition: Callable[[], Any], what: str, *, seconds: float = 60) -> Any:
    """Poll until `condition` gives something true, and return that; fail with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}")


def environment(var: Path, **more: str) -> dict[str, str]:
    """The environment of a user's shell: nothing of this test run's servers in it."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TRADINGOK_", "UPSTOX_")) and name != "DJANGO_SETTINGS_MODULE"
    }
    for name in ("MONGODB_URI", "REDIS_URL", "PORT"):
        ours.pop(name, None)
    return {**ours, "TRADINGOK_VAR": str(var), "PYTHONUNBUFFERED": "1", **more}


def address(var: Path, server: str) -> dict[str, Any]:
    """What `server` remembers in `var`."""
    return dict(json.loads((var / server / "address.json").read_text()))


def ended(var: Path) -> bool:
    """Whether no server of `var` runs."""
    return all(process_ended(address(var, server)["pid"]) for server in SERVERS)


@contextmanager
def holding(var: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has the servers up and prints "ready" with their addresses; it ends when its input is closed."""
    command = "import os; print(os.environ['MONGODB_URI'], os.environ['REDIS_URL'], flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-m", "tradingok.embedded", "--", sys.executable, "-c", command],
        cwd=PROJECT,
        env=environment(var),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=30)
