from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from broker.simulator.contract import Contract, Kind
from broker.simulator.source import Bar
from broker.simulator.tape import Tape

START = 1_795_329_000_000
MINUTE = 60_000
DAY_MS = 1_795_285_800_000
OPTION = Contract("NSE_FO|1", Kind.OPTION, "NSE_INDEX|Nifty 50", 1, 24_000.0, START + 10**9, 0.05, 65, "NSE_FO")


def tape_of(count: int) -> Tape:
    tape = Tape()
    for number in range(count):
        tape.add(OPTION._replace(key=f"NSE_FO|{number}"), 0, number, 1.0)
    return tape


def fold(tape: Tape, slot: int, at_ms: int, price: float, quantity: int) -> None:
    tape.fold(np.array([slot]), np.array([at_ms]), np.array([price]), np.array([quantity]))


def test_columns_grow_and_keep_what_they_hold() -> None:
    tape = tape_of(255)
    fold(tape, 254, START, 10.0, 65)
    slots = [tape.add(OPTION._replace(strike=float(number)), 1, number, 2.0) for number in range(300)]
    assert slots == list(range(255, 555))
    assert tape.last[254] == 10.0
    assert tape.strike[slots].tolist() == [float(number) for number in range(300)]
    assert tape.contracts[554].strike == 299.0


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40_000), st.integers(1, 4000), st.integers(1, 9)), min_size=1, max_size=60))
def test_bars_are_the_fold_of_every_trade(trades: list[tuple[int, int, int, int]]) -> None:
    tape = tape_of(3)
    at_ms = START
    expected: dict[int, dict[int, list[tuple[float, int]]]] = {0: {}, 1: {}, 2: {}}
    for slot, later, ticks, lots in trades:
        at_ms += later
        price = round(ticks * 0.05, 4)
        fold(tape, slot, at_ms, price, lots * 65)
        expected[slot].setdefault(at_ms // MINUTE * MINUTE, []).append((price, lots * 65))
    for slot, minutes in expected.items():
        found = tape.minutes.of(slot, 0, 1 << 60)
        forming = tape.forming(slot)
        if forming is not None:
            found[forming.start_ms] = forming
        assert found == {
            start: Bar(start, folded[0][0], max(folded)[0], min(folded)[0], folded[-1][0], sum(units for _, units in folded), 0)
            for start, folded in minutes.items()
        }
        assert tape.volume[slot] == sum(bar.volume for bar in found.values())


def test_a_minute_is_shown_as_finished_when_it_is_over() -> None:
    tape = tape_of(1)
    fold(tape, 0, START + 5, 10.0, 65)
    fold(tape, 0, START + 59_999, 11.0, 130)
    tape.finish_before(np.array([0]), START)
    assert tape.done_ms[0] == 0
    tape.finish_before(np.array([0]), START + MINUTE)
    assert (tape.done_ms[0], tape.done_open[0], tape.done_close[0], tape.done_volume[0]) == (START, 10.0, 11.0, 195)
    assert tape.forming(0) is None


def test_a_minute_that_was_already_shown_makes_no_second_bar() -> None:
    tape = tape_of(1)
    tape.day_ms[0], tape.done_ms[0] = DAY_MS, START
    fold(tape, 0, START + 59_990, 10.0, 65)
    fold(tape, 0, START + 60_010, 11.0, 65)
    assert tape.minutes.of(0, 0, 1 << 60) == {}
    assert tape.done_ms[0] == START
    tape.finish(np.array([0]))
    assert list(tape.minutes.of(0, 0, 1 << 60)) == [START + MINUTE]


def test_the_first_trade_of_a_day_closes_the_day_before() -> None:
    tape = tape_of(1)
    fold(tape, 0, DAY_MS + 1, 10.0, 65)
    fold(tape, 0, DAY_MS + 86_399_999, 12.0, 65)
    assert tape.day_bar(0) == Bar(DAY_MS, 10.0, 12.0, 10.0, 12.0, 130, 0)
    fold(tape, 0, DAY_MS + 86_400_000, 9.0, 195)
    assert tape.days[0] == [Bar(DAY_MS, 10.0, 12.0, 10.0, 12.0, 130, 0)]
    assert tape.day_bar(0) == Bar(DAY_MS + 86_400_000, 9.0, 9.0, 9.0, 9.0, 195, 0)
    assert (tape.done_ms[0], tape.value[0]) == (0, 9.0 * 195)
    assert list(tape.minutes.of(0, 0, 1 << 60)) == [DAY_MS, DAY_MS + 86_340_000]
