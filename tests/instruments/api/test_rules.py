"""Subscription rules over REST: who may do what, what is refused in which words, and what changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from django.contrib.auth.models import Permission
from django.core.cache import cache
from django.test import Client, override_settings

from accounts.models import User
from accounts.services import api_key_create, api_keys_forget
from instruments.domain.instrument import ms_of
from instruments.models import SubscriptionRule, UniverseChange
from instruments.rules import MOST_RULES
from instruments.services import instruments_refresh, spots_record
from instruments.store import changes_collection, state_collection
from tests.instruments.explain import assert_by_index, profiled
from tests.instruments.rows import DAY_1, market

pytestmark = pytest.mark.django_db
RULES, CHANGES = "/api/subscriptions/", "/api/subscriptions/changes/"
Ask = Callable[..., Any]
WORDS = {"name": "money", "what": "options", "underlying": "NIFTY", "expiries": ["@w0"], "strikes": "atm1"}


@pytest.fixture(autouse=True)
def loaded(db: None) -> Iterator[None]:
    cache.clear()
    api_keys_forget()
    instruments_refresh(rows=market(), source="test", as_of=DAY_1)
    spots_record(spots={"NSE_INDEX|Nifty 50": 25012.0}, at_ms=ms_of(DAY_1))
    yield
    cache.clear()


def asker(user: User) -> Ask:
    headers = {"Authorization": f"Bearer {api_key_create(user=user, name='test')}"}

    def ask(method: str, path: str, body: object = None, *, status: int = 200) -> Any:
        content = {} if body is None else {"data": json.dumps(body), "content_type": "application/json"}
        answer = getattr(Client(), method)(path, headers=headers, **content)
        assert answer.status_code == status, answer.content
        return json.loads(answer.content) if answer.content else None

    return ask


@pytest.fixture
def ask() -> Ask:
    """As staff who may edit rules."""
    return asker(User.objects.create_user("root", is_staff=True, is_superuser=True))


def test_subscriptions_say_what_they_mean_now(ask: Ask) -> None:
    rule = SubscriptionRule.objects.create(name="money", what="options", underlying="NIFTY", expiries=["@w0"], strikes="atm1")
    SubscriptionRule.objects.create(name="nothing", what="futures", underlying="SENSEX", expiries=["@m0"])
    SubscriptionRule.objects.create(name="off", what="index", enabled=False)
    answer = ask("get", RULES)
    assert answer["prices_at"] == ms_of(DAY_1)
    assert 0 <= answer["at"] - ms_of(DAY_1) < 60_000
    assert {row["name"]: row["resolved"] for row in answer["results"]} == {
        "money": {"instruments": 1 + 6, "expiries": ["2026-11-17"], "at_the_money": {"2026-11-17": 25000.0}, "unpriced": []},
        "nothing": {"instruments": 0, "expiries": [], "at_the_money": {}, "unpriced": []},
        "off": None,
    }
    assert answer["next_end"] == ms_of(datetime(2026, 11, 17, 10, 10, tzinfo=UTC))  # 15:40 IST
    assert {"mode": "full", "instruments": 1 + 6, "limit": 2000} in answer["modes"]
    assert answer["cut"] == [
        {"rule": "nothing", "mode": "full", "reason": "no active futures instrument of SENSEX", "instruments": 0, "keys": []}
    ]
    detail = ask("get", f"{RULES}{rule.pk}/")
    assert len(detail["instruments"]) == 1 + 6
    assert ask("get", f"{RULES}{'0' * 24}/", status=404)["code"] == "not_found"
    assert ask("get", f"{RULES}?limit=3", status=400)["field"] == "limit"


def test_a_rule_is_made_replaced_changed_and_removed(ask: Ask) -> None:
    made = ask("post", RULES, {**WORDS, "underlying": " nifty "}, status=201)
    assert made["underlying"] == "NIFTY"
    assert (made["keys"], made["mode"], made["priority"], made["enabled"]) == ([], "full", 100, True)
    assert made["resolved"]["instruments"] == len(made["instruments"]) == 7
    address = f"{RULES}{made['id']}/"
    assert ask("get", address) == made
    wider = ask("patch", address, {"strikes": "atm2", "priority": 5})
    assert (wider["name"], wider["strikes"], wider["priority"], wider["resolved"]["instruments"]) == ("money", "atm2", 5, 11)
    replaced = ask("put", address, {"name": "vix", "what": "index", "underlying": "INDIA VIX", "mode": "ltpc"})
    assert (replaced["instruments"], replaced["expiries"], replaced["strikes"], replaced["priority"]) == (
        ["NSE_INDEX|India VIX"],
        [],
        "all",
        100,
    )
    assert [row["name"] for row in ask("get", RULES)["results"]] == ["vix"]
    assert ask("patch", address, {"enabled": False})["resolved"] is None
    assert ask("delete", address, status=204) is None
    assert ask("get", RULES)["results"] == []
    for method in ("get", "patch", "put", "delete"):
        assert ask(method, address, WORDS if method != "get" else None, status=404)["code"] == "not_found"


@pytest.mark.parametrize(
    ("changed", "field", "words"),
    [
        ({"what": "shares"}, "what", "none of index, equity, futures, options, keys"),
        ({"mode": "everything"}, "mode", "none of ltpc, option_greeks, full, full_d30"),
        ({"expiries": ["@w0", "weekly"]}, "expiries", "write @w0 (this week's), @w1 …, @m0 (the nearest monthly), @m1 …, or YYYY-MM-DD"),
        ({"expiries": []}, "expiries", "Say which expiries: @w0"),
        ({"expiries": None}, "expiries", "null"),
        ({"expiries": "@w0"}, "expiries", "list"),
        ({"expiries": ["@w0"] * 51}, "expiries", "A rule takes 50 of them"),
        ({"expiries": ["@w१"]}, "expiries", "write @w0"),
        ({"what": "keys", "keys": ["51420"] * 5001}, "keys", "A rule takes 5000 of them"),
        ({"strikes": "atm१०"}, "strikes", "write all, or atm10"),
        ({"strikes": "near"}, "strikes", "write all, or atm10 for ten on each side of the money (0 to 999), pct5"),
        ({"strikes": "delta60"}, "strikes", "delta10 for a delta of 0.10 and more (1 to 50)"),
        ({"underlying": ""}, "underlying", "needs an underlying, as in NIFTY"),
        ({"underlying": "NIFTTY"}, "underlying", "No active instrument is called NIFTTY"),
        ({"what": "keys"}, "keys", "needs some, as in NSE_FO|51420"),
        ({"what": "keys", "keys": ["51420"]}, "keys", "is no instrument key; one looks like NSE_FO|51420"),
        ({"what": "keys", "keys": ["NSE_FO|" + "1" * 90]}, "keys.0", "80"),
        ({"name": ""}, "name", "blank"),
        ({"priority": "first"}, "priority", "integer"),
        ({"priority": 10**12}, "priority", "1000000"),
        ({"strike": "atm10"}, "strike", "A rule has no such field. It has name, what, underlying, expiries, strikes, keys, mode, priority"),
        ({"enabled": "perhaps"}, "enabled", "boolean"),
    ],
)
def test_wrong_words_are_refused_by_field_with_those_there_are(ask: Ask, changed: dict[str, Any], field: str, words: str) -> None:
    for method, path in (("post", RULES), ("post", f"{RULES}preview/")):
        problem = ask(method, path, {**WORDS, **changed}, status=400)
        assert (problem["code"], problem["field"]) == ("bad_request", field)
        assert words in problem["detail"]
    assert not SubscriptionRule.objects.exists()


def test_a_name_is_one_rules_alone(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cut is told by name."""
    made = ask("post", RULES, WORDS, status=201)
    other = ask("post", RULES, {**WORDS, "name": "wings"}, status=201)
    one, another = f"{RULES}{made['id']}/", f"{RULES}{other['id']}/"
    clashes = [("post", RULES), ("post", f"{RULES}preview/"), ("put", another), ("patch", another)]
    for method, path in clashes:
        problem = ask(method, path, WORDS, status=400)
        assert (problem["field"], problem["detail"]) == ("name", "Another rule has this name.")
    assert ask("put", one, {**WORDS, "strikes": "all"})["strikes"] == "all", "its own is no other's"
    assert ask("post", f"{RULES}preview/", {**WORDS, "replaces": made["id"]})["rule"]["id"] == made["id"]
    monkeypatch.setattr(SubscriptionRule, "full_clean", lambda *args, **options: None)  # both were checked before either was stored
    for method, path in (clashes[0], clashes[2]):
        assert ask(method, path, WORDS, status=400)["field"] == "name"
    assert sorted(SubscriptionRule.objects.values_list("name", flat=True)) == ["money", "wings"]


@pytest.mark.parametrize("method", ["put", "patch"])
def test_a_rule_that_is_removed_while_it_is_written_stays_removed(ask: Ask, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    made = ask("post", RULES, WORDS, status=201)
    check = SubscriptionRule.full_clean

    def removed_meanwhile(rule: SubscriptionRule, **options: Any) -> None:
        check(rule, **options)
        SubscriptionRule.objects.filter(pk=rule.pk).delete()

    monkeypatch.setattr(SubscriptionRule, "full_clean", removed_meanwhile)
    assert ask(method, f"{RULES}{made['id']}/", WORDS, status=404)["code"] == "not_found"
    assert not SubscriptionRule.objects.exists()


@pytest.mark.parametrize("body", ["x", 5, ["name"], {}])
def test_a_body_that_is_no_rule_is_refused(ask: Ask, body: object) -> None:
    assert ask("post", RULES, body, status=400)["code"] == "bad_request"


def test_there_are_at_most_so_many_rules(ask: Ask) -> None:
    made = SubscriptionRule.objects.bulk_create(
        SubscriptionRule(name=f"{number}", what="index", enabled=False) for number in range(MOST_RULES)
    )
    assert ask("post", RULES, WORDS, status=400)["field"] == "name"
    assert ask("patch", f"{RULES}{made[0].pk}/", {"name": "still editable"})["name"] == "still editable"


def test_readers_may_read_and_are_refused_the_rest() -> None:
    stored = SubscriptionRule.objects.create(**WORDS)
    clerk = User.objects.create_user("clerk", is_staff=True)
    permitted = User.objects.create_user("permitted")
    permitted.user_permissions.add(Permission.objects.get(codename="add_subscriptionrule"))
    for user in (User.objects.create_user("ravi"), clerk, permitted):
        ask = asker(user)
        assert [row["name"] for row in ask("get", RULES)["results"]] == ["money"]
        assert ask("get", CHANGES)["results"] == []
        one = f"{RULES}{stored.pk}/"
        for method, path in (("post", RULES), ("put", one), ("patch", one), ("delete", one), ("post", f"{RULES}preview/")):
            problem = ask(method, path, WORDS, status=403)
            assert (problem["code"], problem["type"]) == ("forbidden", "urn:tradingok:problem:forbidden")
            assert "Only staff who may edit subscription rules" in problem["detail"]
    assert SubscriptionRule.objects.count() == 1
    assert Client().post(RULES, WORDS, content_type="application/json").status_code == 401


def test_staff_may_do_what_the_admin_lets_them() -> None:
    clerk = User.objects.create_user("clerk", is_staff=True)
    clerk.user_permissions.add(Permission.objects.get(codename="add_subscriptionrule"))
    ask = asker(clerk)
    made = ask("post", RULES, WORDS, status=201)
    assert ask("post", f"{RULES}preview/", {**WORDS, "name": "another"})["rule"]["resolved"]["instruments"] == 7
    assert ask("patch", f"{RULES}{made['id']}/", {"strikes": "all"}, status=403)["code"] == "forbidden"
    assert ask("delete", f"{RULES}{made['id']}/", status=403)["code"] == "forbidden"


def test_a_preview_says_what_would_be_followed_and_cut_and_stores_nothing(ask: Ask) -> None:
    stored = SubscriptionRule.objects.create(name="bank", what="options", underlying="BANKNIFTY", expiries=["@m0"], priority=200)
    before = ask("get", RULES)
    with override_settings(BROKER_MODE_LIMITS={"full": 13}):
        answer = ask("post", f"{RULES}preview/", {**WORDS, "expiries": ["@w0", "@w9"]})
        assert answer["rule"]["id"] is None
        assert answer["rule"]["resolved"]["at_the_money"] == {"2026-11-17": 25000.0}
        assert answer["rule"]["instruments"][0] == "NSE_INDEX|Nifty 50"
        assert answer["modes"] == [{"mode": "full", "instruments": 13, "limit": 13}]
        assert [(cut["rule"], cut["reason"], cut["instruments"]) for cut in answer["cut"]] == [
            ("preview" if "name" not in WORDS else "money", "NIFTY has no living expiry @w9 in NSE_FO", 0),
            ("bank", "the broker's limit of 13 keys in full mode is reached", 5),
        ]
        swapped = ask("post", f"{RULES}preview/", {**WORDS, "replaces": str(stored.pk)})
        assert (swapped["rule"]["id"], swapped["modes"][0]["instruments"], swapped["cut"]) == (str(stored.pk), 7, [])
    cache.clear()
    after = ask("get", RULES)
    assert (after["results"], after["modes"]) == (before["results"], before["modes"])
    for nothing in ("0" * 24, "bank"):
        assert ask("post", f"{RULES}preview/", {**WORDS, "replaces": nothing}, status=400)["field"] == "replaces"
    assert ask("post", f"{RULES}preview/", {"what": "index", "enabled": False})["rule"]["resolved"]["instruments"] == 3


@pytest.mark.parametrize(
    "stored",
    [{"expiries": None}, {"expiries": [5]}, {"what": "all"}, {"strikes": 5}, {"priority": None}, {"priority": "500"}, {"name": 5}],
    ids=str,
)
def test_a_rule_that_was_stored_unchecked_is_shown_and_can_be_mended(ask: Ask, stored: dict[str, Any]) -> None:
    rule = SubscriptionRule.objects.create(**WORDS)
    SubscriptionRule.objects.create(name="vix", what="index", underlying="INDIA VIX")
    SubscriptionRule.objects.create(name="off", what="index", enabled=False)
    state_collection().database[SubscriptionRule._meta.db_table].update_one({"_id": rule.pk}, {"$set": stored})
    cache.clear()
    answer = ask("get", RULES)
    resolved = {row["id"]: row["resolved"] for row in answer["results"]}
    assert len(resolved) == 3
    if stored not in ({"priority": "500"}, {"name": 5}):  # these mean what they look like
        assert resolved[str(rule.pk)] is None
        assert [(cut["rule"], cut["mode"]) for cut in answer["cut"]] == [("money", "")]
        assert ask("get", f"{RULES}{rule.pk}/")["instruments"] == []
    else:
        assert resolved[str(rule.pk)]["instruments"] == 7
    assert {mode["mode"]: mode["instruments"] for mode in answer["modes"]}["full"] == (1 if resolved[str(rule.pk)] is None else 8)
    assert ask("put", f"{RULES}{rule.pk}/", WORDS)["resolved"]["instruments"] == 7


def test_null_lists_of_a_rule_that_needs_none_are_empty_ones(ask: Ask) -> None:
    SubscriptionRule.objects.create(name="vix", what="index", underlying="INDIA VIX")
    state_collection().database[SubscriptionRule._meta.db_table].update_one({}, {"$set": {"expiries": None, "keys": None}})
    cache.clear()
    (row,) = ask("get", RULES)["results"]
    assert (row["expiries"], row["keys"], row["resolved"]["instruments"]) == ([], [], 1)


def change(number: int, at: datetime, *causes: str) -> dict[str, Any]:
    UniverseChange.objects.create(
        pk=ObjectId(f"{number:024x}"),
        at=at,
        shard=number % 2,
        causes=list(causes),
        entered={f"NSE_FO|{number}": "full"},
        left={"NSE_FO|9": "expired"},
        by_mode={"full": number},
    )
    return {
        "id": f"{number:024x}",
        "at": ms_of(at),
        "shard": number % 2,
        "causes": list(causes),
        "entered": {f"NSE_FO|{number}": "full"},
        "left": {"NSE_FO|9": "expired"},
        "moved": {},
        "by_mode": {"full": number},
    }


def test_changes_come_newest_first_a_page_at_a_time(ask: Ask) -> None:
    moments = [DAY_1 + timedelta(minutes=number // 2) for number in range(9)]  # two feeds at once: equal times
    made = [change(number, at, "expiry" if number % 3 == 0 else "spot") for number, at in enumerate(moments, 1)]

    def pages(path: str) -> list[list[dict[str, Any]]]:
        found = []
        while path:
            answer = ask("get", path)
            found.append([{name: value for name, value in row.items() if name != "recorded_at"} for row in answer["results"]])
            path = (answer["next"] or "").removeprefix("http://testserver")
        return found

    newest_first = sorted(made, key=lambda row: (row["at"], row["id"]), reverse=True)
    with profiled(UniverseChange._meta.db_table) as entries:
        read = pages(f"{CHANGES}?limit=2")
    assert [len(page) for page in read] == [2, 2, 2, 2, 1]
    assert [row for page in read for row in page] == newest_first
    assert not any(entry.get("hasSortStage") for entry in entries)
    assert_by_index(entries, at_most=4)
    assert pages(f"{CHANGES}?cause=expiry&limit=2") == [newest_first[0:1] + newest_first[3:4], newest_first[6:7]]
    since, until = ms_of(moments[2]), ms_of(moments[6])
    assert pages(f"{CHANGES}?from={since}&to={until}") == [[row for row in newest_first if since <= row["at"] < until]]
    assert pages(f"{CHANGES}?to={moments[1].strftime('%Y-%m-%dT%H:%M:%SZ')}") == [[]]
    assert abs(ask("get", CHANGES)["results"][0]["recorded_at"] / 1000 - datetime.now(UTC).timestamp()) < 600
    assert changes_collection().count_documents({}) == 9


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("cause=weather", "cause"),
        ("from=yesterday", "from"),
        ("to=5", "to"),
        ("after=5", "after"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("until=3", "until"),
        ("from=1764000000000&from=1764000000001", "from"),
    ],
)
def test_bad_questions_about_changes_are_refused_by_name(ask: Ask, query: str, field: str) -> None:
    assert ask("get", f"{CHANGES}?{query}", status=400)["field"] == field
