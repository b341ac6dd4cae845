"""Valkey is killed, or hangs: storage goes on, REST answers, clients are told and then get whole quotes that are right."""

from __future__ import annotations

import random
import time

from tests.faults.servers import kill_server, paused, pid_of, until
from tests.faults.system import System
from tests.faults.watcher import Watcher
from tradingok.embedded import start_server


def test_a_valkey_killed_at_random_moments_costs_no_tick_and_clients_are_made_whole(
    system: System, moments: random.Random, full: bool
) -> None:
    with system.watched() as watcher, system.memory_bounded():
        for _ in range(10 if full else 2):
            time.sleep(moments.uniform(0.2, 2))
            watcher.states.clear()
            kill_server(system.servers.valkey)
            assert_all_but_the_bus_goes_on(system, watcher)
            start_server(system.servers.valkey)
            until(lambda: watcher.state == "live", "clients are told that it goes on")
        system.prove()


def test_a_hung_valkey_holds_up_neither_storage_nor_rest(system: System, full: bool) -> None:
    with system.watched() as watcher, system.memory_bounded():
        watcher.states.clear()
        with paused(pid_of(system.servers.valkey)):
            end = time.monotonic() + (60 if full else 5)
            assert_all_but_the_bus_goes_on(system, watcher)
            while time.monotonic() < end:
                assert_all_but_the_bus_goes_on(system, watcher)
        until(lambda: watcher.state == "live", "clients are told that it goes on")
        print(f"  told to the client: {watcher.states}")
        system.prove()


def assert_all_but_the_bus_goes_on(system: System, watcher: Watcher) -> None:
    """Ticks are stored, REST answers from memory, the client knows that it may be missing something."""
    before = system.ticks_stored()
    until(lambda: system.ticks_stored() > before, "storage goes on")
    keys = watcher.keys
    rows = system.get("/api/marketdata/ticks/latest/", instruments=",".join(keys))["results"]
    assert len(rows) > len(keys) / 2
    until(lambda: watcher.state == "reconnecting", "the client is told")
