"""Liveness: the law as a table, a clock by hand, and no reconnect loop at night, on a holiday or after a missed closing message."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from broker.liveness import GREETING_SECONDS, LONGEST_MUTE_SECONDS, MUTE_SECONDS, SPARSE_SECONDS, STALE_SECONDS, Liveness, Mark, segment_of

OPEN = {"NSE_FO": "NORMAL_OPEN", "NSE_EQ": "NORMAL_OPEN", "NSE_INDEX": "NORMAL_OPEN", "MCX_FO": "NORMAL_OPEN"}
CLOSED = dict.fromkeys(OPEN, "NORMAL_CLOSE")
FO, EQ, INDEX = range(1, 21), range(101, 121), range(201, 203)
ALL = {"NSE_FO": FO, "NSE_EQ": EQ, "NSE_INDEX": INDEX}


class Feed:
    """A connection whose clock, frames and updates are moved by hand."""

    def __init__(self, statuses: dict[str, str] = OPEN, followed: dict[str, range] | None = None) -> None:
        self.now = 1000.0
        self.liveness = Liveness()
        self.statuses, self.followed = statuses, ALL if followed is None else followed
        self.updates: dict[int, int] = {}
        self.latency = 0.0
        self.connect()

    def connect(self) -> None:
        self.liveness.opened(self.now)

    def frame(self, *segments: str, live: bool = True) -> None:
        """A frame with an update of every instrument of these segments; a market_info without any."""
        self.liveness.frame_at = self.now
        for segment in segments:
            for instrument in self.followed[segment]:
                self.updates[instrument] = self.updates.get(instrument, 0) + 1
        if segments:
            self.liveness.data_at = self.now
            if live:
                self.liveness.live_at = self.now
        self.observe()

    def mark(self, instrument: int) -> Mark | None:
        seq = self.updates.get(instrument)
        return None if seq is None else (seq, 0)

    def observe(self) -> None:
        self.liveness.observe(self.now, followed=self.followed, statuses=self.statuses, mark=self.mark, latency=self.latency)

    def wait(self, seconds: float, *segments: str, infos: bool = True) -> None:
        """Let time pass, a second at a time, while these segments go on; market_info comes each 3 s as on the wire."""
        for second in range(round(seconds)):
            self.now += 1
            if segments:
                self.frame(*segments)
            elif infos and second % 3 == 2:
                self.frame()
            self.observe()

    @property
    def verdict(self) -> tuple[str, bool]:
        state, _, drop = self.liveness.judge(self.now)
        return state.value, drop

    @property
    def detail(self) -> str:
        return self.liveness.judge(self.now).detail


class Row(NamedTuple):
    """One row of the law: what is seen, and the verdict on it."""

    name: str
    statuses: dict[str, str]
    followed: dict[str, range]
    greeted: bool
    ticked: bool
    silence: float
    infos: bool
    verdict: tuple[str, bool]


ROWS = [
    Row("just opened", OPEN, ALL, False, False, GREETING_SECONDS - 1, False, ("reconnecting", False)),
    Row("never greeted", OPEN, ALL, False, False, GREETING_SECONDS, False, ("reconnecting", True)),
    Row("never greeted at night", CLOSED, ALL, False, False, GREETING_SECONDS, False, ("reconnecting", True)),
    Row("greeted at night", CLOSED, ALL, True, False, 0, True, ("quiet", False)),
    Row("a night without any frame", CLOSED, ALL, True, True, 9 * 3600, False, ("quiet", False)),
    Row("before the open", dict.fromkeys(OPEN, "PRE_OPEN_END"), ALL, True, True, 300, True, ("quiet", False)),
    Row("an auction", dict.fromkeys(OPEN, "PRE_OPEN_START"), ALL, True, True, 300, True, ("quiet", False)),
    Row("only a segment that nobody follows trades", CLOSED | {"MCX_FO": "NORMAL_OPEN"}, ALL, True, True, 7200, False, ("quiet", False)),
    Row("segments of which nothing is known", {}, ALL, True, True, 7200, False, ("quiet", False)),
    Row("subscribed, nothing yet", OPEN, ALL, True, False, STALE_SECONDS - 1, True, ("reconnecting", False)),
    Row("subscribed, nothing for long", OPEN, ALL, True, False, STALE_SECONDS, True, ("stale", False)),
    Row("nothing followed yet", OPEN, {}, True, False, STALE_SECONDS - 1, True, ("reconnecting", False)),
    Row("nothing followed", OPEN, {}, True, False, STALE_SECONDS, True, ("quiet", False)),
    Row("nothing followed, nothing sent", OPEN, {}, True, False, 3600, False, ("quiet", False)),
    Row("all goes on", OPEN, ALL, True, True, 0, True, ("live", False)),
    Row("a breath", OPEN, ALL, True, True, STALE_SECONDS - 1, True, ("live", False)),
    Row("silent", OPEN, ALL, True, True, STALE_SECONDS, True, ("stale", False)),
    Row("silent for an hour, market_info comes", OPEN, ALL, True, True, 3600, True, ("stale", False)),
    Row("not mute yet", OPEN, ALL, True, True, MUTE_SECONDS - 1, False, ("stale", False)),
    Row("mute", OPEN, ALL, True, True, MUTE_SECONDS, False, ("stale", True)),
    Row("a few strikes", OPEN, {"NSE_FO": range(1, 4)}, True, True, SPARSE_SECONDS - 1, True, ("live", False)),
    Row("a few strikes, silent", OPEN, {"NSE_FO": range(1, 4)}, True, True, SPARSE_SECONDS, True, ("stale", False)),
    Row("two indices, silent", OPEN, {"NSE_INDEX": INDEX}, True, True, STALE_SECONDS, True, ("stale", False)),
]


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_the_law(row: Row) -> None:
    feed = Feed(row.statuses, row.followed)
    if row.greeted:
        feed.frame(*(row.followed if row.ticked else ()))
    feed.wait(row.silence, infos=row.infos)
    assert feed.verdict == row.verdict


def test_a_silent_segment_is_named_and_the_others_go_on() -> None:
    feed = Feed()
    feed.frame(*ALL)
    feed.wait(12, "NSE_EQ", "NSE_INDEX")
    assert (feed.verdict, feed.detail) == (("stale", False), "NSE_FO has sent nothing for over 10 s")
    feed.wait(24, "NSE_EQ")
    assert feed.detail == "NSE_FO and NSE_INDEX have sent nothing for over 20 s"
    feed.wait(3600, "NSE_EQ")
    assert feed.verdict == ("stale", False), "frames come: the socket is not what is broken"
    feed.frame("NSE_FO", "NSE_INDEX")
    assert (feed.verdict, feed.detail) == (("live", False), "")


def test_the_sentence_changes_seldom_as_every_client_is_told() -> None:
    feed = Feed()
    feed.frame(*ALL)
    told = set()
    for _ in range(600):
        feed.wait(1, "NSE_EQ", "NSE_INDEX")
        told.add(feed.detail)
    assert len(told - {""}) == 7


def test_a_segment_is_given_its_time_when_it_opens() -> None:
    feed = Feed(CLOSED)
    feed.frame(*ALL)
    feed.wait(15 * 3600)
    feed.statuses = OPEN
    feed.wait(STALE_SECONDS)  # the first second has passed when it is seen to trade
    assert feed.verdict == ("live", False)
    feed.wait(1)
    assert feed.verdict == ("stale", False)


def test_a_missed_closing_message_costs_one_reconnect_as_the_greeting_tells() -> None:
    feed = Feed()
    feed.frame(*ALL)
    feed.wait(MUTE_SECONDS, infos=False)
    assert feed.verdict == ("stale", True)
    feed.connect()
    feed.statuses = CLOSED
    feed.frame()
    feed.wait(9 * 3600, infos=False)
    assert feed.verdict == ("quiet", False)


def test_a_status_that_stays_open_all_day_costs_a_few_reconnects_and_no_storm() -> None:
    feed = Feed()
    drops = 0
    for _ in range(24 * 3600):
        feed.wait(1, infos=False)
        if feed.verdict[1]:
            drops += 1
            feed.connect()
            feed.frame()
            feed.frame(*ALL, live=False)  # each subscription is answered with a snapshot, trading or not
    assert 24 * 3600 / LONGEST_MUTE_SECONDS <= drops < 24 * 3600 / LONGEST_MUTE_SECONDS + 12


def test_a_mute_socket_in_hours_is_found_as_fast_as_ever_after_real_data() -> None:
    feed = Feed()
    for _ in range(3):
        feed.frame(*ALL, live=False)
        while not feed.verdict[1]:
            feed.wait(1, infos=False)
        feed.connect()
    feed.frame(*ALL)
    feed.wait(MUTE_SECONDS - 1, infos=False)
    assert not feed.verdict[1]
    feed.wait(1, infos=False)
    assert feed.verdict == ("stale", True)


def test_a_night_of_dropped_connections_does_not_make_the_day_patient() -> None:
    feed = Feed(CLOSED)
    for _ in range(10):
        feed.frame(*ALL, live=False)
        feed.wait(3600)
        feed.connect()
    feed.statuses = OPEN
    feed.frame(*ALL, live=False)
    feed.wait(MUTE_SECONDS, infos=False)
    assert feed.verdict == ("stale", True)


def test_the_pong_clock_begins_with_the_connection_and_moves_with_each_pong() -> None:
    feed = Feed(CLOSED)
    feed.wait(7)
    assert feed.liveness.gauges(feed.now)["pong_age_ms"] == 7000
    feed.latency = 0.0123
    feed.wait(1)
    assert feed.liveness.gauges(feed.now) | {"frame_age_ms": 0} == {
        "pong_age_ms": 0, "latency_ms": 12.3, "frame_age_ms": 0, "instruments_silent": 0,
    }  # fmt: skip
    feed.wait(4)
    assert feed.liveness.gauges(feed.now)["pong_age_ms"] == 4000
    feed.liveness.closed()
    assert set(feed.liveness.gauges(feed.now).values()) == {0}


def test_silent_instruments_are_counted_in_trading_segments_only() -> None:
    feed = Feed(OPEN | {"NSE_EQ": "NORMAL_CLOSE"})
    feed.frame(*ALL)
    feed.wait(59, "NSE_INDEX")
    assert feed.liveness.gauges(feed.now)["instruments_silent"] == 0
    feed.wait(1, "NSE_INDEX")
    assert feed.liveness.gauges(feed.now)["instruments_silent"] == len(FO)
    feed.updates[FO[0]] += 1
    feed.wait(1, "NSE_INDEX")
    assert feed.liveness.gauges(feed.now)["instruments_silent"] == len(FO) - 1


def test_nothing_is_missing_up_to_the_last_ticks_in_hours_and_the_last_frame_outside() -> None:
    feed = Feed()
    feed.frame(*ALL)
    ticked = feed.now
    feed.wait(25)
    assert feed.liveness.heard_at == ticked
    night = Feed(CLOSED)
    night.frame(*ALL)
    night.wait(3600)
    assert night.liveness.heard_at == night.now
    night.statuses = OPEN
    night.wait(5)
    assert night.liveness.heard_at == night.now - 4, "since the segment was seen to trade, and the evening's ticks count no more"


def test_memory_follows_what_is_followed() -> None:
    feed = Feed()
    feed.frame(*ALL)
    feed.followed = {"NSE_FO": range(1, 3)}
    feed.observe()
    assert set(feed.liveness._updates) == {1, 2}


def test_a_segment_stands_before_the_bar_of_a_key() -> None:
    assert (segment_of("NSE_FO|58727"), segment_of("NSE_INDEX|Nifty 50"), segment_of("odd")) == ("NSE_FO", "NSE_INDEX", "odd")
