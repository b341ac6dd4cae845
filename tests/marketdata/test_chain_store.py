"""Chains at rest: what is stored each minute, when nothing is, and what is read back; on the real MongoDB and Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest
from django.conf import settings

from instruments.chain_listing import chain_listing
from instruments.domain.expiry import ExpiryKind
from instruments.domain.listing import ChainListing, ListedOption
from marketdata import live_state, store
from marketdata.calendar import calendar_forget, sessions_record
from marketdata.chain_minutes import Stored, chain_view, chains_store
from marketdata.chain_store import history_read, snapshot_read, snapshot_write, span_read
from marketdata.domain.candle import DAY_MS, MINUTE_MS
from marketdata.domain.chain import Chain, InterestBase
from marketdata.domain.session import Hours
from marketdata.interest import bases_write
from marketdata.models import ChainSnapshot
from tests.instruments.explain import assert_by_index, profiled
from tests.instruments.rows import WEEKLY
from tests.marketdata.api.fixtures import store_ticks
from tests.marketdata.option_market import (
    CLOSE_MS,
    DAY,
    EXPIRY,
    NIFTY,
    OPEN_MS,
    SPOT,
    STRIKES,
    OptionMarket,
    option_market,
    quotes_of,
    tell,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]

AT = OPEN_MS + 30 * MINUTE_MS
CALLS = sum(number * 100 for number in range(1, 22))


@pytest.fixture(autouse=True)
def unknown_calendar() -> None:
    calendar_forget()


def listing_of() -> Any:
    return chain_listing("NIFTY", EXPIRY, datetime.fromtimestamp(AT / 1000, UTC))


def view_of(made: OptionMarket, at_ms: int = AT, move: float = 0.0) -> Any:
    return chain_view(listing_of(), quotes_of(made, at_ms, move=move), {})


# --- what is stored -----------------------------------------------------------------------------------------------------


def test_a_followed_chain_is_stored_whole_with_its_figures_by_name() -> None:
    made = option_market()
    call = made.options[25_000.0, "CE"]
    bases_write({call: InterestBase(1000.0, 800.0)}, DAY)
    tell(quotes_of(made, AT + 1500), AT + 2500)
    assert chains_store() == Stored(stored=1)
    row = ChainSnapshot.objects.get()
    assert (row.pk, row.underlying, row.expiry, store.time_ms(row.minute)) == (f"NIFTY:{EXPIRY}:{AT}", "NIFTY", EXPIRY, AT)
    figures = {name: row.aggregate[name] for name in ("spot", "call_oi", "put_oi", "call_volume", "pcr_oi", "pcr_volume", "atm_strike")}
    assert figures == {
        "spot": SPOT, "call_oi": CALLS, "put_oi": 2 * CALLS, "call_volume": 10 * CALLS, "pcr_oi": 2.0, "pcr_volume": 2.0,
        "atm_strike": 25_000.0,
    }  # fmt: skip
    found = snapshot_read("NIFTY", EXPIRY, AT)
    assert found is not None
    view = found.view
    assert (found.minute_ms, view.market_ms, view.underlying_key, view.segment, view.kind) == (
        AT,
        AT + 1500,
        "NSE_INDEX|Nifty 50",
        "NSE_FO",
        "weekly",
    )
    assert view.ends_ms == CLOSE_MS + 24 * 60 * MINUTE_MS
    assert [one.strike_price for one in view.rows] == STRIKES
    side = view.rows[10].call
    assert side is not None
    assert (side.instrument, side.last_price, side.change, side.volume, side.implied_volatility) == (call, 72.5, 10.0, 11_000, 0.111)
    assert (side.open_interest, side.oi_change_day, side.oi_change_close, side.computed) == (1100.0, 100.0, 300.0, False)


def test_what_is_read_is_what_was_written_also_where_sides_and_values_are_missing() -> None:
    made = option_market()
    listing = listing_of()
    listing = listing._replace(options=[option for option in listing.options if (option.strike_price, option.side) != (24_500.0, "PE")])
    quotes = quotes_of(made, AT)
    del quotes[made.options[25_500.0, "CE"]]
    view = chain_view(listing, quotes, {})
    assert snapshot_write(view, AT)
    found = snapshot_read("NIFTY", EXPIRY, AT)
    assert found is not None
    assert found.view == view
    assert found.view.rows[0].put is None
    missing = found.view.rows[-1].call
    assert missing is not None
    assert missing.last_price is None


def test_a_minute_is_stored_once_and_only_when_something_has_changed() -> None:
    made = option_market()
    tell(quotes_of(made, AT), AT + 2000)
    assert chains_store() == Stored(stored=1)
    tell(quotes_of(made, AT + 30_000, move=1.0), AT + 31_000)
    assert chains_store() == Stored(unchanged=1)  # the minute's first stays
    tell(quotes_of(made, AT), AT + MINUTE_MS)
    assert chains_store() == Stored(unchanged=1)
    tell(quotes_of(made, AT + MINUTE_MS, move=0.05), AT + 7 * MINUTE_MS)  # a fast replay: market time has leapt
    assert chains_store() == Stored(stored=1)
    assert [minute for minute, _ in history_read("NIFTY", EXPIRY, from_ms=0, to_ms=2**45, limit=10)] == [AT, AT + 7 * MINUTE_MS]


@pytest.mark.parametrize(
    ("market_ms", "wanted"),
    [
        (OPEN_MS - 1, Stored(closed=1)),
        (OPEN_MS, Stored(stored=1)),
        (CLOSE_MS + 59_999, Stored(stored=1)),
        (CLOSE_MS + MINUTE_MS, Stored(closed=1)),
    ],
)
def test_chains_are_stored_while_their_segment_trades_and_at_its_close(market_ms: int, wanted: Stored) -> None:
    made = option_market()
    tell(quotes_of(made, market_ms - 1000), market_ms)
    assert chains_store() == wanted


def test_the_last_minute_of_an_expiring_chain_is_told_by_its_ticks_as_nobody_follows_it_any_more() -> None:
    made = option_market()
    end_ms = CLOSE_MS + DAY_MS
    sessions_record([Hours("NFO", DAY + DAY_MS, OPEN_MS + DAY_MS, end_ms)])
    quotes = quotes_of(made, end_ms - 30_000)
    tell(quotes, end_ms - 57_000)
    assert chains_store() == Stored(stored=1)
    live_state_forget(made.options.values())
    call, put = made.options[25_000.0, "CE"], made.options[25_000.0, "PE"]
    book = {"bid_price": 14.0, "bid_quantity": 65}
    store_ticks(call, [end_ms - 9_000], open_interest=900.0, **book, ask_price=15.0)
    store_ticks(call, [end_ms - 200], open_interest=None, **book)  # prices count from 100; this book has one side
    store_ticks(put, [end_ms - DAY_MS, end_ms - 9_000, end_ms - 100], implied_volatility=0.2)
    tell({made.spot: quotes[made.spot]}, end_ms + 2_000)
    assert chains_store() == Stored(stored=1)
    found = snapshot_read("NIFTY", EXPIRY, end_ms)
    assert found is not None
    assert (found.minute_ms, found.view.aggregate.spot, found.view.aggregate.options_known) == (end_ms, SPOT, 1)
    sides = {side.instrument: side for row in found.view.rows for side in (row.call, row.put) if side is not None}
    assert (len(sides), {side.last_price for each, side in sides.items() if each not in (call, put)}) == (42, {None})
    first, last = sides[call], sides[put]
    assert (first.key, first.last_price, first.open_interest, first.bid_price, first.ask_price) == (
        made.keys[call],
        100.0,
        900.0,
        14.0,
        None,
    )
    assert (last.last_price, last.volume, last.implied_volatility) == (102.0, 2, 0.2)
    assert [minute for minute, _ in history_read("NIFTY", EXPIRY, from_ms=0, to_ms=2**45, limit=10)] == [end_ms - MINUTE_MS, end_ms]
    tell({}, end_ms + MINUTE_MS)
    assert chains_store() == Stored(closed=1)


def live_state_forget(instruments: Iterable[int]) -> None:
    """Do what the feed does as it ends a subscription."""

    async def remove() -> None:
        await live_state.aquotes_remove(instruments)
        await live_state.aclose()

    asyncio.run(remove())


def test_on_a_day_without_trading_nothing_is_stored_and_on_an_unknown_day_it_is() -> None:
    made = option_market(hours=(0, 0))
    tell(quotes_of(made, AT), AT)
    assert chains_store() == Stored(closed=1)
    store.collection("marketdata_marketsession").delete_many({})
    calendar_forget()
    assert chains_store() == Stored(stored=1)


def test_without_a_feed_or_without_quotes_nothing_is_stored() -> None:
    made = option_market()
    assert chains_store() == Stored()
    tell({made.spot: quotes_of(made, AT)[made.spot]}, AT)
    assert chains_store() == Stored(empty=1)
    tell(quotes_of(made, DAY - 1), AT)  # a feed that has just begun: what is known is of another day
    assert chains_store() == Stored(empty=1)
    tell(quotes_of(made, DAY + DAY_MS), AT)  # and where a replay has begun, of one that is still to come
    assert chains_store() == Stored(empty=1)
    assert not ChainSnapshot.objects.exists()


# --- what is read -------------------------------------------------------------------------------------------------------


def test_the_newest_at_or_before_a_minute_is_found_by_one_entry_of_the_index() -> None:
    made = option_market()
    for minute in (0, 1, 5):
        assert snapshot_write(view_of(made, move=float(minute)), AT + minute * MINUTE_MS)
    wanted = {-1: None, 0: 0, 59_999: 0, MINUTE_MS: 1, 4 * MINUTE_MS: 1, 5 * MINUTE_MS: 5, 9_000 * MINUTE_MS: 5}
    for after_ms, wanted_minute in wanted.items():
        found = snapshot_read("NIFTY", EXPIRY, AT + after_ms)
        assert (None if found is None else found.minute_ms) == (None if wanted_minute is None else AT + wanted_minute * MINUTE_MS)
    assert snapshot_read("NIFTY", "2026-11-24", AT) is snapshot_read("BANKNIFTY", EXPIRY, AT) is None
    with profiled(ChainSnapshot._meta.db_table) as entries:
        snapshot_read("NIFTY", EXPIRY, AT + 3 * MINUTE_MS)
    assert_by_index(entries, at_most=1)
    assert span_read("NIFTY", EXPIRY) == (AT, AT + 5 * MINUTE_MS)
    assert span_read("NIFTY", "2026-11-24") is None


def test_history_has_a_row_a_minute_in_order_and_reads_no_more_than_it_gives() -> None:
    made = option_market()
    for minute in range(6):
        snapshot_write(view_of(made, move=float(minute)), AT + minute * MINUTE_MS)
    with profiled(ChainSnapshot._meta.db_table) as entries:
        rows = history_read("NIFTY", EXPIRY, from_ms=AT + MINUTE_MS, to_ms=AT + 5 * MINUTE_MS, limit=3)
    assert_by_index(entries, at_most=3)
    assert [minute for minute, _ in rows] == [AT + minute * MINUTE_MS for minute in (1, 2, 3)]
    assert [figures.straddle for _, figures in rows] == [72.5 + 60.0 + 2 * minute for minute in (1, 2, 3)]


def test_a_window_of_a_stored_chain_holds_the_strikes_of_the_live_one() -> None:
    options = [ListedOption(number, f"NSE_FO|{number}", strike, "CE", 65) for number, strike in enumerate(STRIKES)]
    listing = ChainListing("NIFTY", NIFTY, None, "NSE_FO", WEEKLY, ExpiryKind.WEEKLY, CLOSE_MS, options)
    empty = chain_view(listing, {}, {})
    for spot in (None, 24_510.0, 25_012.5, 25_490.0):
        chain = Chain(listing, interest_rate=settings.INTEREST_RATE)
        chain.take_spot(spot, AT)
        view = empty._replace(aggregate=chain.aggregate())
        for word in ("all", "atm1", "atm3", "atm200"):
            assert tuple(row.strike_price for row in view.window(word)) == chain.window(word)
