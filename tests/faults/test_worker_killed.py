"""A worker is killed in the middle of a roll-up: the next one ends with the candles that an undisturbed one would have made."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from tests.fakes.exchange import ROOT
from tests.faults.servers import until
from tests.faults.system import NAMESPACE, System

MINUTES = 120
INSTRUMENTS = 300
FIRST = datetime(2026, 11, 20, 3, 45, tzinfo=UTC)
"""09:15 IST, a Friday: the session's open, so that five-minute candles begin on it."""
EPOCH_2020 = datetime(2020, 1, 1, tzinfo=UTC)
DAY = datetime(2026, 11, 19, 18, 30, tzinfo=UTC)
"""Its 00:00 IST."""
LENGTHS = {"5m": timedelta(minutes=5), "15m": timedelta(minutes=15), "1h": timedelta(hours=1)}
FIRST_INSTRUMENT = 10_000_000


@pytest.mark.long
def test_a_worker_killed_half_way_through_a_roll_up_ends_with_the_same_candles(system: System, moments: random.Random, full: bool) -> None:
    candles = system.database["marketdata_ohlc"]
    system.worker.start()
    for number in range(5 if full else 1):
        first = FIRST_INSTRUMENT + number * INSTRUMENTS
        ours = {"i": {"$gte": first, "$lt": first + INSTRUMENTS}}
        minutes = make_minutes(moments, first)
        expected = folded(minutes)
        candles.insert_many(minutes)
        ask_for_roll_up(system)
        until(lambda ours=ours: candles.find_one({**ours, "n": "5m"}), "the roll-up has begun")  # type: ignore[misc]
        system.kill(system.worker)
        done = len(stored(system, ours))
        assert 0 < done < len(expected), "the kill was to come in the middle"
        print(f"  killed with {done} of {len(expected)} coarser candles written")
        system.worker.start()
        end_lock(system)
        ask_for_roll_up(system)
        until(lambda ours=ours, expected=expected: len(stored(system, ours)) >= len(expected), "the roll-up is whole")  # type: ignore[misc]
        assert stored(system, ours) == expected
        candles.delete_many(ours)
    system.worker.stop()
    system.prove()


def make_minutes(moments: random.Random, first: int) -> list[dict[str, Any]]:
    """Return INSTRUMENTS × MINUTES broker's bars that walk at random, as the feed stores them."""
    now = datetime.now(UTC)
    rows = []
    for instrument in range(first, first + INSTRUMENTS):
        price = moments.randrange(5_000, 50_000)
        for minute in range(MINUTES):
            start = FIRST + timedelta(minutes=minute)
            opened, price = price, max(100, price + moments.randrange(-50, 51))
            high, low = max(opened, price) + moments.randrange(20), min(opened, price) - moments.randrange(20)
            prices = {"o": opened / 100, "h": high / 100, "l": low / 100, "c": price / 100, "v": moments.randrange(1000), "oi": None}
            identifier = instrument << 30 | (start - EPOCH_2020) // timedelta(minutes=1)
            rows.append({"_id": identifier, "i": instrument, "n": "1m", "t": start, **prices, "s": "confirmed", "rev": 0, "u": now})
    return rows


def folded(minutes: list[dict[str, Any]]) -> dict[tuple[int, str, datetime], tuple[float, ...]]:
    """Return what their coarser candles must be: first open, highest high, lowest low, last close, sum of volumes."""
    parts: dict[tuple[int, str, datetime], list[dict[str, Any]]] = defaultdict(list)
    for row in minutes:
        since = row["t"] - FIRST
        for name, length in LENGTHS.items():
            parts[row["i"], name, FIRST + since // length * length].append(row)
        parts[row["i"], "1d", DAY].append(row)
    return {
        place: (of[0]["o"], max(row["h"] for row in of), min(row["l"] for row in of), of[-1]["c"], sum(row["v"] for row in of))
        for place, of in parts.items()
    }


def stored(system: System, ours: dict[str, Any]) -> dict[tuple[int, str, datetime], tuple[float, ...]]:
    """Return the coarser candles that are there."""
    rows = system.database["marketdata_ohlc"].find({**ours, "n": {"$ne": "1m"}})
    return {(row["i"], row["n"], row["t"].replace(tzinfo=UTC)): (row["o"], row["h"], row["l"], row["c"], row["v"]) for row in rows}


def ask_for_roll_up(system: System) -> None:
    """Put the task into the worker's queue, as beat does each minute."""
    command = [sys.executable, "-m", "celery", "-A", "tradingok", "call", "marketdata.roll_up"]
    subprocess.run(command, cwd=ROOT, env=system.environment, check=True, capture_output=True, timeout=60)


def end_lock(system: System) -> None:
    """Let the dead worker's lock end, as it does by itself after a minute."""
    with redis.Redis.from_url(system.servers.redis_url) as server:
        locks = [key for key in server.scan_iter(match=f"{NAMESPACE}*task.roll_up*") if server.type(key) == b"string"]
        assert locks, "the killed worker held the lock"
        for key in locks:
            assert server.pexpire(key, 1)
