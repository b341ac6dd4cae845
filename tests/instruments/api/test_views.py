"""The instrument API through Django, as a client with an API key sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from django.core.cache import cache
from django.test import Client

from accounts.models import User
from accounts.services import api_key_create
from instruments.domain.instrument import ms_of
from instruments.models import Instrument, SubscriptionRule
from instruments.selectors import instrument_ids
from instruments.services import instruments_refresh, spots_record
from tests.instruments.explain import assert_by_index, profiled
from tests.instruments.rows import DAY_1, DAY_2, NEXT_MONTHLY, market, option

pytestmark = pytest.mark.django_db
LIST = "/api/marketdata/instruments/"
Get = Callable[..., Any]


@pytest.fixture(autouse=True)
def loaded(db: None) -> Iterator[None]:
    cache.clear()
    instruments_refresh(rows=market(), source="test", as_of=DAY_1)
    spots_record(spots={"NSE_INDEX|Nifty 50": 25012.0}, at_ms=ms_of(DAY_1))
    yield
    cache.clear()


@pytest.fixture
def get() -> Get:
    client = Client()
    secret = api_key_create(user=User.objects.create_user("asha"), name="test")

    def ask(path: str, status: int = 200, **parameters: object) -> Any:
        answer = client.get(path, {name: str(value) for name, value in parameters.items()}, headers={"Authorization": f"Bearer {secret}"})
        assert answer.status_code == status, answer.content.decode()
        return answer.json()

    return ask


def symbols(page: dict[str, Any]) -> list[str]:
    return [row["trading_symbol"] for row in page["results"]]


def test_nothing_without_credentials() -> None:
    for path in (
        LIST,
        f"{LIST}search/?q=nifty",
        f"{LIST}id:1/",
        f"{LIST}id:1/history/",
        "/api/marketdata/underlyings/NIFTY/expiries/",
        "/api/subscriptions/",
    ):
        assert Client().get(path).status_code == 401


def test_pages_hold_every_instrument_once(get: Get) -> None:
    seen: list[int] = []
    page = get(LIST, limit=50)
    while True:
        seen += [row["id"] for row in page["results"]]
        if page["next"] is None:
            break
        assert len(page["results"]) == 50
        page = get(page["next"].removeprefix("http://testserver"))
    assert seen == sorted(seen)
    assert len(seen) == len(market())


def test_a_page_that_is_exactly_full_is_the_last(get: Get) -> None:
    assert get(LIST, segment="NSE_INDEX", limit=3)["next"] is None
    assert get(LIST, segment="NSE_INDEX", limit=2)["next"] is not None


def test_a_row_says_all_the_master_says(get: Get) -> None:
    (row,) = get(LIST, underlying="NIFTY", expiry="2026-11-17", instrument_type="CE", strike_min=25000, strike_max=25000)["results"]
    number = row.pop("id")
    assert number == instrument_ids([row["key"]])[row["key"]]
    key = row.pop("key")
    assert row.pop("exchange_token") == key.split("|")[1]
    assert row == {
        "segment": "NSE_FO",
        "exchange": "NSE",
        "instrument_type": "CE",
        "trading_symbol": "NIFTY 25000 CE 17 NOV 26",
        "name": "NIFTY",
        "underlying_key": "NSE_INDEX|Nifty 50",
        "underlying_symbol": "NIFTY",
        "expiry": "2026-11-17",
        "expiry_ms": 1794940199000,
        "weekly": True,
        "strike_price": 25000.0,
        "lot_size": 65,
        "tick_size": 0.05,
        "freeze_quantity": 1755.0,
        "isin": None,
        "cas_eligible": False,
        "placeholder": False,
        "active": True,
        "active_from_ms": ms_of(DAY_1),
        "active_to_ms": None,
    }


@pytest.mark.parametrize(
    ("parameters", "count"),
    [
        ({"segment": "nse_index"}, 3),
        ({"instrument_type": "FUT"}, 3),
        ({"segment": "NSE_EQ", "instrument_type": "EQ"}, 3),
        ({"underlying": "nifty"}, 170),
        ({"underlying": "NIFTY", "instrument_type": "PE", "strike_min": 25400}, 12),
        ({"underlying": "NIFTY", "expiry": "@w0"}, 42),
        ({"underlying": "NIFTY", "expiry": "@m0", "segment": "NSE_FO", "strike_max": 24550}, 4),
        ({"expiry": "2026-11-23"}, 54),
        ({"expiry": "2026-11-23", "instrument_type": "FUT"}, 2),
        ({"expiry": "2026-11-24"}, 0),
        ({"segment": "NSE_XX"}, 0),
        ({"lot": 65}, 181),
        ({"lot": 1}, 3),
        ({"lot": 65, "underlying": "BANKNIFTY", "instrument_type": "FUT"}, 1),
        ({"lot": 75}, 0),
        ({"underlying": "NOSUCH"}, 0),
    ],
)
def test_filters(get: Get, parameters: dict[str, object], count: int) -> None:
    assert len(get(LIST, limit=1000, **parameters)["results"]) == count


def test_subscribed_is_what_the_rules_follow(get: Get) -> None:
    SubscriptionRule.objects.create(name="money", what="options", underlying="NIFTY", expiries=["@w0"], strikes="atm0")
    SubscriptionRule.objects.create(name="index", what="index", underlying="INDIA VIX")
    assert sorted(symbols(get(LIST, subscribed="true"))) == ["INDIA VIX", "NIFTY", "NIFTY 25000 CE 17 NOV 26", "NIFTY 25000 PE 17 NOV 26"]
    assert sorted(symbols(get(LIST, subscribed="true", segment="NSE_INDEX"))) == ["INDIA VIX", "NIFTY"]
    assert len(get(LIST, subscribed="false", limit=1000)["results"]) == len(market()) - 4
    first = get(LIST, subscribed="true", limit=1)
    rest = get(first["next"].removeprefix("http://testserver"), limit=10) if "?" not in first["next"] else get(first["next"][17:])
    assert len(rest["results"]) == 1


def test_instruments_are_named_by_key_or_id(get: Get) -> None:
    keys = ["NSE_INDEX|Nifty 50", "NSE_FO|1000", "NSE_EQ|INE002A01018"]
    ids = instrument_ids(keys)
    index, contract, share = map(ids.__getitem__, keys)
    names = f"NSE_EQ|INE002A01018, id:{index},NSE_INDEX|Nifty 50,id:{contract},id:999999,NSE_FO|404,nonsense"
    with profiled(Instrument._meta.db_table) as entries:
        rows = get(LIST, instruments=names)["results"]
    assert [(row["id"], row["key"]) for row in rows] == sorted((number, key) for key, number in ids.items())
    assert_by_index(entries, at_most=3)
    assert max(entry["keysExamined"] for entry in entries) < 20
    assert symbols(get(LIST, instruments=names, segment="NSE_EQ")) == ["RELIANCE"]
    SubscriptionRule.objects.create(name="index", what="index", underlying="NIFTY")
    cache.clear()
    assert symbols(get(LIST, instruments=names, subscribed="true")) == ["NIFTY"]
    assert {row["id"] for row in get(LIST, instruments=names, subscribed="false")["results"]} == {contract, share}
    first = get(LIST, instruments=names, limit=2)
    assert [row["id"] for row in get(first["next"].removeprefix("http://testserver"))["results"]] == [max(ids.values())]


def test_a_request_names_500_instruments_at_the_most(get: Get) -> None:
    names = [f"id:{number}" for number in range(1, 502)]
    everything = [row["id"] for row in get(LIST, limit=1000)["results"]]
    found = get(LIST, instruments=",".join(names[:500]), limit=1000)["results"]
    assert [row["id"] for row in found] == [number for number in everything if number <= 500]
    assert get(LIST, status=400, instruments=",".join(names))["detail"] == "Takes 500 instruments at the most, not 501."


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"instruments": ""}, "instruments"),
        ({"instruments": "id:1", "as_of": "2026-11-10"}, "instruments"),
        ({"segmnt": "NSE_FO"}, "segmnt"),
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"limit": "9" * 400}, "limit"),
        ({"after": -1}, "after"),
        ({"after": 2**63}, "after"),
        ({"expiry": "tomorrow"}, "expiry"),
        ({"expiry": "2026-02-30"}, "expiry"),
        ({"expiry": "@w0"}, "expiry"),
        ({"expiry": "@w9", "underlying": "NIFTY"}, "expiry"),
        ({"strike_min": 25000}, "strike_min"),
        ({"strike_max": "x", "underlying": "NIFTY"}, "strike_max"),
        ({"strike_min": "nan", "underlying": "NIFTY"}, "strike_min"),
        ({"strike_min": "inf", "underlying": "NIFTY"}, "strike_min"),
        ({"strike_min": 5, "strike_max": 4, "underlying": "NIFTY"}, "strike_min"),
        ({"subscribed": "maybe"}, "subscribed"),
        ({"subscribed": "true", "as_of": "2026-11-10"}, "subscribed"),
        ({"as_of": "once"}, "as_of"),
        ({"expiry": "@w0", "underlying": "NIFTY", "as_of": "2026-11-09"}, "expiry"),
        ({"lot": 0}, "lot"),
        ({"lot": "many"}, "lot"),
        ({"lot": 2**31}, "lot"),
        ({"as_of": "0001-01-01"}, "as_of"),
        ({"as_of": "9999-12-31T23:59:59-12:00"}, "as_of"),
        ({"as_of": "9" * 40}, "as_of"),
        ({"as_of": "2100-01-01T00:00:00.001Z"}, "as_of"),
        ({"segment": "$ne"}, "segment"),
        ({"underlying": "\x00"}, "underlying"),
        ({"underlying": "N" * 41}, "underlying"),
    ],
)
def test_bad_parameters_are_refused_by_name(get: Get, parameters: dict[str, object], field: str) -> None:
    problem = get(LIST, status=400, **parameters)
    assert (problem["code"], problem["field"]) == ("bad_request", field)
    assert problem["detail"]


def test_a_parameter_given_twice_is_refused(get: Get) -> None:
    assert get(f"{LIST}?segment=NSE_EQ&segment=NSE_FO", status=400)["field"] == "segment"


@pytest.mark.parametrize("key", ["NSE_INDEX|Nifty 50", "NSE_FO|1000", "NSE_EQ|INE002A01018"])
def test_detail_by_key_and_by_id(get: Get, key: str) -> None:
    row = get(f"{LIST}{quote(key)}/")
    assert row["key"] == key
    assert get(f"{LIST}id:{row['id']}/") == row


def test_a_recycled_key_as_of_two_days(get: Get) -> None:
    old = get(f"{LIST}NSE_FO%7C1000/")
    rows = [row for row in market() if row.instrument_key != "NSE_FO|1000"]
    instruments_refresh(rows=[*rows, option(1000, 99999.0)], source="test", as_of=DAY_2)
    new = get(f"{LIST}NSE_FO%7C1000/")
    assert new["strike_price"] == 99999.0
    before = ms_of(DAY_2) - 1
    then = get(f"{LIST}NSE_FO%7C1000/", as_of=before)
    assert (then["id"], then["active"], then["active_to_ms"]) == (old["id"], False, ms_of(DAY_2))
    moment = datetime.fromtimestamp(before / 1000, DAY_2.tzinfo)
    assert get(f"{LIST}NSE_FO%7C1000/", as_of=moment.isoformat()) == then
    assert get(f"{LIST}id:{old['id']}/")["active"] is False


def changed_market() -> None:
    """NIFTY's lot goes from 65 to 75, one contract is gone, its key passes to another, BANKNIFTY's future goes."""
    rows = [row for row in market() if row.instrument_key not in ("NSE_FO|1000", "NSE_FO|102")]
    rows = [msgspec.structs.replace(row, lot_size=75) if row.underlying_symbol == "NIFTY" else row for row in rows]
    instruments_refresh(rows=[*rows, option(1000, 26000.0, lot=75)], source="test", as_of=DAY_2)


def test_a_list_as_of_an_older_master_is_the_one_that_was_given_then(get: Get) -> None:
    before = {row["key"]: row for row in get(LIST, limit=1000)["results"]}
    changed_market()
    old: list[dict[str, Any]] = []
    page = get(LIST, limit=50, as_of=ms_of(DAY_1))
    while page["next"]:
        old += page["results"]
        page = get(page["next"].removeprefix("http://testserver"))
    old += page["results"]
    assert [row["id"] for row in old] == sorted({row["id"] for row in old})
    lasting = ("active", "active_to_ms")
    assert {row["key"]: {**row, "active": True, "active_to_ms": None} for row in old} == before
    ended = {row["key"]: [row[name] for name in lasting] for row in old}
    assert ended["NSE_FO|1000"] == ended["NSE_FO|102"] == ended["NSE_FO|1001"] == [False, ms_of(DAY_2)]
    assert ended["NSE_EQ|INE002A01018"] == [True, None]


@pytest.mark.parametrize(
    ("parameters", "then", "now"),
    [
        ({"lot": 65}, 181, 10),
        ({"lot": 75}, 0, 170),
        ({"instrument_type": "FUT"}, 3, 2),
        ({"underlying": "NIFTY", "strike_min": 25900}, 0, 1),
        ({"underlying": "NIFTY", "expiry": "@w0", "strike_max": 24500}, 2, 1),
        ({"expiry": "2026-11-23", "segment": "NSE_FO"}, 54, 53),
        ({"underlying": "BANKNIFTY", "lot": 65}, 11, 10),
    ],
)
def test_filters_of_an_older_master(get: Get, parameters: dict[str, object], then: int, now: int) -> None:
    changed_market()
    moments = [ms_of(DAY_1), ms_of(DAY_2) - 1, ms_of(DAY_2), ms_of(DAY_2) + 1]
    counts = [len(get(LIST, limit=1000, as_of=moment, **parameters)["results"]) for moment in moments]
    assert counts == [then, then, now, now]


def test_nothing_is_known_of_a_time_before_the_first_master(get: Get) -> None:
    changed_market()
    assert get(LIST, as_of=ms_of(DAY_1) - 1) == {"results": [], "next": None}
    assert get(f"{LIST}NSE_FO%7C1001/", status=404, as_of=ms_of(DAY_1) - 1)["code"] == "unknown_instrument"


def test_detail_as_of_says_what_it_was_like(get: Get) -> None:
    changed_market()
    now = get(f"{LIST}NSE_FO%7C1001/")
    for name in ("NSE_FO%7C1001", f"id:{now['id']}"):
        then = get(f"{LIST}{name}/", as_of="2026-11-10T12:00")
        assert {**then, "lot_size": 75, "active": True, "active_from_ms": ms_of(DAY_2), "active_to_ms": None} == now
        assert (then["lot_size"], then["active"], then["active_from_ms"], then["active_to_ms"]) == (
            65,
            False,
            ms_of(DAY_1),
            ms_of(DAY_2),
        )


def test_history_of_a_recycled_key_and_of_a_contract(get: Get) -> None:
    changed_market()
    told = get(f"{LIST}NSE_FO%7C1000/history/")
    assert [(row["trading_symbol"], row["lot_size"], row["since_ms"], row["until_ms"]) for row in told["holders"]] == [
        ("NIFTY 26000 CE 17 NOV 26", 75, ms_of(DAY_2), None),
        ("NIFTY 24500 CE 17 NOV 26", 65, ms_of(DAY_1), ms_of(DAY_2)),
    ]
    assert (told["key"], told["id"]) == ("NSE_FO|1000", told["holders"][0]["id"])
    told = get(f"{LIST}NSE_FO%7C1001/history/")
    assert [(row["lot_size"], row["active"], row["active_from_ms"], row["active_to_ms"]) for row in told["states"]] == [
        (75, True, ms_of(DAY_2), None),
        (65, False, ms_of(DAY_1), ms_of(DAY_2)),
    ]
    assert [(row["since_ms"], row["until_ms"]) for row in told["holders"]] == [(ms_of(DAY_1), None)]
    assert get(f"{LIST}id:{told['id']}/history/") == told
    gone = get(f"{LIST}NSE_FO%7C102/history/")
    assert [(row["trading_symbol"], row["active"]) for row in gone["states"]] == [("BANKNIFTY FUT 23 NOV 26", False)]


@pytest.mark.parametrize("key", ["NSE_FO|404", "id:0", "id:x", "nifty"])
def test_history_of_nobody(get: Get, key: str) -> None:
    assert get(f"{LIST}{quote(key)}/history/", status=404)["code"] == "unknown_instrument"
    assert get(f"{LIST}NSE_FO%7C1000/history/", status=400, limit=3)["field"] == "limit"


def test_expiries_at_a_past_time_are_those_listed_then(get: Get) -> None:
    path = "/api/marketdata/underlyings/BANKNIFTY/expiries/"
    rows = [row for row in market() if row.underlying_symbol != "BANKNIFTY"]
    instruments_refresh(rows=[*rows, option(2000, 50000.0, day=NEXT_MONTHLY, symbol="BANKNIFTY")], source="test", as_of=DAY_2)

    def listed(**at: object) -> list[tuple[str, int, int]]:
        return [(row["expiry"], row["futures"], row["strikes"]) for row in get(path, **at)["results"]]

    assert listed(at=ms_of(DAY_1)) == listed(at=ms_of(DAY_2) - 1) == [("2026-11-23", 1, 5)]
    assert listed(at=ms_of(DAY_2)) == listed() == [("2026-12-29", 0, 1)]
    assert listed(at=ms_of(DAY_1) - 1) == [("2026-12-29", 0, 1)]  # no older master is known: the present one answers


def test_who_takes_part_in_the_closing_auction_is_shown(get: Get) -> None:
    assert get(f"{LIST}NSE_EQ%7CINE002A01018/")["cas_eligible"] is True
    assert get(f"{LIST}NSE_INDEX%7CNifty%2050/")["cas_eligible"] is False


@pytest.mark.parametrize("key", ["NSE_FO|404", "id:0", "nifty", "NSE_FO|1|2", "id:" + "9" * 50, "a" * 300])
def test_an_unknown_instrument(get: Get, key: str) -> None:
    assert get(f"{LIST}{quote(key)}/", status=404)["code"] == "unknown_instrument"


@pytest.mark.parametrize("as_of", ["yesterday", "1", "9" * 30, "-5", "2026-13-01", ""])
def test_a_bad_as_of(get: Get, as_of: str) -> None:
    assert get(f"{LIST}NSE_FO%7C1000/", status=400, as_of=as_of)["field"] == "as_of"


def test_search(get: Get) -> None:
    found = symbols(get(f"{LIST}search/", q="nifty 25000 ce", limit=2))
    assert found == ["NIFTY 25000 CE 17 NOV 26", "NIFTY 25000 CE 23 NOV 26"]
    assert symbols(get(f"{LIST}search/", q="((( ")) == []


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({}, "q"),
        ({"q": ""}, "q"),
        ({"q": "x" * 61}, "q"),
        ({"q": "a", "limit": 101}, "limit"),
        ({"q": "a", "p": 1}, "p"),
        ({"q": "nifty", "strike_min": 25000}, "strike_min"),
        ({"q": "nifty", "after": 5}, "after"),
    ],
)
def test_bad_searches(get: Get, parameters: dict[str, object], field: str) -> None:
    assert get(f"{LIST}search/", status=400, **parameters)["field"] == field


@pytest.mark.parametrize(
    ("q", "filters", "first"),
    [
        ("nifty", {"segment": "NSE_FO", "instrument_type": "PE"}, "NIFTY 25000 PE 17 NOV 26"),
        ("nifty 25000", {"expiry": "2026-12-29"}, "NIFTY 25000 CE 29 DEC 26"),
        ("nifty", {"underlying": "NIFTY", "expiry": "@m1", "strike_min": 25000, "strike_max": 25000}, "NIFTY 25000 CE 29 DEC 26"),
        ("relaince", {"segment": "NSE_EQ", "lot": 1}, "RELIANCE"),
        ("NSE_INDEX|Nifty 50", {"segment": "NSE_INDEX"}, "NIFTY"),
    ],
)
def test_a_search_is_narrowed_as_the_list_is(get: Get, q: str, filters: dict[str, object], first: str) -> None:
    assert symbols(get(f"{LIST}search/", q=q, **filters))[0] == first
    assert symbols(get(f"{LIST}search/", q=q, segment="NSE_COM")) == []


def test_a_search_among_what_is_followed(get: Get) -> None:
    SubscriptionRule.objects.create(name="index", what="index", underlying="NIFTY")
    cache.clear()
    assert symbols(get(f"{LIST}search/", q="nifty", subscribed="true")) == ["NIFTY"]
    assert "NIFTY" not in symbols(get(f"{LIST}search/", q="nifty", subscribed="false"))


def test_expiries(get: Get) -> None:
    answer = get("/api/marketdata/underlyings/nifty/expiries/", at=ms_of(DAY_1))
    assert answer["underlying"] == "NIFTY"
    assert [(row["expiry"], row["kind"], row["words"]) for row in answer["results"]] == [
        ("2026-11-17", "weekly", ["@w0"]),
        ("2026-11-23", "monthly", ["@w1", "@m0"]),
        ("2026-12-01", "weekly", ["@w2"]),
        ("2026-12-29", "monthly", ["@m1"]),
    ]
    assert (
        get("/api/marketdata/underlyings/NOSUCH/expiries/", status=404)["detail"]
        == "The master lists no contract of 'NOSUCH' that is alive then."
    )
    assert get("/api/marketdata/underlyings/NIFTY/expiries/", status=400, at="soon")["field"] == "at"


def test_writing_is_refused(get: Get) -> None:
    secret = api_key_create(user=User.objects.create_user("ravi"), name="test")
    answer = Client().post(LIST, {}, headers={"Authorization": f"Bearer {secret}"})
    assert answer.status_code == 405


def test_the_oldest_time_is_a_mistake(get: Get) -> None:
    seconds = ms_of(DAY_1 + timedelta(hours=1)) // 1000
    assert get(f"{LIST}NSE_FO%7C1000/", status=400, as_of=seconds)["field"] == "as_of"
