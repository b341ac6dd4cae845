"""The supervisor, as a real process over real children."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from tests.tradingok.embedded_runs import PROJECT, address, ended, environment, until
from tests.tradingok.tiny_supervisor import STOP_SECONDS
from tradingok.children import process_ended, processes_with
from tradingok.supervisor import OUTPUT_BYTES, restart_delays

FOREVER = "import time\nwhile True: time.sleep(60)"
HERE = "import os, pathlib; here = pathlib.Path(os.environ['TRADINGOK_VAR'])"
DEAF = f"{HERE}\nimport signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n(here / 'deaf').touch()\n{FOREVER}"


class Run:
    """One supervisor process and the lines that it has printed so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(line.rstrip("\n") for line in self.process.stdout)

    def says(self, pattern: str, *, times: int = 1, seconds: float = 60) -> re.Match[str]:
        """Wait for the `times`-th line that matches `pattern`."""

        def found() -> re.Match[str] | None:
            matches = [match for line in list(self.lines) if (match := re.search(pattern, line))]
            return matches[times - 1] if len(matches) >= times else None

        result = until(found, f"{pattern!r} among {self.lines}", seconds=seconds)
        assert isinstance(result, re.Match)
        return result

    def pid(self, name: str, *, start: int = 1) -> int:
        """The pid of the `start`-th start of the program."""
        return int(self.says(rf"\b{name}: started \(pid (\d+)\)", times=start).group(1))

    def wait(self) -> int:
        """Wait for the supervisor's end. Returns its exit code."""
        code = self.process.wait(timeout=60)
        self._reader.join(10)
        return code


@contextmanager
def supervising(folder: Path, *words: str) -> Iterator[Run]:
    line = [sys.executable, "-m", "tests.tradingok.tiny_supervisor", str(folder), *words]
    with subprocess.Popen(
        line, cwd=PROJECT, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            yield Run(process)
        finally:
            process.terminate()
            try:
                process.wait(timeout=40)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_all_in_reverse_order_with_exit_code_0(tmp_path: Path, number: signal.Signals) -> None:
    with supervising(tmp_path, f"one={FOREVER}", f"two={FOREVER}", f"three={FOREVER}") as run:
        pids = [run.pid(name) for name in ("one", "two", "three")]
        run.says("announced")
        run.process.send_signal(number)
        assert run.wait() == 0
        assert [line for line in run.lines if line.endswith(": stopped")] == ["three: stopped", "two: stopped", "one: stopped"]
        assert all(process_ended(pid) for pid in pids)


def test_a_killed_child_is_started_again_and_the_line_says_by_what_signal(tmp_path: Path) -> None:
    with supervising(tmp_path, f"feed={FOREVER}", f"web={FOREVER}") as run:
        web = run.pid("web")
        subprocess.run(["kill", "-9", str(run.pid("feed"))], check=True)
        run.says(r"feed: ended by signal 9, restarting in 1 s")
        assert not process_ended(run.pid("feed", start=2))
        assert not process_ended(web)


def test_a_child_that_fails_at_once_is_tried_less_and_less_often_and_its_last_lines_are_shown(tmp_path: Path) -> None:
    with supervising(tmp_path, "broken=print('starting'); raise ValueError('no such thing')", f"web={FOREVER}") as run:
        run.says("broken: ended with exit code 1, restarting in 1 s")
        run.says("broken: ended with exit code 1, restarting in 2 s")
        run.says("    ValueError: no such thing")
        run.says("broken: ended with exit code 1, restarting in [45] s")
        assert not process_ended(run.pid("web"))


def test_a_program_that_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    with supervising(tmp_path, f"web={FOREVER}") as run:
        run.pid("web")
    with supervising(tmp_path / "second", "web=import os; os.execv('/nonexistent', ['x'])") as run:
        run.says("web: ended with exit code 1, restarting in 1 s")


def test_a_program_with_a_task_ends_before_the_next_one_starts(tmp_path: Path) -> None:
    with supervising(tmp_path, "migrate!=import time; time.sleep(0.5)", f"web={FOREVER}") as run:
        run.says("announced")
        starts = [line for line in run.lines if line.startswith(("migrate:", "web:"))]
        assert [line.split()[1] for line in starts] == ["started", "done", "started"]


def test_a_failed_required_task_ends_the_start_with_exit_code_1(tmp_path: Path) -> None:
    with supervising(tmp_path, f"exchange={FOREVER}", "migrate!=raise SystemExit('cannot migrate: no space')", f"web={FOREVER}") as run:
        exchange = run.pid("exchange")
        assert run.wait() == 1
        run.says("    cannot migrate: no space")
        run.says("migrate failed")
        assert not any(line.startswith("web:") for line in run.lines)
        assert process_ended(exchange)


def test_a_failed_task_is_shown_and_tried_again_while_the_rest_runs(tmp_path: Path) -> None:
    code = f"{HERE}\nif (here / 'tried').exists(): raise SystemExit(0)\n(here / 'tried').touch()\nraise SystemExit('the broker is away')"
    with supervising(tmp_path, f"instruments?={code}", f"web={FOREVER}") as run:
        run.says("instruments: ended with exit code 1, trying again in 1 s")
        run.says("    the broker is away")
        run.pid("web")
        run.says(r"instruments: done in")


def test_a_child_that_ignores_sigterm_is_killed_at_the_deadline(tmp_path: Path) -> None:
    with supervising(tmp_path, f"web={DEAF}") as run:
        pid = run.pid("web")
        until((tmp_path / "deaf").exists, "the child ignores SIGTERM")
        begun = time.monotonic()
        run.process.send_signal(signal.SIGINT)
        assert run.wait() == 0
        assert time.monotonic() - begun >= STOP_SECONDS
        assert process_ended(pid)


def test_a_second_signal_hurries(tmp_path: Path) -> None:
    with supervising(tmp_path, "--patient", f"web={DEAF}") as run:  # longer than `wait` waits
        pid = run.pid("web")
        until((tmp_path / "deaf").exists, "the child ignores SIGTERM")
        run.process.send_signal(signal.SIGINT)
        run.says("stopping")
        run.process.send_signal(signal.SIGINT)
        assert run.wait() == 0
        assert process_ended(pid)


def test_children_end_with_a_killed_supervisor(tmp_path: Path) -> None:
    with supervising(tmp_path, f"one={FOREVER}", f"two={FOREVER}") as run:
        pids = [run.pid(name) for name in ("one", "two")]
        run.process.kill()
        until(lambda: all(process_ended(pid) for pid in pids), "children end after kill -9 of the supervisor")


def test_what_a_killed_supervisor_left_behind_is_ended_at_the_next_start(tmp_path: Path) -> None:
    with supervising(tmp_path / "mine", f"web={DEAF}") as run, supervising(tmp_path / "other", f"web={FOREVER}") as other:
        left, untouched = run.pid("web"), other.pid("web")
        until((tmp_path / "mine" / "deaf").exists, "the child ignores SIGTERM")
        run.process.kill()
        run.wait()
        assert processes_with("TRADINGOK_SUPERVISED", str(tmp_path / "mine")) == [left]
        with supervising(tmp_path / "mine", f"web={FOREVER}") as again:
            again.says("ending 1 processes that a killed run left behind")
            again.pid("web")
            assert process_ended(left)
            assert not process_ended(untouched)


def test_servers_start_first_and_stop_last_and_come_back_when_killed(tmp_path: Path) -> None:
    with supervising(tmp_path, "--servers", f"web={FOREVER}") as run:
        run.says("announced")
        mongod = address(tmp_path, "mongod")
        subprocess.run(["kill", "-9", str(mongod["pid"])], check=True)
        run.says("mongod: ended, restarting in 1 s")
        run.says(r"mongod: running", times=2)
        with MongoClient[dict[str, Any]](mongod["url"], serverSelectionTimeoutMS=5000) as client:
            assert client.admin.command("hello")["isWritablePrimary"]
        run.process.send_signal(signal.SIGINT)
        assert run.wait() == 0
        assert [line.split(":")[0] for line in run.lines if line.endswith(": stopped")] == ["web", "valkey", "mongod"]
        assert ended(tmp_path)


def test_an_output_file_stays_bounded_without_losing_its_last_lines(tmp_path: Path) -> None:
    (tmp_path / "web.out").write_bytes(b"old\n" * (OUTPUT_BYTES // 4 + 1))
    with supervising(tmp_path, f"web=print('new', flush=True)\n{FOREVER}") as run:
        run.pid("web")
        until(lambda: (tmp_path / "web.out").read_text() == "new\n", "the output begins anew")
    assert (tmp_path / "web.out.1").stat().st_size > OUTPUT_BYTES


def test_delays_double_up_to_30_seconds_with_a_fifth_of_jitter() -> None:
    assert list(islice(restart_delays(lambda: 0.0), 7)) == [1, 2, 4, 8, 16, 30, 30]
    assert list(islice(restart_delays(lambda: 1.0), 2)) == [1.2, 2.4]
