"""The whole system on servers of its own, so that a scenario may do anything to any of its processes.

system.exchange · system.feed · system.web · system.worker · system.servers.mongod · system.servers.valkey
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pymongo
import redis
from pymongo.database import Database

from marketdata.domain.continuity import FEED_HOPS
from marketdata.domain.feed_status import FeedStatus
from tests.fakes.stack import Process, Stack
from tests.faults.oracle import LOST_MS, Proof, assert_lossless
from tests.faults.servers import DEADLINE, Servers, memory_mb, until
from tests.faults.watcher import Watcher
from tests.replay.test_real_data import client_figures, snapshot
from tradingok.children import process_ended

NAMESPACE = "faults"
GROWTH_MB = 150.0
"""A feed or web process that follows 60 instruments may grow by so much in a scenario: the journal's buffer is bounded at 64 MB."""


class System(Stack):
    """A running TradingOK that follows about 60 instruments of a simulated exchange, about 100 updates a second.

    Attributes:
        servers: its own mongod and valkey.
        database: the store, by plain pymongo.
        ledger: the exchange's; `journal` the feed's.
        proved: whether the last thing that happened to it was a `prove` that succeeded: it is whole and may serve another test.
    """

    def __init__(self, var: Path, *exchange_arguments: str, **environment: str) -> None:
        """Start everything; see `Stack`. The ledger is always on."""
        self.proved = True
        self._watcher: Watcher | None = None
        self.ledger, self.journal = var / "ledger", var / "journal" / "0"
        self.servers = Servers(var)
        self._client = pymongo.MongoClient[dict[str, Any]](self.servers.mongodb_uri, timeoutMS=30_000)
        self.database: Database[dict[str, Any]] = self._client[NAMESPACE]
        super().__init__(
            var,
            *("--seed", "7", "--ledger", str(self.ledger)),
            *exchange_arguments,
            MONGODB_URI=self.servers.mongodb_uri,
            REDIS_URL=self.servers.redis_url,
            TRADINGOK_NAMESPACE=NAMESPACE,
            **{"TRADINGOK_STRIKES": "2", **environment},
        )
        words = "-m celery -A tradingok worker --pool threads --concurrency 2 --without-gossip --without-mingle --without-heartbeat"
        self.worker = self._process("worker", *words.split())

    def stop(self) -> None:
        super().stop()
        self._client.close()
        self.servers.stop()

    # --- what may be done to it -----------------------------------------------------------------------------------------

    def kill(self, process: Process) -> int:
        """End one of our processes as a crash does; return the pid that is gone."""
        pid = process.pid
        assert process.kill() == -signal.SIGKILL
        assert process_ended(pid)
        return pid

    def log(self, process: Process) -> str:
        """All that a process has written so far."""
        return process.log.read_text(errors="replace") if process.log.exists() else ""

    def start_feed(self) -> None:
        """Start the feed that was killed, and wait until it is live."""
        runs = self.epochs()
        self.feed.start()
        self.wait_for(lambda: self.epochs() != runs and self.is_live())

    def replace_feed(self, kind: type[Process] = Process, **environment: str) -> None:
        """End the feed in order and start it as another `kind` of process, with further settings."""
        assert self.feed.stop() == 0, self.feed.told()
        command = [sys.executable, "manage.py", "runfeed"]
        process = self.feed = kind("feed", command, {**self.environment, **environment}, self.var)
        self._started.callback(lambda: process.running and process.stop())
        self.start_feed()

    @contextmanager
    def watched(self) -> Iterator[Watcher]:
        """Have a client on that follows everything, with a first quote of each; its protocol must hold to the end."""
        with Watcher(self.ws_url, self.api_key, self.keys()) as watcher:
            until(lambda: len(watcher.quotes) > 20, "the watcher has quotes")
            self._watcher = watcher
            try:
                yield watcher
            finally:
                self._watcher = None

    @contextmanager
    def memory_bounded(self) -> Iterator[None]:
        """The feed and the web process do not grow by more than GROWTH_MB, restarted ones counted from their first start."""
        before = {process.name: memory_mb(process.pid) for process in (self.feed, self.web)}
        yield
        after = {process.name: memory_mb(process.pid) for process in (self.feed, self.web)}
        print("  memory: " + ", ".join(f"{name} {before[name]:.0f} → {after[name]:.0f} MB" for name in before))
        assert all(after[name] < before[name] + GROWTH_MB for name in before)

    # --- what it says of itself -----------------------------------------------------------------------------------------

    def keys(self) -> list[str]:
        """The keys that the exchange has been asked for."""
        keys: list[str] = self.exchange.get("/simulator/state", keys="1").raise_for_status().json()["subscribed_keys"]
        return keys

    def shard(self) -> dict[str, Any]:
        """The feed as REST tells it: state, detail, counters."""
        shard: dict[str, Any] = self.get("/api/broker-status")["shards"][0]
        return shard

    def counter(self, name: str) -> float:
        """One of the feed's counters, as REST tells it."""
        return float(self.shard()["counters"][name])

    def status(self) -> FeedStatus:
        """The feed's last report to Redis, which is there also while the web server cannot say."""
        with redis.Redis.from_url(self.servers.redis_url) as server:
            return msgspec.msgpack.decode(server.get(f"{NAMESPACE}.status.0") or b"", type=FeedStatus)

    def connection(self) -> int:
        """The exchange's number of the newest feed connection that is open. Raises AssertionError where none is."""
        numbers: list[int] = [connection["number"] for connection in self.exchange.state()["connections"]]
        assert numbers, "the feed has no connection"
        return max(numbers)

    def is_live(self) -> bool:
        """Whether REST says so, of the feed that was started last."""
        status = self.get("/api/broker-status")
        return status["state"] == "live" and [shard["epoch"] for shard in status["shards"]] == self.epochs()[-1:]

    def epochs(self) -> list[int]:
        """The epochs of the feed's runs so far, as it has logged them."""
        return [int(epoch) for epoch in re.findall(r"started, epoch (\d+)", self.log(self.feed))]

    def ticks_stored(self) -> int:
        """Ticks in the store."""
        return self.database["marketdata_markettick"].count_documents({})

    # --- the proof ------------------------------------------------------------------------------------------------------

    def prove(self, *, lost_ms: float = LOST_MS) -> Proof:
        """Let everything come to rest, then have the oracle compare ledger, journal, store and what REST and WebSocket deliver;
        what the system counts of itself must add up.

        Afterwards the exchange sends again.

        Raises:
            AssertionError: the oracle's, or it does not come to rest.
        """
        self.proved = False
        self.wait_for(self.is_live)
        deadline = time.monotonic() + DEADLINE
        while True:
            self.exchange.fault(kind="mute")
            time.sleep(0.5)
            try:
                newest = self.connection()  # and the ledger is on disk now
                proof = assert_lossless(self.database, [self.journal], self.ledger, lost_ms=lost_ms, still_open=newest)
                self._assert_delivered(proof)
                self._assert_continuous()
                break
            except (AssertionError, TimeoutError) as error:
                print(f"  not yet: {str(error)[:200]}")
                if time.monotonic() > deadline:
                    raise
                self.exchange.fault(kind="clear")  # the rules may just be changing what is followed: its first quotes must come
                time.sleep(1)
        self.exchange.fault(kind="clear")
        print(f"  {proof}")
        self.proved = True
        return proof

    def _assert_continuous(self) -> None:
        """What the running system counts of itself adds up at every hop, all of which can be judged now."""
        rows = self.get("/api/marketdata/continuity/")["hops"]
        assert {row["hop"] for row in rows if row["hop"].startswith("feed 0: ")} == {f"feed 0: {hop}" for hop, _, _ in FEED_HOPS}
        assert any(row["hop"].startswith("hub ") for row in rows)
        wrong = [f"{row['hop']}: {row['equation']} {row['detail']}" for row in rows if not row["holds"]]
        assert not wrong, f"{len(wrong)} hops do not add up: {'; '.join(wrong)}"

    def _assert_delivered(self, proof: Proof) -> None:
        """What REST, a fresh client and the one that stayed on are told of each followed instrument is its newest update in the journal."""
        keys = [key for key in self.keys() if key in proof.last]
        assert keys, "the exchange has no subscription"
        rows = self.get("/api/marketdata/ticks/latest/", instruments=",".join(keys))["results"]
        _assert_newest("REST", proof, keys, {row["key"]: row["quote"] for row in rows})
        _assert_newest("WebSocket", proof, keys, asyncio.run(snapshot(self.ws_url, self.api_key, keys)))
        if self._watcher is not None:
            followed = [key for key in self._watcher.keys if key in keys]
            _assert_newest("the client that stayed on", proof, followed, self._watcher.quotes)


def _assert_newest(where: str, proof: Proof, keys: list[str], quotes: Mapping[str, Mapping[str, Any]]) -> None:
    """Each quote says what its newest update said; of what that left out, the newest that any update said, or nothing."""
    wrong = []
    for key in keys:
        quote, last, known = quotes.get(key), proof.last[key], proof.known[key]
        seen = client_figures(dict(quote)) if quote else {}
        if any(seen.get(name) != value for name, value in last.items()) or any(known.get(name) != value for name, value in seen.items()):
            wrong.append(f"{key}: the newest update said {last}, delivered {seen}")
    assert not wrong, f"{len(wrong)} of {len(keys)} quotes by {where} are not the journal's newest; {wrong[0]}"


def seeded() -> int:
    """A seed for a scenario's random moments: FAULTS_SEED to have a run's again, else a new one."""
    return int(os.environ.get("FAULTS_SEED") or time.time_ns() % 1_000_000)
