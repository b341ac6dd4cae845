"""The market's clock: the host's while nothing else is asked for, or its own, which leaves out what nobody trades in."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

from broker.simulator.clock import HostClock, MarketClock
from tests.broker.simulator.test_market import ms

SEGMENTS = {"NSE_INDEX", "NSE_EQ", "NSE_FO"}


def run(clock: MarketClock, seconds: float, *, every_ms: int = 20) -> list[int]:
    """Every moment the clock gives while the host's time goes on for `seconds`."""
    return [moment for wall_ms in range(1, 1 + round(seconds * 1000), every_ms) for moment in clock.advance(wall_ms)]


def text(moment: int) -> str:
    """A moment in Indian time."""
    return datetime.fromtimestamp(moment / 1000, ZoneInfo("Asia/Kolkata")).isoformat(timespec="milliseconds")[:-6]


def test_the_hosts_clock_is_the_markets_until_it_stands() -> None:
    clock = HostClock()
    assert clock.advance(1_000) == [1_000]
    assert clock.advance(1_020) == [1_020]
    clock.stand(1_040)
    clock.stand(5_040)
    assert clock.advance(5_060) == [1_040]
    assert clock.advance(6_060) == [2_040]


def test_a_pause_before_the_first_moment_begins_when_it_is_seen() -> None:
    clock = HostClock()
    clock.stand(1_000)
    clock.stand(3_000)
    assert clock.advance(3_010) == [1_010]


def test_it_begins_where_it_is_told_and_runs_so_many_times_as_fast() -> None:
    clock = MarketClock(ms("2026-11-12T10:00:00"), 60, "real", SEGMENTS, stand_seconds=1)
    moments = run(clock, 10.001)
    assert text(moments[0]) == "2026-11-12T10:00:00.000"
    assert text(moments[-1]) == "2026-11-12T10:10:00.000"
    assert moments == sorted(moments)


def test_nights_weekends_and_holidays_are_left_out_after_the_close_was_seen() -> None:
    clock = MarketClock(ms("2026-11-06T15:39:00"), 600, "real", SEGMENTS, stand_seconds=1)
    moments = [text(moment) for moment in run(clock, 90)]
    days = list(dict.fromkeys(moment[:10] for moment in moments))
    # Friday; Muhurat on Sunday evening; Monday; Tuesday the 10th is a holiday; Wednesday.
    assert days == ["2026-11-06", "2026-11-08", "2026-11-09", "2026-11-11"]
    edges = [(first, last) for first, last in pairwise(moments) if first[:10] != last[:10]]
    assert edges == [
        ("2026-11-06T15:50:00.000", "2026-11-08T17:40:00.000"),
        ("2026-11-08T19:25:00.000", "2026-11-09T08:55:00.000"),
        ("2026-11-09T15:50:00.000", "2026-11-11T08:55:00.000"),
    ]
    stands = {edge: moments.count(edge) for edge in (*edges[0], *edges[1], *edges[2])}
    assert min(stands.values()) >= 45, stands  # a second of 20 ms turns
    for turn in ("2026-11-06T15:40:00", "2026-11-08T18:00:00", "2026-11-09T09:15:00", "2026-11-09T15:15:00", "2026-11-09T15:30:00"):
        at = moments.index(f"{turn}.000")
        before = datetime.fromtimestamp(ms(turn) / 1000 - 0.001, ZoneInfo("Asia/Kolkata"))
        assert moments[at - 1] == before.isoformat(timespec="milliseconds")[:-6]


def test_an_always_open_market_has_no_night() -> None:
    clock = MarketClock(ms("2026-11-06T15:39:00"), 3_600, "always", SEGMENTS, stand_seconds=1)
    moments = run(clock, 48)
    assert text(moments[-1])[:13] == "2026-11-08T15"
    assert all(last - first <= 100 * 3_600 for first, last in pairwise(moments))


def test_a_held_up_host_makes_the_market_wait_and_a_pause_is_left_out() -> None:
    clock = MarketClock(ms("2026-11-12T10:00:00"), 10, "real", SEGMENTS, stand_seconds=1)
    clock.advance(0)
    assert text(clock.advance(5_000)[-1]) == "2026-11-12T10:00:01.000"
    clock.stand(9_000)
    assert text(clock.advance(9_050)[-1]) == "2026-11-12T10:00:01.500"
