"""`make run` with two feeds and three web processes on one port: one copy to its clients, each tick stored once, no part missed for long.

The tests are chapters of one run, in this order. Everything is real: the supervisor, the exchange, mongod, valkey, the kernel's choice of
a process for each connection. The last chapters compare what is left on the disk with the store.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pymongo
import pytest
import redis
from django.conf import settings
from pymongo.database import Database
from upstox_client.feeder.proto import MarketDataFeedV3_pb2 as sdk
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import connect

from tests.fakes.exchange import RunningExchange
from tests.faults.oracle import assert_lossless, journalled_frames
from tests.payloads.figures import expected_ids
from tests.tradingok.embedded_runs import PROJECT, environment
from tests.tradingok.test_supervisor import Run
from tradingok import ports

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]
FEEDS, WEBS = 2, 3
CLIENTS = 24
"""Fewer than two of three processes serve so many by chance once in 10¹¹ runs, fewer than three once in 5,000."""
SECONDS = 120.0


def until(holds: Callable[[], Any], what: Callable[[], object] | str, seconds: float = SECONDS) -> Any:
    """Poll until `holds` gives something true and return it; fail with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (result := holds()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what if isinstance(what, str) else what()}"
        time.sleep(0.1)
    return result


class Screen:
    """A client that follows some keys and reads in a thread of its own; when its connection ends it connects anew.

    Attributes:
        prices: key → how often a quote of it came.
        told: (state, scope) of the feed, as `hello` and `feed:status` gave them.
        connections: how often it has connected.
        port: its own end of the present connection; 0 without one.
    """

    def __init__(self, url: str, api_key: str, keys: list[str]) -> None:
        self.prices: Counter[str] = Counter()
        self.told: list[tuple[str, str]] = []
        self.connections = 0
        self.port = 0
        self._url, self._headers, self._keys = url, {"Authorization": f"Bearer {api_key}"}, keys
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @staticmethod
    def stop(screens: list[Screen]) -> None:
        for screen in screens:
            screen._stopping.set()
        for screen in screens:
            screen._thread.join(20)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with connect(self._url, additional_headers=self._headers, max_size=None, ping_interval=None) as socket:
                    self.connections += 1
                    self.port = socket.local_address[1]
                    socket.send(json.dumps({"id": 1, "op": "subscribe", "instruments": self._keys, "mode": "ltpc"}))
                    while not self._stopping.is_set():
                        with suppress(TimeoutError):
                            self._take(json.loads(socket.recv(timeout=0.2)))
            except (OSError, ConnectionClosed, InvalidHandshake, TimeoutError):
                self.port = 0
                time.sleep(0.1)

    def _take(self, message: dict[str, Any]) -> None:
        match message.get("event"):
            case "market:tick":
                self.prices.update(key for key, _seq, _quote in message["ticks"])
            case "hello":
                self.told.append((message["feed"]["state"], message["feed"]["scope"]))
            case "feed:status":
                self.told.append((message["state"], message["scope"]))


class Copy:
    """The running copy, its exchange and its store."""

    def __init__(self, run: Run, var: Path, port: int, exchange: RunningExchange, environment: dict[str, str]) -> None:
        self.run = run
        self.port = port
        self.exchange = exchange
        self.environment = environment
        self.journals = [var / "journal" / str(shard) for shard in range(FEEDS)]
        self.ledger = var / "ledger"
        self.api_key = self.manage("apikey", "create", "scale").stdout.strip()

    def manage(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "manage.py", *words]
        own = {**self.environment, **environment}
        return subprocess.run(command, cwd=PROJECT, env=own, capture_output=True, text=True, timeout=SECONDS, check=False)

    def get(self, path: str) -> Any:
        headers = {"Authorization": f"Bearer {self.api_key}"}
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", headers=headers, timeout=30).raise_for_status().json()

    def shards(self) -> dict[int, dict[str, Any]]:
        return {shard["shard"]: shard for shard in self.get("/api/broker-status")["shards"]}

    def is_live(self) -> bool:
        try:
            status = self.get("/api/broker-status")
        except httpx.TransportError:
            return False
        return status["state"] == "live" and len(status["shards"]) == FEEDS

    def web_pids(self) -> set[int]:
        return {self.run.pid(f"web-{number}") for number in range(1, WEBS + 1)}

    def server_of(self, screen: Screen) -> int | None:
        """The process at the other end of a client's connection, by the kernel's own tables; None without one."""
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            here, there = (int(fields[number].rpartition(":")[2], 16) for number in (1, 2))
            if (here, there) == (self.port, screen.port) and fields[3] == "01":
                return next((pid for pid in self.running_webs() if f"socket:[{fields[9]}]" in _open_files(pid)), None)
        return None

    def running_webs(self) -> list[int]:
        """Every pid that the supervisor has ever given a web process and that still runs."""
        pids = [int(line.rpartition("pid ")[2].rstrip(")")) for line in list(self.run.lines) if " web-" in line and ": started" in line]
        return [pid for pid in pids if Path(f"/proc/{pid}/fd").exists()]

    def served_by(self, screens: list[Screen]) -> Counter[int | None]:
        return Counter(self.server_of(screen) for screen in screens)


def _open_files(pid: int) -> set[str]:
    found = set()
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            found.add(os.readlink(link))
        except OSError:
            continue
    return found


@contextmanager
def running_copy(var: Path, exchange: RunningExchange, **more: str) -> Iterator[Copy]:
    port = ports.choose()
    own = environment(
        var,
        PORT=str(port),
        MONGODB_URI=settings.MONGODB_URI,
        REDIS_URL=settings.REDIS_URL,
        SECRET_KEY=settings.SECRET_KEY,
        TRADINGOK_NAMESPACE=f"{settings.NAMESPACE}_scale",
        TRADINGOK_EXCHANGE_URL=exchange.url,
        UPSTOX_ACCESS_TOKEN=exchange.token,
        TRADINGOK_STRIKES="5",
        TRADINGOK_WS_CONNECTIONS="100",
        TRADINGOK_FEED_SHARDS=str(FEEDS),
        TRADINGOK_WEB_PROCESSES=str(WEBS),
    )
    command = [sys.executable, "manage.py", "up"]
    with subprocess.Popen(
        command, cwd=PROJECT, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        run = Run(process)
        try:
            run.says(r"^    Open +http", seconds=240)
            yield Copy(run, var, port, exchange, own)
        finally:
            process.terminate()
            process.wait(timeout=120)


@pytest.fixture(scope="module")
def database() -> Iterator[Database[dict[str, Any]]]:
    name = f"{settings.NAMESPACE}_scale"
    with pymongo.MongoClient[dict[str, Any]](settings.MONGODB_URI) as client:
        yield client[name]
        client.drop_database(name)
    with redis.Redis.from_url(settings.REDIS_URL) as server:
        for key in server.scan_iter(match=f"{name}*", count=1000):
            server.delete(key)


@pytest.fixture(scope="module")
def copy(database: Database[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    var = tmp_path_factory.mktemp("scale")
    with ExitStack() as stack:
        exchange = RunningExchange("--seed", "7", ledger=var / "ledger")
        stack.callback(exchange.stop)
        yield stack.enter_context(running_copy(var, exchange))


@pytest.fixture(scope="module")
def screens(copy: Copy, database: Database[dict[str, Any]]) -> Iterator[list[Screen]]:
    """Clients that follow eight instruments each, four of either feed."""
    until(copy.is_live, lambda: copy.get("/api/broker-status"))
    url = f"ws://127.0.0.1:{copy.port}/ws/market/"
    keys = [key for shard in range(FEEDS) for key in sorted(keys_of(copy, database, shard))[:4]]
    made = [Screen(url, copy.api_key, keys) for _ in range(CLIENTS)]
    yield made
    Screen.stop(made)


def keys_of(copy: Copy, database: Database[dict[str, Any]], shard: int) -> set[str]:
    """The keys that the exchange is asked for and that belong to a shard by their instruments' ids."""
    asked = httpx.get(f"{copy.exchange.url}/simulator/state?keys", timeout=30).raise_for_status().json()["subscribed_keys"]
    rows = database["instruments_instrument"].find({"instrument_key": {"$in": asked}, "active": True})
    return {row["instrument_key"] for row in rows if row["_id"] % FEEDS == shard}


def universe(copy: Copy) -> set[str]:
    """What the rules mean now, as the API says it."""
    rules = copy.get("/api/subscriptions/")["results"]
    return {key for rule in rules for key in copy.get(f"/api/subscriptions/{rule['id']}/")["instruments"]}


def journalled_keys(folder: Path) -> set[str]:
    """The keys in a journal's frames, read by MCAP's reader and the broker's own module."""
    return {key for frame in journalled_frames(folder) for key in sdk.FeedResponse.FromString(frame.content).feeds}


def test_every_instrument_of_the_universe_is_followed_by_one_feed(copy: Copy, database: Database[dict[str, Any]]) -> None:
    until(copy.is_live, lambda: copy.get("/api/broker-status"))

    def asked() -> list[set[str]]:
        return [keys_of(copy, database, shard) for shard in range(FEEDS)]

    until(lambda: universe(copy) == set.union(*asked()), lambda: universe(copy) ^ set.union(*asked()))
    shards = copy.shards()
    assert sorted(shards) == [0, 1]
    counted = [sum(mode["subscribed"] for mode in shards[shard]["subscribed"].values()) for shard in range(FEEDS)]
    assert min(counted) > 20
    until(lambda: all(journalled_keys(folder) for folder in copy.journals), "both journals have frames")
    first, second = (journalled_keys(folder) for folder in copy.journals)
    assert first & second == set()
    until(lambda: set.union(*map(journalled_keys, copy.journals)) >= universe(copy), "each instrument has come on one of the connections")
    assert len(copy.exchange.state()["connections"]) == FEEDS


def test_clients_of_every_web_process_get_the_quotes_of_both_feeds(copy: Copy, screens: list[Screen]) -> None:
    until(lambda: all(len(screen.prices) == 8 for screen in screens), lambda: [len(screen.prices) for screen in screens])
    served = copy.served_by(screens)
    assert set(served) == copy.web_pids(), served
    print(f"{CLIENTS} clients on {WEBS} web processes: {sorted(served.values())}")


def test_the_doctor_shows_both_feeds_and_all_web_processes(copy: Copy) -> None:
    report = json.loads(copy.manage("doctor", "--json").stdout)
    found = [finding["text"] for finding in report["findings"] if finding["what"] in ("feed", "web")]
    assert [text for text in found if text.startswith("feed 1 of 2: live")]
    assert [text for text in found if text.startswith("feed 2 of 2: live")]
    assert [text for text in found if text.startswith("3 processes listen")], found


@pytest.mark.parametrize("shard", ["1/1", "3/3"])
def test_a_feed_that_splits_the_instruments_otherwise_is_refused(copy: Copy, shard: str, tmp_path: Path) -> None:
    own = {name: value for name, value in copy.environment.items() if not name.startswith("TRADINGOK_FEED")}
    command = [sys.executable, "manage.py", "runfeed", "--shard", shard]
    own["TRADINGOK_VAR"] = str(tmp_path)  # another machine, as far as journals go
    refused = subprocess.run(command, cwd=PROJECT, env=own, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert refused.returncode == 1
    assert "of 2 runs with the same Redis" in refused.stderr
    assert copy.is_live()


def test_a_killed_feed_is_told_with_its_number_while_the_other_goes_on(
    copy: Copy, screens: list[Screen], database: Database[dict[str, Any]]
) -> None:
    mine = [sorted(keys_of(copy, database, shard))[:4] for shard in range(FEEDS)]
    for screen in screens:
        screen.told.clear()
    killed_at = time.monotonic()
    os.kill(copy.run.pid("feed-2"), signal.SIGKILL)
    copy.run.says(r"feed-2: ended by signal 9, restarting in")
    before = [sum(screen.prices[key] for key in mine[0]) for screen in screens]
    until(lambda: all(("reconnecting", "shard:1") in screen.told for screen in screens), lambda: [screen.told for screen in screens])
    told_after = time.monotonic() - killed_at
    until(
        lambda: all(sum(screen.prices[key] for key in mine[0]) > count + 5 for screen, count in zip(screens, before, strict=True)),
        "quotes of the other feed go on",
    )
    copy.run.says(r"feed-2: started", times=2)
    until(lambda: all(screen.told[-1] == ("live", "all") for screen in screens), lambda: [screen.told for screen in screens])
    live_after = time.monotonic() - killed_at
    print(f"a killed feed: all {len(screens)} clients told after {told_after:.1f} s, live again after {live_after:.1f} s")
    again = [sum(screen.prices[key] for key in mine[1]) for screen in screens]
    until(
        lambda: all(sum(screen.prices[key] for key in mine[1]) > count for screen, count in zip(screens, again, strict=True)),
        "quotes of the feed that was killed come again",
    )
    assert not [scope for screen in screens for state, scope in screen.told if state != "live" and scope != "shard:1"]
    assert {screen.connections for screen in screens} == {1}, "no client had to connect anew"


def test_a_killed_web_process_costs_its_own_clients_one_connection(copy: Copy, screens: list[Screen]) -> None:
    victim = copy.run.pid("web-2")
    its = [screen for screen in screens if copy.server_of(screen) == victim]
    others = [screen for screen in screens if screen not in its]
    assert its
    before = [screen.prices.total() for screen in others]
    os.kill(victim, signal.SIGKILL)
    until(
        lambda: all(screen.connections >= 2 and copy.server_of(screen) not in (None, victim) for screen in its),
        lambda: copy.served_by(its),
    )
    until(
        lambda: all(screen.prices.total() > count for screen, count in zip(others, before, strict=True)),
        "the other clients' quotes go on",
    )
    assert {screen.connections for screen in others} == {1}
    copy.run.says(r"web-2: ended by signal 9, restarting in")
    replacement = copy.run.pid("web-2", start=2)
    url = f"ws://127.0.0.1:{copy.port}/ws/market/"
    late: list[Screen] = []

    def served() -> bool:
        late.append(Screen(url, copy.api_key, []))
        until(lambda: late[-1].port, "it connects")
        return copy.server_of(late[-1]) == replacement

    try:
        until(served, "the new process gets its share of new clients")
    finally:
        Screen.stop(late)
    print(f"{len(its)} clients had to connect anew, {len(others)} noticed nothing; after {len(late)} more the new process had one")


def test_every_tick_of_both_journals_is_stored_once(copy: Copy, screens: list[Screen], database: Database[dict[str, Any]]) -> None:
    Screen.stop(screens)
    copy.run.process.send_signal(signal.SIGINT)
    assert copy.run.wait() == 0
    copy.exchange.stop()
    first, second = (expected_ids(folder) for folder in copy.journals)
    assert min(len(first), len(second)) > 500
    assert first.keys() & second.keys() == set()
    proof = assert_lossless(database, copy.journals, copy.ledger)
    assert proof.stored == len(first) + len(second)
    print(f"{len(first)} + {len(second)} ticks; {proof}")


def test_one_feed_in_place_of_two_stores_what_the_other_had_only_journalled(copy: Copy, database: Database[dict[str, Any]]) -> None:
    ticks, positions = database["marketdata_markettick"], database["broker_feedposition"]
    expected = expected_ids(copy.journals[1])
    tail = sorted(expected)[len(expected) // 2 :]
    assert ticks.delete_many({"_id": {"$in": tail}}).deleted_count == len(tail)  # as if the store had been away at the end
    before = (tail[0] >> 13) - 1
    positions.update_one({"_id": 1}, {"$set": {"received_us": before, f"journals.{(copy.journals[1] / 'id').read_text()}": before}})
    command = [sys.executable, "manage.py", "runfeed", "--shard", "1/1"]
    own = {name: value for name, value in copy.environment.items() if not name.startswith("TRADINGOK_FEED")}
    with subprocess.Popen(command, cwd=PROJECT, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as feed:
        try:
            until(lambda: positions.find_one({"_id": 1})["received_us"] >= tail[-1] >> 13, "the removed feed's journal is in the store")  # type: ignore[index]
        finally:
            feed.terminate()
            output, _ = feed.communicate(timeout=60)
    assert f"leftovers: {len(tail)} ticks of shard 1, which is no more, were not in the store; now they are" in output
    assert_lossless(database, copy.journals)
