"""The admin as a person uses it, on the real mongod."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import DatabaseError
from django.test import Client, override_settings

from accounts.models import User
from instruments.admin import ROWS_SHOWN
from instruments.domain.instrument import ms_of
from instruments.models import Instrument, MasterLoad, SubscriptionRule, UniverseChange
from instruments.selectors import followed, followed_forget
from instruments.services import instruments_refresh, spots_record
from instruments.store import STATE, state_collection
from tests.instruments.explain import assert_by_index, profiled
from tests.instruments.rows import DAY_1, DAY_2, market, option

pytestmark = pytest.mark.django_db
INSTRUMENTS = "/admin/instruments/instrument/"
RULES = "/admin/instruments/subscriptionrule/"


@pytest.fixture
def client(db: None) -> Client:
    followed_forget()
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


def test_an_instrument_shows_what_it_was_before(client: Client) -> None:
    instruments_refresh(rows=[option(1, lot=75)], source="test", as_of=DAY_1)
    instrument = Instrument.objects.get()
    assert "lot 75" not in client.get(f"{INSTRUMENTS}{instrument.pk}/change/").content.decode()
    instruments_refresh(rows=[option(1, lot=65)], source="test", as_of=DAY_2)
    page = client.get(f"{INSTRUMENTS}{instrument.pk}/change/").content.decode()
    assert "<div>2026-11-10 06:00–2026-11-11 06:00: NSE_FO|1, lot 75</div>" in page


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
    assert followed(DAY_1).rules == []
    other = SubscriptionRule.objects.create(name="other", what="index")
    followed_forget()
    assert len(followed(DAY_1).rules) == 1
    client.post(RULES, {"action": "delete_selected", "_selected_action": [str(other.pk)], "post": "yes"})
    assert followed(DAY_1).rules == []


def test_a_second_rule_of_a_name_is_refused_and_what_is_removed_stays_so(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    instruments_refresh(rows=market(), source="test", as_of=DAY_1)
    assert client.post(f"{RULES}add/", rule()).status_code == 302
    assert "Another rule has this name." in client.post(f"{RULES}add/", rule()).content.decode()
    made = SubscriptionRule.objects.get()
    assert client.post(f"{RULES}{made.pk}/change/", rule(strikes="all")).status_code == 302, "its own name is no other's"
    check = SubscriptionRule.full_clean

    def removed_meanwhile(row: SubscriptionRule, *args: Any, **options: Any) -> None:
        check(row, *args, **options)
        SubscriptionRule.objects.filter(pk=row.pk).delete()

    monkeypatch.setattr(SubscriptionRule, "full_clean", removed_meanwhile)
    with pytest.raises(DatabaseError):
        client.post(f"{RULES}{made.pk}/change/", rule(strikes="atm1"))
    assert not SubscriptionRule.objects.exists()


def test_a_rule_shows_what_it_selects_now_and_what_is_cut_and_why(client: Client) -> None:
    instruments_refresh(rows=market(), source="test", as_of=DAY_1)
    spots_record(spots={"NSE_INDEX|Nifty 50": 25012.0}, at_ms=ms_of(DAY_1))
    assert client.post(f"{RULES}add/", rule(expiries="@w0,@w9", strikes="atm1", enabled="")).status_code == 302
    made = SubscriptionRule.objects.get()
    page = client.get(f"{RULES}{made.pk}/change/").content.decode()
    assert "7 instruments: NSE_INDEX|Nifty 50, NSE_FO|1020, NSE_FO|1021, " in page  # also while it is not enabled
    assert "2026-11-17: at the money 25000<br>" in page
    assert "Cut: NIFTY has no living expiry @w9 in NSE_FO<br>" in page
    SubscriptionRule.objects.update(enabled=True)
    SubscriptionRule.objects.create(name="bank", what="options", underlying="BANKNIFTY", expiries=["@m0"], priority=200)
    SubscriptionRule.objects.create(name="off", what="index", enabled=False)
    followed_forget()
    with override_settings(BROKER_MODE_LIMITS={"full": 9}):
        listed = client.get(RULES).content.decode()
        assert '<td class="field-selected">7</td>' in listed
        assert '<td class="field-selected">11, 9 cut</td>' in listed
        page = client.get(f"{RULES}{made.pk}/change/").content.decode()
        assert "9 instruments of other rules are cut.<br>" in page
    bank = client.get(f"{RULES}{SubscriptionRule.objects.get(name='bank').pk}/change/").content.decode()
    assert "2026-11-23: at the money 50200 (no price is known: the middle of the strikes)<br>" in bank
    assert "Save it to see" in client.get(f"{RULES}add/").content.decode()


def test_a_rule_that_was_stored_unchecked_is_shown_as_invalid(client: Client) -> None:
    instruments_refresh(rows=market(), source="test", as_of=DAY_1)
    made = SubscriptionRule.objects.create(name="odd", what="options", underlying="NIFTY", expiries=["@w0"])
    state_collection().database[SubscriptionRule._meta.db_table].update_one({}, {"$set": {"expiries": None}})
    assert '<td class="field-selected">invalid</td>' in client.get(RULES).content.decode()
    assert "Cut: the rule is not valid: " in client.get(f"{RULES}{made.pk}/change/").content.decode()


def test_a_page_of_rules_is_resolved_once(client: Client) -> None:
    instruments_refresh(rows=market(), source="test", as_of=DAY_1)
    reads = []
    for more in (1, 30):
        SubscriptionRule.objects.bulk_create(SubscriptionRule(name=f"{more} {number}", what="index") for number in range(more))
        followed_forget()
        with profiled(STATE) as entries:
            assert client.get(RULES).content.decode().count('<td class="field-selected">3</td>') == SubscriptionRule.objects.count()
        reads.append(len(entries))
    assert reads[0] == reads[1] > 0


def test_what_is_wrong_is_not_also_said_to_be_missing(client: Client) -> None:
    instruments_refresh(rows=market(), source="test", as_of=DAY_1)
    page = client.post(f"{RULES}add/", rule(underlying="NIFTTY", expiries="@w0,,@w1", strikes="near")).content.decode()
    assert "No active instrument is called NIFTTY" in page
    assert "Item 2 in the array did not validate" in page
    assert "names no strikes" in page
    assert "needs an underlying" not in page
    assert "Say which expiries" not in page


def test_changes_of_the_universe_are_listed(client: Client) -> None:
    UniverseChange.objects.create(at=DAY_1, causes=["expiry", "spot"], entered={"NSE_FO|1": "full"}, left={}, by_mode={"full": 9})
    page = client.get("/admin/instruments/universechange/").content.decode()
    assert '<td class="field-because">expiry, spot</td>' in page
    assert '<td class="field-came">1</td>' in page


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"expiries": "weekly"}, "is no expiry; write @w0"),
        ({"expiries": ""}, "Say which expiries"),
        ({"strikes": "near"}, "names no strikes; write all, or atm10"),
        ({"strikes": "pct0"}, "pct5 for 5 % on each side (1 to 100)"),
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
