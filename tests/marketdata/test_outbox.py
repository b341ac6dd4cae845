"""The outbox against a model: whatever the order of marks and drains, the last state of each dirty key goes out once."""

from __future__ import annotations

import json
from collections import Counter
from datetime import date

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from instruments.domain.expiry import ExpiryKind
from instruments.domain.listing import ChainListing, ListedOption
from marketdata.chain_series import ChainBook, ChainSeries
from marketdata.commands import ChainChannel
from marketdata.domain.candle import Candle
from marketdata.domain.chain import Chain, OptionQuote
from marketdata.domain.session import Calendar
from marketdata.ohlc_series import Series, Stored
from marketdata.outbox import CONTROL_BYTES, CONTROL_MESSAGES, Outbox
from marketdata.wire import FULL, FULL_DEPTH, LTPC

instruments = st.integers(1, 6)


class OutboxModel(RuleBasedStateMachine):
    """A source counts versions of quotes and levels; the client must end with the newest of both."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox = Outbox()
        self.modes: dict[int, int] = {}
        self.quotes = dict.fromkeys(range(1, 7), 0)
        self.depths = dict.fromkeys(range(1, 7), 0)
        self.got_quotes: dict[int, int] = {}
        self.got_depths: dict[int, int] = {}
        self.marked = 0

    @rule(instrument=instruments, mode=st.sampled_from([LTPC, FULL]))
    def subscribe(self, instrument: int, mode: int) -> None:
        self.outbox.subscribe(instrument, mode)
        self.marked += 1
        self.modes[instrument] = mode
        self.got_quotes.pop(instrument, None)
        self.got_depths.pop(instrument, None)

    @rule(instrument=instruments)
    def unsubscribe(self, instrument: int) -> None:
        assert self.outbox.unsubscribe(instrument) is (instrument in self.modes)
        self.modes.pop(instrument, None)

    @rule(instrument=instruments, depth=st.booleans())
    def tick(self, instrument: int, depth: bool) -> None:
        self.quotes[instrument] += 1
        self.depths[instrument] += depth
        if instrument not in self.modes:
            return
        self.marked += 1
        if self.outbox.window is None:
            self.outbox.mark(instrument, depth)
        else:  # as the hub does: its bytes go out at the batch's end
            self.outbox.window.append(b"tick")
            assert not self.outbox.dirty
            self.got_quotes[instrument] = self.quotes[instrument]
            if depth and self.modes[instrument] == FULL:
                self.got_depths[instrument] = self.depths[instrument]

    @rule()
    def the_batch_ends(self) -> None:
        self.outbox.window_delivered()
        assert self.outbox.collected == []

    @rule()
    def a_window_opens_only_when_nothing_is_owed(self) -> None:
        assert self.outbox.open_window() is (not self.outbox.dirty)

    @rule()
    def push(self) -> None:
        self.outbox.push(b"reply")
        assert self.outbox.window is None
        assert list(self.outbox.drain_control()) == [b"reply"]

    @rule()
    def mark_all(self) -> None:
        self.outbox.mark_all(self.quotes)
        self.marked += len(self.modes)
        self.got_quotes.clear()
        self.got_depths.clear()

    @rule()
    def drain_returns_each_dirty_key_once_and_leaves_the_client_up_to_date(self) -> None:
        drained = self.outbox.drain()
        assert len({instrument for instrument, _kind in drained}) == len(drained)
        for instrument, kind in drained:
            assert kind == LTPC if self.modes[instrument] == LTPC else kind in (FULL, FULL_DEPTH)
            self.got_quotes[instrument] = self.quotes[instrument]
            if kind == FULL_DEPTH:
                self.got_depths[instrument] = self.depths[instrument]
        for instrument, mode in self.modes.items():
            assert self.got_quotes[instrument] == self.quotes[instrument]
            assert mode == LTPC or self.got_depths[instrument] == self.depths[instrument]
        assert self.outbox.drain() == []
        self.outbox.delivered()

    @invariant()
    def every_mark_is_accounted_for(self) -> None:
        box = self.outbox
        assert self.marked == box.delivered_total + box.merged_total + box.forgotten_total + box.waiting


TestOutboxModel = OutboxModel.TestCase


def test_the_first_drain_after_subscribing_is_the_snapshot() -> None:
    outbox = Outbox()
    outbox.subscribe(1, FULL)
    outbox.subscribe(2, LTPC)
    assert outbox.drain() == [(1, FULL_DEPTH), (2, LTPC)]


def test_a_key_the_client_has_already_is_not_owed_again() -> None:
    outbox = Outbox()
    outbox.subscribe(1, FULL, dirty=False)
    assert outbox.drain() == []
    outbox.mark(1, False)
    assert outbox.drain() == [(1, FULL)]


def test_what_a_client_leaves_behind_is_forgotten() -> None:
    outbox = Outbox()
    outbox.subscribe(1, FULL)
    outbox.drain()
    outbox.subscribe(2, FULL)
    outbox.forget()
    assert (outbox.owed_total, outbox.forgotten_total, outbox.waiting) == (2, 2, 0)


@given(st.lists(st.booleans(), min_size=1))
def test_merging_counts_what_was_replaced_and_keeps_that_the_levels_changed(depths: list[bool]) -> None:
    outbox = Outbox()
    outbox.subscribe(1, FULL, dirty=False)
    for depth in depths:
        outbox.mark(1, depth)
    assert outbox.drain() == [(1, FULL_DEPTH if any(depths) else FULL)]
    assert outbox.merged_total == len(depths) - 1


def test_everything_known_is_owed_again_and_nothing_unknown() -> None:
    outbox = Outbox()
    for instrument in (1, 2, 3):
        outbox.subscribe(instrument, FULL, dirty=False)
    outbox.mark_all({1, 3, 9})
    assert outbox.drain() == [(1, FULL_DEPTH), (3, FULL_DEPTH)]


@given(st.lists(st.binary(max_size=40_000), max_size=300))
def test_control_messages_keep_their_order_within_their_bounds(messages: list[bytes]) -> None:
    outbox = Outbox()
    for message in messages:
        outbox.push(message)
    drained = list(outbox.drain_control())
    assert drained == messages[len(messages) - len(drained) :]
    assert outbox.dropped_total == len(messages) - len(drained)
    assert len(drained) <= CONTROL_MESSAGES
    assert sum(map(len, drained)) <= CONTROL_BYTES
    assert list(outbox.drain_control()) == []


def test_the_oldest_control_message_is_dropped_and_counted() -> None:
    outbox = Outbox()
    for number in range(CONTROL_MESSAGES + 3):
        outbox.push(b"%d" % number)
    drained = list(outbox.drain_control())
    assert (drained[0], drained[-1], len(drained)) == (b"3", b"%d" % (CONTROL_MESSAGES + 2), CONTROL_MESSAGES)
    assert outbox.dropped_total == 3


def test_one_message_larger_than_the_bound_still_goes_out() -> None:
    outbox = Outbox()
    outbox.push(b"small")
    outbox.push(b"x" * (CONTROL_BYTES + 1))
    assert [len(message) for message in outbox.drain_control()] == [CONTROL_BYTES + 1]


def test_notices_are_state_the_newest_of_an_instrument_wins() -> None:
    outbox = Outbox()
    outbox.subscribe(1, FULL, dirty=False)
    outbox.subscribe(2, FULL, dirty=False)
    outbox.notice(1, b"no_data")
    outbox.notice(2, b"gone")
    outbox.push(b"reply")
    outbox.notice(1, b"active")
    outbox.unsubscribe(2)
    assert list(outbox.drain_control()) == [b"reply", b"active"]
    assert list(outbox.drain_control()) == []


def chart_of(instrument: int) -> Series:
    series = Series(instrument, f"K|{instrument}", "1m")
    series.fill(Stored(Calendar(), 0, 0, [], 0, [], []))
    return series


def candle(instrument: int, minute: int, close: float) -> Candle:
    return Candle(instrument, "1m", 1_789_972_200_000 + minute * 60_000, 1.0, 9.0, 1.0, close, 1, None, "live")


def test_a_chart_that_moved_is_owed_once_and_its_changes_are_accounted_for() -> None:
    outbox, first, second = Outbox(), chart_of(1), chart_of(2)
    for series in (first, second):
        outbox.follow_chart(series, 10)
    assert not outbox.open_window()
    assert len(list(outbox.drain_charts())) == 2, "both whole"
    assert outbox.open_window()
    changes = 0
    for close in (2.0, 3.0, 4.0):
        for minute in (0, 1):
            changes += first.take(candle(1, minute, close))
            outbox.mark_chart(first)
    assert outbox.window is None
    assert not outbox.open_window()
    assert [json.loads(push)["candle"][4] for push in outbox.drain_charts()] == [4.0, 4.0]
    assert list(outbox.drain_charts()) == []
    assert changes == outbox.candles_drained_total + outbox.candles_merged_total == 2 + 4
    assert outbox.snapshots_drained_total == 2


def test_a_chart_is_drained_as_it_is_when_its_turn_comes() -> None:
    outbox, first, second = Outbox(), chart_of(1), chart_of(2)
    for series in (first, second):
        outbox.follow_chart(series, 10)
    list(outbox.drain_charts())
    for series in (first, second):
        series.take(candle(series.instrument, 0, 2.0))
        outbox.mark_chart(series)
    draining = outbox.drain_charts()
    next(draining)  # the client takes its time
    second.take(candle(2, 0, 3.0))
    outbox.mark_chart(second)
    assert [json.loads(push)["candle"][4] for push in draining] == [3.0]


def test_charts_that_never_rest_do_not_keep_a_slow_client_from_the_rest() -> None:
    outbox, charts = Outbox(), [chart_of(1), chart_of(2), chart_of(3)]
    for series in charts:
        outbox.follow_chart(series, 10)
    for number, _push in enumerate(outbox.drain_charts()):
        assert number < 3, "a reply, a quote or a bye has its turn"
        for series in charts[:2]:  # while the client takes one push, two charts move
            series.take(candle(series.instrument, 1, 10.0 + number))
            outbox.mark_chart(series)
        outbox.unfollow_chart(charts[2])
    assert [json.loads(push)["key"] for push in outbox.drain_charts()] == ["K|1", "K|2"], "and what moved is owed"


def test_nothing_is_owed_of_a_chart_that_is_followed_no_more() -> None:
    outbox, series = Outbox(), chart_of(1)
    outbox.follow_chart(series, 10)
    assert outbox.unfollow_chart(series)
    assert not outbox.unfollow_chart(series)
    assert list(outbox.drain_charts()) == []
    assert outbox.open_window()


def test_a_chain_is_owed_once_a_turn_and_its_turns_are_accounted_for() -> None:
    outbox, series = Outbox(), ChainSeries(ChainChannel("NIFTY", "@w0", "all"))
    listing = ChainListing("NIFTY", None, None, "NSE_FO", date(2026, 9, 22), ExpiryKind.WEEKLY, 1_790_071_800_000, [])
    listing.options.append(ListedOption(7, "NSE_FO|7", 24_000.0, "CE", 75))
    book = ChainBook(Chain(listing, interest_rate=0.0), Counter())
    outbox.follow_chain(series)
    assert not outbox.open_window()
    assert list(outbox.drain_chains()) == [], "nothing to show yet"
    turns = 0
    for each in (1, 2, 1, 3, 1):
        for _ in range(each):
            turns += 1
            book.chain.take(7, OptionQuote(last_price=100.0 + turns), 1_790_000_000_000 + turns)
            assert book.turn([series], 1_790_000_000_000 + turns) == [series]
            outbox.mark_chain(series)
        assert outbox.window is None
        (push,) = outbox.drain_chains()
        assert json.loads(push)["seq"] == turns
        assert outbox.open_window()
    assert (outbox.chain_snapshots_drained_total, outbox.chains_drained_total, outbox.chains_merged_total) == (1, 4, 3)
    assert turns == 1 + outbox.chains_drained_total + outbox.chains_merged_total
    outbox.follow_chain(series)
    (push,) = outbox.drain_chains()
    assert json.loads(push)["snapshot"], "subscribed again"
    outbox.mark_chain(series)
    assert outbox.unfollow_chain(series)
    assert not outbox.unfollow_chain(series)
    assert list(outbox.drain_chains()) == []
    assert outbox.open_window()
