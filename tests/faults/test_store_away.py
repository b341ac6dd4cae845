"""MongoDB is killed, paused, or refuses writes: clients go on getting quotes, and the store catches up with nothing lost or doubled."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from tests.faults.servers import kill_server, paused, pid_of, until
from tests.faults.system import System
from tests.faults.watcher import Watcher
from tradingok.embedded import start_server

REFUSALS: dict[str, dict[str, Any]] = {
    "not primary any more": {"errorCode": 10107},
    "interrupted by a change of state": {"errorCode": 11602},
    "shutting down": {"errorCode": 91},
    "no majority in time": {"writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}},
    "connections cut": {"closeConnection": True},
}


def test_a_mongod_killed_at_random_moments_loses_no_tick(system: System, moments: random.Random, full: bool) -> None:
    with system.watched() as watcher, system.memory_bounded():
        for _ in range(10 if full else 2):
            time.sleep(moments.uniform(0.2, 2))
            kill_server(system.servers.mongod)
            assert_quotes_go_on(watcher)
            time.sleep(moments.uniform(0, 2))
            start_server(system.servers.mongod)
        system.prove()


def test_a_paused_mongod_holds_up_no_client_and_is_caught_up_with(system: System, full: bool) -> None:
    with system.watched() as watcher, system.memory_bounded():
        behind = 0.0
        with paused(pid_of(system.servers.mongod)):
            end = time.monotonic() + (60 if full else 6)
            while time.monotonic() < end:
                assert_quotes_go_on(watcher)
                behind = max(behind, system.status().counters["store_lag_ticks"])
            assert watcher.state == "live"
        assert behind > 0, "the store was to lag"
        until(lambda: system.status().counters["store_lag_ticks"] < behind / 2, "the store catches up")
        print(f"  the store lagged by up to {behind:.0f} ticks")
        system.prove()


@pytest.mark.parametrize("refusal", [pytest.param(each, marks=pytest.mark.long) if each == "shutting down" else each for each in REFUSALS])
def test_writes_that_mongod_refuses_are_tried_again(system: System, refusal: str, full: bool) -> None:
    with system.watched() as watcher:
        with system.servers.fail_point(["insert"], namespace="faults.marketdata_markettick", **REFUSALS[refusal]) as failures:
            until(lambda: failures() >= (4 if full else 2), "mongod has refused", 120)  # an error of 91 costs the driver ten seconds
            assert_quotes_go_on(watcher)
            refused = failures()
        print(f"  {refused} inserts refused: {refusal}")
        system.prove()


def assert_quotes_go_on(watcher: Watcher) -> None:
    """Fresh quotes come to a client now."""
    before = watcher.counts["ticks"]
    until(lambda: watcher.counts["ticks"] > before + 20, "quotes go on")
