"""Broker status, market status, gaps."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.conf import settings
from rest_framework.test import APIClient

from instruments.models import Instrument
from marketdata.calendar import sessions_record
from marketdata.domain.session import Hours
from marketdata.models import Gap
from marketdata.store import market_status_write
from tests.marketdata.api.fixtures import OPEN_MS, publish_latest, status_of
from tests.zones import IST, ist

BROKER = "/api/broker-status"
MARKET = "/api/marketdata/status/"
GAPS = "/api/marketdata/gaps/"


@pytest.mark.usefixtures("valkey")
def test_broker_status_tells_state_rates_subscriptions_and_lag(client: APIClient) -> None:
    now_ms = time.time_ns() // 1_000_000
    counters: dict[str, Any] = {
        "frames_per_second": 6.5,
        "ticks_per_second": 1600.0,
        "subscribed_full": 900.0,
        "limit_full": 2000.0,
        "reconnects_total": 2.0,
        "gaps_total": 1.0,
        "store_lag_ticks": 12.0,
        "store_lag_ms": 40.0,
        "journal_bytes": 5e9,
        "token_expires_ms": float(now_ms + 1000),
    }
    publish_latest([], status_of(now_ms=now_ms, **counters))
    body = client.get(BROKER).json()
    assert body["state"] == "live"
    assert 0 < body["data_age_ms"] < 60_000
    shard = body["shards"][0]
    assert shard["subscribed"]["full"] == {"subscribed": 900, "limit": 2000}
    assert shard["subscribed"]["ltpc"] == {"subscribed": 0, "limit": 5000}
    assert (shard["frames_per_second"], shard["ticks_per_second"]) == (6.5, 1600.0)
    assert (shard["reconnects"], shard["gaps"], shard["store_lag_ticks"], shard["store_lag_ms"]) == (2, 1, 12, 40)
    assert (shard["journal_bytes"], shard["token_expires_ms"]) == (5_000_000_000, now_ms + 1000)
    assert shard["counters"] == counters


@pytest.mark.usefixtures("valkey")
def test_continuity_tells_of_each_hop_whether_its_counters_add_up(client: APIClient) -> None:
    now_ms = time.time_ns() // 1_000_000
    publish_latest([], status_of(now_ms=now_ms, frames_received_total=9, frames_decoded_total=7, frames_rejected_total=1))
    hops = {row["hop"]: row for row in client.get("/api/marketdata/continuity/").json()["hops"]}
    decoder = hops["feed 0: socket to decoder"]
    assert (decoder["taken"], decoder["given"], decoder["difference"], decoder["holds"]) == (9, 8, 1, False)
    assert hops["feed 0: socket to journal"]["holds"] is None


def test_continuity_is_empty_while_redis_is_away(client: APIClient, settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    assert client.get("/api/marketdata/continuity/").json()["hops"] == []


@pytest.mark.usefixtures("valkey")
def test_a_shard_that_reports_no_more_is_told_with_its_number(client: APIClient) -> None:
    now_ms = time.time_ns() // 1_000_000
    publish_latest([], status_of("live", now_ms=now_ms, shard=0, feed_shards=2.0))
    publish_latest([], status_of("live", now_ms=now_ms - 30_000, shard=1, feed_shards=2.0))
    body = client.get(BROKER).json()
    assert (body["state"], body["detail"]) == ("reconnecting", "Feed 2 of 2 reports no more.")
    assert [shard["state"] for shard in body["shards"]] == ["live", "live"]  # as they said last


@pytest.mark.usefixtures("valkey")
def test_the_worst_shard_is_told(client: APIClient) -> None:
    now_ms = time.time_ns() // 1_000_000
    publish_latest([], status_of("live", now_ms=now_ms, shard=0))
    publish_latest([], status_of("token_expired", now_ms=now_ms, shard=1))
    body = client.get(BROKER).json()
    assert body["state"] == "token_expired"
    assert [shard["state"] for shard in body["shards"]] == ["live", "token_expired"]
    assert body["shards"][0]["token_expires_ms"] is None


@pytest.mark.usefixtures("valkey")
def test_without_a_feed_it_is_reconnecting(client: APIClient) -> None:
    body = client.get(BROKER).json()
    assert (body["state"], body["shards"], body["data_age_ms"]) == ("reconnecting", [], None)


@pytest.mark.usefixtures("valkey")
def test_market_status_is_what_the_feed_says_now_and_since_when(client: APIClient) -> None:
    market_status_write("NSE_FO", "PRE_OPEN_START", OPEN_MS - 900_000)
    market_status_write("NSE_FO", "NORMAL_OPEN", OPEN_MS)
    market_status_write("NSE_EQ", "NORMAL_OPEN", OPEN_MS)
    market_status_write("MCX_FO", "NORMAL_CLOSE", OPEN_MS - 1)
    publish_latest([], status_of(now_ms=OPEN_MS, segments={"NSE_FO": "NORMAL_OPEN", "NSE_EQ": "CLOSING_START", "BSE_EQ": "NORMAL_OPEN"}))
    assert client.get(MARKET).json()["segments"] == [
        {"segment": "BSE_EQ", "status": "NORMAL_OPEN", "since_ms": None},
        {"segment": "MCX_FO", "status": "NORMAL_CLOSE", "since_ms": OPEN_MS - 1},
        {"segment": "NSE_EQ", "status": "CLOSING_START", "since_ms": None},
        {"segment": "NSE_FO", "status": "NORMAL_OPEN", "since_ms": OPEN_MS},
    ]


def test_the_calendar_begins_on_the_markets_own_day(client: APIClient, valkey: object) -> None:
    sessions_record(
        [
            Hours("NSE", ist("2025-12-15 00:00"), ist("2025-12-15 09:15"), ist("2025-12-15 15:30")),
            Hours("NSE", ist("2025-12-16 00:00"), 0, 0),
            Hours("NSE", ist("2025-12-17 00:00"), ist("2025-12-17 18:00"), ist("2025-12-17 19:15"), "Special"),
            Hours("MCX", ist("2025-12-25 00:00"), 0, 0, "Christmas"),
            Hours("NSE", ist("2025-12-25 00:00"), 0, 0, "Christmas"),
            Hours("NSE", ist("2025-12-12 00:00"), 0, 0, "long ago"),
        ]
    )
    publish_latest([], status_of(now_ms=time.time_ns() // 1_000_000)._replace(data_ms=ist("2025-12-15 10:00")))
    calendar = client.get(MARKET).json()["calendar"]
    assert calendar["day"] == "2025-12-15"
    exchanges = {row["exchange"]: row for row in calendar["exchanges"]}
    assert exchanges["NSE"] == {
        "exchange": "NSE",
        "segments": ["NSE_EQ", "NSE_INDEX"],
        "today": {"day": "2025-12-15", "open_ms": 1_765_770_300_000, "close_ms": 1_765_792_800_000, "description": ""},
        "next": {"day": "2025-12-17", "open_ms": 1_765_974_600_000, "close_ms": 1_765_979_100_000, "description": "Special"},
    }
    assert (exchanges["MCX"]["today"], exchanges["MCX"]["next"]) == (None, None)
    assert set(exchanges) == {"BCD", "BFO", "BSE", "CDS", "MCX", "NFO", "NSCOM", "NSE"}
    assert calendar["holidays"] == [{"day": "2025-12-25", "description": "Christmas", "exchanges": ["MCX", "NSE"]}]


def test_without_a_feed_the_calendar_begins_today(client: APIClient, valkey: object) -> None:
    today = datetime.now(IST).date()
    sessions_record([Hours("NSE", ist(f"{today} 00:00"), 0, 0, "Nothing")])
    calendar = client.get(MARKET).json()["calendar"]
    assert calendar["day"] in (f"{today}", f"{today + timedelta(days=1)}")
    assert [row["day"] for row in calendar["holidays"]] == [f"{today}"]


def make_gaps(*minutes: int) -> None:
    start = datetime.fromtimestamp(OPEN_MS / 1000, UTC)
    for shard, minute in enumerate(minutes):
        began = start + timedelta(minutes=minute)
        Gap.objects.create(shard=shard, start=began, end=began + timedelta(seconds=30), cause="stale", heal_state="healed", instruments=[7])


def test_a_gap_says_from_when_to_when_and_whether_it_healed(client: APIClient) -> None:
    make_gaps(0)
    Gap.objects.update(heal_detail="2 candles filled, 1 instrument", candles_healed=2)
    Gap.objects.create(start=datetime.fromtimestamp(OPEN_MS / 1000 + 60, UTC), cause="disconnected", detail="the broker closed")
    lasting: dict[str, Any] = {
        "from": OPEN_MS + 60_000,
        "to": None,
        "cause": "disconnected",
        "heal_state": "open",
        "detail": "the broker closed",
    }
    over: dict[str, Any] = {"from": OPEN_MS, "to": OPEN_MS + 30_000, "cause": "stale", "heal_state": "healed", "detail": ""}
    lasting |= {"shard": 0, "instruments": [], "heal_detail": "", "candles_healed": 0}
    over |= {"shard": 0, "instruments": [7], "heal_detail": "2 candles filled, 1 instrument", "candles_healed": 2}
    ids = {gap.cause: str(gap.pk) for gap in Gap.objects.all()}
    results = [row | {"gap": ids[row["cause"]]} for row in (lasting, over)]
    assert client.get(GAPS).json() == {"results": results, "next": None}


def test_gaps_of_one_instrument_are_those_that_name_it_and_those_of_all(client: APIClient, reliance: Instrument) -> None:
    start = datetime.fromtimestamp(OPEN_MS / 1000, UTC)
    for cause, instruments in (("stopped", []), ("silent", [reliance.pk, 99]), ("missing", [99])):
        Gap.objects.create(start=start, cause=cause, instruments=instruments)
    Gap.objects.create(start=start, cause="stale", shard=reliance.pk % settings.FEED_SHARDS + 1)  # another feed's
    found = client.get(GAPS, {"instrument": f"id:{reliance.pk}"}).json()["results"]
    assert {row["cause"] for row in found} == {"stopped", "silent"}
    answer = client.get(GAPS, {"instrument": "NSE_EQ|NOBODY"})
    assert (answer.status_code, answer.json()["field"]) == (404, "instrument")


@pytest.mark.parametrize("limit", [1, 2, 3, 10])
def test_pages_of_gaps_together_are_the_whole_even_when_they_begin_together(client: APIClient, limit: int) -> None:
    make_gaps(0, 1, 1, 1, 2, 3)
    found: list[int] = []
    address: str | None = f"{GAPS}?limit={limit}"
    while address:
        page = client.get(address).json()
        found += [row["shard"] for row in page["results"]]
        address = page["next"]
    assert len(found) == 6
    assert set(found) == set(range(6))


def test_gaps_are_cut_as_asked(client: APIClient) -> None:
    make_gaps(0, 1, 2)
    body = client.get(GAPS, {"from": OPEN_MS + 60_000, "to": OPEN_MS + 120_000}).json()
    assert [row["from"] for row in body["results"]] == [OPEN_MS + 60_000]


@pytest.mark.parametrize("path", [BROKER, MARKET, GAPS])
def test_they_refuse_what_they_do_not_understand(client: APIClient, path: str) -> None:
    answer = client.get(path, {"colour": "red"})
    assert (answer.status_code, answer.json()["field"]) == (400, "colour")
