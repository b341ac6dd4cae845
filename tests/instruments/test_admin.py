"""The admin as a person uses it, on the real mongod."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from accounts.models import User
from instruments.admin import ROWS_SHOWN
from instruments.models import Instrument, MasterLoad, SubscriptionRule
from instruments.services import instruments_refresh
from tests.instruments.explain import assert_by_index, profiled
from tests.instruments.rows import DAY_1, market, option

pytestmark = pytest.mark.django_db
INSTRUMENTS = "/admin/instruments/instrument/"
RULES = "/admin/instruments/subscriptionrule/"


@pytest.fixture
def client(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create(username="root", is_staff=True, is_superuser=True))
    return client


def shown(client: Client, **parameters: str) -> str:
    answer = client.get(INSTRUMENTS, parameters)
    assert answer.status_code == 200
    return answer.content.decode()


def test_searching_and_filtering_read_by_index_and_sort_nothing(client: Client) -> None:
    instruments_refresh(rows=market() + [option(token, float(token)) for token in range(30_000, 30_400)], source="test", as_of=DAY_1)
    for parameters, found, absent in (
        ({"q": "nifty 25000 ce"}, "NIFTY 25000 CE 17 NOV 26", "NIFTY 25050 CE"),
        ({"q": "NSE_FO|1000"}, "NIFTY 24500 CE 17 NOV 26", "NIFTY 24500 PE"),
        ({"active__exact": "1", "segment": "NSE_INDEX"}, "INDIA VIX", "NIFTY 25050"),
        ({"active__exact": "1", "instrument_type": "FUT"}, "BANKNIFTY FUT 23 NOV 26", "NIFTY 25050"),
    ):
        with profiled(Instrument._meta.db_table) as entries:
            page = shown(client, **parameters)
        assert found in page
        assert absent not in page
        assert_by_index([entry for entry in entries if not _is_estimate(entry)], at_most=2 * ROWS_SHOWN)


def test_the_first_page_reads_one_page(client: Client) -> None:
    instruments_refresh(rows=market() + [option(token, float(token)) for token in range(30_000, 32_000)], source="test", as_of=DAY_1)
    with profiled(Instrument._meta.db_table) as entries:
        page = shown(client)
    assert "2187 instruments" in page
    pages = [entry for entry in entries if not _is_estimate(entry)]
    assert pages
    assert all(entry.get("docsExamined", 0) <= ROWS_SHOWN and not entry.get("hasSortStage") for entry in pages)


def _is_estimate(entry: dict[str, Any]) -> bool:
    return "count" in entry["command"] or entry.get("planSummary") == "COUNT" or entry.get("planSummary") == "RECORD_STORE_FAST_COUNT"


@pytest.mark.parametrize("term", ["id:x", "id:" + "9" * 40, "NSE_FO|", "(((", "\\", "x" * 500, "%"])
def test_odd_searches_find_nothing_and_break_nothing(client: Client, term: str) -> None:
    instruments_refresh(rows=market()[:5], source="test", as_of=DAY_1)
    assert "0 instruments" in shown(client, q=term)


def test_instruments_and_loads_are_only_shown(client: Client) -> None:
    instruments_refresh(rows=market(), source="the file", as_of=DAY_1)
    instrument = Instrument.objects.filter(instrument_type="CE")[0]
    page = client.get(f"{INSTRUMENTS}{instrument.pk}/change/")
    assert page.status_code == 200
    assert instrument.trading_symbol in page.content.decode()
    assert b'name="_save"' not in page.content
    assert client.get(f"{INSTRUMENTS}add/").status_code == 403
    assert client.post(f"{INSTRUMENTS}{instrument.pk}/delete/", {"post": "yes"}).status_code == 403
    loads = client.get("/admin/instruments/masterload/")
    assert "the file" in loads.content.decode()
    assert client.get(f"/admin/instruments/masterload/{MasterLoad.objects.get().pk}/change/").status_code == 200


def rule(**changed: str) -> dict[str, str]:
    return {
        "name": "NIFTY money",
        "what": "options",
        "underlying": "nifty",
        "expiries": "@w0,@m0",
        "strikes": "atm10",
        "keys": "",
        "mode": "full",
        "priority": "10",
        "enabled": "on",
    } | changed


def test_a_rule_is_added_changed_and_removed(client: Client) -> None:
    instruments_refresh(rows=market(), source="test", as_of=DAY_1)
    assert client.post(f"{RULES}add/", rule()).status_code == 302
    made = SubscriptionRule.objects.get()
    assert (made.underlying, made.expiries, made.keys, made.strikes) == ("NIFTY", ["@w0", "@m0"], [], "atm10")
    assert "@w0, @m0" in client.get(RULES).content.decode()
    assert client.post(f"{RULES}{made.pk}/change/", rule(strikes="all")).status_code == 302
    assert SubscriptionRule.objects.get().strikes == "all"
    assert client.post(f"{RULES}{made.pk}/delete/", {"post": "yes"}).status_code == 302
    assert not SubscriptionRule.objects.exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"expiries": "weekly"}, "is no expiry; write @w0"),
        ({"expiries": ""}, "Say which expiries"),
        ({"strikes": "near"}, "names no strikes; write all, or atm10"),
        ({"underlying": ""}, "needs an underlying"),
        ({"underlying": "NIFTTY"}, "No active instrument is called NIFTTY"),
        ({"what": "keys"}, "A rule for keys needs some"),
        ({"what": "keys", "keys": "51420"}, "is no instrument key; one looks like NSE_FO|51420"),
        ({"mode": "everything"}, "Select a valid choice"),
    ],
)
def test_a_wrong_rule_is_refused_in_words(client: Client, changed: dict[str, str], message: str) -> None:
    instruments_refresh(rows=market(), source="test", as_of=DAY_1)
    answer = client.post(f"{RULES}add/", rule(**changed))
    assert answer.status_code == 200
    assert message in answer.content.decode().replace("&#x27;", "'")
    assert not SubscriptionRule.objects.exists()
