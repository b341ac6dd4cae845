"""The feed's clock steps by an hour: ids go on rising, nothing is lost or doubled, nothing hangs, the broker is not stormed.

`libfaketime` stands between the feed and its clock and adds what a file says. Timers by the monotonic clock do not step on a real machine,
and do not here.
"""

from __future__ import annotations

import platform
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.faults.oracle import journalled_frames
from tests.faults.servers import until
from tests.faults.system import System
from tests.faults.test_store_away import assert_quotes_go_on

FOUND = find_spec("libfaketime")
LIBRARY = Path(FOUND.origin).parent / "vendor/libfaketime/src/libfaketime.so.1" if FOUND and FOUND.origin else Path()

needs_a_clock = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="the wheel of libfaketime holds a library for Linux on x86-64"
)
pytestmark = [pytest.mark.long, needs_a_clock]


STEPS = (-3600, 3600, 0)
"""Where the feed's clock stands, seconds ahead of the true one, after each step."""


def test_a_clock_that_steps_under_the_feed_loses_doubles_and_holds_up_nothing(system: System, tmp_path: Path) -> None:
    clock = stepping_clock(system, tmp_path)
    calls = system.exchange.state()["requests"]["authorize"]
    newest = newest_stamp(system)
    with system.watched() as watcher, system.memory_bounded():
        for step in STEPS:
            clock.write_text(f"{step:+d}s\n")
            until(lambda step=step: abs(lead_seconds(system) - step) < 60, "the feed's clock has stepped")  # type: ignore[misc]
            assert_quotes_go_on(watcher)
            watcher.states.clear()
            system.exchange.fault(kind="drop")
            until(lambda: watcher.states[:1] == ["reconnecting"] and watcher.state == "live", "a lost connection is made anew")
            assert_quotes_go_on(watcher)
            after = newest_stamp(system)
            print(f"  the feed's clock leads by {lead_seconds(system):.0f} s; its newest stamp is {(after - newest) / 1e6:.3f} s later")
            assert after > newest
            newest = after
        system.prove()
    assert system.exchange.state()["requests"]["authorize"] - calls <= 2 * len(STEPS)
    system.replace_feed()
    system.wait_for(lambda: newest_stamp(system) > newest)
    system.prove()


def test_a_feed_started_by_a_clock_that_was_set_back_is_followed_all_the_same(system: System, tmp_path: Path) -> None:
    clock = stepping_clock(system, tmp_path)
    with system.watched() as watcher:
        clock.write_text("-3600s\n")
        system.kill(system.feed)
        system.start_feed()
        until(lambda: lead_seconds(system) < -3000, "the feed was started by a clock that is an hour behind")
        assert_quotes_go_on(watcher)
        system.prove()
    system.proved = False  # whole, but of no more use: its journal ends in an hour from now


def stepping_clock(system: System, folder: Path) -> Path:
    """Give the feed a clock that steps when the file returned says so: "-3600s" and a line's end."""
    clock = folder / "clock"
    clock.write_text("+0s\n")
    system.replace_feed(
        LD_PRELOAD=str(LIBRARY), FAKETIME_TIMESTAMP_FILE=str(clock), FAKETIME_NO_CACHE="1", FAKETIME_DONT_FAKE_MONOTONIC="1"
    )
    assert "libfaketime" in Path(f"/proc/{system.feed.pid}/maps").read_text()
    return clock


def lead_seconds(system: System) -> float:
    """How far the feed's clock is ahead of ours, by its last report."""
    return system.status().reported_ms / 1000 - time.time()


def newest_stamp(system: System) -> int:
    """Stamp of the journal's newest frame."""
    return max(frame.stamp for frame in journalled_frames(system.journal))
