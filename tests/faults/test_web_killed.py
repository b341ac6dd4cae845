"""A web process is killed: the others and the store do not notice, its clients connect anew and get whole quotes that are right."""

from __future__ import annotations

import random
import time

import pytest

from tests.faults.servers import until
from tests.faults.system import System

pytestmark = pytest.mark.long


def test_a_web_process_killed_at_random_moments_costs_its_clients_nothing_but_the_time(
    system: System, moments: random.Random, full: bool
) -> None:
    rounds = 10 if full else 2
    with system.watched() as watcher, system.memory_bounded():
        before = system.counter("reconnects_total")
        for _ in range(rounds):
            time.sleep(moments.uniform(0.2, 2))
            connections, closed = watcher.counts["connections"], watcher.counts["closed"]
            system.kill(system.web)
            until(lambda closed=closed: watcher.counts["closed"] > closed, "the client's connection is gone")  # type: ignore[misc]
            stored = system.ticks_stored()
            until(lambda stored=stored: system.ticks_stored() > stored, "storage goes on")  # type: ignore[misc]
            system.web.start()
            until(lambda connections=connections: watcher.counts["connections"] > connections, "the client is back")  # type: ignore[misc]
            system.wait_for(system.is_live)
        assert system.counter("reconnects_total") == before
        system.prove()
        assert watcher.counts["connections"] > rounds  # past five crashes in 30 s also refused ones: the dead still count for the limit
