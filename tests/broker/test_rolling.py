"""The round of the feed: whatever the store does, demand and connections are served, and failures are told."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import pytest
from pymongo.errors import AutoReconnect

from broker import rolling
from broker.announcing import Announcer
from broker.report import Report
from broker.resolving import Change
from broker.rolling import Roller
from broker.upstox.protocol import FeedUnavailable
from tests.broker.scripted_broker import until

CHANGE = Change(0, ["demand"], {"K": "full"}, {}, {}, {"full": 1})


class Wishes:
    """What is followed, as the loop sees it: resolving does what a test says."""

    def __init__(self, resolve: Callable[[], object]) -> None:
        self.refused = {7: "No room."}
        self.knows_time = True
        self.rounds = self.asked = 0
        self.reconciled: list[object] = []
        self._resolve = resolve

    async def resolve(self) -> None:
        self.asked += 1
        done = self._resolve()
        if asyncio.iscoroutine(done):
            await done

    async def decide(self) -> Change | None:
        self.rounds += 1
        return CHANGE if self.rounds == 1 else None

    async def reconcile(self, connection: object) -> None:
        self.reconciled.append(connection)
        if connection == "broken":
            raise FeedUnavailable("the feed's connection broke")


class Connections:
    def __init__(self) -> None:
        self.connection: str | None = None


class Told(Announcer):
    def __init__(self) -> None:
        super().__init__(Report(shard=0), shard=0)
        self.changes: list[Change] = []

    def change(self, change: Change) -> None:
        self.changes.append(change)


def roller(wishes: Wishes) -> tuple[Roller, Told, Connections, Report]:
    told, connections, report = Told(), Connections(), Report(shard=0)
    return Roller(wishes, told, connections, report), told, connections, report  # type: ignore[arg-type]


async def test_each_round_asks_decides_tells_and_reconciles_where_there_is_a_connection() -> None:
    wishes = Wishes(lambda: None)
    loop, told, connections, report = roller(wishes)
    await loop.step()
    assert (wishes.asked, wishes.rounds, wishes.reconciled, told.changes) == (1, 1, [], [CHANGE])
    assert told._refused == wishes.refused
    connections.connection = "broken"
    await loop.step()
    connections.connection = "whole"
    await loop.step()
    assert wishes.reconciled == ["broken", "whole"]
    assert (wishes.asked, told.changes, report.counts["universe_failed_total"]) == (3, [CHANGE], 0)


async def test_nothing_is_asked_or_decided_before_the_market_has_told_its_time_unless_it_takes_long() -> None:
    wishes = Wishes(lambda: None)
    wishes.knows_time = False
    loop, _, connections, _ = roller(wishes)
    connections.connection = "whole"
    loop._clock_by = time.monotonic() + 3600
    for _ in range(2):
        await loop.step()
    assert (wishes.asked, wishes.rounds, wishes.reconciled) == (0, 0, [])
    wishes.knows_time = True
    await loop.step()
    assert (wishes.asked, wishes.rounds, wishes.reconciled) == (1, 1, ["whole"])
    wishes.knows_time = False
    loop._clock_by = time.monotonic()
    await loop.step()
    assert (wishes.asked, wishes.rounds) == (2, 2)


async def test_a_store_that_hangs_holds_up_no_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rolling, "PATIENCE_SECONDS", 0.01)
    answer = asyncio.Event()
    wishes = Wishes(answer.wait)
    loop, _, connections, _ = roller(wishes)
    connections.connection = "whole"
    for number in range(1, 4):
        await loop.step()
        assert (wishes.asked, wishes.rounds, len(wishes.reconciled)) == (1, number, number)
    answer.set()
    await loop.step()
    await loop.step()
    assert wishes.asked == 2


async def test_a_store_that_fails_is_told_once_and_asked_again_after_a_while(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fails = True

    def fail() -> None:
        if fails:
            raise AutoReconnect("connection refused")

    wishes = Wishes(fail)
    loop, _, _, report = roller(wishes)
    for _ in range(3):
        await loop.step()
    assert (wishes.asked, wishes.rounds, report.counts["universe_failed_total"]) == (1, 3, 1), "not before RETRY_SECONDS"
    monkeypatch.setattr(rolling, "RETRY_SECONDS", 0.0)
    loop._ask_at = 0.0
    await loop.step()
    fails = False
    await loop.step()
    assert report.counts["universe_failed_total"] == 2
    assert caplog.text.count("asking the rules fails: connection refused") == 1
    assert caplog.text.count("asking the rules works again") == 1


async def test_a_mistake_of_ours_ends_the_loop() -> None:
    def fail() -> None:
        raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"):
        await roller(Wishes(fail))[0].step()


async def test_a_new_connection_begins_a_round_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rolling, "ROUND_SECONDS", 3600.0)
    wishes = Wishes(lambda: None)
    loop, _, _, _ = roller(wishes)
    running = asyncio.create_task(loop.run())
    await until(lambda: wishes.rounds == 1)
    loop.due.set()
    await until(lambda: wishes.rounds == 2)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
