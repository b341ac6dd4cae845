"""What a shard follows, on the real mongod and valkey: rules and demand become subscriptions, and a key keeps its meaning."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings
from msgspec.structs import replace
from pymongo.collection import Collection
from pymongo.errors import AutoReconnect
from websockets.asyncio.server import ServerConnection

from broker import following as following_module
from broker.following import Following, held_with_placeholders
from broker.journal import Journal
from broker.journal_reading import JournalReader
from broker.pipeline import Pipeline
from broker.resolving import Change, Left
from broker.upstox.decode import decode
from broker.upstox.feed import FeedConnection, open_feed
from broker.upstox.protocol import FeedUnavailable
from instruments.domain.instrument import ist_date, ms_of
from instruments.domain.limits import Limits
from instruments.domain.succession import Held
from instruments.domain.universe import Universe
from instruments.models import Instrument, SubscriptionRule
from instruments.selectors import broker_limits, followed, followed_forget, universe_resolve
from instruments.services import instruments_refresh, spots_record
from instruments.universe_changes import instruments_held, instruments_named
from marketdata import live_state
from tests.broker.scripted_broker import scripted_broker, until
from tests.instruments.rows import DAY_1, DAY_2, MONTHLY, WEEKLY, market
from tests.payloads import frame, option_feed
from tests.zones import ist
from tradingok import ports

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("valkey")]

INDEX = "NSE_INDEX|Nifty 50"
WEEKLY_CALL, WEEKLY_PUT = "NSE_FO|1000", "NSE_FO|1003"
NEXT_WEEKLY_CALL = "NSE_FO|1086"
KEYS = [f"NSE_FO|{number}" for number in range(6)]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal", shard=0, segment_bytes=1 << 20)
    made.open()
    yield made
    made.close()


def follow(journal: Journal, *, shard: int = 0, shards: int = 1, full: int = 100) -> Following:
    return Following(
        journal, Pipeline(), shard=shard, shards=shards, limits=Limits({"full": full, "ltpc": 100}, {"full": full, "ltpc": 100})
    )


def rule(*keys: str) -> None:
    """Have a rule follow these, of instruments that are there."""
    held_with_placeholders(list(keys))
    SubscriptionRule.objects.create(name="some", what="keys", keys=list(keys))


async def turn(following: Following, connection: FeedConnection) -> Change | None:
    """Decide and ask, as each round of the feed does."""
    change = await following.decide()
    await following.reconcile(connection)
    return change


def at(following: Following, time: str) -> None:
    """Let it be then, in IST, in the market."""
    following._pipeline.market_ms = ist(time)


def ids_of(keys: list[str]) -> dict[str, int]:
    """Key → instrument; one that no instrument holds gets a placeholder, as the feed does it."""
    return {key: each.id for key, each in held_with_placeholders(keys).items()}


async def id_of(key: str) -> int:
    return (await asyncio.to_thread(lambda: instruments_held([key])))[key].id


def fail(*args: object, **options: object) -> None:
    """Do as the driver does without a server."""
    raise AutoReconnect("connection refused")


class Asked:
    """A broker's connection, and what was asked on it: (method, mode, keys)."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, list[str]]] = []
        self.connection: FeedConnection

    async def serve(self, connection: ServerConnection) -> None:
        async for message in connection:
            content = json.loads(message)
            self.requests.append((content["method"], content["data"].get("mode", ""), content["data"]["instrumentKeys"]))

    async def after(self, number: int) -> list[tuple[str, str, list[str]]]:
        """Wait for so many requests; return them and begin anew."""
        await until(lambda: len(self.requests) >= number)
        requests, self.requests = self.requests, []
        return requests


@asynccontextmanager
async def asked() -> AsyncIterator[Asked]:
    made = Asked()
    async with scripted_broker(served=made.serve) as broker:
        made.connection = await open_feed(f"ws{broker.url[4:]}/feed")
        yield made
        await made.connection.close()
    await live_state.aclose()


def price(following: Following, *keys: str) -> None:
    """Have the pipeline know quotes of these."""
    following._pipeline.apply(decode(frame({key: option_feed() for key in keys}), following.instruments))


async def test_the_rules_are_subscribed_once_and_again_on_another_connection(journal: Journal) -> None:
    await asyncio.to_thread(rule, *KEYS)
    following = follow(journal)
    async with asked() as broker, asked() as another:
        await following.resolve()
        await turn(following, broker.connection)
        await turn(following, broker.connection)
        assert await broker.after(1) == [("sub", "full", KEYS)]
        assert following.counts["feed_requests_total"] == 1
        assert {segment: set(ids) for segment, ids in following.by_segment().items()} == {"NSE_FO": set(following.instruments.values())}
        following.disconnected()
        assert following.by_segment() == {}
        assert await turn(following, another.connection) is None, "the broker forgets all, and nothing enters or leaves"
        assert await another.after(1) == [("sub", "full", KEYS)]
        assert broker.requests == []


async def test_a_bad_rule_is_told_once_and_counted_and_the_others_are_followed(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    await asyncio.to_thread(rule, *KEYS)
    await asyncio.to_thread(lambda: SubscriptionRule.objects.create(name="unchecked", what="options", underlying="N", expiries=["soon"]))
    following = follow(journal)
    async with asked() as broker:
        for _ in range(3):
            await following.resolve()
        await turn(following, broker.connection)
        assert await broker.after(1) == [("sub", "full", KEYS)]
        assert following.counts["rules_refused"] == 1
        assert caplog.text.count("rule 'unchecked' is passed: the rule is not valid: 'soon' is no expiry") == 1
        await asyncio.to_thread(lambda: SubscriptionRule.objects.filter(name="unchecked").delete())
        await following.resolve()
        assert following.counts["rules_refused"] == 0


async def test_each_shard_takes_its_own_and_together_they_take_all(journal: Journal, tmp_path: Path) -> None:
    await asyncio.to_thread(rule, *KEYS)
    other = Journal(tmp_path / "other", shard=1, segment_bytes=1 << 20)
    other.open()
    async with asked() as broker:
        taken = []
        for shard, its_journal in ((0, journal), (1, other)):
            following = follow(its_journal, shard=shard, shards=2)
            await following.resolve()
            await turn(following, broker.connection)
            ((_, _, keys),) = await broker.after(1)
            assert {following.instruments[key] % 2 for key in keys} == {shard}
            taken += keys
    other.close()
    assert sorted(taken) == KEYS


@pytest.mark.parametrize("shards", [1, 2, 3])
async def test_what_the_api_says_is_what_the_feeds_do(journal: Journal, shards: int) -> None:
    """Rules in three modes, more than there is room for; each feed counts its own connection, the API all of them."""
    await asyncio.to_thread(lambda: instruments_refresh(rows=market(), source="test", as_of=DAY_1))

    def rules() -> None:
        wanted = [("full", "atm1", "@m0"), ("ltpc", "atm4", "@m0"), ("option_greeks", "atm6", "@m0"), ("full", "all", "@w0")]
        for priority, (mode, strikes, expiry) in enumerate(wanted):
            words = {"what": "options", "underlying": "NIFTY", "expiries": [expiry], "strikes": strikes, "mode": mode}
            SubscriptionRule.objects.create(name=f"{priority}", priority=priority, **words)
        spots_record(spots={}, at_ms=ms_of(DAY_1), shard=0, shards=shards)
        followed_forget()

    alone, mixed = {"ltpc": 9, "option_greeks": 9, "full": 12}, {"ltpc": 3, "option_greeks": 1, "full": 9}
    with override_settings(BROKER_MODE_LIMITS=alone, BROKER_MIXED_MODE_LIMITS=mixed):
        await asyncio.to_thread(rules)
        feeds: dict[str, str] = {}
        limits = Counter[str]()
        for shard in range(shards):
            following = Following(journal, Pipeline(), shard=shard, shards=shards, limits=broker_limits())
            at(following, "2026-11-10 06:00:00")
            await following.resolve()
            await following.decide()
            modes = {key: each.mode for key, each in following._followed.items()}
            assert broker_limits().hold(Counter(modes.values()))
            limits.update(broker_limits().of(Counter(modes.values())))
            feeds |= modes
        now = await asyncio.to_thread(lambda: followed(DAY_1))
    assert {key: mode for mode, keys in now.universe.by_mode.items() for key in keys} == feeds
    assert now.limits == limits
    assert set(feeds.values()) == set(mixed)
    assert any(cut.keys for cut in now.universe.cut)


async def test_demand_comes_and_goes_within_the_limit_and_takes_its_state_along(journal: Journal) -> None:
    await asyncio.to_thread(rule, *KEYS[:2])
    ids = await asyncio.to_thread(ids_of, KEYS)
    following = follow(journal, full=3)
    async with asked() as broker:
        await following.resolve()
        await live_state.ademand_write("hub", {ids[KEYS[2]]: "full", ids[KEYS[3]]: "full"})
        await turn(following, broker.connection)
        ((_, _, keys),) = await broker.after(1)
        assert len(keys) == 3, "the limit of the mode"
        assert set(KEYS[:2]) < set(keys)
        demanded = (set(keys) - set(KEYS[:2])).pop()
        price(following, *keys)
        await live_state.ademand_write("hub", {})
        await turn(following, broker.connection)
        assert await broker.after(1) == [("unsub", "", [demanded])]
        assert ids[demanded] not in following._pipeline.quotes
        assert following.followed() == {ids[key] for key in KEYS[:2]}


async def test_what_has_expired_leaves_in_market_time_and_what_follows_it_is_named(journal: Journal) -> None:
    await asyncio.to_thread(lambda: instruments_refresh(rows=market(), source="test", as_of=DAY_1))
    await asyncio.to_thread(
        lambda: SubscriptionRule.objects.create(
            name="o", what="options", underlying="NIFTY", expiries=["@w0", "@w1"], strikes="atm0", mode="full"
        )
    )
    await asyncio.to_thread(lambda: SubscriptionRule.objects.create(name="k", what="keys", keys=[WEEKLY_CALL, INDEX], mode="ltpc"))
    following = follow(journal)
    at(following, "2026-11-17 15:39:59")
    await live_state.ademand_write("hub", {await id_of(WEEKLY_PUT): "full", await id_of(NEXT_WEEKLY_CALL): "ltpc"})
    async with asked() as broker:
        await following.resolve()
        change = await turn(following, broker.connection)
        assert change is not None
        assert change.causes == ["start", "demand"]
        money = {key for key, mode in change.entered.items() if key not in (WEEKLY_CALL, INDEX, WEEKLY_PUT, NEXT_WEEKLY_CALL)}
        assert len(money) == 4, "calls and puts of this week and the next, in the middle of the strikes"
        await following.resolve()
        assert await turn(following, broker.connection) is None
        await broker.after(2)
        at(following, "2026-11-17 15:40:00")
        await following.resolve()
        change = await turn(following, broker.connection)
        assert change is not None
        assert change.causes == ["expiry", "demand"]
        requests = await broker.after(2)
    held = await asyncio.to_thread(lambda: instruments_held(list(change.left)))
    assert {key: each.why for key, each in change.left.items()} == dict.fromkeys(held, "expired")
    assert {ist_date(each.ends_ms or 0) for each in held.values()} == {WEEKLY}
    assert len(held) == 4, "by rules, by an explicit key, by demand"
    assert {WEEKLY_CALL, WEEKLY_PUT} < set(held)
    follows = {key: each.follows for key, each in change.left.items() if each.follows}
    assert set(follows) == money & set(held), "the next week's same strikes are followed"
    successors = await asyncio.to_thread(lambda: instruments_held(list(follows.values())))
    for key, successor in follows.items():
        assert successors[successor].strike_price == held[key].strike_price
        assert successors[successor].kind == held[key].kind
        assert ist_date(successors[successor].ends_ms or 0) == MONTHLY
    assert [(method, set(keys)) for method, _, keys in requests] == [("unsub", set(held)), ("sub", set(change.entered))]
    assert following.refused == {held[WEEKLY_PUT].id: f"{held[WEEKLY_PUT].symbol} has expired: trading in it ended on 2026-11-17."}


async def test_what_expires_leaves_though_the_store_is_away(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    await asyncio.to_thread(lambda: instruments_refresh(rows=market(), source="test", as_of=DAY_1))
    await asyncio.to_thread(lambda: SubscriptionRule.objects.create(name="k", what="keys", keys=[WEEKLY_CALL, INDEX]))
    following = follow(journal)
    at(following, "2026-11-17 15:30:00")
    async with asked() as broker:
        await following.resolve()
        await turn(following, broker.connection)
        at(following, "2026-11-17 15:40:00")
        monkeypatch.setattr(Collection, "find", fail)
        with pytest.raises(AutoReconnect):
            await following.resolve()
        change = await turn(following, broker.connection)
        assert change is not None
        assert (change.causes, {key: each.why for key, each in change.left.items()}) == (["expiry"], {WEEKLY_CALL: "expired"})
        assert following.subscribed == {INDEX: "full"}


async def test_rules_take_room_from_demand_and_give_it_back_to_who_came_first(journal: Journal) -> None:
    await asyncio.to_thread(rule, *KEYS[:1])
    ids = await asyncio.to_thread(ids_of, KEYS)
    following = follow(journal, full=3)
    async with asked() as broker:
        await following.resolve()
        await live_state.ademand_write("hub", {ids[KEYS[3]]: "full"})
        await turn(following, broker.connection)
        await live_state.ademand_write("hub", {ids[KEYS[2]]: "full", ids[KEYS[3]]: "full", ids[KEYS[4]]: "full"})
        await turn(following, broker.connection)
        assert set(following.subscribed) == {KEYS[0], KEYS[2], KEYS[3]}
        reason = "The broker's limit of 3 keys in full mode is reached."
        assert following.refused == {ids[KEYS[4]]: reason}
        await asyncio.to_thread(lambda: SubscriptionRule.objects.update(keys=[KEYS[0], KEYS[1]]))
        await following.resolve()
        change = await turn(following, broker.connection)
        assert change is not None
        assert (change.causes, change.entered, change.left) == (
            ["rules", "demand", "limit"], {KEYS[1]: "full"}, {KEYS[2]: Left(ids[KEYS[2]], "limit", "")},
        )  # fmt: skip
        assert following.refused == {ids[KEYS[2]]: reason, ids[KEYS[4]]: reason}
        await asyncio.to_thread(lambda: SubscriptionRule.objects.update(keys=[KEYS[1]]))
        await following.resolve()
        change = await turn(following, broker.connection)
        assert change is not None
        assert (change.entered, set(change.left)) == ({KEYS[2]: "full"}, {KEYS[0]})
        assert following.refused == {ids[KEYS[4]]: reason}


async def test_one_web_process_does_not_cut_what_another_wants(journal: Journal) -> None:
    await asyncio.to_thread(rule, KEYS[0])
    ids = await asyncio.to_thread(ids_of, KEYS)
    following = follow(journal)
    async with asked() as broker:
        await following.resolve()
        await live_state.ademand_write("one", {ids[KEYS[1]]: "full", ids[KEYS[2]]: "full"})
        await live_state.ademand_write("two", {ids[KEYS[1]]: "ltpc"})
        await turn(following, broker.connection)
        assert following.subscribed == dict.fromkeys(KEYS[:3], "full")
        await live_state.ademand_write("one", {})
        change = await turn(following, broker.connection)
        assert change is not None
        assert (change.moved, {key: each.why for key, each in change.left.items()}) == ({KEYS[1]: "ltpc"}, {KEYS[2]: "demand"})
        assert [request[:2] for request in await broker.after(3)] == [("sub", "full"), ("unsub", ""), ("change_mode", "ltpc")]
        await live_state.ademand_write("two", {})
        await turn(following, broker.connection)
        assert following.subscribed == {KEYS[0]: "full"}


async def test_a_new_master_and_a_changed_rule_are_seen_and_nothing_else_is_asked(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved = []

    def count(**given: Any) -> Universe:
        resolved.append(1)
        return universe_resolve(**given)

    monkeypatch.setattr("broker.following.universe_resolve", count)
    await asyncio.to_thread(rule, *KEYS[:1])
    following = follow(journal)
    for number, change in enumerate(
        [
            lambda: None,
            lambda: instruments_refresh(rows=market(), source="test", as_of=DAY_1),
            lambda: SubscriptionRule.objects.update(keys=[INDEX]),
        ]
    ):
        await asyncio.to_thread(change)
        await following.resolve()
        await following.resolve()
        assert len(resolved) == number + 1
    told = await following.decide()
    assert told is not None
    assert (told.causes, told.entered) == (["start", "master", "rules"], {INDEX: "full"})


async def test_without_redis_what_clients_wanted_last_goes_on(journal: Journal) -> None:
    await asyncio.to_thread(rule, KEYS[0])
    ids = await asyncio.to_thread(ids_of, KEYS)
    following = follow(journal)
    async with asked() as broker:
        await following.resolve()
        await live_state.ademand_write("hub", {ids[KEYS[1]]: "ltpc"})
        await turn(following, broker.connection)
        assert len(await broker.after(2)) == 2
        await live_state.aclose()
        with override_settings(REDIS_URL=f"redis://127.0.0.1:{ports.choose()}/0"):
            await turn(following, broker.connection)
            await live_state.aclose()
        assert following.subscribed == {KEYS[0]: "full", KEYS[1]: "ltpc"}
        await live_state.ademand_write("hub", {})  # it has come back without what it knew
        await turn(following, broker.connection)
        assert following.subscribed == {KEYS[0]: "full", KEYS[1]: "ltpc"}


async def test_without_the_store_what_is_known_is_subscribed_all_the_same(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    await asyncio.to_thread(rule, KEYS[0])
    ids = await asyncio.to_thread(ids_of, KEYS)
    following = follow(journal)
    await following.resolve()
    async with asked() as broker:
        await live_state.ademand_write("hub", {ids[KEYS[1]]: "full"})
        with monkeypatch.context() as patch:
            patch.setattr(Collection, "find", fail)
            await turn(following, broker.connection)
        assert following.counts["demand_failed_total"] == 1
        assert following.subscribed == {KEYS[0]: "full"}
        await turn(following, broker.connection)
        assert following.subscribed == {KEYS[0]: "full", KEYS[1]: "full"}


async def test_what_is_demanded_while_the_rules_are_asked_stays_known(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    await asyncio.to_thread(rule, KEYS[0])
    ids = await asyncio.to_thread(ids_of, KEYS)
    following = follow(journal)
    asking, goes_on, look_up = threading.Event(), threading.Event(), instruments_named

    def slowly(instruments: Sequence[int]) -> dict[int, Held]:
        if not instruments:  # the resolution's own: nothing was demanded when it began
            asking.set()
            assert goes_on.wait(60)
        return look_up(instruments)

    monkeypatch.setattr(following_module, "instruments_named", slowly)
    async with asked() as broker:
        resolving = asyncio.create_task(following.resolve())
        await until(asking.is_set)
        await live_state.ademand_write("hub", {ids[KEYS[1]]: "full"})
        await turn(following, broker.connection)
        goes_on.set()
        await resolving
        monkeypatch.setattr(Collection, "find", fail)
        await turn(following, broker.connection)
        assert following.subscribed == {KEYS[0]: "full", KEYS[1]: "full"}
        assert following.refused == {}


async def test_a_key_that_passed_to_another_contract_begins_anew_and_the_journal_knows(journal: Journal) -> None:
    following = follow(journal)
    following.learn({KEYS[0]: 11, KEYS[1]: 12})
    before = following.instruments
    price(following, KEYS[0])
    journal.append(b"old", 1_800_000_000_000_000)
    following.learn({KEYS[0]: 21})
    journal.append(b"new", 1_800_000_000_000_001)
    journal.flush()
    assert before == {KEYS[0]: 11, KEYS[1]: 12}, "records refer to it"
    assert following.keys == {12: KEYS[1], 21: KEYS[0]}
    assert following._pipeline.quotes == {}
    assert following._pipeline.counts["quotes_forgotten_total"] == 1
    assert [(record.data, record.instruments[KEYS[0]]) for record in JournalReader(journal.folder).read()] == [(b"old", 11), (b"new", 21)]


async def test_a_living_contract_whose_key_a_new_master_changes_goes_on_under_the_new_one(journal: Journal) -> None:
    """Two that rules and a client want get other keys, one of them that of a contract nobody followed; a third is listed no more."""
    rows = market()
    await asyncio.to_thread(lambda: instruments_refresh(rows=rows, source="test", as_of=DAY_1))
    wanted = [WEEKLY_CALL, "NSE_FO|1002"]
    await asyncio.to_thread(lambda: SubscriptionRule.objects.create(name="k", what="keys", keys=wanted))
    following = follow(journal)
    at(following, "2026-11-11 10:00:00")
    ids = {key: await id_of(key) for key in (*wanted, WEEKLY_PUT)}
    await live_state.ademand_write("hub", dict.fromkeys(ids.values(), "full"))
    async with asked() as broker:
        await following.resolve()
        await turn(following, broker.connection)
        price(following, *ids)
        keys = {WEEKLY_CALL: "NSE_FO|7777", WEEKLY_PUT: "NSE_FO|1005", "NSE_FO|1005": "NSE_FO|8888"}
        gone = "NSE_FO|1002"
        now = [replace(row, instrument_key=keys.get(row.instrument_key, row.instrument_key)) for row in rows if row.instrument_key != gone]
        await asyncio.to_thread(lambda: instruments_refresh(rows=now, source="test", as_of=DAY_2, force=True))
        await following.resolve()
        change = await turn(following, broker.connection)
        assert change is not None
        assert change.left == {
            WEEKLY_CALL: Left(ids[WEEKLY_CALL], "key", "NSE_FO|7777"),
            WEEKLY_PUT: Left(ids[WEEKLY_PUT], "key", "NSE_FO|1005"),
            "NSE_FO|1002": Left(ids["NSE_FO|1002"], "expired", ""),
        }
        assert change.entered == {"NSE_FO|7777": "full", "NSE_FO|1005": "full"}
    assert following.followed() == set(following._pipeline.quotes) == {ids[WEEKLY_CALL], ids[WEEKLY_PUT]}, "the same, with what is known"


async def test_a_contract_that_left_with_a_new_key_can_be_demanded_at_once(journal: Journal) -> None:
    rows = market()
    await asyncio.to_thread(lambda: instruments_refresh(rows=rows, source="test", as_of=DAY_1))
    await asyncio.to_thread(lambda: SubscriptionRule.objects.create(name="k", what="keys", keys=[WEEKLY_CALL]))
    following = follow(journal)
    at(following, "2026-11-11 10:00:00")
    await following.resolve()
    await following.decide()
    call = await id_of(WEEKLY_CALL)
    now = [replace(row, instrument_key="NSE_FO|7777") if row.instrument_key == WEEKLY_CALL else row for row in rows]
    await asyncio.to_thread(lambda: instruments_refresh(rows=now, source="test", as_of=DAY_2, force=True))
    await following.resolve()
    change = await following.decide()
    assert change is not None
    assert change.left == {WEEKLY_CALL: Left(call, "key", "NSE_FO|7777")}
    await live_state.ademand_write("hub", {call: "full"})
    change = await following.decide()
    assert change is not None
    assert change.entered == {"NSE_FO|7777": "full"}


async def test_what_follows_an_expired_contract_is_named_though_another_connection_has_it(journal: Journal) -> None:
    await asyncio.to_thread(lambda: instruments_refresh(rows=market(), source="test", as_of=DAY_1))
    await asyncio.to_thread(
        lambda: SubscriptionRule.objects.create(name="o", what="options", underlying="NIFTY", expiries=["@w0", "@w1"], strikes="atm3")
    )
    following = follow(journal, shards=4)
    at(following, "2026-11-17 15:39:59")
    await following.resolve()
    await following.decide()
    at(following, "2026-11-17 15:40:00")
    await following.resolve()
    change = await following.decide()
    assert change is not None
    follows = {key: each.follows for key, each in change.left.items() if each.why == "expired"}
    held = await asyncio.to_thread(lambda: instruments_held([*follows, *follows.values()]))
    assert {held[key].id % 4 for key in follows} == {0}
    assert 0 not in {held[key].id % 4 for key in follows.values()}
    for key, successor in follows.items():
        assert (held[successor].strike_price, held[successor].kind) == (held[key].strike_price, held[key].kind)
        assert ist_date(held[successor].ends_ms or 0) == MONTHLY


async def test_a_demanded_contract_whose_key_is_anothers_now_is_left_out(journal: Journal) -> None:
    ids = await asyncio.to_thread(ids_of, KEYS[:1])
    retired = ids[KEYS[0]]
    await Instrument.objects.filter(pk=retired).aupdate(active=False)
    now = (await asyncio.to_thread(ids_of, KEYS[:1]))[KEYS[0]]
    assert now != retired
    following = follow(journal)
    async with asked() as broker:
        await live_state.ademand_write("hub", {retired: "full"})
        await turn(following, broker.connection)
        assert following.subscribed == {}
        await live_state.ademand_write("hub", {now: "full"})
        await turn(following, broker.connection)
        assert await broker.after(1) == [("sub", "full", KEYS[:1])]


async def test_a_connection_that_ends_while_asking_is_asked_again_from_nothing(journal: Journal) -> None:
    await asyncio.to_thread(rule, *KEYS)
    following = follow(journal)
    await following.resolve()
    async with asked() as broker:
        await broker.connection.close()
        with pytest.raises(FeedUnavailable):
            await turn(following, broker.connection)
        assert following.subscribed == {}
        following.disconnected()
    async with asked() as broker:
        await turn(following, broker.connection)
        assert await broker.after(1) == [("sub", "full", KEYS)]


async def test_snapshots_that_come_while_the_asking_goes_on_are_of_something_followed(journal: Journal) -> None:
    await asyncio.to_thread(rule, *KEYS)
    following = follow(journal)
    await following.resolve()
    seen = []

    class Slow(FeedConnection):
        async def request(self, method: str, mode: str, keys: Sequence[str]) -> int:
            seen.append((following.by_segment(), following.followed()))
            return await super().request(method, mode, keys)

    async with asked() as broker:
        await turn(following, Slow(broker.connection._socket))
    ((segments, followed),) = seen
    assert set(segments) == {"NSE_FO"}
    assert set(segments["NSE_FO"]) == followed == set(following.instruments.values())


async def test_rules_that_select_nothing_are_told(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    following = follow(journal)
    await following.resolve()
    following._seen = None
    await following.resolve()
    assert caplog.text.count("refresh_instruments") == 1
