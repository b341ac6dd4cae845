"""`python -m tests.first_run`: a real `make run` in an empty data folder, as a new user would, then Ctrl-C. Exit code 0: all is right.

Shown: it prints a sign-in link that works once; `selftest` passes (REST and WebSocket deliver); ticks are in MongoDB and get more;
SIGINT ends it with exit code 0 and leaves no process of its own; a second run finds the ticks again.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from pymongo import MongoClient

from tradingok import ports
from tradingok.children import processes_with

PROJECT = Path(__file__).resolve().parent.parent
START_SECONDS = 180
STOP_SECONDS = 60


def check(condition: object, what: str) -> None:
    """Print what was checked; end with exit code 1 when it does not hold."""
    print(f"{'ok  ' if condition else 'FAIL'}  {what}", flush=True)
    if not condition:
        raise SystemExit(1)


@contextmanager
def running(environment: dict[str, str]) -> Iterator[str]:
    """`make run`, until its sign-in link is printed, which is given; then SIGINT to the supervisor, as Ctrl-C sends it."""
    with subprocess.Popen(["make", "run"], cwd=PROJECT, env=environment, stdout=subprocess.PIPE, text=True) as make:
        try:
            yield wait_for_link(make)
        finally:
            # make itself hands no signal on; at a terminal, Ctrl-C reaches both.
            os.kill(int(Path(environment["TRADINGOK_VAR"], "supervisor.lock").read_text()), signal.SIGINT)
            print(make.communicate(timeout=STOP_SECONDS)[0], flush=True)
    check(make.returncode == 0, f"make run ended with exit code {make.returncode}")


def wait_for_link(make: subprocess.Popen[str]) -> str:
    """Show what `make run` prints up to its sign-in link."""
    begun = time.monotonic()
    assert make.stdout is not None
    for line in make.stdout:
        print(line, end="", flush=True)
        if link := re.search(r"https?://\S+/signin/\S+", line):
            check(time.monotonic() - begun < START_SECONDS, f"the sign-in link came after {time.monotonic() - begun:.0f} s")
            return link[0]
    check(False, "make run ended without a sign-in link")
    return ""


def ticks(environment: dict[str, str]) -> int:
    """How many ticks the embedded MongoDB holds."""
    url = json.loads(Path(environment["TRADINGOK_VAR"], "mongod", "address.json").read_text())["url"]
    with MongoClient[dict[str, Any]](url, serverSelectionTimeoutMS=5000) as client:
        names = [name for name in client.tradingok.list_collection_names() if name.endswith("tick")]
        check(len(names) == 1, f"there is one collection of ticks: {names}")
        return client.tradingok[names[0]].count_documents({})


def main() -> int:
    """Run twice. Returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="tradingok-first-run-") as folder:
        environment = {**os.environ, "TRADINGOK_VAR": folder, "PORT": str(ports.choose()), "PYTHONUNBUFFERED": "1"}
        with running(environment) as link:
            page = httpx.get(link, follow_redirects=True)
            used = httpx.get(link, follow_redirects=True)
            check(page.status_code == 200 and "/signin" not in str(page.url), f"the link signs in and leads to {page.url}")
            check(used.status_code != 200 or "/signin" in str(used.url), "the link does not work twice")
            selftest = subprocess.run([sys.executable, "manage.py", "selftest"], cwd=PROJECT, env=environment, check=False)
            check(selftest.returncode == 0, "selftest passes")
            first = ticks(environment)
            time.sleep(3)  # the market's own pace
            second = ticks(environment)
            check(second > first > 0, f"ticks reach MongoDB: {first}, then {second}")
        check(not processes_with("TRADINGOK_SUPERVISED", str(Path(folder).resolve())), "no process is left")
        with running(environment):
            check(ticks(environment) >= second, "a second run finds the ticks again")
    return 0


if __name__ == "__main__":
    sys.exit(main())
