"""The connection to the broker breaks or is refused: the feed comes back by itself, asks no more than it may, and loses nothing it had."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from tests.faults.oracle import LOST_MS
from tests.faults.proxied import ProxiedSystem


@pytest.fixture(scope="module")
def system_class() -> type[ProxiedSystem]:
    return ProxiedSystem


def test_connections_dropped_at_random_moments_come_back(system: ProxiedSystem, moments: random.Random, full: bool) -> None:
    times = 10 if full else 2
    reconnects, gaps = system.counter("reconnects_total"), system.counter("gaps_total")
    with system.watched() as watcher, system.memory_bounded():
        for _ in range(times):
            time.sleep(moments.uniform(0.1, 3))
            opened = system.opened()
            assert system.inject("drop", 1) == 1
            system.wait_for(lambda opened=opened: system.is_reconnected(opened))  # type: ignore[misc]
        proof = system.prove()
        assert watcher.stepped_back == []
        assert "reconnecting" in watcher.states
        assert watcher.counts["closed"] == 0, "the client noticed nothing but the feed's state"
    system.wait_for(lambda: system.counter("gaps_total") >= gaps + times)
    assert system.counter("reconnects_total") == reconnects + times
    assert system.counter("gaps_total") == gaps + times
    print(f"  {times} drops, {watcher.states.count('reconnecting')} told, {proof.lost} frames lost")


def test_a_connection_cut_inside_a_frame_or_reset_comes_back(system: ProxiedSystem, moments: random.Random, full: bool) -> None:
    for _ in range(5 if full else 1):
        opened, cuts = system.opened(), system.proxy.counts["cut"]
        system.proxy.cut_after(moments.randrange(1, 3000))
        system.wait_for(lambda cuts=cuts: system.proxy.counts["cut"] > cuts)  # type: ignore[misc]
        system.wait_for(lambda opened=opened: system.is_reconnected(opened))  # type: ignore[misc]
        opened, resets = system.opened(), system.proxy.counts["reset"]
        assert system.proxy.cut(reset=True) >= 1
        assert system.proxy.counts["reset"] > resets
        system.wait_for(lambda opened=opened: system.is_reconnected(opened))  # type: ignore[misc]
    print(f"\n  {system.proxy.counts['cut']} cut, {system.proxy.counts['reset']} reset")
    system.prove()


def test_a_host_that_refuses_connections_costs_no_storm(system: ProxiedSystem, full: bool) -> None:
    times = 4 if full else 2
    opened, refused = system.opened(), system.proxy.counts["refused"]
    system.proxy.refuse()
    assert system.inject("drop", 1) == 1
    system.wait_for(lambda: system.proxy.counts["refused"] >= refused + times)
    system.proxy.clear()
    system.wait_for(lambda: system.is_reconnected(opened))
    print(f"\n  {system.proxy.counts['refused'] - refused} refused connections")
    assert system.opened() == opened + 1
    system.prove()


PAGE_AT_AUTHORISE: dict[str, Any] = {"kind": "refuse", "status": 503, "body": "html"}
PAGE_AT_UPGRADE: dict[str, Any] = {"kind": "refuse", "status": 502, "body": "html", "at": "upgrade"}
BLOCKED: dict[str, Any] = {"kind": "refuse", "status": 403}
TOO_MANY: dict[str, Any] = {"kind": "refuse", "status": 429, "body": "html", "at": "upgrade", "retry_after": 1}
TOO_MANY_CALLS: dict[str, Any] = {"kind": "refuse", "status": 429, "retry_after": 1}
SPENT_CODE: dict[str, Any] = {"kind": "spent_code"}
NO_ROOM: dict[str, Any] = {"kind": "connection_limit", "limit": 0}
OUTAGES = [[PAGE_AT_AUTHORISE, SPENT_CODE, NO_ROOM], [TOO_MANY]]
MORE_OUTAGES = [[BLOCKED], [PAGE_AT_UPGRADE], [TOO_MANY_CALLS], [NO_ROOM]]
"""Each: what the broker answers after a drop, every kind once, before it serves again."""


@pytest.mark.long
def test_refusals_are_told_and_over_when_the_broker_serves_again(system: ProxiedSystem, full: bool) -> None:
    system.begin_authorise_windows()
    for faults in OUTAGES + MORE_OUTAGES if full else OUTAGES:
        opened, authorised = system.opened(), system.authorised()
        happened = [system.happened(fault["kind"]) for fault in faults]
        with system.watched() as watcher:
            for fault in faults:
                system.exchange.fault(**fault, count=1)
            assert system.inject("drop", 1) == 1
            system.wait_for(lambda opened=opened: system.is_reconnected(opened))  # type: ignore[misc]
            assert "reconnecting" in watcher.states
            assert "token_expired" not in watcher.states
        assert [system.happened(fault["kind"]) - before for fault, before in zip(faults, happened, strict=True)] == [1] * len(faults)
        calls = system.authorised() - authorised
        print(f"\n  {' and '.join(str(fault) for fault in faults)}: {calls} authorise calls", end="")
        assert calls == len(faults) + 1
    print()
    assert "<h1>" not in system.log(system.feed)
    assert "code=" not in system.log(system.feed)
    system.prove()


def test_a_slow_drip_is_taken_late_and_whole_and_given_up_when_it_stays_too_slow(system: ProxiedSystem, full: bool) -> None:
    opened, dripped = system.opened(), system.proxy.counts["dripped"]
    system.proxy.drip(8_000)
    system.wait_for(lambda: system.proxy.counts["dripped"] >= dripped + 60)
    if full:  # the pong waits behind ever more frames; past 10 s the connection is given up
        system.wait_for(lambda: system.opened() > opened)
    system.proxy.clear()
    print(f"\n  {system.proxy.counts['dripped'] - dripped} drips, {system.opened() - opened} new connections")
    assert full or system.opened() == opened
    system.prove(lost_ms=60_000 if full else LOST_MS)
