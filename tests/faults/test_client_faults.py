"""Clients that misbehave, against a real web process: each is its own problem, the others get everything, memory stays bounded."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
import redis
from websockets.asyncio.client import ClientConnection, connect

from marketdata import consumers, live_state
from tests.fakes.web import web_process
from tests.faults.servers import memory_mb
from tests.marketdata.way_out import ScriptedFeed, api_key, auntil, deaf_client, entry_of, instruments, read_slowly
from tradingok.children import processes_with

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]

IDS = range(1, 201)
KEYS = [f"TEST|{number}" for number in IDS]
READERS = 5
DEADLINE = 90.0
GROWTH_MB = 60.0
"""So much a web process may grow while one client misbehaves: its buffers are bounded, and small against this."""

UNMERGED_SHARE = 0.5
"""At least so much of what the source published comes to each of the others unmerged: 98 % were measured on a busy machine."""


class Web(NamedTuple):
    """The web process."""

    url: str
    pid: int


@pytest.fixture
def web(db: None, valkey: redis.Redis) -> Iterator[Web]:
    with web_process(TRADINGOK_WS_CONNECTIONS="5000", TRADINGOK_WS_STALL="6", TRADINGOK_WS_COMMANDS="20") as port:
        (pid,) = processes_with("PORT", str(port))
        yield Web(f"ws://127.0.0.1:{port}/ws/market/", pid)


class Reader:
    """A client as it should be: reads everything, and checks it."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.prices: dict[str, float] = {}
        self.seqs: dict[str, int] = {}
        self.frames = self.ticks = self.merged = 0
        self.wrong: list[str] = []

    async def read(self) -> None:
        await self.connection.send(json.dumps({"id": 1, "op": "subscribe", "instruments": KEYS}))
        async for text in self.connection:
            message = json.loads(text)
            if message.get("event") != "market:tick":
                continue
            self.frames += 1
            if message["n"] != self.frames:
                self.wrong.append(f"frame {message['n']} instead of {self.frames}")
            for key, seq, quote in message["ticks"]:
                before = self.seqs.get(key)
                if before is not None and seq < before:
                    self.wrong.append(f"{key} went from {before} to {seq}")
                self.merged += max(0, seq - before - 1) if before is not None else 0
                self.ticks += 1
                self.seqs[key], self.prices[key] = seq, quote["last_price"]


@asynccontextmanager
async def readers(web: Web, secret: str) -> AsyncIterator[list[Reader]]:
    """Have READERS clients that follow everything, with a first quote of each."""
    connections = [await connect(web.url, additional_headers={"Authorization": f"Bearer {secret}"}) for _ in range(READERS)]
    found = [Reader(connection) for connection in connections]
    tasks = [asyncio.create_task(reader.read()) for reader in found]
    try:
        await auntil(lambda: all(len(reader.seqs) == len(KEYS) for reader in found), DEADLINE)
        yield found
    finally:
        for connection in connections:
            await connection.close()
        await asyncio.gather(*tasks, return_exceptions=True)


class Flow:
    """A feed whose quotes all change 20 times a second."""

    def __init__(self, feed: ScriptedFeed) -> None:
        self.feed, self.rounds = feed, 0

    async def step(self) -> None:
        self.rounds += 1
        await self.feed.publish([entry_of(number, self.rounds, float(self.rounds)) for number in IDS])

    async def for_ever(self) -> None:
        while True:
            await self.step()
            await asyncio.sleep(0.05)


@asynccontextmanager
async def flowing() -> AsyncIterator[Flow]:
    """Have quotes that change."""
    async with ScriptedFeed().reporting() as feed:
        flow = Flow(feed)
        await flow.step()
        await feed.write()
        task = asyncio.create_task(flow.for_ever())
        try:
            yield flow
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await live_state.aclose()


async def counters() -> dict[str, float]:
    """The hub's counters, as the process tells them every five seconds; empty where it has told none of late."""
    return dict(*(await live_state.ahub_counters_read()).values())


async def until_counted(name: str, least: float) -> dict[str, float]:
    """Wait until a counter is so high; return all."""

    async def reached() -> bool:
        return (await counters()).get(name, 0) >= least

    await auntil(reached, DEADLINE)
    return await counters()


@asynccontextmanager
async def others_get_everything(web: Web, secret: str) -> AsyncIterator[None]:
    """Five readers follow all of it: they get most of it unmerged, hold the last state at the end, and the server has not grown."""
    async with flowing() as flow, readers(web, secret) as healthy:
        before_mb, began, rounds = memory_mb(web.pid), time.monotonic(), flow.rounds
        yield
        last = flow.rounds
        await auntil(lambda: all(min(reader.seqs.values()) >= last for reader in healthy), DEADLINE)
        after_mb = memory_mb(web.pid)
        share = min(reader.ticks / (reader.ticks + reader.merged) for reader in healthy)
        seconds = time.monotonic() - began
        print(f"\n  {flow.rounds - rounds} windows in {seconds:.0f} s; others: ≥ {share:.2%} unmerged; {before_mb:.0f} → {after_mb:.0f} MB")
        assert [reader.wrong for reader in healthy] == [[]] * READERS
        assert share > UNMERGED_SHARE
        assert after_mb < before_mb + GROWTH_MB


async def assert_marks_add_up() -> None:
    """Every quote that a client was owed was delivered, merged, forgotten, or waits."""

    async def add_up() -> bool:
        found = await counters()
        return found.get("clients") == 0 and found["marked_total"] == sum(
            found[name] for name in ("delivered_total", "merged_total", "forgotten_total", "waiting")
        )

    await auntil(add_up, DEADLINE)
    found = await counters()
    print("  " + ", ".join(f"{name} {value:,.0f}" for name, value in found.items() if value))
    assert found["delivered_total"] > 0


async def prepared() -> str:
    await instruments(*IDS)
    return await api_key()


async def test_a_client_that_stops_reading_is_aborted_and_costs_nobody_anything(web: Web) -> None:
    secret = await prepared()
    async with others_get_everything(web, secret):
        deaf = await deaf_client(web.url, secret)
        await deaf.send(json.dumps({"id": 1, "op": "subscribe", "instruments": KEYS}))
        found = await until_counted("clients_aborted_total", 1)
        assert found["merged_total"] > 0, "it was merged while it was there"
        assert found["clients_slow_told_total"] == 0, "it could not be told"
    await assert_marks_add_up()


@pytest.mark.long
async def test_a_client_that_reads_too_slowly_is_merged_then_told_then_closed(web: Web) -> None:
    secret = await prepared()
    async with others_get_everything(web, secret):
        messages, code = await asyncio.to_thread(read_slowly, web.url, secret, KEYS)
        told = [message for message in messages if message.get("event") in ("error", "bye")]
        found = await until_counted("clients_slow_told_total", 1)
        assert found["merged_total"] > 0
        assert [(message["event"], message["code"]) for message in told] == [("error", 407), ("bye", 4008)]
        assert told[0]["retry"]
        assert told[1]["reconnect"]
        assert code == 4008
    await assert_marks_add_up()


async def test_a_flood_of_commands_is_refused_and_waits_in_its_own_socket(web: Web, full: bool) -> None:
    secret = await prepared()
    seconds = 20 if full else 4
    async with others_get_everything(web, secret), connect(web.url, additional_headers={"Authorization": f"Bearer {secret}"}) as flooder:
        began = time.monotonic()
        sending = asyncio.create_task(_flood(flooder))
        refused = answered = 0
        while time.monotonic() < began + seconds:
            message = json.loads(await asyncio.wait_for(flooder.recv(), DEADLINE))
            refused += message.get("code") == 429
            answered += message.get("op") == "pong"
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        flooder.transport.abort()  # its own goodbye would stand in line behind its commands
        elapsed = time.monotonic() - began
        print(f"\n  in {elapsed:.1f} s: {answered} commands answered, {refused} refused")
        assert refused > 0
        assert answered <= 20 * (elapsed + 2)
        assert refused <= elapsed / consumers.FLOOD_PAUSE_SECONDS + 1, "each refusal makes its sender wait"
    await assert_marks_add_up()


async def _flood(flooder: ClientConnection) -> None:
    number = 0
    while True:
        number += 1
        await flooder.send(json.dumps({"id": number, "op": "ping"}))


async def test_many_that_reconnect_at_once_all_get_their_quotes(web: Web, full: bool) -> None:
    secret = await prepared()
    many = 1000 if full else 200
    async with others_get_everything(web, secret):
        await _all_at_once(web.url, secret, many)
        before = (await until_counted("connections_accepted_total", many + READERS))["connections_accepted_total"]
        first_mb = memory_mb(web.pid)
        began = time.monotonic()
        await _all_at_once(web.url, secret, many)
        print(f"\n  {many} connected again and had their quotes within {time.monotonic() - began:.1f} s")
        await until_counted("connections_accepted_total", before + many)
        assert memory_mb(web.pid) < first_mb + GROWTH_MB / 2, "a storm leaves nothing behind"
    await assert_marks_add_up()


async def _all_at_once(url: str, secret: str, many: int) -> None:
    """Connect so many at the same moment, have each get ten quotes, then let all go."""

    async def one(number: int) -> None:
        keys = {KEYS[(number + step) % len(KEYS)] for step in range(10)}
        async with connect(url, additional_headers={"Authorization": f"Bearer {secret}"}, open_timeout=DEADLINE) as client:
            await client.send(json.dumps({"id": 1, "op": "subscribe", "instruments": sorted(keys)}))
            while keys:
                message = json.loads(await asyncio.wait_for(client.recv(), DEADLINE))
                keys -= {key for key, _seq, _quote in message.get("ticks", ())}
            here.append(number)
            await everyone.wait()

    here: list[int] = []
    everyone = asyncio.Event()
    tasks = [asyncio.create_task(one(number)) for number in range(many)]
    await auntil(lambda: len(here) == many or any(task.done() for task in tasks), DEADLINE)
    everyone.set()
    await asyncio.gather(*tasks)
