from __future__ import annotations

import numpy as np
import pytest

from broker.simulator import bars
from broker.simulator.bars import Minutes
from broker.simulator.source import Bar

START = 1_795_329_000_000
MINUTE = 60_000


def keep(minutes: Minutes, start_ms: list[int], slots: list[int], price: float = 145.35) -> None:
    count = len(slots)
    prices = np.full((4, count), price)
    prices[1] += 0.05
    minutes.keep(np.array(start_ms), np.array(slots), prices, np.full(count, 65), np.full(count, 130))


def test_bars_come_back_exactly_by_slot_and_time() -> None:
    minutes = Minutes()
    keep(minutes, [START, START + MINUTE], [3, 4])
    keep(minutes, [START + MINUTE], [3])
    assert minutes.of(3, START, START + MINUTE) == {START: Bar(START, 145.35, 145.4, 145.35, 145.35, 65, 130)}
    assert list(minutes.of(3, START, START + 2 * MINUTE)) == [START, START + MINUTE]
    assert list(minutes.of(4, 0, 1 << 60)) == [START + MINUTE]
    assert minutes.of(5, 0, 1 << 60) == {}


def test_bars_older_than_two_days_are_dropped_and_counted() -> None:
    minutes = Minutes()
    keep(minutes, [START], [1])
    keep(minutes, [START + bars.KEPT_MS + MINUTE], [1])
    assert list(minutes.of(1, 0, 1 << 60)) == [START + bars.KEPT_MS + MINUTE]
    assert minutes.dropped_total == 1


def test_no_more_bars_are_kept_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bars, "KEPT_BARS", 10)
    minutes = Minutes()
    for number in range(20):
        keep(minutes, [START + number * MINUTE] * 2, [1, 2])
    assert list(minutes.of(1, 0, 1 << 60)) == [START + number * MINUTE for number in range(15, 20)]
    assert minutes.dropped_total == 30
