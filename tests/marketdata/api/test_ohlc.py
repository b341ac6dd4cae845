"""Candles over REST."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from channels.db import database_sync_to_async
from rest_framework.test import APIClient

from instruments.models import Instrument
from instruments.store import spots_write
from marketdata import store
from marketdata.domain.candle import DAY_MS, MINUTE_MS, STORED_INTERVALS, Candle, candle_id
from tests.marketdata.api.fixtures import OPEN_MS, publish_latest, status_of, store_minutes
from tests.marketdata.way_out import ScriptedFeed, api_key, auntil, market_client, minute_of, web_server

OHLC = "/api/marketdata/ohlc/"


def starts(body: dict[str, Any]) -> list[int]:
    return [(row["candle"][0] - OPEN_MS) // MINUTE_MS for row in body["results"]]


def test_a_candle_has_its_values_state_and_revision(client: APIClient, reliance: Instrument) -> None:
    candle = Candle(7, "1m", OPEN_MS, 100.0, 102.0, 99.5, 101.0, 1200, 5000.0, "closed", ticks=40)
    store.candles_write([candle])
    store.candles_write([candle._replace(close=101.5, state="confirmed")])
    body = client.get(OHLC, {"instrument": reliance.instrument_key}).json()
    assert body == {
        "key": reliance.instrument_key,
        "instrument": 7,
        "interval": "1m",
        "results": [{"candle": [OPEN_MS, 100.0, 102.0, 99.5, 101.5, 1200, 5000.0], "state": "confirmed", "revision": 1, "ticks": 40}],
        "next": None,
    }


@pytest.mark.parametrize(
    ("query", "minutes"),
    [
        ({}, [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
        ({"order": "oldest", "limit": 3}, [0, 1, 2]),
        ({"from": OPEN_MS + MINUTE_MS}, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ({"from": OPEN_MS + 1}, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ({"to": OPEN_MS + 3 * MINUTE_MS}, [2, 1, 0]),
        ({"to": OPEN_MS + 3 * MINUTE_MS + 1, "limit": 2}, [3, 2]),
        ({"to": OPEN_MS}, []),
    ],
)
def test_candles_are_cut_and_ordered_as_asked(client: APIClient, reliance: Instrument, query: dict[str, Any], minutes: list[int]) -> None:
    store_minutes(7, 10)
    store_minutes(8, 10)  # another's
    assert starts(client.get(OHLC, {"instrument": "id:7", **query}).json()) == minutes


def test_in_a_replay_of_a_past_day_the_newest_are_those_of_its_time(client: APIClient, reliance: Instrument) -> None:
    store_minutes(7, 10)
    store_minutes(7, 3, start_ms=OPEN_MS + DAY_MS)  # a real day, after the one that is replayed
    now_ms = OPEN_MS + 5 * MINUTE_MS + 30_000
    publish_latest([], status_of(now_ms=now_ms))
    spots_write({}, now_ms, shard=0, shards=1, priced=False, underlyings=())
    asked: dict[str, Any] = {"instrument": "id:7", "limit": 3}
    assert starts(client.get(OHLC, asked).json()) == [5, 4, 3]
    assert starts(client.get(OHLC, asked | {"to": OPEN_MS + 2 * DAY_MS}).json())[0] == 1442, "who says until when is obeyed"


@pytest.mark.parametrize("order", ["oldest", "newest"])
@pytest.mark.parametrize("limit", [1, 3, 10])
@pytest.mark.parametrize("interval", ["1m", "3m"])
def test_pages_together_are_the_whole_without_doubles(
    client: APIClient, reliance: Instrument, order: str, limit: int, interval: str
) -> None:
    store_minutes(7, 30)
    length = int(interval[0])
    found: list[int] = []
    address: str | None = f"{OHLC}?instrument=id:7&order={order}&limit={limit}&interval={interval}"
    while address:
        page = client.get(address).json()
        assert 1 <= len(page["results"]) <= limit
        found += starts(page)
        address = page["next"]
    whole = list(range(0, 30, length))
    assert found == (whole if order == "oldest" else whole[::-1])


@pytest.mark.parametrize("order", ["oldest", "newest"])
@pytest.mark.parametrize(("start", "end", "minutes"), [(0, 9, [0, 3, 6]), (1, 9, [3, 6]), (0, 7, [0, 3, 6]), (2, 4, [3])])
def test_a_folded_candle_is_whole_whatever_the_edges(
    client: APIClient, reliance: Instrument, order: str, start: int, end: int, minutes: list[int]
) -> None:
    store_minutes(7, 30)
    query: dict[str, Any] = {"from": OPEN_MS + start * MINUTE_MS, "to": OPEN_MS + end * MINUTE_MS, "interval": "3m", "order": order}
    body = client.get(OHLC, {"instrument": "id:7", **query}).json()
    assert sorted(starts(body)) == minutes
    for row, first in zip(body["results"], minutes if order == "oldest" else minutes[::-1], strict=True):
        assert row["candle"][1:6] == [first, first + 3, first - 1, first + 2.5, 30]


@pytest.mark.parametrize("interval", STORED_INTERVALS)
def test_stored_intervals_are_read_as_they_are(client: APIClient, reliance: Instrument, interval: str) -> None:
    start = OPEN_MS - 33_300_000 if interval == "1d" else OPEN_MS  # days begin at 00:00 IST
    store.candles_write([Candle(7, interval, start, 1, 2, 0.5, 1.5, 10, None, "closed")])
    body = client.get(OHLC, {"instrument": "id:7", "interval": interval}).json()
    assert [row["candle"][0] for row in body["results"]] == [start]


@pytest.mark.usefixtures("valkey")
def test_finished_candles_and_the_forming_one_come_in_one_answer(client: APIClient, reliance: Instrument) -> None:
    store_minutes(7, 12)
    status = status_of(now_ms=OPEN_MS + 12 * MINUTE_MS + 20_000)
    publish_latest([], status)
    rows = client.get(OHLC, {"instrument": "id:7", "interval": "5m"}).json()["results"]
    assert [(row["candle"][0], row["candle"][4], row["state"]) for row in rows] == [
        (OPEN_MS + 10 * MINUTE_MS, 11.5, "live"),
        (OPEN_MS + 5 * MINUTE_MS, 9.5, "confirmed"),
        (OPEN_MS, 4.5, "confirmed"),
    ]
    (day,) = client.get(OHLC, {"instrument": "id:7", "interval": "1d"}).json()["results"]
    assert (day["candle"][1:6], day["state"]) == ([0, 12, -1, 11.5, 120], "live")


@pytest.mark.usefixtures("valkey")
async def test_the_forming_candle_is_that_of_the_feed(client: APIClient, reliance: Instrument) -> None:
    stored = database_sync_to_async(store_minutes)
    await stored(7, 12)
    feed = ScriptedFeed()
    feed.market_ms = OPEN_MS + 12 * MINUTE_MS + 20_000
    told = [minute_of(7, OPEN_MS + 11 * MINUTE_MS, 99.0, "closed"), minute_of(7, OPEN_MS + 12 * MINUTE_MS, 50.0, "live")]

    def newest(interval: str) -> Any:
        return client.get(OHLC, {"instrument": "id:7", "interval": interval, "limit": "1"}).json()["results"][0]

    with web_server() as server:
        async with feed.reporting(), market_client(server.url, await api_key()):
            await server.settled()
            await feed.publish(candles=told, report=True)
            await auntil(lambda: len(server.hub.recent_minutes(7)) == 2)
            rows = {interval: await database_sync_to_async(newest)(interval) for interval in ("1m", "5m", "1h", "1w")}
    assert {row["state"] for row in rows.values()} == {"live"}
    assert {row["candle"][4] for row in rows.values()} == {50.0}
    assert {interval: row["candle"][5] for interval, row in rows.items()} == {"1m": 75, "5m": 95, "1h": 195, "1w": 195}


@pytest.mark.usefixtures("valkey")
@pytest.mark.parametrize("interval", ["1m", "3m", "5m", "10m", "15m", "30m", "1h", "2h", "4h", "1d", "1w", "1M"])
def test_nothing_is_live_when_no_feed_runs_and_the_day_is_over(client: APIClient, reliance: Instrument, interval: str) -> None:
    store_minutes(7, 12, start_ms=OPEN_MS - 366 * 86_400_000)
    (row,) = client.get(OHLC, {"instrument": "id:7", "interval": interval, "limit": "1"}).json()["results"]
    assert row["state"] == ("closed" if interval in ("1d", "1w", "1M") else "confirmed")


def test_silences_are_filled_when_asked(client: APIClient, reliance: Instrument) -> None:
    store_minutes(7, 1)
    store_minutes(7, 1, start_ms=OPEN_MS + 3 * MINUTE_MS)
    query = {"instrument": "id:7", "from": str(OPEN_MS)}
    assert starts(client.get(OHLC, query).json()) == [0, 3]
    body = client.get(OHLC, {**query, "fill": "prev"}).json()
    assert starts(body) == [0, 1, 2, 3]
    flat = {"candle": [OPEN_MS + MINUTE_MS, 0.5, 0.5, 0.5, 0.5, 0, None], "state": "filled", "revision": 0, "ticks": 0}
    assert body["results"][1] == flat


def test_every_format_has_the_same_candles(client: APIClient, reliance: Instrument) -> None:
    store_minutes(7, 5)
    rows = client.get(OHLC, {"instrument": "id:7"}).json()["results"]
    table = client.get(OHLC, {"instrument": "id:7", "format": "csv"})
    lines = client.get(OHLC, {"instrument": "id:7", "format": "ndjson"})
    names = ["time", "open", "high", "low", "close", "volume", "open_interest", "state", "revision", "ticks"]
    flat = [[*row["candle"], row["state"], row["revision"], row["ticks"]] for row in rows]
    assert [list(json.loads(line).values()) for line in lines.content.splitlines()] == flat
    read = list(csv.reader(io.StringIO(table.content.decode())))
    assert read == [names, *[["" if value is None else str(value) for value in row] for row in flat]]


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [
        ({"instrument": "id:7", "interval": "7m"}, 400, "interval"),
        ({"instrument": "id:7", "interval": "1y"}, 400, "interval"),
        ({"instrument": "id:7", "after": "1"}, 400, "after"),
        ({"instrument": "id:7", "fill": "next"}, 400, "fill"),
        ({"instrument": "id:8"}, 404, "instrument"),
        ({"interval": "1m"}, 400, "instrument"),
    ],
)
def test_it_refuses_what_it_does_not_understand(
    client: APIClient, reliance: Instrument, query: dict[str, str], status: int, field: str
) -> None:
    answer = client.get(OHLC, query)
    assert (answer.status_code, answer.json()["field"]) == (status, field)


def test_candles_lie_beside_each_other_in_the_primary_index() -> None:
    assert candle_id(7, "1m", OPEN_MS + MINUTE_MS) - candle_id(7, "1m", OPEN_MS) == 1
