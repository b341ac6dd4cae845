"""Child processes that cannot outlive their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.tradingok.embedded_runs import PROJECT, until
from tradingok import children

FOREVER = [sys.executable, "-c", "import time\nwhile True: time.sleep(60)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)\nwhile True: time.sleep(60)",
]
PARENT = f"""
import subprocess, time
from tradingok.children import spawn
print(spawn({FOREVER!r}, output=subprocess.DEVNULL).pid, flush=True)
time.sleep(600)
"""


def test_a_child_ends_with_its_killed_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], cwd=PROJECT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert not children.process_ended(child)
        assert children.process_parent(child) == parent.pid
        parent.kill()
        until(lambda: children.process_ended(child), "the child ends")


def test_a_child_whose_parent_has_ended_before_it_could_ask_ends_at_once() -> None:
    program = f"import os; from tradingok.children import die_with; die_with({os.getpid()})(); print('still here')"
    done = subprocess.run(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {program!r}])"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == ""


def test_both_streams_go_to_the_output_and_nothing_is_read(tmp_path: Path) -> None:
    said = "print('out', flush=True); print('err', file=sys.stderr, flush=True)"
    code = f"import os, sys; {said}; print(repr(sys.stdin.read()), os.getcwd(), os.environ['A'])"
    with (tmp_path / "output").open("wb") as output:
        child = children.spawn([sys.executable, "-c", code], output=output, cwd=tmp_path, environment={**os.environ, "A": "b"})
    assert child.wait(timeout=60) == 0
    assert (tmp_path / "output").read_text() == f"out\nerr\n'' {tmp_path} b\n"


def test_a_child_ends_by_sigterm_and_one_that_ignores_it_is_killed() -> None:
    assert children.end(children.spawn(FOREVER, output=subprocess.DEVNULL), seconds=20) == -signal.SIGTERM
    read, write = os.pipe()
    deaf = children.spawn(DEAF, output=write)
    with os.fdopen(read, closefd=False) as said:
        assert said.readline() == "deaf\n"
    assert children.end(deaf, seconds=0.2) == -signal.SIGKILL
    assert children.end(deaf, seconds=0.2) == -signal.SIGKILL
    os.close(read)
    os.close(write)


def test_strangers_are_found_by_their_environment_and_ended() -> None:
    marked = {**os.environ, "OF_A_TEST": "this one"}
    mine = children.spawn(FOREVER, output=subprocess.DEVNULL, environment=marked)
    other = children.spawn(FOREVER, output=subprocess.DEVNULL, environment={**marked, "OF_A_TEST": "this one not"})
    try:
        until(lambda: children.processes_with("OF_A_TEST", "this one") == [mine.pid], "the marked process is found, and no other")
        children.end_strangers([mine.pid], seconds=20)
        assert mine.wait(timeout=20) == -signal.SIGTERM
        assert other.poll() is None
    finally:
        children.end(other, seconds=5)
        children.end(mine, seconds=5)


def test_what_is_not_there_has_ended_and_has_no_parent_nor_folder() -> None:
    child = children.spawn([sys.executable, "-c", ""], output=subprocess.DEVNULL)
    child.wait()
    assert children.process_ended(child.pid)
    assert children.process_parent(child.pid) is None
    assert children.process_folder(child.pid) is None
    assert children.process_folder(os.getpid()) == Path.cwd()
