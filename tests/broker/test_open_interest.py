"""Fetching what open interest is compared with: from the simulated exchange, and from a broker that misbehaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from datetime import datetime

import pytest
from django.core.cache import cache
from django.test import override_settings

from broker import open_interest, tasks
from broker.candle_fetches import moment
from broker.open_interest import interest_bases_fetch
from instruments.domain.instrument import IST, day_end, ms_of
from instruments.followed_chains import chains_followed
from instruments.models import SubscriptionRule, UniverseChange
from instruments.selectors import instrument_ids, market_now
from instruments.services import instruments_refresh, spots_record
from marketdata import live_state, store
from marketdata.calendar import sessions_record
from marketdata.domain.candle import DAY_MS, MINUTE_MS, Candle, day_start_ms
from marketdata.domain.chain import InterestBase
from marketdata.domain.session import Hours
from marketdata.interest import bases_read
from tests.broker.scripted_http import Reply, ScriptedServer, scripted_server
from tests.fakes.exchange import RunningExchange
from tests.instruments.rows import DAY_1, INDEX_KEYS, WEEKLY, market

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]

NIFTY = INDEX_KEYS["NIFTY"]
OPEN_MS = ms_of(datetime(2026, 11, 16, 9, 15, tzinfo=IST))
"""A Monday; the weekly chain of `market()` ends the day after."""
DAY = day_start_ms(OPEN_MS)


@pytest.fixture(autouse=True)
def fresh_cache() -> None:
    cache.clear()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as running:
        yield running


def at(url: str) -> override_settings:
    master = f"{url}/market-quote/instruments/exchange/NSE.json.gz"
    return override_settings(EXCHANGE_URL=url, UPSTOX_API_URL=url, INSTRUMENT_MASTER_URL=master)


def follow(expiries: list[str], at_ms: int, spot: float) -> None:
    SubscriptionRule.objects.create(name="chain", what="options", underlying="NIFTY", expiries=expiries, strikes="atm2", mode="full")
    spots_record(spots={NIFTY: spot}, at_ms=at_ms)


def small_market(at_ms: int, expiries: list[str]) -> dict[str, int]:
    """The hand-made market on a trading Monday, some chains followed. Returns key → id of the weekly chain's options."""
    instruments_refresh(rows=market(), source="test", as_of=DAY_1)
    sessions_record([Hours("NFO", DAY, OPEN_MS, OPEN_MS + 385 * MINUTE_MS)])
    follow(expiries, at_ms, 25_000.0)
    return instrument_ids(row.instrument_key for row in market() if row.expiry_ms == ms_of(day_end(WEEKLY)))


def chain_answer(interest: Mapping[str, float]) -> Reply:
    """The broker's chain, as FACTS §5 describes it; one side only."""
    strikes = [
        {"strike_price": 1.0, "call_options": {"instrument_key": key, "market_data": {"prev_oi": units}, "option_greeks": {}}}
        for key, units in interest.items()
    ]
    return Reply(body=json.dumps({"status": "success", "data": strikes}).encode())


def test_each_followed_chain_is_asked_for_once_a_day_and_equals_the_exchanges_own_answer() -> None:
    exchange = RunningExchange("--seed", "3")
    try:
        with at(exchange.url):
            tasks.refresh_instruments()
            today = day_start_ms(ms_of(datetime.now(IST)))
            sessions_record([Hours("NFO", today, today, today + DAY_MS)])
            spot = exchange.get("/v3/market-quote/ltp", instrument_key=NIFTY).json()["data"]["NSE_INDEX:Nifty 50"]["last_price"]
            follow(["@w0", "@w1"], ms_of(datetime.now(IST)), spot)
            done = interest_bases_fetch()
            assert done.calls == 2
            assert interest_bases_fetch().calls == 0
        told = {}
        for chain in chains_followed(market_now()):
            for strike in exchange.get("/v2/option/chain", instrument_key=NIFTY, expiry_date=chain.expiry.isoformat()).json()["data"]:
                for side in (strike["call_options"], strike["put_options"]):
                    told[side["instrument_key"]] = side["market_data"]["prev_oi"]
    finally:
        exchange.stop()
    assert len(told) == done.closed > 100
    assert len(set(told.values())) > 50
    ids = instrument_ids(told)
    assert bases_read(ids.values(), today) == {ids[key]: InterestBase(None, units) for key, units in told.items()}


def test_a_chain_that_only_a_client_follows_is_asked_for_too_within_bounds(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = small_market(OPEN_MS + MINUTE_MS, ["@w0"])
    options = [row for row in market() if row.underlying_symbol == "NIFTY" and row.instrument_type in ("CE", "PE")]
    others = {
        expiry_ms: instrument_ids(row.instrument_key for row in options if row.expiry_ms == expiry_ms)
        for expiry_ms in {row.expiry_ms for row in options} - {ms_of(day_end(WEEKLY))}
    }
    assert len(others) > 1
    told = {key: 1300.0 for chain in (ids, *others.values()) for key in chain}
    client_wants({min(chain.values()): "full" for chain in others.values()} | dict.fromkeys(ids.values(), "full"))
    server.will(*[chain_answer(told)] * 9)
    monkeypatch.setattr(open_interest, "CLIENTS_CHAINS", 0)
    with at(server.url):
        assert interest_bases_fetch().calls == 1, "that of the rules"
        monkeypatch.setattr(open_interest, "CLIENTS_CHAINS", 1)
        assert interest_bases_fetch().calls == 1, "one of the others, whichever"
        monkeypatch.setattr(open_interest, "CLIENTS_CHAINS", 30)
        assert interest_bases_fetch().calls == len(others) - 1
        assert interest_bases_fetch().calls == 0
    for chain in others.values():
        assert bases_read(chain.values(), DAY) == dict.fromkeys(chain.values(), InterestBase(None, 1300.0))


def client_wants(instruments: dict[int, str]) -> None:
    """Say so as a hub does."""

    async def write() -> None:
        await live_state.ademand_write("hub", instruments)
        await live_state.aclose()

    asyncio.run(write())


def test_before_the_open_and_on_an_unknown_day_nobody_is_asked(server: ScriptedServer) -> None:
    small_market(OPEN_MS - MINUTE_MS, ["@w0"])
    with at(server.url):
        assert interest_bases_fetch() == (0, 0, 0, 0)
        spots_record(spots={NIFTY: 25_000.0}, at_ms=OPEN_MS - DAY_MS)
        assert interest_bases_fetch() == (0, 0, 0, 0)
        assert server.requests == []
        spots_record(spots={NIFTY: 25_000.0}, at_ms=OPEN_MS)
        server.will(chain_answer({}))
        assert interest_bases_fetch().calls == 1
    assert server.requests[0].path == "/v2/option/chain?instrument_key=NSE_INDEX%7CNifty+50&expiry_date=2026-11-17"


def test_an_answer_without_any_figure_tells_nothing_and_one_that_lacks_options_is_asked_for_again(server: ScriptedServer) -> None:
    ids = small_market(OPEN_MS + MINUTE_MS, ["@w0"])
    first, second, *others = sorted(ids)
    server.will(chain_answer(dict.fromkeys(ids, 0)), chain_answer({first: 650.0, second: 0}), chain_answer(dict.fromkeys(ids, 1300.0)))
    with at(server.url):
        assert interest_bases_fetch() == (1, 0, 0, 0)
        assert bases_read(ids.values(), DAY) == {}
        assert interest_bases_fetch() == (1, 0, 2, 0)
        assert bases_read(ids.values(), DAY) == {ids[first]: InterestBase(None, 650.0), ids[second]: InterestBase(None, 0.0)}
        assert interest_bases_fetch() == (1, 0, len(ids), 0)
        assert interest_bases_fetch().calls == 0
    assert len(others) == 40


def test_what_the_broker_refuses_for_ever_does_not_keep_it_from_telling_the_rest(server: ScriptedServer) -> None:
    ids = small_market(OPEN_MS + MINUTE_MS, ["@w0", "@w1"])
    no = Reply(400, b'{"status":"error","errors":[{"errorCode":"UDAPI1021","message":"Invalid expiry"}]}')
    server.will(no, chain_answer({"NSE_FO|1050": 65.0}))
    with at(server.url):
        assert tasks.fetch_interest_bases() == "2 calls, 0 day starts, 1 previous closes, 1 chains refused"
    assert bases_read(ids.values(), DAY) == {}


@pytest.mark.parametrize("reply", [Reply(429, b"<html>"), Reply(503, b""), Reply(body=b'{"status":"success","data":[{"call_options":7}]}')])
def test_a_failure_is_noted_and_nothing_is_stored(server: ScriptedServer, reply: Reply) -> None:
    ids = small_market(OPEN_MS + MINUTE_MS, ["@w0"])
    server.will(reply)
    with at(server.url):
        tasks.fetch_interest_bases()
    assert len(server.requests) == 1
    assert not live_state.task_runs_read()["fetch_interest_bases"]["ok"]
    assert bases_read(ids.values(), DAY) == {}


def test_the_days_start_follows_a_minute_that_was_healed_before_it(server: ScriptedServer) -> None:
    ids = small_market(OPEN_MS + 5 * MINUTE_MS, ["@w0"])
    one = min(ids.values())
    server.will(chain_answer(dict.fromkeys(ids, 1300.0)))
    with at(server.url):
        for minute, open_interest in ((3, 900.0), (1, 750.0)):
            store.candles_write([Candle(one, "1m", OPEN_MS + minute * MINUTE_MS, 1.0, 1.0, 1.0, 1.0, 1, open_interest, "backfilled")])
            assert interest_bases_fetch().started == 1
            assert bases_read([one], DAY) == {one: InterestBase(open_interest, 1300.0)}
    assert len(server.requests) == 1


def test_the_days_start_is_of_the_open_or_of_the_first_trade_of_who_was_followed_since(server: ScriptedServer) -> None:
    now_ms = OPEN_MS + 361 * MINUTE_MS
    ids = small_market(now_ms, ["@w0"])
    opening, late, since, blind, *_ = sorted(ids)
    entered = dict.fromkeys((opening, since, blind), "full")
    UniverseChange.objects.create(at=moment(OPEN_MS - MINUTE_MS), causes=["start"], entered=entered)
    UniverseChange.objects.create(at=moment(now_ms - MINUTE_MS), causes=["demand"], entered={late: "full"})
    firsts = ((opening, 0, 100.0), (opening, 9, 130.0), (late, 360, 200.0), (since, 300, 300.0), (blind, 10, None), (blind, 360, 400.0))
    store.candles_write(
        Candle(ids[key], "1m", OPEN_MS + minute * MINUTE_MS, 1.0, 1.0, 1.0, 1.0, 1, interest, "closed") for key, minute, interest in firsts
    )
    server.will(chain_answer({}))
    with at(server.url):
        assert interest_bases_fetch().started == 2
    known = {ids[opening]: InterestBase(100.0, None), ids[since]: InterestBase(300.0, None)}
    assert bases_read(ids.values(), DAY) == known, "a contract followed since later, or told of since later, had trades that nobody saw"
    healed = Candle(ids[late], "1m", OPEN_MS + 4 * MINUTE_MS, 1.0, 1.0, 1.0, 1.0, 1, 150.0, "backfilled")
    store.candles_write([healed])
    server.will(chain_answer({}))
    with at(server.url):
        assert interest_bases_fetch().started == 1
    assert bases_read(ids.values(), DAY) == known | {ids[late]: InterestBase(150.0, None)}
