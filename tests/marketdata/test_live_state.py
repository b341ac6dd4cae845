"""The shared state on the real valkey, and its answers while that is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from marketdata import leases, live_state
from marketdata.leases import ALease, Lock
from marketdata.live_state import Unavailable
from tests.marketdata.way_out import ScriptedFeed, entry_of, hung, own_valkey
from tradingok.embedded import start_server, stop_server

pytestmark = pytest.mark.usefixtures("valkey")


async def test_quotes_are_read_as_they_were_written() -> None:
    first, second = entry_of(1, 3, 100.5), entry_of(2, 4, 200.25)
    await live_state.aquotes_write([first, second], epoch=9)
    assert await live_state.aquotes_read() == {1: first, 2: second} == live_state.quotes_read()
    assert await live_state.aquotes_read([2, 7]) == {2: second} == live_state.quotes_read([2, 7])
    assert await live_state.astamped_quotes_read([1]) == [(9, first)]
    newer = entry_of(1, 5, 101.0)
    await live_state.aquotes_write([newer], epoch=9)
    await live_state.aquotes_remove([2])
    assert await live_state.aquotes_read() == {1: newer}
    await live_state.aclose()


async def test_nothing_asked_is_nothing_found() -> None:
    await live_state.aquotes_write([])
    await live_state.aquotes_remove([])
    assert await live_state.aquotes_read([]) == {} == live_state.quotes_read([])
    assert await live_state.astamped_quotes_read([]) == []
    assert await live_state.ademand_read() == {}
    assert live_state.statuses_read() == []
    assert live_state.task_runs_read() == {}
    await live_state.aclose()


async def test_a_quote_of_another_version_is_passed_over(valkey: Any, settings: Any) -> None:
    await live_state.aquotes_write([entry_of(1, 3, 100.5)])
    valkey.hset(f"{settings.NAMESPACE}.quotes", "2", b"of tomorrow")
    assert set(await live_state.aquotes_read()) == {1}
    await live_state.aclose()


async def test_statuses_are_kept_per_shard_and_end_by_themselves(valkey: Any, settings: Any) -> None:
    zero, three = ScriptedFeed(shard=0).status(), ScriptedFeed(shard=3).status()
    await live_state.astatus_write(three)
    await live_state.astatus_write(zero)
    assert live_state.statuses_read() == [zero, three] == await live_state.astatuses_read()
    assert 0 < valkey.ttl(f"{settings.NAMESPACE}.status.3") <= live_state.STATUS_SECONDS
    await live_state.aclose()


async def test_demand_is_the_union_of_the_hubs_with_the_greater_mode(valkey: Any, settings: Any) -> None:
    await live_state.ademand_write("a", {1: "ltpc", 2: "full"})
    await live_state.ademand_write("b", {1: "full", 2: "ltpc", 3: "ltpc"})
    assert await live_state.ademand_read() == {1: "full", 2: "full", 3: "ltpc"}
    await live_state.ademand_write("b", {})
    assert await live_state.ademand_read() == {1: "ltpc", 2: "full"}
    valkey.zadd(f"{settings.NAMESPACE}.demand", {"a": 1})  # its lease has ended
    assert await live_state.ademand_read() == {}
    assert 0 < valkey.ttl(f"{settings.NAMESPACE}.demand.a") <= live_state.HUB_SECONDS
    await live_state.aclose()


async def test_the_counters_of_each_hub_are_read_until_it_is_silent(valkey: Any, settings: Any) -> None:
    assert await live_state.ahub_counters_read() == {} == live_state.hub_counters_read()
    await live_state.ahub_counters_write("a", {"batches_received_total": 7, "rate": 0.5})
    await live_state.ahub_counters_write("b", {"batches_received_total": 1})
    await live_state.ahub_counters_write("a", {"batches_received_total": 8, "rate": 0.25})
    expected = {"a": {"batches_received_total": 8.0, "rate": 0.25}, "b": {"batches_received_total": 1.0}}
    assert await live_state.ahub_counters_read() == expected == live_state.hub_counters_read()
    assert 0 < valkey.ttl(f"{settings.NAMESPACE}.counters.a") <= live_state.HUB_SECONDS == 20
    valkey.zadd(f"{settings.NAMESPACE}.counters", {"a": 1})  # its lease has ended
    assert live_state.hub_counters_read() == {"b": {"batches_received_total": 1.0}}
    await live_state.aclose()


def test_the_last_run_of_each_task_is_remembered() -> None:
    live_state.task_run_write("roll_up", ok=True, detail="12 candles", seconds=0.25)
    live_state.task_run_write("roll_up", ok=False, detail="no store", seconds=1.5)
    live_state.task_run_write("status", ok=True, detail="", seconds=0.1)
    runs = live_state.task_runs_read()
    assert set(runs) == {"roll_up", "status"}
    assert (runs["roll_up"]["ok"], runs["roll_up"]["detail"], runs["roll_up"]["seconds"]) == (False, "no store", 1.5)
    assert abs(runs["roll_up"]["at_ms"] - time.time() * 1000) < 60_000


def test_ping_tells_the_round_trip() -> None:
    assert live_state.ping() > 0


async def test_a_task_that_is_cancelled_ends_wherever_it_is() -> None:
    status = ScriptedFeed().status()

    async def write_for_ever() -> None:
        while True:
            await live_state.astatus_write(status)

    for step in range(100):
        task = asyncio.create_task(write_for_ever())
        await asyncio.sleep(0.0001 * step)
        task.cancel()
        await asyncio.wait([task], timeout=30)
        assert task.cancelled(), f"went on after its cancellation, round {step}"
    await live_state.aclose()


BLOCKING: dict[str, Callable[[], Any]] = {
    "ping": live_state.ping,
    "quotes_read": live_state.quotes_read,
    "statuses_read": live_state.statuses_read,
    "hub_counters_read": live_state.hub_counters_read,
    "task_runs_read": live_state.task_runs_read,
    "task_run_write": lambda: live_state.task_run_write("t", ok=True, detail="", seconds=0),
    "lock": lambda: Lock("t", 1).__enter__(),
}
WAITING: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
    "aquotes_read": live_state.aquotes_read,
    "aquotes_write": lambda: live_state.aquotes_write([entry_of(1, 1, 1.0)]),
    "astatuses_read": live_state.astatuses_read,
    "ademand_read": live_state.ademand_read,
    "ademand_write": lambda: live_state.ademand_write("a", {1: "full"}),
    "ahub_counters_read": live_state.ahub_counters_read,
    "ahub_counters_write": lambda: live_state.ahub_counters_write("a", {"n": 1}),
    "aconnection_acquire": lambda: leases.aconnection_acquire("u", "a", 1),
    "aconnection_renew": lambda: leases.aconnection_renew([("u", "a")]),
    "lease": lambda: ALease("t", 1).acquire(),
}


def fails_in_time(call: Callable[[], Any]) -> None:
    started = time.monotonic()
    with pytest.raises(Unavailable):
        call()
    assert time.monotonic() - started < 30


async def afails_in_time(call: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    started = time.monotonic()
    with pytest.raises(Unavailable):
        await call()
    assert time.monotonic() - started < 30


async def all_wait_in_vain() -> None:
    await asyncio.gather(*(afails_in_time(call) for call in WAITING.values()))
    await live_state.aclose()


def all_fail_in_time() -> None:
    with ThreadPoolExecutor(len(BLOCKING)) as pool:
        list(pool.map(fails_in_time, BLOCKING.values()))
    asyncio.run(all_wait_in_vain())


def test_a_server_that_is_down_or_hung_is_told_in_time_and_used_again_when_it_is_back(tmp_path: Path, settings: Any) -> None:
    with own_valkey(tmp_path, settings) as server:
        live_state.ping()
        with hung(server):
            all_fail_in_time()
        stop_server(server)
        all_fail_in_time()
        start_server(server)
        assert live_state.ping() > 0
