"""Option chains over REST, on the hand-made market: what is followed, a chain now and then, a day of its figures."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from channels.db import database_sync_to_async
from rest_framework.test import APIClient

from instruments.chain_listing import chain_listing
from instruments.domain.instrument import IST
from instruments.services import instruments_refresh
from marketdata import bus, store
from marketdata.api.chain_memory import chain_memory
from marketdata.api.chain_serializers import ChainHistorySerializer, ChainSerializer, FollowedChainsSerializer
from marketdata.calendar import calendar_forget
from marketdata.chain_minutes import chain_view, chains_store
from marketdata.chain_store import snapshot_write
from marketdata.domain.candle import DAY_MS, MINUTE_MS
from marketdata.domain.chain import InterestBase
from marketdata.domain.chain_rows import SIDE_COLUMNS, Aggregate
from marketdata.hub import Hub
from marketdata.interest import bases_write
from marketdata.models import ChainSnapshot
from tests.instruments.rows import MONTHLY, NEXT_WEEKLY, WEEKLY, market
from tests.marketdata.api.test_serializers import check
from tests.marketdata.option_market import CLOSE_MS, DAY, EXPIRY, OPEN_MS, SPOT, STRIKES, OptionMarket, option_market, quotes_of, tell
from tests.marketdata.way_out import ScriptedFeed, auntil

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]

AT = OPEN_MS + 30 * MINUTE_MS
PATH = "/api/marketdata/chain/"


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    calendar_forget()
    chain_memory.forget()
    yield
    chain_memory.forget()


def problem(client: APIClient, path: str, **query: Any) -> tuple[int, str, str]:
    answer = client.get(path, query)
    body = answer.json()
    return answer.status_code, body["field"], body["detail"]


def write_minutes(made: OptionMarket, *minutes: int, start_ms: int = AT) -> None:
    """Store the weekly chain for some minutes after `start_ms`; in the n-th each option costs n rupees more."""
    listing = chain_listing("NIFTY", EXPIRY, datetime.fromtimestamp(AT / 1000, UTC))
    for minute in minutes:
        at_ms = start_ms + minute * MINUTE_MS
        assert snapshot_write(chain_view(listing, quotes_of(made, at_ms, move=float(minute)), {}), at_ms)


# --- which there are ----------------------------------------------------------------------------------------------------


def test_the_followed_chains_are_listed_with_what_they_are_called(client: APIClient) -> None:
    made = option_market(strikes="atm3")
    tell(quotes_of(made, AT), AT)
    assert client.get(PATH).json() == {
        "results": [
            {
                "underlying": "NIFTY", "expiry": EXPIRY, "kind": "weekly", "words": ["@w0"], "ends": CLOSE_MS + DAY_MS,
                "options": 42, "followed": 14,
            }
        ]
    }  # fmt: skip


# --- one of them --------------------------------------------------------------------------------------------------------


def test_a_chain_is_ten_strikes_round_the_money_with_sides_by_name(client: APIClient) -> None:
    made = option_market()
    call = made.options[25_000.0, "CE"]
    bases_write({call: InterestBase(1000.0, 800.0)}, DAY)
    tell(quotes_of(made, AT), AT + 500)
    body = client.get(f"{PATH}nifty/").json()
    strikes, aggregate = body.pop("strikes"), body.pop("aggregate")
    assert body == {
        "underlying": "NIFTY", "underlying_key": "NSE_INDEX|Nifty 50", "segment": "NSE_FO", "expiry": EXPIRY, "kind": "weekly",
        "ends": CLOSE_MS + DAY_MS, "at": AT, "state": "live", "stored": False,
    }  # fmt: skip
    assert tuple(aggregate) == Aggregate._fields
    assert (aggregate["pcr_oi"], aggregate["spot"]) == (2.0, SPOT)
    assert [row["strike"] for row in strikes] == STRIKES
    row = strikes[10]
    assert tuple(row["call"]) == tuple(row["put"]) == SIDE_COLUMNS
    assert row["strike_to_forward"] == round(25_000 / aggregate["forward"], 6)
    said = row["call"]
    assert (said["instrument"], said["key"], said["last_price"], said["open_interest"]) == (call, made.keys[call], 72.5, 1100.0)
    assert (said["oi_change_day"], said["oi_change_close"]) == (100.0, 300.0)


async def test_what_the_feed_follows_no_more_counts_nothing_and_its_last_quote_is_still_told(db: None, hub: Hub, client: APIClient) -> None:
    made = await database_sync_to_async(option_market)()
    feed = ScriptedFeed()
    feed.market_ms = AT + 500
    beside = [made.options[strike, side] for strike in STRIKES[1:] for side in ("CE", "PE")]

    @database_sync_to_async
    def figures() -> tuple[Any, ...]:
        chain = client.get(f"{PATH}NIFTY/", {"strikes": "all"}).json()
        last = client.get("/api/marketdata/ticks/latest/", {"instruments": f"id:{beside[0]}"}).json()["results"][0]
        counted = client.get("/api/marketdata/stats/", {"underlying": "NIFTY"}).json()["instruments"]
        whole = chain["aggregate"]
        return whole["options_known"], whole["call_oi"], whole["put_oi"], chain["strikes"][1]["call"]["last_price"], counted, last["quote"]

    await feed.publish(quotes_of(made, AT).values(), report=True)
    await auntil(lambda: made.spot in hub.entries and hub.board.market_ms is not None)
    before = await figures()
    assert before[:3] == (42, 23_100.0, 46_200.0)
    assert (before[3], before[4]) == (SPOT - STRIKES[1] + 60.0, 43)
    left = {made.keys[option]: (option, "demand", "") for option in beside}
    await bus.publish_notice(bus.Notice(universe=bus.UniverseNotice(AT, ["demand"], {}, left)))
    await auntil(lambda: hub.unfollowed == set(beside))
    assert await figures() == (2, 100.0, 200.0, None, 3, before[5])


def test_strikes_and_expiry_are_chosen_by_words_or_date(client: APIClient) -> None:
    made = option_market()
    tell(quotes_of(made, AT), AT + 500)
    near = client.get(f"{PATH}NIFTY/", {"strikes": "atm1", "expiry": EXPIRY}).json()
    assert [row["strike"] for row in near["strikes"]] == [24_950.0, 25_000.0, 25_050.0]
    monthly = client.get(f"{PATH}NIFTY/", {"strikes": "all", "expiry": "@m0"}).json()
    assert (monthly["expiry"], monthly["kind"], monthly["at"], len(monthly["strikes"])) == (MONTHLY.isoformat(), "monthly", AT, 21)
    assert {row["call"]["last_price"] for row in monthly["strikes"]} == {None}


def test_what_is_wrong_is_named_and_what_is_unknown_is_not_found(client: APIClient) -> None:
    made = option_market()
    tell(quotes_of(made, AT), AT + 500)
    for name, word in (("expiry", "soon"), ("strikes", "atm0"), ("at", "noon"), ("strike", "all")):
        status, named, detail = problem(client, f"{PATH}NIFTY/", **{name: word})
        assert (status, named) == (400, name), detail
    unknown: list[tuple[str, dict[str, Any], str]] = [
        (f"{PATH}NOBODY/", {}, "underlying"),
        (f"{PATH}NIFTY/", {"expiry": "@w9"}, "expiry"),
        (f"{PATH}NIFTY/", {"expiry": "2031-01-01"}, "expiry"),
        (f"{PATH}NOBODY/", {"at": AT}, "underlying"),
        (f"{PATH}NIFTY/", {"at": AT, "expiry": "2031-01-01"}, "expiry"),
        (f"{PATH}NOBODY/history/", {}, "underlying"),
        (f"{PATH}NIFTY/history/", {"expiry": "2031-01-01"}, "expiry"),
    ]
    for path, query, field in unknown:
        status, named, detail = problem(client, path, **query)
        assert (status, named) == (404, field), (path, query, detail)
    assert EXPIRY in problem(client, f"{PATH}NIFTY/", expiry="@w9")[2]
    assert "/instruments/search/" in problem(client, f"{PATH}NOBODY/")[2]
    far = "2050-01-01"
    status, field, detail = problem(client, f"{PATH}NIFTY/", expiry="@w0", at=far)
    assert (status, field) == (404, "at")
    assert f"for {far}T00:00+05:30; now it is {EXPIRY}" in detail
    assert problem(client, f"{PATH}NIFTY/", expiry="@w9", at=far)[1] == "expiry"
    assert problem(client, f"{PATH}NOBODY/", expiry="@w0", at=far)[1] == "underlying"
    status, field, detail = problem(client, f"{PATH}NIFTY/", expiry="2031-01-01", at=far)
    assert (status, field, EXPIRY in detail) == (404, "expiry", True)


# --- a past minute ------------------------------------------------------------------------------------------------------


def test_a_past_minute_is_what_rest_said_in_it(client: APIClient) -> None:
    made = option_market()
    tell(quotes_of(made, AT + 1000), AT + 2000)
    live = client.get(f"{PATH}NIFTY/", {"strikes": "atm5"}).json()
    assert chains_store().stored == 1
    tell(quotes_of(made, AT + MINUTE_MS, move=5.0), AT + MINUTE_MS)
    assert client.get(f"{PATH}NIFTY/", {"strikes": "atm5"}).json() != live
    for asked in (AT, AT + 20 * MINUTE_MS, datetime.fromtimestamp(AT / 1000, IST).isoformat()):
        assert client.get(f"{PATH}NIFTY/", {"strikes": "atm5", "at": asked}).json() == live | {"stored": True}


def test_a_minute_before_all_that_is_stored_is_not_found_and_the_answer_says_what_there_is(client: APIClient) -> None:
    made = option_market()
    status, field, detail = problem(client, f"{PATH}NIFTY/", at=AT)
    assert (status, field) == (404, "at")
    assert detail.startswith(f"No minute of NIFTY {EXPIRY} is stored.")
    write_minutes(made, 0, 3)
    status, field, detail = problem(client, f"{PATH}NIFTY/", at=AT - 1)
    assert (status, field) == (404, "at")
    assert "begin at 2026-11-16T09:45+05:30 and end at 2026-11-16T09:48+05:30" in detail
    assert "30 days" in detail


def test_a_word_means_what_it_meant_then_also_when_its_contracts_are_retired(client: APIClient) -> None:
    made = option_market()
    write_minutes(made, 0)
    gone = [row for row in market() if not row.trading_symbol.endswith(f"{WEEKLY:%d %b %y}".upper())]
    instruments_refresh(rows=gone, source="test", as_of=datetime(2026, 11, 18, 2, tzinfo=UTC), force=True)
    tell({}, AT + 2 * DAY_MS)
    assert client.get(f"{PATH}NIFTY/").json()["expiry"] == MONTHLY.isoformat()
    then = client.get(f"{PATH}NIFTY/", {"at": AT + MINUTE_MS}).json()
    assert (then["expiry"], then["at"], then["stored"]) == (EXPIRY, AT, True)
    assert problem(client, f"{PATH}NIFTY/", at=AT, expiry="@w2")[:2] == (404, "at")
    assert client.get(f"{PATH}NIFTY/history/", {"expiry": EXPIRY}).json()["results"][0]["minute"] == AT
    assert NEXT_WEEKLY.isoformat() in problem(client, f"{PATH}NIFTY/", expiry=EXPIRY)[2]


# --- a day of figures ---------------------------------------------------------------------------------------------------


def test_history_has_a_row_for_each_minute_of_the_newest_day_and_goes_on_by_next(client: APIClient) -> None:
    made = option_market()
    write_minutes(made, 0, start_ms=AT - DAY_MS)
    write_minutes(made, 1, 2, 3, 4, 5)
    tell(quotes_of(made, AT), AT + 10 * MINUTE_MS)
    whole = client.get(f"{PATH}NIFTY/history/").json()
    assert (whole["underlying"], whole["expiry"], whole["next"]) == ("NIFTY", EXPIRY, None)
    assert [row["minute"] for row in whole["results"]] == [AT + minute * MINUTE_MS for minute in (1, 2, 3, 4, 5)]
    assert [row["straddle"] for row in whole["results"]] == [132.5 + 2 * minute for minute in (1, 2, 3, 4, 5)]
    assert tuple(whole["results"][0]) == ("minute", *Aggregate._fields)
    pages, address = [], f"{PATH}NIFTY/history/?limit=2&expiry={EXPIRY}"
    while address:
        page = client.get(address).json()
        pages.append(page["results"])
        address = page["next"]
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [row for page in pages for row in page] == whole["results"]
    ever = client.get(f"{PATH}NIFTY/history/", {"from": AT - 2 * DAY_MS, "to": AT + 2 * MINUTE_MS}).json()["results"]
    assert [row["minute"] for row in ever] == [AT - DAY_MS, AT + MINUTE_MS]


def test_history_comes_as_csv_and_lines_too(client: APIClient) -> None:
    made = option_market()
    write_minutes(made, 0, 1)
    tell({}, AT)
    rows = client.get(f"{PATH}NIFTY/history/", {"from": AT}).json()["results"]
    text = client.get(f"{PATH}NIFTY/history/", {"from": str(AT), "format": "csv"}).content.decode()
    table = list(csv.DictReader(io.StringIO(text)))
    assert [(int(row["minute"]), float(row["straddle"])) for row in table] == [(row["minute"], row["straddle"]) for row in rows]
    lines = client.get(f"{PATH}NIFTY/history/", {"from": str(AT), "format": "ndjson"}).content.splitlines()
    assert len(lines) == 2


def test_a_known_chain_of_which_nothing_is_stored_has_an_empty_history(client: APIClient) -> None:
    option_market()
    assert client.get(f"{PATH}NIFTY/history/", {"expiry": "@m0"}).json() == {
        "underlying": "NIFTY", "expiry": MONTHLY.isoformat(), "results": [], "next": None,
    }  # fmt: skip


def test_a_figure_that_an_older_version_did_not_store_is_null(client: APIClient) -> None:
    made = option_market()
    write_minutes(made, 0)
    store.collection(ChainSnapshot._meta.db_table).update_one({}, {"$unset": {"aggregate.iv_skew": 1}})
    row = client.get(f"{PATH}NIFTY/history/", {"from": AT}).json()["results"][0]
    assert (row["iv_skew"], row["straddle"]) == (None, 132.5)


def test_each_answer_is_as_the_openapi_document_says(client: APIClient) -> None:
    made = option_market()
    write_minutes(made, 0)
    tell(quotes_of(made, AT), AT)
    check(FollowedChainsSerializer(), client.get(PATH).json(), "chains")
    check(ChainSerializer(), client.get(f"{PATH}NIFTY/").json(), "chain")
    check(ChainHistorySerializer(), client.get(f"{PATH}NIFTY/history/").json(), "history")


@pytest.mark.parametrize("path", ["", "NIFTY/", "NIFTY/history/"])
def test_a_person_may_look_at_it_in_a_browser_and_nobody_without_a_key(client: APIClient, path: str) -> None:
    made = option_market()
    write_minutes(made, 0)
    tell(quotes_of(made, AT), AT)
    page = client.get(f"{PATH}{path}", headers={"Accept": "text/html"})
    assert page.status_code == 200
    assert b"NIFTY" in page.content
    assert APIClient(SERVER_NAME="127.0.0.1").get(f"{PATH}{path}").status_code == 401
