"""Parity over REST: the day's total and rows, the worst first, page by page; which day; what is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from rest_framework.test import APIClient

from instruments.store import spots_write
from marketdata import store
from marketdata.domain.candle import DAY_MS, MINUTE_MS, Candle, candle_id, day_start_ms
from marketdata.parity import parity_update
from tests.marketdata.api.fixtures import OPEN_MS, make_instrument
from tests.zones import host_zone  # noqa: F401

PARITY = "/api/marketdata/parity/"
DAY = day_start_ms(OPEN_MS)


def confirm(instrument: int, minutes: int, equal: int, day: int = 0) -> None:
    """Confirm so many minutes; of the first `equal` of them ticks had made the same, of the others another close."""
    starts = [OPEN_MS + day * DAY_MS + minute * MINUTE_MS for minute in range(minutes)]
    candles = [Candle(instrument, "1m", start, 10.0, 12.0, 9.0, 11.0, 7, None, "confirmed") for start in starts]
    built = {candle_id(instrument, "1m", start): (10.0, 12.0, 9.0, 11.0 if at < equal else 11.5, 7.0) for at, start in enumerate(starts)}
    store.candles_write(candles, built)


@pytest.fixture
def counted(client: APIClient) -> APIClient:
    """It is 10:15 at the market. 1 has 1 of 4 equal, 2 all of 2 and 3 3 of 6; 1 has a day before and, from another time, a later one."""
    for number, minutes, equal in ((1, 4, 1), (2, 2, 2), (3, 6, 3)):
        make_instrument(number, f"NSE_EQ|K{number}")
        confirm(number, minutes, equal)
    confirm(1, 5, 5, day=-1)
    confirm(1, 9, 9, day=5)
    spots_write({}, OPEN_MS + 60 * MINUTE_MS, shard=0, shards=1, priced=False, underlyings=())
    parity_update(market_ms=OPEN_MS + 60 * MINUTE_MS)
    return client


def counts(compared: int, equal: int) -> dict[str, Any]:
    share = round(100 * equal / compared, 2)
    whole = dict.fromkeys(("open_equal", "high_equal", "low_equal", "volume_equal"), compared)
    percent = dict.fromkeys(("open", "high", "low", "volume"), 100.0) | {"close": share, "prices": share}
    states = {
        "confirmed": compared,
        "closed": 0,
        "backfilled": 0,
        "missing": 0,
        "revised": 0,
        "compared": compared,
        "volume_compared": compared,
    }
    return {**states, **whole, "close_equal": equal, "prices_equal": equal, "percent": percent}


@pytest.mark.usefixtures("host_zone")
def test_a_day_has_its_total_and_a_row_per_instrument_the_worst_first(counted: APIClient) -> None:
    body = counted.get(PARITY, {"day": "2026-11-20"}).json()
    assert body == {
        "day": DAY,
        "date": "2026-11-20",
        "total": {"instruments": 3, **counts(12, 6)},
        "results": [
            {"key": f"NSE_EQ|K{number}", "instrument": number, "day": DAY, **counts(compared, equal)}
            for number, compared, equal in ((1, 4, 1), (3, 6, 3), (2, 2, 2))
        ],
        "next": None,
    }


@pytest.mark.parametrize(("order", "wanted"), [("prices", [1, 3, 2]), ("instrument", [1, 2, 3]), ("missing", [1, 2, 3])])
def test_pages_together_are_the_whole(counted: APIClient, order: str, wanted: list[int]) -> None:
    found: list[int] = []
    address: str | None = f"{PARITY}?day=2026-11-20&limit=1&order={order}"
    while address:
        page = counted.get(address).json()
        assert (len(page["results"]), page["total"]["instruments"]) == (1, 3)
        found += [row["instrument"] for row in page["results"]]
        address = page["next"]
    assert found == wanted


def test_one_instrument_by_key_or_id_with_the_total_of_all(counted: APIClient) -> None:
    for name in ("NSE_EQ|K3", "id:3"):
        body = counted.get(PARITY, {"day": "2026-11-20", "instrument": name}).json()
        assert [row["instrument"] for row in body["results"]] == [3]
        assert body["total"]["instruments"] == 3


def test_a_recycled_key_means_who_held_it_that_day(counted: APIClient) -> None:
    make_instrument(8, "NSE_EQ|OLD", active=False, active_to=datetime(2026, 11, 21, tzinfo=UTC))
    make_instrument(9, "NSE_EQ|OLD", active_from=datetime(2026, 11, 21, tzinfo=UTC))
    confirm(8, 1, 1)
    parity_update(market_ms=OPEN_MS)
    body = counted.get(PARITY, {"day": "2026-11-20", "instrument": "NSE_EQ|OLD"}).json()
    assert [row["instrument"] for row in body["results"]] == [8]


def test_without_a_day_it_is_the_newest_that_is_counted_of_all_or_of_the_instrument(counted: APIClient) -> None:
    assert counted.get(PARITY).json()["date"] == "2026-11-20"
    make_instrument(4, "NSE_EQ|K4")
    confirm(4, 1, 1, day=-3)
    parity_update(market_ms=OPEN_MS)
    body = counted.get(PARITY, {"instrument": "id:4"}).json()
    assert (body["date"], [row["instrument"] for row in body["results"]]) == ("2026-11-17", [4])


def test_where_nothing_is_counted_there_is_nothing_and_no_percent(client: APIClient) -> None:
    body = client.get(PARITY).json()
    assert (body["results"], body["total"]["instruments"], body["total"]["percent"]["prices"]) == ([], 0, None)


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [
        ({"day": "yesterday"}, 400, "day"),
        ({"day": "1795146300000"}, 400, "day"),
        ({"day": "0001-01-01"}, 400, "day"),
        ({"order": "best"}, 400, "order"),
        ({"limit": "0"}, 400, "limit"),
        ({"after": "5"}, 400, "after"),
        ({"after": "x:1"}, 400, "after"),
        ({"after": "0.5:" + "9" * 30}, 400, "after"),
        ({"instrument": "id:99"}, 404, "instrument"),
        ({"colour": "red"}, 400, "colour"),
    ],
)
def test_it_refuses_what_it_does_not_understand(client: APIClient, query: dict[str, str], status: int, field: str) -> None:
    answer = client.get(PARITY, query)
    assert (answer.status_code, answer.json()["field"]) == (status, field)


def test_a_person_reads_it_as_a_page(counted: APIClient) -> None:
    page = counted.get(PARITY, headers={"Accept": "text/html"})
    assert page["Content-Type"].startswith("text/html")
    assert "NSE_EQ|K1" in page.content.decode()
