"""Latest quotes and tick history."""

from __future__ import annotations

import csv
import io
import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from rest_framework.test import APIClient

from instruments.models import Instrument
from marketdata.api import ticks
from marketdata.api.key_memory import key_memory
from marketdata.selectors import TICK_COLUMNS
from tests.marketdata.api.fixtures import OPEN_MS, make_instrument, publish_latest, status_of, store_ticks
from tests.marketdata.way_out import entry_of

LATEST = "/api/marketdata/ticks/latest/"
TICKS = "/api/marketdata/ticks/"


@pytest.mark.usefixtures("valkey")
def test_latest_quotes_come_in_the_order_asked_with_age_and_state(client: APIClient, reliance: Instrument) -> None:
    make_instrument(8, "NSE_FO|8")
    now_ms = time.time_ns() // 1_000_000
    publish_latest([entry_of(7, 3, 101.5, key=reliance.instrument_key), entry_of(8, 1, 55.0, key="NSE_FO|8")], status_of(now_ms=now_ms))

    body = client.get(LATEST, {"instruments": f"NSE_FO|8,{reliance.instrument_key}"}).json()

    assert body["state"] == "live"
    assert body["time"] >= now_ms
    found = [(item["key"], item["instrument"], item["seq"]) for item in body["results"]]
    assert found == [("NSE_FO|8", 8, 1), (reliance.instrument_key, 7, 3)]
    assert body["results"][1]["quote"]["last_price"] == 101.5
    assert body["results"][1]["quote"]["depth"] == [[101.45, 75, 101.55, 150]]
    assert body["results"][1]["age_ms"] == body["time"] - body["results"][1]["quote"]["broker_ms"]
    assert body["missing"] == []


@pytest.mark.usefixtures("valkey")
def test_mode_ltpc_is_the_short_quote(client: APIClient, reliance: Instrument) -> None:
    publish_latest([entry_of(7, 1, 101.5, key=reliance.instrument_key)])
    quote = client.get(LATEST, {"instruments": "id:7", "mode": "ltpc"}).json()["results"][0]["quote"]
    assert set(quote) == {"last_price", "last_quantity", "last_trade_ms", "previous_close", "broker_ms"}


@pytest.mark.usefixtures("valkey")
def test_what_cannot_be_given_is_said_item_by_item(client: APIClient, reliance: Instrument) -> None:
    items = ["id:7", reliance.instrument_key, "NSE_EQ|NOBODY", "nonsense", "id:99", "id:x", "id:" + "9" * 30, "id:-1", "|", "$where"]
    body = client.get(LATEST, {"instruments": items}).json()
    assert body["results"] == []
    assert {row["item"]: row["code"] for row in body["missing"]} == {
        item: "no_data" if item in items[:2] else "unknown_instrument" for item in items
    }


@pytest.mark.usefixtures("valkey")
def test_two_thousand_instruments_are_taken_and_no_more(client: APIClient) -> None:
    many = [f"id:{number}" for number in range(1, 2001)]
    assert len(client.get(LATEST, {"instruments": ",".join(many)}).json()["missing"]) == 2000
    answer = client.get(LATEST, {"instruments": ",".join([*many, "id:2001"])})
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, "symbol_limit", "instruments")


@pytest.mark.parametrize(
    ("query", "field"),
    [({}, "instruments"), ({"instruments": " , "}, "instruments"), ({"instruments": "id:1", "mode": "all"}, "mode")],
)
def test_latest_refuses_what_it_does_not_understand(client: APIClient, query: dict[str, str], field: str) -> None:
    answer = client.get(LATEST, query)
    assert (answer.status_code, answer.json()["field"]) == (400, field)


@pytest.mark.usefixtures("valkey")
def test_a_browser_can_read_latest_quotes(client: APIClient, reliance: Instrument) -> None:
    publish_latest([entry_of(7, 1, 101.5, key=reliance.instrument_key)])
    page = client.get(LATEST, {"instruments": "id:7"}, headers={"Accept": "text/html"})
    assert page["Content-Type"].startswith("text/html")
    assert "101.5" in page.content.decode()


# --- history ----------------------------------------------------------------------------------------------------------
def test_history_says_what_the_frames_said(client: APIClient, reliance: Instrument) -> None:
    identifiers = store_ticks(7, [OPEN_MS], open_interest=1500.0, bid_price=99.95, bid_quantity=5)
    body = client.get(TICKS, {"instrument": reliance.instrument_key}).json()
    assert (body["key"], body["instrument"], body["next"]) == (reliance.instrument_key, 7, None)
    expected: dict[str, Any] = dict.fromkeys(TICK_COLUMNS) | {
        "id": str(identifiers[0]),
        "broker_ms": OPEN_MS,
        "received_ms": OPEN_MS,
        "kind": "live",
        "last_trade_ms": OPEN_MS - 5,
        "last_price": 100.0,
        "volume": 0,
        "open_interest": 1500.0,
        "bid_price": 99.95,
        "bid_quantity": 5,
    }
    assert body["results"] == [expected]


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ({}, [4, 3, 2, 1, 0]),
        ({"order": "oldest"}, [0, 1, 2, 3, 4]),
        ({"from": OPEN_MS + 100}, [1, 2, 3, 4]),
        ({"from": OPEN_MS + 100, "order": "newest"}, [4, 3, 2, 1]),
        ({"to": OPEN_MS + 300}, [2, 1, 0]),
        ({"from": "2026-11-20T09:15:00.100", "to": OPEN_MS + 301}, [1, 2, 3]),
        ({"from": OPEN_MS + 1000}, []),
        ({"limit": 2}, [4, 3]),
    ],
)
def test_history_is_cut_and_ordered_as_asked(client: APIClient, reliance: Instrument, query: dict[str, Any], numbers: list[int]) -> None:
    store_ticks(7, [OPEN_MS + 100 * n for n in range(5)])
    store_ticks(9, [OPEN_MS + 50])  # another's
    body = client.get(TICKS, {"instrument": "id:7", **query}).json()
    assert [row["volume"] for row in body["results"]] == numbers


@pytest.mark.parametrize("order", ["oldest", "newest"])
@pytest.mark.parametrize("limit", [1, 3, 7, 10, 11])
def test_pages_together_are_the_whole_without_doubles(client: APIClient, reliance: Instrument, order: str, limit: int) -> None:
    identifiers = store_ticks(7, [OPEN_MS + n // 3 for n in range(10)])  # three ticks share each broker's time
    found: list[str] = []
    address: str | None = f"{TICKS}?instrument=id:7&order={order}&limit={limit}"
    while address:
        page = client.get(address).json()
        assert 1 <= len(page["results"]) <= limit
        found += [row["id"] for row in page["results"]]
        address = page["next"]
    assert found == [str(number) for number in (identifiers if order == "oldest" else identifiers[::-1])]


def test_every_format_has_the_same_rows(client: APIClient, reliance: Instrument) -> None:
    store_ticks(7, [OPEN_MS + n for n in range(5)], average_traded_price=101.25)
    rows = client.get(TICKS, {"instrument": "id:7"}).json()["results"]

    lines = client.get(TICKS, {"instrument": "id:7"}, headers={"Accept": "application/x-ndjson"})
    assert lines["Content-Type"] == "application/x-ndjson; charset=utf-8"
    assert [json.loads(line) for line in lines.content.splitlines()] == rows

    for asked in ({"format": "csv"}, None):
        table = client.get(TICKS, {"instrument": "id:7", **(asked or {})}, headers={} if asked else {"Accept": "text/csv"})
        assert table["Content-Type"] == "text/csv; charset=utf-8"
        read = list(csv.DictReader(io.StringIO(table.content.decode())))
        assert read == [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]

    page = client.get(TICKS, {"instrument": "id:7"}, headers={"Accept": "text/html"})
    assert page["Content-Type"].startswith("text/html")
    assert rows[0]["id"] in page.content.decode()


def test_a_key_means_the_contract_that_held_it_then(client: APIClient) -> None:
    moved = datetime(2026, 6, 1, tzinfo=UTC)
    make_instrument(1, "NSE_FO|5", active=False, active_to=moved)
    make_instrument(2, "NSE_FO|5", identity="another", active_from=moved)
    store_ticks(1, [OPEN_MS])
    assert client.get(TICKS, {"instrument": "NSE_FO|5"}).json()["instrument"] == 2
    assert client.get(TICKS, {"instrument": "NSE_FO|5", "as_of": "2026-05-01"}).json()["results"][0]["broker_ms"] == OPEN_MS
    assert client.get(TICKS, {"instrument": "id:1"}).json()["key"] == "NSE_FO|5"


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [
        ({}, 400, "instrument"),
        ({"instrument": ""}, 400, "instrument"),
        ({"instrument": "NSE_EQ|NOBODY"}, 404, "instrument"),
        ({"instrument": "nonsense"}, 404, "instrument"),
        ({"instrument": "id:99"}, 404, "instrument"),
        ({"instrument": "id:"}, 404, "instrument"),
        ({"instrument": "id:" + "9" * 40}, 404, "instrument"),
        ({"instrument": "NSE_FO|" + "9" * 5000}, 404, "instrument"),
        ({"instrument": "\x00"}, 404, "instrument"),
        ({"instrument": "id:7", "limit": "0"}, 400, "limit"),
        ({"instrument": "id:7", "limit": "10001"}, 400, "limit"),
        ({"instrument": "id:7", "limit": "many"}, 400, "limit"),
        ({"instrument": "id:7", "from": "yesterday"}, 400, "from"),
        ({"instrument": "id:7", "from": "2026-11-21", "to": "2026-11-20"}, 400, "from"),
        ({"instrument": "id:7", "to": "1795146300"}, 400, "to"),
        ({"instrument": "id:7", "after": "x"}, 400, "after"),
        ({"instrument": "id:7", "after": "9" * 19}, 400, "after"),
        ({"instrument": "id:7", "order": "up"}, 400, "order"),
        ({"instrument": "id:7", "as_of": "once"}, 400, "as_of"),
        ({"instrument": "id:7", "symbol": "x"}, 400, "symbol"),
        ({"instrument": "id:7", "format": "xml"}, 406, "format"),
    ],
)
def test_history_refuses_what_it_does_not_understand(
    client: APIClient, reliance: Instrument, query: dict[str, str], status: int, field: str
) -> None:
    answer = client.get(TICKS, query)
    assert (answer.status_code, answer.json()["field"]) == (status, field), answer.content
    assert answer["Content-Type"] == "application/problem+json"


def test_a_tick_that_has_passed_its_retention_does_not_break_paging(client: APIClient, reliance: Instrument) -> None:
    store_ticks(7, [OPEN_MS + n for n in range(3)])
    body = client.get(TICKS, {"instrument": "id:7", "order": "oldest", "after": "12345"}).json()
    assert len(body["results"]) == 3


def test_items_name_instruments_by_id_or_by_key(reliance: Instrument) -> None:
    key_memory.forget()
    assert ticks._ids(["id:5", "id:x", reliance.instrument_key]) == {"id:5": 5, reliance.instrument_key: 7}


@pytest.mark.usefixtures("valkey")
def test_before_the_first_quote_the_answer_says_so(client: APIClient, reliance: Instrument) -> None:
    body = client.get(LATEST, {"instruments": "id:7"}).json()
    assert body["missing"] == [{"item": "id:7", "code": "no_data"}]
    assert body["state"] == "reconnecting"
