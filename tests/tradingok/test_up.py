"""`manage.py up` as a user has it: two real copies side by side, killed children, doctor and selftest, Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from pymongo import MongoClient

from tests.tradingok.embedded_runs import PROJECT, address, environment, until
from tests.tradingok.test_supervisor import Run
from tradingok import ports
from tradingok.children import process_ended, processes_with

START_SECONDS = 240  # on a busy machine with two cores
pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]  # `tests.first_run`, CI's last step, starts and stops it too


class Copy:
    """One running copy."""

    def __init__(self, run: Run, var: Path, port: int) -> None:
        self.run = run
        self.var = var
        self.port = port

    def manage(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of manage.py as from another terminal."""
        return subprocess.run(
            [sys.executable, "manage.py", *words],
            cwd=PROJECT,
            env=environment(self.var, PORT=str(self.port)),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def ticks(self) -> int:
        """How many ticks the copy has stored."""
        with MongoClient[dict[str, Any]](address(self.var, "mongod")["url"], serverSelectionTimeoutMS=5000) as client:
            return client.tradingok.marketdata_markettick.estimated_document_count()

    def stop(self) -> int:
        """Ctrl-C. Returns the exit code."""
        self.run.process.send_signal(signal.SIGINT)
        return self.run.wait()


@contextmanager
def copy(var: Path) -> Iterator[Copy]:
    port = ports.choose()
    with subprocess.Popen(
        [sys.executable, "manage.py", "up"],
        cwd=PROJECT,
        env=environment(var, PORT=str(port)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield Copy(Run(process), var, port)
        finally:
            process.terminate()
            process.wait(timeout=120)


def more_ticks(each: Copy, than: int) -> bool:
    return each.ticks() > than


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Copy, Copy]]:
    with ExitStack() as stack:
        one, two = (stack.enter_context(copy(tmp_path_factory.mktemp(name))) for name in ("one", "two"))
        for each in (one, two):
            each.run.says(r"^    Open +http", seconds=START_SECONDS)
        yield one, two


def test_the_link_signs_in_once_and_is_in_no_log(copies: tuple[Copy, Copy]) -> None:
    one, _ = copies
    link = one.run.says(r"Open +(http://localhost:\d+/signin/(\S+)/)")
    first = httpx.get(link.group(1), follow_redirects=True)
    assert (first.status_code, first.url.path) == (200, "/")
    assert httpx.get(link.group(1), follow_redirects=True).url.path != "/"
    assert [file.name for file in (one.var / "log").iterdir() if link.group(2) in file.read_text(errors="replace")] == []


@pytest.mark.long
def test_both_copies_store_and_deliver(copies: tuple[Copy, Copy]) -> None:
    for each in copies:
        stored = until(each.ticks, "ticks are stored")
        until(partial(more_ticks, each, stored), "more ticks are stored")
        verdict = each.manage("selftest", "--wait", "60")
        assert verdict.returncode == 0, verdict.stdout + verdict.stderr
        assert re.search(r"ok +websocket +\S+.* moves: ", verdict.stdout)


def test_selftest_leaves_no_key_that_works(copies: tuple[Copy, Copy]) -> None:
    one, _ = copies
    assert one.manage("selftest", "--wait", "60").returncode == 0
    with MongoClient[dict[str, Any]](address(one.var, "mongod")["url"]) as client:
        keys = list(client.tradingok.accounts_apikey.find({"name": "selftest"}))
    assert keys
    assert all(key["revoked_at"] for key in keys)


def test_doctor_finds_a_running_copy_well(copies: tuple[Copy, Copy]) -> None:
    one, _ = copies
    report = json.loads(one.manage("doctor", "--json").stdout)
    assert [finding for finding in report["findings"] if finding["level"] == "fail"] == []
    assert report["exit_code"] == 0
    assert {"mongodb", "redis", "disk", "clock", "instruments", "feed"} <= {finding["what"] for finding in report["findings"]}


def test_a_second_supervisor_on_the_same_data_is_told_of_the_first(copies: tuple[Copy, Copy]) -> None:
    one, _ = copies
    refused = one.manage("up")
    assert refused.returncode == 1
    assert f"(process {one.run.process.pid})" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_port_in_use_is_said_before_anything_starts(copies: tuple[Copy, Copy], tmp_path: Path) -> None:
    one, _ = copies
    refused = Copy(one.run, tmp_path / "third", one.port).manage("up")
    assert refused.returncode == 1
    assert f"Port {one.port} is in use" in refused.stderr
    assert not (tmp_path / "third" / "mongod").exists()


@pytest.mark.parametrize("name", ["feed", pytest.param("web", marks=pytest.mark.long)])
def test_a_killed_process_comes_back_and_serves(copies: tuple[Copy, Copy], name: str) -> None:
    one, _ = copies
    os.kill(one.run.pid(name), signal.SIGKILL)
    one.run.says(rf"{name}: ended by signal 9, restarting in")
    one.run.says(rf"{name}: started", times=2)
    deadline = time.monotonic() + 180
    while (verdict := one.manage("selftest", "--wait", "60")).returncode and time.monotonic() < deadline:
        time.sleep(0.5)
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr + (one.var / "log" / f"{name}.log").read_text()[-3000:]


def test_ctrl_c_stops_one_copy_in_order_and_leaves_the_other(copies: tuple[Copy, Copy]) -> None:
    one, two = copies
    theirs = processes_with("TRADINGOK_SUPERVISED", str(two.var.resolve()))
    assert len(theirs) >= 5
    begun = time.monotonic()
    assert two.stop() == 0
    assert time.monotonic() - begun < 90
    stopped = [line.split()[1].rstrip(":") for line in two.run.lines if line.endswith(": stopped")]
    assert stopped == ["beat", "worker", "web", "feed", "exchange", "valkey", "mongod"]
    assert all(process_ended(pid) for pid in theirs)
    assert all(process_ended(address(two.var, server)["pid"]) for server in ("mongod", "valkey"))
    assert httpx.get(f"http://127.0.0.1:{one.port}/api/health/live").status_code == 200
    before = two.manage("doctor", "--json")
    assert before.returncode == 1
    assert "does not answer" in before.stdout
