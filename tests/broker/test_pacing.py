"""Authorise calls stay far inside the broker's limits (FACTS §2.4: 50/s, 500/min, 2,000/30 min), over restarts too."""

from __future__ import annotations

from pathlib import Path

from broker.pacing import AuthorizePacer


def _calls_in(calls: list[float], seconds: float) -> int:
    return max(sum(start <= at < start + seconds for at in calls) for start in calls)


def test_a_crash_loop_of_half_an_hour_stays_inside_the_limits(tmp_path: Path) -> None:
    now, calls = 1_000_000.0, []
    while now < 1_001_800:
        pacer = AuthorizePacer(tmp_path / "authorize.json")  # a new process each time
        wait = pacer.wait_seconds(now)
        if wait:
            now += wait + 0.001
            continue
        pacer.record(now)
        calls.append(now)
        now += 0.2
    assert len(calls) > 50, "it goes on trying"
    assert (_calls_in(calls, 1), _calls_in(calls, 60), _calls_in(calls, 1800)) <= (3, 8, 120)
    assert _calls_in(calls, 10) <= 3


def test_an_unreadable_file_begins_anew(tmp_path: Path) -> None:
    file = tmp_path / "authorize.json"
    file.write_text("not json")
    assert AuthorizePacer(file).wait_seconds(5.0) == 0.0
