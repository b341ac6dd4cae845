"""The option chain over REST against the broker's own `/v2/option/chain` of the same moment: while the simulated exchange stands still.

The exchange prices with another library, tells volatility in percent, and knows nothing of us. Here it runs at 60 times the pace, a
minute of market time in a second.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pymongo
import pytest
from django.conf import settings
from django.test import override_settings

from broker import tasks as broker_tasks
from instruments.chain_listing import chain_listing
from marketdata import live_state, tasks
from marketdata.domain.candle import MINUTE_MS
from marketdata.domain.chain import Chain
from marketdata.option_quotes import option_quote
from tests.fakes.stack import Stack, empty_namespace

pytestmark = pytest.mark.slow

NIFTY = "NSE_INDEX|Nifty 50"
CHAIN = "/api/marketdata/chain/NIFTY/"
EQUAL = {"last_price": "ltp", "volume": "volume", "open_interest": "oi", "bid_price": "bid_price", "ask_price": "ask_price"}
"""Our name → the broker's, among `market_data`. The quantities that wait are left out: the exchange draws them anew for each who asks."""
GREEKS = ("delta", "gamma", "theta", "vega")
SENT_GREEKS = ("implied_volatility", *GREEKS, "rho")
HALF_A_HUNDREDTH = 0.005001
"""The broker tells percent to two places."""
Sides = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def market(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with pymongo.MongoClient[dict[str, Any]](settings.MONGODB_URI) as client:
        ours = settings.NAMESPACE not in client.list_database_names()
    arguments = ("--seed", "7", "--speed", "60", "--hours", "real", "--from", "2026-11-20T11:00")
    running = Stack(tmp_path_factory.mktemp("stack"), *arguments, TRADINGOK_STRIKES="6")
    yield running
    running.stop()
    empty_namespace(drop=ours)


@pytest.fixture
def tasks_of(market: Stack, django_db_blocker: Any) -> Iterator[None]:
    """Let this process work for the stack as its worker would: the database and Redis are the same."""
    with django_db_blocker.unblock(), override_settings(EXCHANGE_URL=market.exchange.url, UPSTOX_API_URL=market.exchange.url):
        yield


def brokers_sides(stack: Stack, expiry: str) -> tuple[Sides, float]:
    """The broker's chain: key → one side, and the price of the underlying."""
    strikes = stack.exchange.get("/v2/option/chain", instrument_key=NIFTY, expiry_date=expiry).raise_for_status().json()["data"]
    sides = [strike[name] for strike in strikes for name in ("call_options", "put_options") if strike.get(name)]
    return {side["instrument_key"]: side for side in sides}, strikes[0]["underlying_spot_price"]


def our_sides(answer: dict[str, Any]) -> Sides:
    sides = [strike[name] for strike in answer["strikes"] for name in ("call", "put") if strike[name]]
    return {side["key"]: side for side in sides}


def differences(told: Sides, ours: Sides) -> list[str]:
    """Whatever of our followed options is not as the broker says."""
    found = []
    for key, side in ours.items():
        said, greeks = told[key]["market_data"], told[key]["option_greeks"]
        wanted = {name: said[theirs] for name, theirs in EQUAL.items()} | {name: greeks[name] for name in GREEKS}
        wanted["oi_change_close"] = said["oi"] - said["prev_oi"]
        wanted["change"] = pytest.approx(said["ltp"] - said["close_price"], abs=1e-4)
        wanted["implied_volatility"] = pytest.approx(greeks["iv"] / 100, abs=HALF_A_HUNDREDTH / 100)
        found += [f"{key} {name}: ours {side[name]}, the broker's {value}" for name, value in wanted.items() if side[name] != value]
    return found


def computed_sides(expiry: str) -> Sides:
    """Make the frozen chain by ourselves: of the feed's prices alone, without the volatility and the greeks that it sends."""
    market_ms = max(status.data_ms for status in live_state.statuses_read())
    listing = chain_listing("NIFTY", expiry, datetime.fromtimestamp(market_ms / 1000, UTC))
    chain = Chain(listing, interest_rate=0.0)
    entries = live_state.quotes_read([option.instrument for option in listing.options])
    for instrument, entry in entries.items():
        chain.take(instrument, option_quote(entry)._replace(**dict.fromkeys(SENT_GREEKS)), entry.broker_ms)
    return {side.key: side._asdict() for row in chain.rows() for side in (row.call, row.put) if side is not None}


def is_near(side: dict[str, Any], theirs: dict[str, float]) -> bool:
    """Whether values that we computed are the broker's, as far as a price between bid and ask and its rounding can tell."""
    assert side["computed"]
    near = [side[name] == pytest.approx(theirs[name], rel=0.03, abs=0.0001) for name in ("gamma", "theta", "vega")]
    near.append(side["delta"] == pytest.approx(theirs["delta"], abs=0.006))
    near.append(side["implied_volatility"] == pytest.approx(theirs["iv"] / 100, rel=0.02))
    return all(near)


def freeze(stack: Stack) -> None:
    """Let the exchange stand still, and the feed connect anew: each contract's snapshot is of that very moment."""
    stack.exchange.fault(kind="pause")
    stack.exchange.wait_for(lambda state: state["faults"].get("pause", 0) > 0)
    stack.exchange.fault(kind="drop")


@pytest.mark.usefixtures("tasks_of")
def test_a_frozen_moments_chain_is_the_brokers_own_and_stays_as_it_was_among_the_minutes(market: Stack) -> None:
    market.wait_for(lambda: not broker_tasks.fetch_interest_bases().startswith("0 calls"))
    freeze(market)
    expiry = market.get(CHAIN)["expiry"]
    told, spot = brokers_sides(market, expiry)
    printed = market.exchange.get("/v3/market-quote/ltp", instrument_key=NIFTY).json()["data"]["NSE_INDEX:Nifty 50"]["last_price"]
    live: dict[str, Any] = {}

    def agrees() -> bool:
        live.update(market.get(CHAIN, strikes="atm5"))
        followed = next(row["followed"] for row in market.get("/api/marketdata/chain/")["results"] if row["expiry"] == expiry)
        if live["aggregate"]["options_known"] < followed or live["state"] != "live":
            return False  # the last snapshots are on their way: what is stored now would be another moment
        return not differences(told, our_sides(live)) and live["aggregate"]["spot"] == printed

    with suppress(AssertionError):  # the next line says more
        market.wait_for(agrees, 60)
    assert differences(told, our_sides(live)) == []
    assert brokers_sides(market, expiry) == (told, spot)
    assert len(our_sides(live)) == 22
    assert not any(side["computed"] for side in our_sides(live).values())
    assert live["aggregate"]["spot"] == printed
    assert abs(live["aggregate"]["atm_strike"] - spot) <= 50
    agreed_ms = time.time() * 1000
    # a worker reads what the feed saves once a second, the web process what it publishes at once
    market.wait_for(lambda: all(status.reported_ms > agreed_ms for status in live_state.statuses_read()))
    assert ", 0 as before, 0 without a quote, 0 closed" in tasks.store_chains()
    frozen = market.get(CHAIN, strikes="atm5")
    assert differences(told, our_sides(frozen)) == []
    assert market.get(CHAIN, strikes="atm5", at=frozen["at"]) == frozen | {"stored": True}
    computed = computed_sides(expiry)
    assert [key for key in our_sides(frozen) if not is_near(computed[key], told[key]["option_greeks"])] == []
    market.exchange.fault(kind="clear")
    market.wait_for(lambda: tasks.store_chains() and len(market.get(f"{CHAIN}history/")["results"]) >= 3, 60)
    assert brokers_sides(market, expiry)[0] != told
    assert market.get(CHAIN, strikes="atm5", at=frozen["at"]) == frozen | {"stored": True}
    rows = market.get(f"{CHAIN}history/")["results"]
    minutes = [row["minute"] for row in rows]
    assert minutes == sorted(set(minutes))
    assert [minute % MINUTE_MS for minute in minutes] == [0] * len(minutes)
    assert rows[0] == {"minute": minutes[0], **frozen["aggregate"]}
    assert minutes[0] <= frozen["at"] < minutes[0] + MINUTE_MS
