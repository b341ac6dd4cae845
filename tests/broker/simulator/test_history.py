from __future__ import annotations

from datetime import date, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from broker.simulator import calendar
from broker.simulator.contract import Contract, Kind
from broker.simulator.history import LISTED_MS, History, uniform
from broker.simulator.path import MarketNoise, Path, Spots
from broker.simulator.tape import Tape

MONDAY = date(2026, 11, 23)
MIDNIGHT = calendar.midnight_ms(MONDAY)
NOW = int(datetime(2026, 11, 23, 11, 20, 30, tzinfo=ZoneInfo("Asia/Kolkata")).timestamp() * 1000)
KINDS = (
    Contract("NSE_INDEX|Nifty 50", Kind.INDEX, "NSE_INDEX|Nifty 50", 0, 0.0, 0, 0.05, 1, "NSE_INDEX"),
    Contract("NSE_FO|1", Kind.FUTURE, "NSE_INDEX|Nifty 50", 0, 0.0, calendar.expiry_ms(date(2026, 12, 29)), 0.1, 65, "NSE_FO"),
    Contract("NSE_FO|2", Kind.OPTION, "NSE_INDEX|Nifty 50", 1, 24_000.0, calendar.expiry_ms(date(2026, 12, 29)), 0.05, 65, "NSE_FO"),
    Contract("NSE_FO|3", Kind.OPTION, "NSE_INDEX|Nifty 50", -1, 24_000.0, calendar.expiry_ms(date(2026, 12, 1)), 0.05, 65, "NSE_FO"),
)


@pytest.fixture
def tape() -> Tape:
    return Tape()


@pytest.fixture
def history(tape: Tape) -> History:
    noise, spots = MarketNoise(3), Spots()
    vix = spots.add(Path("vix", 13.0, 0.9, -0.8, noise))
    nifty = spots.add(Path("NSE_INDEX|Nifty 50", 24_000.0, 0.12, 0.9, noise))
    for number, contract in enumerate(KINDS):
        tape.add(contract, nifty, number + 1, 1.0)
    found = History(tape, spots, vix, "always")
    slots = np.arange(len(KINDS))
    tape.pace[slots] = found.opening(slots, "NSE_FO", MONDAY).pace
    return found


@pytest.mark.parametrize("slot", range(len(KINDS)))
def test_minutes_make_the_day(history: History, slot: int) -> None:
    minutes = history.minutes(slot, MONDAY, MIDNIGHT, NOW)
    figures = history.day(np.array([slot]), "NSE_FO", NOW)
    assert len(minutes) == 11 * 60 + 21
    assert [bar.start_ms for bar in minutes] == list(range(MIDNIGHT, NOW, 60_000))
    # The day's extremes value an option by its present volatility, the minutes each by its own.
    slack = 0.2 * figures.open[0] if slot >= 2 else 1e-9
    assert max(bar.high for bar in minutes[:-1]) == pytest.approx(figures.high[0], abs=max(slack, figures.high[0] * 2e-3))
    assert sum(bar.volume for bar in minutes[:-1]) == figures.volume[0]
    assert minutes[0].open == figures.open[0]
    for bar in minutes:
        assert bar.low <= min(bar.open, bar.close) <= max(bar.open, bar.close) <= bar.high


def test_the_last_minute_is_the_last_of_the_minutes(history: History) -> None:
    slots = np.arange(len(KINDS))
    shown = history.last_minute(slots, "NSE_FO", NOW)
    assert shown is not None
    for slot in slots.tolist():
        bar = history.minutes(slot, MONDAY, NOW - 90_000, NOW - 30_000)[-1]
        assert bar[:6] == (shown.start_ms, shown.open[slot], shown.high[slot], shown.low[slot], shown.close[slot], shown.volume[slot])
    assert history.last_minute(slots, "NSE_FO", MIDNIGHT + 59_999) is None


def test_indices_have_no_volume_and_no_open_interest(history: History) -> None:
    assert {(bar.volume, bar.open_interest) for bar in history.minutes(0, MONDAY, MIDNIGHT, NOW)} == {(0, 0)}


def test_volumes_and_open_interest_come_in_lots(history: History) -> None:
    for slot in (1, 2, 3):
        for bar in history.minutes(slot, MONDAY, MIDNIGHT, NOW):
            assert bar.volume % 65 == bar.open_interest % 65 == 0
            assert bar.volume > 0
            assert bar.open_interest > 0


def test_a_daily_bar_holds_its_minutes(history: History) -> None:
    friday = date(2026, 11, 20)
    midnight = calendar.midnight_ms(friday)
    minutes = history.minutes(1, friday, midnight + 555 * 60_000, midnight + 940 * 60_000)
    bar = history.day_bar(1, friday)
    assert bar is not None
    assert len(minutes) == 385
    assert bar.volume == sum(minute.volume for minute in minutes)
    assert bar.start_ms == midnight
    assert bar.close == pytest.approx(minutes[-1].close, rel=1e-4)
    assert history.opening(np.array([1]), "NSE_FO", MONDAY).previous_close[0] == bar.close


def test_a_contract_has_no_candles_before_it_was_listed_or_after_it_ended(history: History) -> None:
    expiry = KINDS[3].expiry_ms
    for ms, listed in (
        (expiry, True),
        (expiry + 86_400_000, False),
        (expiry - LISTED_MS + 86_400_000, True),
        (expiry - LISTED_MS - 86_400_000, False),
    ):
        day = calendar.day_of(ms)
        assert (history.day_bar(3, day) is not None) == listed
        assert bool(history.minutes(3, day, 0, 1 << 50)) == listed


def test_near_options_trade_more_than_wings_and_indices_do_not_trade(history: History, tape: Tape) -> None:
    wing = tape.add(KINDS[3]._replace(strike=15_000.0), 1, 9, 1.0)
    pace = history.opening(np.array([0, 3, wing]), "NSE_FO", MONDAY).pace
    assert pace[0] == 0
    assert pace[1] > 1.5
    assert pace[2] == pytest.approx(0.5, abs=0.01)


def test_hashed_numbers_are_even_and_depend_on_both_arguments() -> None:
    many = uniform(np.arange(1000)[:, None], np.arange(100)[None, :])
    assert many.shape == (1000, 100)
    assert 0 <= many.min() < many.max() < 1
    assert many.mean() == pytest.approx(0.5, abs=0.01)
    assert len(np.unique(many)) > 99_000
