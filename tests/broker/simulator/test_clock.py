"""The market's clock: the host's while nothing else is asked for, stopped where it is told to stand."""

from __future__ import annotations

from broker.simulator.clock import HostClock


def test_the_hosts_clock_is_the_markets_until_it_stands() -> None:
    clock = HostClock()
    assert clock.advance(1_000) == [1_000]
    assert clock.advance(1_020) == [1_020]
    clock.stand(1_040)
    clock.stand(5_040)
    assert clock.advance(5_060) == [1_040]
    assert clock.advance(6_060) == [2_040]


def test_a_pause_before_the_first_moment_begins_when_it_is_seen() -> None:
    clock = HostClock()
    clock.stand(1_000)
    clock.stand(3_000)
    assert clock.advance(3_010) == [1_010]
