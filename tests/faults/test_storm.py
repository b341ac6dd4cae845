"""Everything at once, in the long form alone: a random storm of faults over the whole system, then the oracle."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.fakes.stack import Process
from tests.faults.servers import kill_server, paused, pid_of, until
from tests.faults.system import System
from tests.faults.test_store_away import assert_quotes_go_on
from tradingok.embedded import EmbeddedServer, start_server

pytestmark = pytest.mark.long

STORM_SECONDS = 180
Fault = Callable[[System], Iterator[None]]


@contextmanager
def server_killed(server: EmbeddedServer) -> Iterator[None]:
    """Kill a server; it comes back at the end."""
    kill_server(server)
    yield
    start_server(server)


@contextmanager
def process_killed(system: System, process: Process) -> Iterator[None]:
    """Kill a process of ours; it comes back at the end, as the supervisor sees to."""
    system.kill(process)
    yield
    process.start()


@contextmanager
def injected(system: System, **fault: object) -> Iterator[None]:
    """Have the exchange do something of its own."""
    system.exchange.fault(**fault)
    yield


def storm(system: System, moments: random.Random, seconds: float) -> Counter[str]:
    """Have faults begin and end at random, up to three at a time, each of another kind; return how often each happened."""
    faults = {
        "feed killed": lambda: process_killed(system, system.feed),
        "web killed": lambda: process_killed(system, system.web),
        "mongod killed": lambda: server_killed(system.servers.mongod),
        "mongod paused": lambda: paused(pid_of(system.servers.mongod)),
        "valkey killed": lambda: server_killed(system.servers.valkey),
        "valkey paused": lambda: paused(pid_of(system.servers.valkey)),
        "broker dropped": lambda: injected(system, kind="drop"),
        "broker mute": lambda: injected(system, kind="mute", seconds=3),
        "broker refuses": lambda: injected(system, kind="refuse", status=503, count=2),
        "garbage": lambda: injected(system, kind="garbage", count=3),
    }
    done: Counter[str] = Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with ExitStack() as now:
            victims: set[str] = set()
            for name in moments.sample(sorted(faults), moments.randint(1, 3)):
                victim = name.split()[0]
                if victim not in victims:
                    victims.add(victim)
                    now.enter_context(faults[name]())
                    done[name] += 1
                    time.sleep(moments.uniform(0, 2))
            time.sleep(moments.uniform(0, 5))
        time.sleep(moments.uniform(0, 5))
    return done


def test_a_storm_of_everything_at_once_costs_nothing_journalled(system: System, moments: random.Random, full: bool) -> None:
    if not full:
        pytest.skip("only in the long form: make faults")
    with system.watched() as watcher, system.memory_bounded():
        done = storm(system, moments, STORM_SECONDS)
        print(f"  {sum(done.values())} faults: {dict(sorted(done.items()))}")
        assert len(done) == 10, "each kind was to happen"
        until(lambda: system.answers() and system.is_live(), "the system is whole again", 300)
        until(lambda: watcher.state == "live", "the client is told")
        assert_quotes_go_on(watcher)
        system.prove()
