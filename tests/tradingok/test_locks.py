"""The lock between processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tradingok.embedded_runs import PROJECT
from tradingok.locks import FileLock, LockHeld

HOLD = """
import sys
from pathlib import Path
from tradingok.locks import FileLock
with FileLock(Path(sys.argv[1])):
    print('held', flush=True)
    input()
"""


def test_a_second_holder_is_told_who_has_it_and_gets_it_once_that_process_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    line = [sys.executable, "-c", HOLD, str(file)]
    with subprocess.Popen(line, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(LockHeld) as caught, FileLock(file):
            pass
        assert caught.value.holder == other.pid
        other.kill()
        other.wait()
    with FileLock(file) as lock:
        assert lock.holder() == os.getpid()


def test_a_waiting_holder_gets_the_lock_when_it_is_free(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    line = [sys.executable, "-c", HOLD, str(file)]
    with subprocess.Popen(line, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert other.stdin is not None
        other.stdin.write("\n")
        other.stdin.flush()
        with FileLock(file, wait_seconds=20) as lock:
            assert lock.holder() == os.getpid()


def test_a_free_lock_names_nobody(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    with lock:
        pass
    assert lock.holder() is None
