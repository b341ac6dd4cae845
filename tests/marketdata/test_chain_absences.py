"""What is told of the contracts of a chain that nothing comes of: who hears it, when, and through a hub what it reads like."""

from __future__ import annotations

import json
import time
from datetime import date
from typing import Any

import pytest

from marketdata.bus import BusBatch, Notice
from marketdata.chain_absences import ChainAbsences
from marketdata.chain_series import ChainSeries
from marketdata.commands import ChainChannel
from marketdata.domain.feed_status import FeedStatus
from marketdata.hub import Hub
from marketdata.hub_notices import NO_DATA_SECONDS
from marketdata.outbox import Outbox
from tests.marketdata.recording import client_of
from tests.marketdata.way_out import NIFTY, NOON_MS, nifty_options, option_of

SILENT = "The broker has sent nothing for it yet."
LIMIT = "The broker's limit of 2000 instruments in full mode on one connection is reached."


def told(outbox: Outbox) -> list[tuple[str, int, int, str | None]]:
    messages: list[dict[str, Any]] = [json.loads(message) for message in outbox.drain_control()]
    return [(each["status"], each["missing"], each["wanted"], each["reason"]) for each in messages]


def test_each_follower_hears_a_number_once_and_when_it_is_another() -> None:
    entries, unfollowed, refused = {1}, set[int](), dict.fromkeys((2, 3, 4), LIMIT)
    absences = ChainAbsences(entries, unfollowed, 10.0)
    series = ChainSeries(ChainChannel("NIFTY", "@w0", "atm1"))
    first, late = Outbox(), Outbox()

    def look(now: float, *outboxes: Outbox) -> set[Outbox]:
        return absences.tell([(series, {1, 2, 3, 4, 5}, outboxes)], refused.get, SILENT, now)

    assert look(100.0, first) == {first}
    assert told(first) == [("no_data", 3, 5, f"3 of 5: {LIMIT}")]
    assert look(109.9, first, late) == {late}
    assert told(late) == [("no_data", 3, 5, f"3 of 5: {LIMIT}")]
    assert look(110.0, first, late) == {first, late}, "of one of them nothing has come for ten seconds"
    assert told(first) == told(late) == [("no_data", 4, 5, f"4 of 5: {LIMIT}")], "the reason of most is said"
    entries |= {5}
    del refused[2]
    entries |= {2}
    assert look(111.0, first) == {first}
    assert told(first) == [("no_data", 2, 5, f"2 of 5: {LIMIT}")]
    refused.clear()
    entries |= {3, 4}
    assert look(112.0, first, late) == {first}, "who came back with nothing missing hears nothing"
    assert told(first) == [("active", 0, 5, None)]
    assert look(113.0, first, late) == set()
    unfollowed |= {1}
    assert look(114.0, first) == set(), "it left, and is wanted again"
    assert look(124.0, first) == {first}
    assert told(first) == [("no_data", 1, 5, f"1 of 5: {SILENT}")]


def test_a_chain_of_which_everything_comes_says_nothing() -> None:
    absences = ChainAbsences({1, 2}, set(), 10.0)
    series = ChainSeries(ChainChannel("NIFTY", "@w0", "all"))
    assert absences.tell([(series, {1, 2}, [Outbox()])], lambda instrument: None, SILENT, 100.0) == set()
    assert absences.tell([], lambda instrument: None, SILENT, 101.0) == set()


@pytest.mark.django_db
@pytest.mark.usefixtures("valkey")
async def test_a_hub_tells_a_chains_followers_what_the_feed_refuses() -> None:
    await nifty_options(date(2026, 9, 22))
    hub = Hub()
    hub._apply(BusBatch(0, 7, 1, [], FeedStatus(0, 7, 1, "live", 7, NOON_MS, NOON_MS, {}, {})))
    chained, other = client_of(hub), client_of(hub, NIFTY)
    await hub.subscriptions.add_chain(chained, ChainChannel("NIFTY", "@w0", "all"))
    other.told("subscription")
    refused = {option_of(0, strike, side): LIMIT for strike in (24_000.0, 24_050.0) for side in ("CE", "PE")}
    hub._take_notice(Notice(refused=refused))
    assert hub._notices.tell_late("live", time.monotonic()) == {chained.outbox}
    (push,) = chained.told("subscription")
    assert push == {
        "event": "subscription", "key": "chain:NIFTY:@w0:all", "instrument": None, "status": "no_data", "reason": f"4 of 19: {LIMIT}",
        "follows": None, "missing": 4, "wanted": 19,
    }  # fmt: skip
    hub._notices.tell_late("live", time.monotonic() + NO_DATA_SECONDS + 1)
    (push,) = chained.told("subscription")
    assert (push["missing"], push["reason"]) == (19, f"19 of 19: {SILENT}")
    (live,) = hub._chains._chains.values()
    ends_ms = live.listing.ends_ms
    hub._apply(BusBatch(0, 7, 2, [], FeedStatus(0, 7, 2, "live", 7, ends_ms, ends_ms, {}, {})))
    await hub._chains.turn_step()
    assert hub._notices.tell_late("live", time.monotonic()) == {chained.outbox}
    (push,) = chained.told("subscription")
    assert (push["status"], push["missing"], push["wanted"]) == ("active", 0, 0), "trading in it has ended: nothing is missing"
    for series in list(chained.outbox.chains):
        hub.subscriptions.remove_chain(chained, series)
    assert chained.outbox not in hub._notices.tell_late("live", time.monotonic())
