"""Authorise calls stay far inside the broker's limits (FACTS §2.4: 50/s, 500/min, 2,000/30 min), of all shards and over restarts."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from pathlib import Path

import pytest

from broker.pacing import AuthorizePacer


def _calls_in(calls: list[float], seconds: float) -> int:
    return max(sum(start <= at < start + seconds for at in calls) for start in calls)


@pytest.mark.parametrize("shards", [1, 3])
def test_a_crash_loop_of_half_an_hour_stays_inside_the_limits(tmp_path: Path, shards: int) -> None:
    file = tmp_path / "authorize.json"
    now, calls = 1_000_000.0, []
    while now < 1_001_800:
        waits = []
        for _ in range(shards):  # a new process of each shard each time
            waits.append(AuthorizePacer(file).take(now))
            if not waits[-1]:
                calls.append(now)
            now += 0.001
        now += min(waits) or 0.2
    assert len(calls) > 50, "it goes on trying"
    assert _calls_in(calls, 10) <= 3
    assert _calls_in(calls, 60) <= 8
    assert _calls_in(calls, 1800) <= 120


def test_a_refused_call_is_not_counted(tmp_path: Path) -> None:
    pacer = AuthorizePacer(tmp_path / "authorize.json")
    assert [pacer.take(at) for at in (1.0, 2.0, 3.0)] == [0, 0, 0]
    assert [pacer.take(at) for at in (4.0, 5.0)] == [7, 6]
    assert pacer.take(11.5) == 0
    assert json.loads((tmp_path / "authorize.json").read_text()) == [1, 2, 3, 11.5]


def test_processes_at_the_same_moment_share_one_budget(tmp_path: Path) -> None:
    file = tmp_path / "authorize.json"
    program = (
        "import sys, time; from pathlib import Path; from broker.pacing import AuthorizePacer; pacer = AuthorizePacer(Path(sys.argv[1]))\n"
        "taken = 0; sys.stdin.read(1); end = time.monotonic() + 1\n"
        "while time.monotonic() < end: taken += pacer.take(5000.0) == 0\n"
        "print(taken)"
    )
    feeds = [
        subprocess.Popen([sys.executable, "-c", program, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for feed in feeds:
        assert feed.stdin is not None
        feed.stdin.write("go")
        feed.stdin.flush()
    assert sum(int(feed.communicate(timeout=60)[0]) for feed in feeds) == 3


@pytest.mark.parametrize(
    "content",
    [b"not json", b"", b"[1, null]", b"7", b"\xff\xfe[1", b"[4.0,\xff]", b"[" * 100_000, b"[1" + b"0" * 400 + b"]"],
    ids=lambda content: repr(content[:9]),
)
def test_an_unreadable_file_begins_anew(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "authorize.json"
    file.write_bytes(content)
    assert AuthorizePacer(file).take(5.0) == 0
    assert json.loads(file.read_text()) == [5.0]


def test_a_file_that_another_feed_holds_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "authorize.json"
    pacer = AuthorizePacer(file)
    with file.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert 0 < pacer.take(5.0) < 1
    assert pacer.take(5.0) == 0


def test_without_a_file_the_process_keeps_to_the_limits_by_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pacer = AuthorizePacer(tmp_path / "no such folder" / "authorize.json")
    assert [pacer.take(at) for at in (1.0, 2.0, 3.0, 4.0)] == [0, 0, 0, 7]
    assert "cannot be kept" in caplog.text


def test_a_clock_that_steps_back_does_not_lock_the_feed_out(tmp_path: Path) -> None:
    pacer = AuthorizePacer(tmp_path / "authorize.json")
    assert [pacer.take(at) for at in (90_000.0, 90_001.0, 90_002.0)] == [0, 0, 0]
    assert pacer.take(5.0) == 0
