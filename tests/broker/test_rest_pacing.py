"""REST calls stay below the broker's limits (FACTS §2.4: 50/s, 500/min, 2,000/30 min): of one process, and of all together."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from broker import rest_pacing
from broker.pacing import seconds_to_wait
from broker.rest_pacing import WINDOWS, RestPacer
from marketdata import live_state

ROOT = Path(__file__).resolve().parents[2]
LIMITS = ((1.0, 50), (60.0, 500), (1800.0, 2000))
NOBODY = "redis://127.0.0.1:9/0"


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def most_within(calls: list[float], seconds: float) -> int:
    """The most calls in any stretch of so many seconds, counted one by one."""
    return max(sum(start <= at < start + seconds for at in calls) for start in calls)


@pytest.fixture
def alone(settings: Any) -> None:
    """Redis is away."""
    settings.REDIS_URL = NOBODY


@pytest.mark.usefixtures("alone")
def test_an_hour_of_calls_as_fast_as_allowed_stays_below_every_limit() -> None:
    clock, calls = Clock(), []
    pacer = RestPacer(clock=clock, sleep=clock.sleep)
    while clock.now < 2900:
        assert pacer.acquire(3600)
        calls.append(clock.now)
        clock.now += 0.001
    assert len(calls) > 1700, "it goes on"
    for (seconds, ours), (_, theirs) in zip(WINDOWS, LIMITS, strict=True):
        assert most_within(calls, seconds) <= ours < theirs
    assert max(clock.slept) <= rest_pacing.LONGEST_SLEEP_SECONDS


@pytest.mark.parametrize(
    ("calls", "wait"), [([], 0), ([9.0], 0), ([8.9, 9.5], 0), ([9.5, 9.6], 0.5), ([5.0, 6.0, 9.0], 5.0), ([5.0, 6.0, 9.5, 9.6], 6.0)]
)
def test_the_wait_is_until_the_last_full_window_has_room(calls: list[float], wait: float) -> None:
    assert seconds_to_wait(calls, 10.0, ((1.0, 2), (10.0, 3))) == pytest.approx(wait)


@pytest.mark.usefixtures("alone")
def test_a_pause_holds_without_redis_too_and_what_would_wait_too_long_is_not_noted() -> None:
    clock = Clock()
    pacer = RestPacer(clock=clock, sleep=clock.sleep)
    pacer.pause(30)
    assert not pacer.acquire(29)
    assert clock.slept == []
    assert pacer.acquire(31)
    assert clock.now == pytest.approx(1030)


@pytest.mark.long
def test_two_processes_together_never_exceed_a_window(valkey: Any) -> None:
    program = (
        "import django, sys, time; django.setup(); from broker import rest_pacing; from broker.rest_pacing import RestPacer\n"
        "rest_pacing.WINDOWS = ((0.5, 4), (3.0, 12), (60.0, 99)); pacer = RestPacer(); sys.stdin.read(1); end = time.monotonic() + 4\n"
        "while time.monotonic() < end and pacer.acquire(end - time.monotonic()): print(time.time(), flush=True)\n"
    )
    begun = [
        subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in begun:  # both wait for their first byte, so they begin together
        assert process.stdin is not None
        process.stdin.write("x")
        process.stdin.flush()
    told = [process.communicate(timeout=60)[0].split() for process in begun]
    assert all(told), "both had a turn"
    assert 12 <= sum(map(len, told)) <= 24
    noted = sorted(score / 1000 for _, score in valkey.zrange(live_state.key("calls.broker.rest"), 0, -1, withscores=True))
    assert most_within(noted, 0.5) <= 4
    assert most_within(noted, 3.0) <= 12


@pytest.mark.usefixtures("valkey")
def test_what_one_process_is_told_by_a_429_holds_for_all() -> None:
    one, other = RestPacer(), RestPacer()
    assert one.acquire(1)
    one.pause(60)
    assert not other.acquire(5)
    assert 55 < other.take() <= 60
    one.pause(1)
    assert other.take() > 50, "a shorter pause does not end a longer one"


@pytest.mark.usefixtures("valkey")
def test_a_share_leaves_the_rest_to_others() -> None:
    modest, urgent = RestPacer(0.5), RestPacer()
    taken = 0
    begin = time.monotonic()
    while not modest.take():
        taken += 1
    assert taken >= WINDOWS[0][1] // 2
    if time.monotonic() - begin < 0.5:
        assert taken == WINDOWS[0][1] // 2
    assert urgent.take() == 0
