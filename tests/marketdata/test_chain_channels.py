"""The chains of a hub over the real store: what is known is told at once, what moves at the next turn, and words move on by themselves."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime
from typing import Any

import pytest
from channels.db import database_sync_to_async
from pymongo.errors import ServerSelectionTimeoutError

from instruments.chain_listing import NoSuchChain
from instruments.domain.listing import ChainListing
from instruments.models import Instrument
from marketdata import chain_channels, interest
from marketdata.chain_channels import ChainChannels, listing_read
from marketdata.chain_series import ChainSeries
from marketdata.commands import ChainChannel
from marketdata.domain.candle import DAY_MS, day_start_ms
from marketdata.domain.chain import SIDE_COLUMNS, InterestBase
from marketdata.followers import Followers
from marketdata.outbox import Outbox
from marketdata.wire import QuoteEntry, quote_entry
from tests.marketdata.way_out import MINUTE_MS, NIFTY, NIFTY_STRIKES, NOON_MS, nifty_options, option_of, quote_of

pytestmark = pytest.mark.django_db

WEEK, MONTH, AFTER = date(2026, 9, 22), date(2026, 9, 29), date(2026, 10, 6)
WEEK_ENDS_MS = NOON_MS + DAY_MS + 220 * MINUTE_MS
"""15:40 of the Tuesday after NOON_MS."""
CALL = option_of(0, 24_200.0, "CE")
_LAST, _OI_DAY, _OI_CLOSE = (SIDE_COLUMNS.index(name) for name in ("last_price", "oi_change_day", "oi_change_close"))


class Market:
    """Chains of a market of which a test tells the quotes and the time, and the clients that it makes."""

    def __init__(self) -> None:
        self.now_ms = NOON_MS
        self.entries: dict[int, QuoteEntry] = {}
        self.woken: list[Outbox] = []
        self.followers = Followers()
        self.unfollowed: set[int] = set()
        self.chains = ChainChannels(self.entries, self.unfollowed, lambda: self.now_ms, self.woken.extend, self._want)
        self.seq = 0

    def _want(self, added: Iterable[int], gone: Iterable[int]) -> None:
        for instrument in added:
            self.followers.add_chart(instrument)
        for instrument in gone:
            self.followers.remove_chart(instrument)

    @property
    def wanted(self) -> set[int]:
        return set(self.followers.wanted())

    def leave(self, *instruments: int) -> None:
        """Have the feed follow these no more, though trading in them goes on."""
        self.unfollowed.update(instruments)
        for instrument in instruments:
            self.chains.mark(instrument)

    def tick(self, instrument: int, price: float, broker_ms: int | None = None, interest: float | None = None) -> None:
        self.seq += 1
        quote = quote_of(instrument, self.seq, price, broker_ms=self.now_ms if broker_ms is None else broker_ms)
        values = list(quote.values)
        values[6] = interest
        quote.values = tuple(values)
        self.entries[instrument] = quote_entry(quote, f"NSE_FO|{instrument}", True)
        self.chains.mark(instrument)


class Program:
    """A client, and what it keeps of one channel."""

    def __init__(self, market: Market) -> None:
        self.market, self.outbox = market, Outbox()
        self.rows: dict[float, Any] = {}
        self.aggregate: dict[str, Any] = {}
        self.expiry = ""
        self.pushes = self.snapshots = 0

    async def follow(self, window: str = "all", expiry: str = "@w0") -> ChainSeries:
        return await self.market.chains.follow(self.outbox, ChainChannel("NIFTY", expiry, window))

    def drain(self) -> list[float]:
        """Apply what is owed; return the strikes that came."""
        told: list[float] = []
        for frame in self.outbox.drain_chains():
            message = json.loads(frame)
            self.pushes += 1
            if message.get("snapshot"):
                self.snapshots += 1
                self.rows = {}
            self.rows |= {strike: (call, put) for strike, call, put in message["rows"]}
            told += [row[0] for row in message["rows"]]
            self.aggregate, self.expiry = message["aggregate"], message["expiry"]
        return told

    def price(self, strike: float = 24_200.0) -> float | None:
        call: list[Any] = self.rows[strike][0]
        price: float | None = call[_LAST]
        return price


@pytest.fixture
def market(db: None, monkeypatch: pytest.MonkeyPatch) -> Market:
    monkeypatch.setattr(chain_channels, "CHAIN_SECONDS", 0.0)
    return Market()


async def listed() -> None:
    await nifty_options(WEEK, MONTH, AFTER, monthly=[MONTH])


# --- what clients are told ------------------------------------------------------------------------------------------------
async def test_what_was_known_before_is_told_at_the_opening(market: Market) -> None:
    await listed()
    market.tick(NIFTY, 24_210.0)
    market.tick(CALL, 120.0)
    market.tick(option_of(1, 24_200.0, "CE"), 220.0)
    program = Program(market)
    await program.follow("atm2")
    assert program.drain() == NIFTY_STRIKES[2:7]
    assert (program.expiry, program.price(), program.aggregate["spot"]) == ("2026-09-22", 120.0, 24_210.0)


async def test_a_tick_is_told_at_the_next_turn_and_not_before(market: Market) -> None:
    await listed()
    program = Program(market)
    await program.follow()
    program.drain()
    market.woken.clear()
    for price in (119.0, 120.0):
        market.tick(CALL, price)
    market.tick(option_of(1, 24_200.0, "CE"), 220.0)
    assert program.drain() == []
    await market.chains.turn_step()
    assert market.woken == [program.outbox]
    assert (program.drain(), program.price(), program.snapshots) == ([24_200.0], 120.0, 1)
    market.woken.clear()
    await market.chains.turn_step()
    assert (market.woken, program.drain()) == ([], []), "nothing has moved"


async def test_windows_and_words_share_a_chain_and_clients_their_bytes(market: Market) -> None:
    await listed()
    first, second, near, by_date = (Program(market) for _ in range(4))
    assert await first.follow() is await second.follow()
    await near.follow("atm1")
    await by_date.follow("atm1", "2026-09-22")
    assert len(market.chains) == 1
    await market.chains.turn_step()
    for program in (first, second, near, by_date):
        program.drain()
        assert program.snapshots >= 1
    before = market.chains.counts.copy()
    market.tick(CALL, 120.0)
    await market.chains.turn_step()
    assert next(first.outbox.drain_chains()) is next(second.outbox.drain_chains())
    assert market.chains.counts - before == {"chain_rows_encoded_total": 1, "chain_pushes_encoded_total": 1}
    near.drain(), by_date.drain()
    assert near.price() == by_date.price() == 120.0


async def test_a_quote_that_cannot_be_read_is_counted_and_the_chain_goes_on(market: Market) -> None:
    await listed()
    program = Program(market)
    await program.follow()
    market.tick(CALL, 120.0)
    market.entries[CALL + 2] = market.entries[CALL]._replace(instrument=CALL + 2, head=b'{"last_price":"?"')
    market.chains.mark(CALL + 2)
    await market.chains.turn_step()
    program.drain()
    assert (program.price(), market.chains.counts["chain_quotes_rejected_total"]) == (120.0, 1)


async def test_there_is_no_such_chain(market: Market) -> None:
    await listed()
    outbox = Outbox()
    for underlying, expiry, field in (("NOBODY", "@w0", "underlying"), ("NIFTY", "@w9", "expiry"), ("NIFTY", "2026-09-23", "expiry")):
        with pytest.raises(NoSuchChain) as caught:
            await market.chains.follow(outbox, ChainChannel(underlying, expiry, "all"))
        assert caught.value.field == field
    assert (len(market.chains), outbox.chains, market.wanted) == (0, {}, set())


# --- what is demanded -----------------------------------------------------------------------------------------------------
def contracts(first: int, last: int) -> set[int]:
    """Of the week, from the strike at one place to that at another, and NIFTY."""
    return {option_of(0, strike, side) for strike in NIFTY_STRIKES[first : last + 1] for side in ("CE", "PE")} | {NIFTY}


async def test_the_window_and_the_underlying_are_demanded_while_somebody_follows(market: Market) -> None:
    await listed()
    market.tick(NIFTY, 24_210.0)
    one, two, wide = Program(market), Program(market), Program(market)
    series = await one.follow("atm1")
    await two.follow("atm1")
    assert market.wanted == contracts(1, 7), "two strikes more on each side"
    assert market.chains.concerned(one.outbox, {NIFTY, CALL, 7}) == {NIFTY, CALL}
    assert market.chains.concerned(wide.outbox, {NIFTY, CALL}) == set()
    assert (market.chains.key_of(CALL), market.chains.key_of(NIFTY), market.chains.key_of(7)) == (
        f"NSE_FO|{CALL}",
        "NSE_INDEX|Nifty 50",
        None,
    )
    await wide.follow()
    await market.chains.turn_step()
    assert len(market.wanted) == 19
    for outbox in list(wide.outbox.chains):
        market.chains.unfollow(wide.outbox, outbox)
    for price, first, last in ((24_290.0, 1, 7), (24_340.0, 4, 8), (24_290.0, 4, 8), (24_110.0, 0, 5)):
        market.tick(NIFTY, price)
        await market.chains.turn_step()
        assert market.wanted == contracts(first, last), "as it was while that is enough"
    assert market.chains.unfollow(one.outbox, series)
    assert not market.chains.unfollow(one.outbox, series)
    assert market.wanted, "the other follows it still"
    market.chains.unfollow(two.outbox, series)
    assert market.wanted == set()


async def test_a_window_that_nobody_follows_is_dropped_after_a_while(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    await listed()
    program = Program(market)
    series = await program.follow("atm1")
    await program.follow("atm2", "@w1")
    program.drain()
    for each in list(program.outbox.chains):
        market.chains.unfollow(program.outbox, each)
    await market.chains.load_step()
    assert len(market.chains) == 2
    market.tick(CALL, 120.0)
    await market.chains.turn_step()
    assert await program.follow("atm1") is series, "who comes back finds it"
    program.drain()
    assert program.price() == 120.0, "as it is now"
    market.chains.unfollow(program.outbox, series)
    monkeypatch.setattr(chain_channels, "IDLE_SECONDS", -1.0)
    await market.chains.load_step()
    assert (len(market.chains), market.chains.key_of(CALL)) == (0, None)
    market.chains.mark(CALL)


async def test_who_comes_back_to_a_window_while_another_of_the_chain_is_followed_gets_it_with_the_next_turn(market: Market) -> None:
    await listed()
    market.tick(NIFTY, 24_210.0)
    wide, near, late = Program(market), Program(market), Program(market)
    series = await wide.follow()
    await near.follow("atm1")
    await market.chains.turn_step()
    wide.drain(), market.chains.unfollow(wide.outbox, series)
    market.tick(CALL, 120.0)
    await market.chains.turn_step()
    await late.follow()
    assert late.drain() == [], "its rows have been dropped meanwhile"
    await market.chains.turn_step()
    assert (late.drain(), late.price()) == (NIFTY_STRIKES, 120.0)


async def test_a_client_that_is_late_when_a_word_moves_on_gets_the_next_chain(market: Market) -> None:
    await listed()
    market.tick(NIFTY, 24_210.0)
    week = Program(market)
    await week.follow()
    await Program(market).follow("atm1", "2026-09-22")
    market.now_ms = WEEK_ENDS_MS
    market.chains.read_again()
    await market.chains.load_step()
    await Program(market).follow("atm1", "2026-09-22")
    await market.chains.turn_step()
    assert (week.drain(), week.expiry) == (NIFTY_STRIKES, "2026-09-29")


async def test_idle_windows_are_bounded(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_channels, "IDLE_MAX", 2)
    await listed()
    program = Program(market)
    for number in range(1, 6):
        market.chains.unfollow(program.outbox, await program.follow(f"atm{number}"))
    assert len(market.chains._series) == 2


# --- what moves by itself -------------------------------------------------------------------------------------------------
async def test_words_move_on_when_trading_in_the_nearest_expiry_ends(market: Market) -> None:
    await listed()
    market.tick(option_of(1, 24_200.0, "CE"), 220.0)
    market.tick(option_of(2, 24_200.0, "CE"), 320.0)
    week, month, second, dated = (Program(market) for _ in range(4))
    for program, expiry in ((week, "@w0"), (month, "@m0"), (second, "@w1"), (dated, "2026-09-22")):
        await program.follow("atm9", expiry)
    await market.chains.turn_step()
    market.now_ms = WEEK_ENDS_MS - 1
    await market.chains.turn_step()
    await market.chains.load_step()
    for program in (week, month, second, dated):
        program.drain()
    assert [program.expiry for program in (week, month, second, dated)] == ["2026-09-22", "2026-09-29", "2026-09-29", "2026-09-22"]
    market.now_ms = WEEK_ENDS_MS
    for word in market.chains._read_at:  # as if it had been opened a while ago
        market.chains._read_at[word] -= 10.0
    await market.chains.turn_step()
    await market.chains.load_step()
    await market.chains.turn_step()
    for program in (week, month, second, dated):
        program.drain()
    assert [program.expiry for program in (week, month, second, dated)] == ["2026-09-29", "2026-09-29", "2026-10-06", "2026-09-22"]
    assert (week.price(), week.snapshots, second.price(), month.snapshots) == (220.0, 2, 320.0, 1)
    assert market.wanted == {option_of(nth, strike, side) for nth in (1, 2) for strike in NIFTY_STRIKES for side in ("CE", "PE")} | {NIFTY}
    assert len(market.chains) == 3


async def test_a_chain_that_has_ended_is_shown_and_demands_nothing(market: Market) -> None:
    await listed()
    market.tick(CALL, 120.0)
    market.now_ms = WEEK_ENDS_MS
    program = Program(market)
    await program.follow("all", "2026-09-22")
    program.drain()
    assert (program.price(), market.wanted) == (120.0, set())


@pytest.mark.parametrize("is_open", [True, False], ids=["while it is followed", "before it is opened"])
async def test_what_is_followed_no_more_counts_nothing_until_a_quote_comes(market: Market, is_open: bool) -> None:
    await listed()
    market.tick(NIFTY, 24_210.0)
    for strike, units in ((24_200.0, 1000.0), (24_250.0, 3000.0)):
        market.tick(option_of(0, strike, "CE"), 120.0, interest=units)
        market.tick(option_of(0, strike, "PE"), 110.0, interest=2 * units)
    program = Program(market)
    if is_open:
        await program.follow()
        program.drain()
        assert [program.aggregate[name] for name in ("options_known", "call_oi", "put_oi", "spot")] == [4, 4000.0, 8000.0, 24_210.0]
    market.leave(option_of(0, 24_250.0, "CE"), option_of(0, 24_250.0, "PE"), NIFTY)
    if is_open:
        await market.chains.turn_step()
    else:
        await program.follow()
    program.drain()
    assert [program.aggregate[name] for name in ("options_known", "call_oi", "put_oi", "spot")] == [2, 1000.0, 2000.0, None]
    assert (program.price(24_200.0), program.price(24_250.0)) == (120.0, None)
    market.unfollowed.clear()
    market.tick(option_of(0, 24_250.0, "CE"), 121.0, interest=3500.0)
    await market.chains.turn_step()
    program.drain()
    assert (program.aggregate["options_known"], program.aggregate["call_oi"], program.price(24_250.0)) == (3, 4500.0, 121.0)


async def test_market_time_that_goes_back_begins_anew(market: Market) -> None:
    """A replay of an earlier day begins: quotes of the day that was are none of its."""
    await listed()
    market.now_ms = WEEK_ENDS_MS + DAY_MS
    market.tick(option_of(1, 24_200.0, "CE"), 220.0)
    program = Program(market)
    await program.follow()
    await market.chains.turn_step()
    program.drain()
    assert (program.expiry, program.price()) == ("2026-09-29", 220.0)
    market.tick(CALL, 999.0)
    market.now_ms = NOON_MS
    await market.chains.turn_step()
    await market.chains.load_step()
    await market.chains.turn_step()
    program.drain()
    assert (program.expiry, program.price()) == ("2026-09-22", None)
    market.now_ms = WEEK_ENDS_MS - MINUTE_MS
    market.tick(CALL, 120.0)
    await market.chains.turn_step()
    program.drain()
    assert program.price() == 120.0


async def test_a_quote_that_comes_before_the_report_of_its_day_is_taken_with_that(market: Market) -> None:
    await listed()
    program = Program(market)
    await program.follow()
    market.tick(CALL, 120.0, NOON_MS + 20 * 3_600_000)
    await market.chains.turn_step()
    program.drain()
    assert program.price() is None
    market.now_ms = NOON_MS + 20 * 3_600_000
    await market.chains.turn_step()
    program.drain()
    assert program.price() == 120.0


async def test_contracts_that_are_new_in_the_master_come_with_the_next_reading(market: Market) -> None:
    await nifty_options(WEEK)
    market.tick(CALL, 120.0)
    program = Program(market)
    await program.follow()
    await market.chains.load_step()
    program.drain()
    new = datetime(2026, 9, 22, 18, 29, 59, tzinfo=UTC)

    @database_sync_to_async
    def list_another() -> None:
        call = Instrument.objects.get(id=CALL)
        call.pk, call.identity, call.instrument_key, call.strike_price, call.expiry = 900, "new", "NSE_FO|900", 24_450.0, new
        call.save(force_insert=True)

    await list_another()
    await market.chains.load_step()
    await market.chains.turn_step()
    assert program.drain() == [], "not read yet"
    market.chains.read_again()
    await market.chains.load_step()
    await market.chains.turn_step()
    assert program.drain() == [*NIFTY_STRIKES, 24_450.0]
    assert (program.snapshots, program.price(), program.rows[24_450.0][1]) == (2, 120.0, None)
    assert 900 in market.wanted


async def test_what_open_interest_is_compared_with_is_read_and_told(market: Market) -> None:
    await listed()
    market.tick(CALL, 120.0, interest=1500.0)
    program = Program(market)
    await program.follow()
    program.drain()
    day_ms = day_start_ms(NOON_MS)
    await database_sync_to_async(interest.bases_write)({CALL: InterestBase(1400.0, 1000.0)}, day_ms)
    await market.chains.load_step()
    await market.chains.turn_step()
    program.drain()
    call = program.rows[24_200.0][0]
    assert (call[_OI_DAY], call[_OI_CLOSE]) == (100.0, 500.0)
    market.now_ms += DAY_MS
    market.tick(CALL, 121.0, interest=1700.0)
    await database_sync_to_async(interest.bases_write)({CALL: InterestBase(1600.0, None)}, day_ms + DAY_MS)
    await market.chains.turn_step()
    await market.chains.load_step()
    await market.chains.turn_step()
    program.drain()
    call = program.rows[24_200.0][0]
    assert (call[_OI_DAY], call[_OI_CLOSE]) == (100.0, None), "another day"


async def test_while_the_store_is_away_a_chain_stays_and_another_is_refused(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_channels, "RETRY_SECONDS", 0.0)
    await listed()
    program = Program(market)
    await program.follow()
    with monkeypatch.context() as away:

        def fail(*_: object) -> Any:
            raise ServerSelectionTimeoutError("no server")

        reading: Callable[..., Any] = fail
        away.setattr(chain_channels, "listing_read", reading)
        market.chains.read_again()
        await market.chains.load_step()
        with pytest.raises(ServerSelectionTimeoutError):
            await program.follow("all", "@w1")
        await program.follow("atm1")
    market.tick(CALL, 120.0)
    await market.chains.turn_step()
    program.drain()
    assert program.price() == 120.0
    assert len(program.outbox.chains) == 2


async def test_who_opens_a_chain_together_reads_it_once_and_waits_for_no_other(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    await listed()
    hangs, goes_on, read = threading.Event(), threading.Event(), Counter[str]()

    def slowly(underlying: str, expiry: str, at: datetime) -> tuple[ChainListing, float]:
        read[expiry] += 1
        if expiry == "@w0":
            hangs.set()
            assert goes_on.wait(60)
        return listing_read(underlying, expiry, at)

    monkeypatch.setattr(chain_channels, "listing_read", slowly)
    first, second, third, other = (Program(market) for _ in range(4))
    waiting = [asyncio.create_task(program.follow()) for program in (first, second, third)]
    while not hangs.is_set():  # noqa: ASYNC110 - set by a thread
        await asyncio.sleep(0.01)
    await other.follow("all", "@w1")
    assert (other.drain(), len(market.chains)) == (NIFTY_STRIKES, 1)
    waiting[0].cancel()
    goes_on.set()
    await asyncio.wait(waiting)
    assert (waiting[0].cancelled(), waiting[1].result() is waiting[2].result(), read["@w0"]) == (True, True, 1)
    assert (first.outbox.chains, len(market.chains), market.chains._opening) == ({}, 2, {})


def test_a_word_may_mean_another_expiry_when_the_nearest_has_ended(db: None) -> None:
    from asgiref.sync import async_to_sync

    async_to_sync(nifty_options)(WEEK, MONTH, monthly=[MONTH])
    at = datetime.fromtimestamp(NOON_MS / 1000, UTC)
    ends = {word: listing_read("NIFTY", word, at)[1] for word in ("@w0", "@m0", "2026-09-29")}
    assert ends == {"@w0": WEEK_ENDS_MS, "@m0": WEEK_ENDS_MS, "2026-09-29": float("inf")}
