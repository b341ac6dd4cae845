"""Nothing comes: whether that is a night, a mute broker or a dead network. Quiet is left alone, dead is replaced."""

from __future__ import annotations

import time

import pytest

from broker.liveness import MUTE_SECONDS
from tests.faults.proxied import ProxiedSystem


@pytest.fixture(scope="module")
def system_class() -> type[ProxiedSystem]:
    return ProxiedSystem


@pytest.mark.long
def test_a_holiday_is_quiet_and_its_connection_is_left_alone_until_the_market_opens(system: ProxiedSystem, full: bool) -> None:
    opened, authorised, mute = system.opened(), system.authorised(), system.counter("mute_total")
    with system.watched() as watcher:
        assert system.inject("holiday", 1) == 1
        system.wait_for(lambda: watcher.state == "quiet")
        quiet_ms = time.time() * 1000
        system.wait_for(lambda: system.status().reported_ms > quiet_ms + 1000)  # the count of what had come by then
        frames, began = system.status().counters["frames_received_total"], time.monotonic()
        while time.monotonic() < began + (3 * MUTE_SECONDS if full else 12):  # nothing comes: only time can show that nothing is done
            assert system.shard()["state"] == "quiet"
            time.sleep(1)
        assert system.status().counters["frames_received_total"] == frames
        assert (system.opened(), system.authorised(), system.counter("mute_total")) == (opened, authorised, mute)
        system.exchange.fault(kind="clear")
        system.wait_for(lambda: watcher.state == "live")
        print(f"\n  {time.monotonic() - began:.0f} s without a frame, told: {' → '.join(watcher.states)}")
    assert (system.opened(), system.authorised()) == (opened, authorised)
    system.prove()


@pytest.mark.long
def test_a_connection_made_in_the_night_is_quiet_too(system: ProxiedSystem) -> None:
    opened = system.opened()
    system.exchange.fault(kind="holiday")
    assert system.inject("drop", 1) == 1
    system.wait_for(lambda: system.opened() > opened and system.shard()["state"] == "quiet")
    connections = system.opened()
    time.sleep(3)
    assert (system.opened(), system.shard()["state"]) == (connections, "quiet")
    system.exchange.fault(kind="clear")
    system.wait_for(system.is_live)
    assert connections == opened + 1
    system.prove()


def test_a_socket_that_is_open_but_mute_while_the_market_trades_is_replaced(system: ProxiedSystem, full: bool) -> None:
    opened, mute, gaps = system.opened(), system.counter("mute_total"), system.counter("gaps_total")
    with system.watched() as watcher:
        began = time.monotonic()
        assert system.inject("mute", 50) >= 50
        system.wait_for(lambda: watcher.state == "stale")
        stale = time.monotonic() - began
        system.wait_for(lambda: system.counter("mute_total") == mute + 1)
        replaced = time.monotonic() - began
        system.exchange.fault(kind="clear")
        system.wait_for(lambda: system.is_reconnected(opened))
        print(f"\n  stale after {stale:.0f} s, replaced after {replaced:.0f} s, told: {' → '.join(watcher.states)}")
    assert replaced > MUTE_SECONDS - 5
    system.wait_for(lambda: system.counter("gaps_total") == gaps + 1)
    system.prove()


@pytest.mark.long
def test_a_network_that_stalls_is_noticed_by_the_missing_pong(system: ProxiedSystem) -> None:
    opened, stalled, gaps = system.opened(), system.proxy.counts["stalled"], system.counter("gaps_total")
    with system.watched() as watcher:
        system.proxy.stall()
        began = time.monotonic()
        system.wait_for(lambda: watcher.state == "reconnecting")
        noticed = time.monotonic() - began
        assert system.proxy.counts["stalled"] > stalled
        system.proxy.clear()
        system.wait_for(lambda: system.is_reconnected(opened))
        print(f"\n  noticed after {noticed:.0f} s, told: {' → '.join(watcher.states)}")
    system.wait_for(lambda: system.counter("gaps_total") == gaps + 1)
    system.prove(lost_ms=60_000)  # the exchange wrote into a connection that nobody read any more
