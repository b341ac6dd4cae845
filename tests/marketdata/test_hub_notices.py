"""What clients are told of instruments beside quotes, through a hub to which a test hands the feed's notices."""

from __future__ import annotations

import time

import pytest

from marketdata.bus import Notice, UniverseNotice
from marketdata.domain.gap import GapNotice
from marketdata.hub import Hub
from marketdata.wire import FULL, LTPC
from tests.marketdata.recording import batch, charted, client_of
from tests.marketdata.way_out import NOON_MS, entry_of

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]


@pytest.fixture
def quiet_hub(db: None) -> Hub:
    """A hub that was not started: batches are handed to it by the test."""
    return Hub()


def test_who_waited_for_a_first_quote_is_told_before_it_comes(quiet_hub: Hub) -> None:
    client = client_of(quiet_hub, 1)
    assert client.outbox.open_window()
    quiet_hub._apply(batch(1, entry_of(1, 1, 10.0)))
    assert client.outbox.collected == []
    assert [message["status"] for message in client.told("subscription")] == ["active"]
    assert [seq for _key, seq, _quote in client.ticks(quiet_hub)] == [1]


def universe(*, left: dict[str, tuple[int, str, str]], entered: dict[str, str] | None = None) -> Notice:
    return Notice(universe=UniverseNotice(NOON_MS, ["rules"], entered or {}, left))


def test_who_follows_what_expired_is_told_what_takes_its_place_and_follows_it_no_more(quiet_hub: Hub) -> None:
    holder, other = client_of(quiet_hub, 1, 2), client_of(quiet_hub, 2, mode=LTPC)
    quiet_hub._apply(batch(1, entry_of(1, 1, 10.0), entry_of(2, 1, 20.0)))
    for client in (holder, other):
        client.told("subscription")
    quiet_hub._take_notice(universe(left={"TEST|1": (1, "expired", "TEST|2")}))
    (told,) = holder.told("subscription")
    assert (told["key"], told["status"], told["follows"]) == ("TEST|1", "expired", "TEST|2")
    assert told["reason"] == "Trading in it has ended."
    assert other.told("subscription") == []
    assert list(holder.outbox.modes) == [2]
    assert quiet_hub._followers.wanted() == {2: "full"}, "it is demanded no more"


def test_what_the_limit_takes_is_removed_and_active_again_when_it_comes_back(quiet_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    client = client_of(quiet_hub, 1)
    quiet_hub._apply(batch(1, entry_of(1, 1, 10.0)))
    assert [told["status"] for told in client.told("subscription")] == ["active"]
    quiet_hub._take_notice(universe(left={"TEST|1": (1, "limit", "")}))
    (told,) = client.told("subscription")
    assert (told["status"], told["follows"]) == ("removed", None)
    assert told["reason"].startswith("The broker's limit is reached")
    assert quiet_hub._followers.wanted() == {1: "full"}, "it is demanded still"
    quiet_hub._take_notice(Notice(refused={1: "No room."}))
    quiet_hub._apply(batch(2, entry_of(1, 2, 11.0)))  # it was on its way
    assert client.told("subscription") == [], "once is enough"
    late = client_of(quiet_hub)
    assert not quiet_hub.subscriptions.add(late, 1, "TEST|1", FULL), "its last quote is known, and stands still"
    assert [seq for _key, seq, _quote in late.ticks(quiet_hub)] == [2]
    now += 10
    quiet_hub._tell_no_data(now)
    assert [(told["status"], told["reason"]) for told in late.told("subscription")] == [("no_data", "No room.")]
    quiet_hub._apply(batch(3, entry_of(1, 3, 12.0)))
    for each in (client, late):
        assert [told["status"] for told in each.told("subscription")] == ["active"]
    assert quiet_hub.subscriptions.add(late, 1, "TEST|1", FULL)


def test_what_left_is_unfollowed_until_a_quote_comes_unless_it_expired(quiet_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    quiet_hub._apply(batch(1, *(entry_of(number, 1, 10.0) for number in (1, 2, 3))))
    quiet_hub._take_notice(universe(left={"TEST|1": (1, "demand", ""), "TEST|2": (2, "expired", ""), "TEST|3": (3, "key", "TEST|4")}))
    assert quiet_hub.unfollowed == {1}
    assert set(quiet_hub.entries) == {1, 2, 3}
    now += 10
    quiet_hub._apply(batch(2, entry_of(1, 2, 11.0)))
    assert quiet_hub.unfollowed == set()


def test_what_has_another_key_now_goes_on_under_that(quiet_hub: Hub) -> None:
    client = client_of(quiet_hub, 1)
    quiet_hub._apply(batch(1, entry_of(1, 1, 10.0)))
    client.told("subscription")
    quiet_hub._take_notice(universe(left={"TEST|1": (1, "key", "TEST|7")}, entered={"TEST|7": "full"}))
    quiet_hub._apply(batch(2, entry_of(1, 2, 11.0)._replace(key="TEST|7")))
    told = [(each["key"], each["instrument"], each["status"], each["follows"]) for each in client.told("subscription")]
    assert told == [("TEST|1", 1, "removed", "TEST|7")]
    assert [(key, seq) for key, seq, _quote in client.ticks(quiet_hub)] == [("TEST|7", 2)], "it is followed still"


def test_a_refusal_is_told_at_once_and_its_reason_comes_before_any_other(quiet_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    one, two, three = client_of(quiet_hub, 1), client_of(quiet_hub, 1, 2), client_of(quiet_hub, 3)
    quiet_hub._take_notice(Notice(refused={1: "No room.", 9: "Nobody asks."}))
    quiet_hub._take_notice(Notice(refused={1: "No room."}))
    for client in (one, two):
        assert [(told["key"], told["status"], told["reason"]) for told in client.told("subscription")] == [
            ("TEST|1", "no_data", "No room.")
        ]
    assert three.told("subscription") == []
    after = client_of(quiet_hub, 1)
    quiet_hub._tell_no_data(now)
    assert [told["reason"] for told in after.told("subscription")] == ["No room."], "no need to wait"
    now += 11
    quiet_hub._tell_no_data(now)
    assert [told["reason"] for told in two.told("subscription")] == ["The feed is reconnecting."]
    assert one.told("subscription") == []


def test_who_had_what_is_refused_now_is_told_though_nobody_heard_it_leave(quiet_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    client = client_of(quiet_hub, 1)
    quiet_hub._apply(batch(1, entry_of(1, 1, 10.0)))
    assert [told["status"] for told in client.told("subscription")] == ["active"]
    for _ in range(2):
        quiet_hub._take_notice(Notice(refused={1: "It has expired."}))
    assert [(told["key"], told["status"], told["reason"]) for told in client.told("subscription")] == [
        ("TEST|1", "no_data", "It has expired.")
    ]
    quiet_hub._apply(batch(2, entry_of(1, 2, 11.0)))
    assert [told["status"] for told in client.told("subscription")] == ["active"], "it is back, or the refusal came late"


async def test_who_has_a_chart_of_what_expired_is_told_and_keeps_it(quiet_hub: Hub) -> None:
    client, other = await charted(quiet_hub, 1), await charted(quiet_hub, 2)
    quiet_hub._take_notice(universe(left={"TEST|1": (1, "expired", "")}))
    assert [(told["key"], told["status"]) for told in client.told("subscription")] == [("TEST|1", "expired")]
    assert [series.instrument for series in client.outbox.charts] == [1]
    assert other.told("subscription") == []


def test_who_named_the_market_is_told_the_whole_change(quiet_hub: Hub) -> None:
    named, other = client_of(quiet_hub), client_of(quiet_hub, 1)
    named.outbox.all_gaps = True
    quiet_hub._take_notice(universe(left={"TEST|5": (5, "rules", "")}, entered={"TEST|6": "full"}))
    assert named.told("universe") == [
        {"event": "universe", "at": NOON_MS, "causes": ["rules"], "entered": {"TEST|6": "full"}, "left": {"TEST|5": "rules"}}
    ]
    assert named.woken == 1
    assert other.told("universe") == []


def test_gaps_are_told_to_whom_they_concern(quiet_hub: Hub) -> None:
    quiet_hub._apply(batch(1, entry_of(1, 1, 10.0)))
    one, two, other = client_of(quiet_hub, 1, 2), client_of(quiet_hub), client_of(quiet_hub, 3)
    quiet_hub.subscriptions.add_chart(two, 2, "TEST|2", "5m", 10)
    gap = GapNotice("a", 0, 1, 2, "stale", "open", "", [1, 2], 0)
    quiet_hub._take_notice(Notice([], [gap]))
    told = [[message["keys"] for message in client.told("gap")] for client in (one, two, other)]
    assert told == [[["TEST|1", "TEST|2"]], [["TEST|2"]], []]
    other.outbox.all_gaps = True
    quiet_hub._take_notice(Notice([], [gap, gap._replace(instruments=[])]))
    assert [message["keys"] for message in other.told("gap")] == [[], None]
