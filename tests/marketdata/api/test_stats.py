"""Market statistics over REST."""

from __future__ import annotations

import time

import pytest
from rest_framework.test import APIClient

from instruments.models import Instrument
from instruments.services import instruments_refresh
from marketdata.domain.candle import MINUTE_MS, day_start_ms
from marketdata.domain.chain import InterestBase
from marketdata.domain.quote import FIELDS
from marketdata.interest import bases_write
from marketdata.selectors import TicksToday
from marketdata.wire import QuoteEntry, quote_entry
from tests.instruments.rows import market as small_market
from tests.marketdata.api.fixtures import OPEN_MS, publish_latest, status_of, store_minutes, store_ticks
from tests.marketdata.way_out import NOON_MS, entry_of, quote_of, traded_entry

STATS = "/api/marketdata/stats/"
pytestmark = pytest.mark.usefixtures("valkey")


def market() -> list[QuoteEntry]:
    """Prices against a previous close of 100; volumes count from 1001."""
    prices = {1: 110.0, 2: 95.0, 3: 100.0, 4: 120.0, 5: 80.0}
    segments = {1: "NSE_EQ", 2: "NSE_EQ", 3: "NSE_EQ", 4: "NSE_FO", 5: "NSE_FO"}
    return [entry_of(number, number, price, key=f"{segments[number]}|{number}") for number, price in prices.items()]


def test_the_day_is_compared_with_the_previous_close(client: APIClient) -> None:
    publish_latest(market(), status_of(now_ms=time.time_ns() // 1_000_000))
    body = client.get(STATS, {"limit": 2}).json()
    assert (body["window"], body["state"], body["instruments"]) == ("1d", "live", 5)
    assert body["breadth"] == {"advances": 2, "declines": 2, "unchanged": 1, "unknown": 0}
    assert [(row["instrument"], row["change_percent"]) for row in body["gainers"]] == [(4, 20.0), (1, 10.0)]
    assert [(row["instrument"], row["change_percent"]) for row in body["losers"]] == [(5, -20.0), (2, -5.0)]
    assert [(row["instrument"], row["volume"]) for row in body["most_active"]] == [(5, 1005), (4, 1004)]


def test_one_segment_alone(client: APIClient) -> None:
    publish_latest(market())
    body = client.get(STATS, {"segment": "nse_eq"}).json()
    assert (body["instruments"], body["segment"]) == (3, "NSE_EQ")
    assert client.get(STATS, {"segment": "MCX_FO"}).json()["instruments"] == 0  # there is such a segment; nothing of it is followed
    refused = client.get(STATS, {"segment": "NSE"})
    assert (refused.status_code, refused.json()["field"]) == (400, "segment")
    assert "NSE_EQ, NSE_FO, NSE_INDEX" in refused.json()["detail"]


def test_a_shorter_window_is_compared_with_the_candle_that_far_back(client: APIClient) -> None:
    publish_latest(market())
    market_ms = client.get(STATS).json()["market_ms"]
    minute = market_ms // MINUTE_MS * MINUTE_MS
    store_minutes(1, 10, start_ms=minute - 10 * MINUTE_MS)  # the one five minutes back closes at 5.5
    body = client.get(STATS, {"window": "5m"}).json()
    assert body["breadth"] == {"advances": 1, "declines": 0, "unchanged": 0, "unknown": 4}
    assert body["gainers"][0]["change_percent"] == pytest.approx((110 / 5.5 - 1) * 100)


def test_what_was_quiet_is_compared_with_its_last_candle_of_the_day(client: APIClient) -> None:
    publish_latest([quote_entry(quote_of(number, 1, 110.0, broker_ms=NOON_MS), f"NSE_FO|{number}", True) for number in (1, 2, 3)])
    store_minutes(1, 1, start_ms=NOON_MS - 60 * MINUTE_MS)
    store_minutes(1, 2, start_ms=NOON_MS - 41 * MINUTE_MS)  # the second closes at 1.5, and is the last one before the window
    store_minutes(1, 1, start_ms=NOON_MS - 2 * MINUTE_MS)  # inside of it
    store_minutes(2, 1, start_ms=day_start_ms(NOON_MS) - MINUTE_MS)  # of the day before
    body = client.get(STATS, {"window": "5m"}).json()
    assert body["breadth"] == {"advances": 1, "declines": 0, "unchanged": 0, "unknown": 2}
    assert [(row["instrument"], row["change_percent"]) for row in body["gainers"]] == [(1, pytest.approx((110 / 1.5 - 1) * 100, abs=1e-4))]


def test_it_says_over_which_stretch_it_counts(client: APIClient) -> None:
    publish_latest(market())
    day = client.get(STATS).json()
    market_ms = day["market_ms"]
    assert day["change"] == {"from_ms": None, "to_ms": market_ms}
    assert day["activity"] == {"from_ms": day_start_ms(market_ms), "to_ms": market_ms}
    short = client.get(STATS, {"window": "15m"}).json()
    assert short["change"]["from_ms"] == market_ms // MINUTE_MS * MINUTE_MS - 14 * MINUTE_MS
    assert short["activity"] == day["activity"]


def test_open_interest_is_compared_with_the_day_before(client: APIClient) -> None:
    publish_latest(
        [
            traded_entry(number, 100.0, key=f"NSE_FO|{number}", average=100.0, interest=interest)
            for number, interest in ((1, 900.0), (2, 700.0))
        ]
    )
    day = day_start_ms(client.get(STATS).json()["market_ms"])
    bases_write({1: InterestBase(None, 400.0), 2: InterestBase(None, 1000.0)}, day)
    body = client.get(STATS).json()
    assert [(row["instrument"], row["oi_change"], row["oi_change_percent"]) for row in body["oi_gainers"]] == [(1, 500.0, 125.0)]
    assert [(row["instrument"], row["oi_change"], row["oi_change_percent"]) for row in body["oi_losers"]] == [(2, -300.0, -30.0)]


def test_a_price_keeps_the_four_places_of_currencies(client: APIClient) -> None:
    publish_latest([entry_of(1, 1, 100.0025, key="NCD_FO|1")])
    assert [(row["last_price"], row["change_percent"]) for row in client.get(STATS).json()["gainers"]] == [(100.0025, 0.0025)]


def test_what_was_last_traded_the_day_before_has_no_volume_today(client: APIClient) -> None:
    yesterday = quote_of(6, 1, 110.0)
    a_day_ago = (yesterday.broker_ms or 0) - 86_400_000
    yesterday.values = tuple(a_day_ago if name == "last_trade_ms" else value for name, value in zip(FIELDS, yesterday.values, strict=True))
    publish_latest([*market(), quote_entry(yesterday, "NSE_EQ|6", True)])
    body = client.get(STATS).json()
    assert [row["instrument"] for row in body["most_active"]] == [5, 4, 3, 2, 1]
    assert [(row["instrument"], row["volume"]) for row in body["gainers"]] == [(4, 1004), (1, 1001), (6, 0)]


def test_one_underlying_alone(client: APIClient) -> None:
    instruments_refresh(rows=small_market(), source="test")
    rows = Instrument.objects.filter(trading_symbol__in=["NIFTY", "BANKNIFTY", "NIFTY FUT 23 NOV 26", "NIFTY 25000 CE 17 NOV 26"])
    publish_latest([entry_of(row.pk, 1, 110.0, key=row.instrument_key) for row in rows])
    body = client.get(STATS, {"underlying": "nifty"}).json()
    assert (body["underlying"], body["instruments"]) == ("NIFTY", 3)
    assert {row["symbol"] for row in body["gainers"]} == {"NIFTY", "NIFTY FUT 23 NOV 26", "NIFTY 25000 CE 17 NOV 26"}
    assert client.get(STATS, {"underlying": "NIFTY", "segment": "NSE_FO"}).json()["instruments"] == 2
    refused = client.get(STATS, {"underlying": "NIFTTY"})
    assert (refused.status_code, refused.json()["field"]) == (400, "underlying")


def test_without_quotes_the_lists_are_empty(client: APIClient) -> None:
    body = client.get(STATS).json()
    assert (body["instruments"], body["market_ms"], body["gainers"], body["ticks_stored_today"]) == (0, None, [], 0)


def test_ticks_of_today_are_counted(client: APIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    now_ms = time.time_ns() // 1_000_000
    monkeypatch.setattr("marketdata.api.stats.ticks_today", TicksToday())
    store_ticks(7, [now_ms - 3 * 86_400_000, now_ms - 2, now_ms - 1])
    assert client.get(STATS).json()["ticks_stored_today"] == 2


def test_the_count_of_today_grows_with_the_ticks_and_begins_again_at_midnight(db: None) -> None:
    counted = TicksToday()
    midnight = day_start_ms(OPEN_MS)
    store_ticks(7, [midnight - 1, midnight, midnight + 1])
    assert counted.read(midnight + 5) == 2
    store_ticks(7, [midnight + n * MINUTE_MS for n in range(1, 60)])
    assert counted.read(midnight + 60 * MINUTE_MS) == 61
    store_ticks(7, [midnight + 55 * MINUTE_MS + 1])  # a store that lags
    assert counted.read(midnight + 61 * MINUTE_MS) == 62
    assert counted.read(midnight + 86_400_000) == 0


def test_a_day_that_takes_too_long_to_count_is_counted_bit_by_bit(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = TicksToday()
    midnight = day_start_ms(OPEN_MS)
    store_ticks(7, [midnight + n * MINUTE_MS for n in range(600)])
    monkeypatch.setattr(TicksToday, "BUDGET_SECONDS", 0.02)
    answers = [counted.read(midnight + 600 * MINUTE_MS)]
    while answers[-1] is None:
        answers.append(counted.read(midnight + 600 * MINUTE_MS))
        assert len(answers) < 1000
    assert answers[-1] == 600


@pytest.mark.parametrize(("name", "value"), [("window", "2d"), ("limit", "0"), ("limit", "101"), ("top", "5")])
def test_it_refuses_what_it_does_not_understand(client: APIClient, name: str, value: str) -> None:
    answer = client.get(STATS, {name: value})
    assert (answer.status_code, answer.json()["field"]) == (400, name)
