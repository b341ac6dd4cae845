"""Windows of a chain: whatever comes in whatever order, who applies what it is given holds the chain as it was at the last turn."""

from __future__ import annotations

import json
from collections import Counter
from datetime import date
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from instruments.domain.expiry import ExpiryKind
from instruments.domain.listing import ChainListing, ListedOption
from marketdata.chain_series import LATE, ChainBook, ChainSeries
from marketdata.commands import ChainChannel
from marketdata.domain.chain import SIDE_COLUMNS, Aggregate, Chain, InterestBase, OptionQuote
from marketdata.ohlc_series import NOTHING

NOON_MS = 1_790_750_000_000
ENDS_MS = NOON_MS + 3 * 86_400_000
STRIKES = [24_000.0 + 50 * number for number in range(9)]


def listing_of(*missing: int, expiry: date = date(2026, 9, 22)) -> ChainListing:
    """Nine strikes of NIFTY round 24,200: the call of the n-th is instrument 2n, its put 2n + 1; 99 is the index."""
    options = [
        ListedOption(number, f"NSE_FO|{number}", STRIKES[number // 2], "CE" if number % 2 == 0 else "PE", 75) for number in range(18)
    ]
    listed = [option for option in options if option.instrument not in missing]
    return ChainListing("NIFTY", "NSE_INDEX|Nifty 50", 99, "NSE_FO", expiry, ExpiryKind.WEEKLY, ENDS_MS, listed)


def book_of(*missing: int, expiry: date = date(2026, 9, 22)) -> ChainBook:
    return ChainBook(Chain(listing_of(*missing, expiry=expiry), interest_rate=0.065), Counter())


def series_of(window: str = "all") -> ChainSeries:
    return ChainSeries(ChainChannel("NIFTY", "@w0", window))


def plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def told(book: ChainBook, window: str) -> dict[float, Any]:
    """What the chain itself says of a window: strike → [call, put]."""
    return {row.strike_price: plain([row.call, row.put]) for row in book.chain.rows(book.chain.window(window))}


class Table:
    """What a program keeps of a channel, by the page on the protocol."""

    def __init__(self, series: ChainSeries) -> None:
        self.series = series
        self.seen = NOTHING
        self.rows: dict[float, Any] = {}
        self.aggregate: dict[str, Any] = {}
        self.seqs: list[int] = []
        self.snapshots = self.merged = 0
        self.expiry = ""

    def drain(self) -> list[bytes]:
        drained = self.series.drain(self.seen)
        self.seen = drained.seen
        self.merged += drained.merged
        self.snapshots += drained.is_snapshot
        for frame in drained.frames:
            message = json.loads(frame)
            if message.get("snapshot"):
                assert tuple(message["columns"]) == SIDE_COLUMNS
                self.rows = {}
            strikes = [strike for strike, _call, _put in message["rows"]]
            assert strikes == sorted(strikes)
            self.rows |= {strike: [call, put] for strike, call, put in message["rows"]}
            self.aggregate, self.expiry = message["aggregate"], message["expiry"]
            self.seqs.append(message["seq"])
        return drained.frames


prices = st.floats(0.05, 900).map(lambda price: round(price, 2)) | st.none()
unsaid = st.none()
quotes = st.builds(
    OptionQuote,
    last_price=prices,
    last_trade_ms=unsaid,
    previous_close=prices,
    bid_price=prices,
    bid_quantity=unsaid,
    ask_price=prices,
    ask_quantity=unsaid,
    volume=st.integers(0, 10**7) | st.none(),
    open_interest=st.integers(0, 10**7).map(float) | st.none(),
    implied_volatility=st.floats(0.05, 0.5) | st.none(),
    delta=st.floats(-1, 1) | st.none(),
    theta=unsaid,
    gamma=unsaid,
    vega=unsaid,
    rho=unsaid,
)
windows = ["all", "atm1", "atm2"]


class ChainModel(RuleBasedStateMachine):
    """Three windows of one chain, clients of each that come and read when they like, and a chain that becomes another."""

    def __init__(self) -> None:
        super().__init__()
        self.book = book_of()
        self.series = {word: series_of(word) for word in windows}
        self.tables = [Table(series) for series in self.series.values()]
        self.market_ms = NOON_MS
        self.expected: dict[str, tuple[dict[float, Any], Any, str]] = {}
        self.turns = Counter[str]()

    @rule(ticks=st.dictionaries(st.integers(0, 17), quotes, min_size=1, max_size=3))
    def tick(self, ticks: dict[int, OptionQuote]) -> None:
        self.market_ms += 100
        for option in self.book.chain.listing.options:
            if option.instrument in ticks:
                self.book.chain.take(option.instrument, ticks[option.instrument], self.market_ms)

    @rule(price=st.floats(23_950, 24_450) | st.none())
    def spot(self, price: float | None) -> None:
        self.book.chain.take_spot(price, self.market_ms)

    @rule(instrument=st.integers(0, 17), start=st.integers(0, 10**6).map(float))
    def bases(self, instrument: int, start: float) -> None:
        self.book.chain.take_bases({instrument: InterestBase(start, None)})

    @rule(missing=st.integers(0, 17), day=st.integers(22, 24))
    def another_chain(self, missing: int, day: int) -> None:
        self.book = book_of(missing, expiry=date(2026, 9, day))

    @rule(which=st.sets(st.sampled_from(windows), min_size=1))
    def turn(self, which: set[str]) -> None:
        moved = self.book.turn([self.series[word] for word in sorted(which)], self.market_ms)
        self.turns.update(series.channel.strikes for series in moved)
        for word in which:
            aggregate = plain(self.book.chain.aggregate()._asdict())
            self.expected[word] = (told(self.book, word), aggregate, self.book.chain.listing.expiry.isoformat())

    @rule(word=st.sampled_from(windows))
    def come(self, word: str) -> None:
        self.tables.append(Table(self.series[word]))

    @rule(data=st.data())
    def drain_leaves_a_client_with_the_chain_of_the_last_turn(self, data: st.DataObject) -> None:
        table = data.draw(st.sampled_from(self.tables))
        self.turn({table.series.channel.strikes})
        table.drain()
        rows, aggregate, expiry = self.expected[table.series.channel.strikes]
        assert (table.rows, table.aggregate, table.expiry) == (rows, aggregate, expiry)
        assert list(table.drain()) == []

    @invariant()
    def every_change_is_drained_merged_or_part_of_a_snapshot(self) -> None:
        for word, series in self.series.items():
            assert series.seq == self.turns[word]
        for table in self.tables:
            assert table.seqs == sorted(set(table.seqs))
            if table.snapshots == 1:
                assert table.seqs[-1] - table.seqs[0] == len(table.seqs) - 1 + table.merged


TestChainModel = ChainModel.TestCase
TestChainModel.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)


def quote_at(price: float) -> OptionQuote:
    return OptionQuote(last_price=price, previous_close=100.0, volume=75, open_interest=1000.0)


def test_a_window_says_what_has_changed_in_it_and_always_the_whole() -> None:
    book, series = book_of(), series_of("atm1")
    book.chain.take_spot(24_200.0, NOON_MS)
    book.turn([series], NOON_MS)
    table = Table(series)
    table.drain()
    assert list(table.rows) == [24_150.0, 24_200.0, 24_250.0]
    book.chain.take(8, quote_at(120.0), NOON_MS)  # the call at 24,200
    assert book.turn([series], NOON_MS) == [series]
    (push,) = table.drain()
    assert [row[0] for row in json.loads(push)["rows"]] == [24_200.0]
    book.chain.take(0, quote_at(220.0), NOON_MS)  # outside of the window, but part of the sums
    assert book.turn([series], NOON_MS) == [series]
    (push,) = table.drain()
    assert (json.loads(push)["rows"], json.loads(push)["aggregate"]["call_oi"]) == ([], 2000.0)
    assert book.turn([series], NOON_MS + 1000) == []
    assert table.drain() == []


def test_rows_are_encoded_once_for_all_windows_and_a_push_once_for_all_clients() -> None:
    book, all_of_them, near = book_of(), series_of("all"), series_of("atm2")
    book.chain.take_spot(24_200.0, NOON_MS)
    both = [all_of_them, near]
    book.turn(both, NOON_MS)
    tables = [Table(series) for series in both for _ in range(50)]
    for table in tables:
        table.drain()
    assert book.encoded == {"chain_rows_encoded_total": 9, "chain_pushes_encoded_total": 2}
    book.chain.take(8, quote_at(120.0), NOON_MS)
    book.turn(both, NOON_MS)
    pushes = [table.drain()[0] for table in tables]
    assert book.encoded == {"chain_rows_encoded_total": 10, "chain_pushes_encoded_total": 4}
    assert len({id(push) for push in pushes}) == 2


def test_a_window_that_moves_gives_everybody_the_whole() -> None:
    book, series = book_of(), series_of("atm1")
    book.chain.take_spot(24_200.0, NOON_MS)
    book.turn([series], NOON_MS)
    table = Table(series)
    table.drain()
    book.chain.take_spot(24_251.0, NOON_MS)
    book.turn([series], NOON_MS)
    table.drain()
    assert (table.snapshots, list(table.rows)) == (2, [24_200.0, 24_250.0, 24_300.0])


def test_a_forward_that_trembles_between_two_strikes_sends_no_snapshot_and_a_real_move_one() -> None:
    book, series = book_of(), series_of("atm1")
    table = Table(series)
    for turn in range(20):
        put_forward(book, 24_224.0 if turn % 2 == 0 else 24_226.0)
        book.turn([series], NOON_MS)
        table.drain()
        assert table.aggregate["atm_strike"] == (24_200.0, 24_250.0)[turn % 2]
        assert (list(table.rows), table.rows) == ([24_150.0, 24_200.0, 24_250.0], told(book, "atm1"))
    assert (len(table.seqs), table.snapshots) == (20, 1)
    put_forward(book, 24_262.0)  # 38 from 24,224; 0.75 of a step is 37.5
    book.turn([series], NOON_MS)
    table.drain()
    assert (table.snapshots, table.rows) == (2, told(book, "atm1"))
    assert list(table.rows) == [24_200.0, 24_250.0, 24_300.0]


def put_forward(book: ChainBook, price: float) -> None:
    """Prices of all options that put-call parity makes this forward of; no interest counts so near to the end of trading."""
    for option in book.chain.listing.options:
        intrinsic = price - option.strike_price if option.side == "CE" else option.strike_price - price
        book.chain.take(option.instrument, quote_at(max(0.0, intrinsic) + 90.0), ENDS_MS - 1000)


def test_another_chain_gives_everybody_the_whole() -> None:
    series, first = series_of(), book_of()
    first.turn([series], NOON_MS)
    table = Table(series)
    table.drain()
    book_of(expiry=date(2026, 9, 29)).turn([series], NOON_MS)
    table.drain()
    assert (table.snapshots, table.expiry, table.seqs) == (2, "2026-09-29", [1, 2])


@pytest.mark.parametrize("turns", [LATE, LATE + 1])
def test_a_client_that_is_late_gets_what_changed_merged_or_else_the_whole(turns: int) -> None:
    book, series = book_of(), series_of()
    book.turn([series], NOON_MS)
    table = Table(series)
    table.drain()
    for turn in range(turns):
        book.chain.take(0, quote_at(100.0 + turn), NOON_MS)
        book.turn([series], NOON_MS)
    (push,) = table.drain()
    is_whole = turns > LATE
    assert (table.snapshots, table.merged) == ((2, 0) if is_whole else (1, LATE - 1))
    assert [row[0] for row in json.loads(push)["rows"]] == (STRIKES if is_whole else STRIKES[:1])
    assert table.rows == told(book, "all")


def test_what_nobody_follows_is_not_encoded_and_comes_whole_again() -> None:
    book, series, other = book_of(), series_of(), series_of("atm1")
    book.turn([series], NOON_MS)
    table = Table(series)
    table.drain()
    book.turn([other], NOON_MS)  # it is alone for a while
    encoded = book.encoded["chain_rows_encoded_total"]
    book.chain.take(0, quote_at(120.0), NOON_MS)
    book.turn([other], NOON_MS)
    assert book.encoded["chain_rows_encoded_total"] == encoded
    book.turn([series, other], NOON_MS)
    table.drain()
    assert table.rows == told(book, "all")


def test_nothing_is_given_before_the_first_turn() -> None:
    assert series_of().drain(NOTHING).frames == []


def test_a_window_that_leaves_gives_nothing_until_it_is_turned_again() -> None:
    book, series, other = book_of(), series_of(), series_of("atm1")
    book.turn([series], NOON_MS)
    table = Table(series)
    table.drain()
    series.leave()
    book.turn([other], NOON_MS)  # the rows of the wider window are gone
    late = Table(series)
    assert (late.drain(), table.drain()) == ([], [])
    assert series in book.turn([series, other], NOON_MS)
    late.drain(), table.drain()
    assert late.rows == table.rows == told(book, "all")


def test_the_figures_are_named_as_the_chain_names_them() -> None:
    book, series = book_of(), series_of()
    book.turn([series], NOON_MS)
    table = Table(series)
    table.drain()
    assert tuple(table.aggregate) == Aggregate._fields
