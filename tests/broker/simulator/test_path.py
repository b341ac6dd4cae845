from __future__ import annotations

import math

import numpy as np
import pytest

from broker.simulator.path import MarketNoise, Path, Spots, day_number

AT = 1_795_329_000_123
MINUTE = 60_000
INDIA = 19_800_000


def nifty(seed: int = 7) -> Path:
    return Path("NSE_INDEX|Nifty 50", 24_000.0, 0.12, 0.9, MarketNoise(seed))


def test_a_price_depends_on_seed_key_and_time_alone() -> None:
    first, second = nifty(), nifty()
    second.price(AT - 10 * 86_400_000)
    assert first.price(AT) == second.price(AT)
    assert nifty(8).price(AT) != first.price(AT)


@pytest.mark.parametrize("border", [1000, MINUTE, 86_400_000])
def test_the_walk_has_no_steps_where_seconds_minutes_and_days_meet(border: int) -> None:
    path = nifty()
    edge = (AT + INDIA) // border * border - INDIA
    assert path.price(edge) == pytest.approx(path.price(edge - 1), rel=2e-6)


def test_minutes_of_history_open_and_close_where_the_walk_is() -> None:
    path = nifty()
    day = day_number(AT)
    minute = AT // MINUTE * MINUTE
    at = (minute + 19_800_000) % 86_400_000 // MINUTE
    bars = path.day(day)
    assert bars.open[at] == pytest.approx(path.price(minute), rel=1e-12)
    assert bars.close[at] == pytest.approx(path.price(minute + MINUTE), rel=1e-12)
    assert (bars.high >= np.maximum(bars.open, bars.close)).all()
    assert (bars.low <= np.minimum(bars.open, bars.close)).all()


def test_days_move_as_the_volatility_says_and_stay_near_the_level() -> None:
    path = nifty()
    closes = np.array([path.day(day_number(AT) - back).close[-1] for back in range(300)])
    moves = np.diff(np.log(closes))
    assert moves.std() == pytest.approx(0.12 / math.sqrt(252), rel=0.25)
    assert 0.8 < closes.min() / 24_000 < closes.max() / 24_000 < 1.2


def test_underlyings_move_together() -> None:
    noise = MarketNoise(7)
    first, second = Path("a", 100.0, 0.12, 0.9, noise), Path("b", 5000.0, 0.2, 0.9, noise)
    minutes = [np.diff(np.log(path.day(day_number(AT)).close)) for path in (first, second)]
    assert np.corrcoef(minutes[0], minutes[1])[0, 1] == pytest.approx(0.81, abs=0.06)


def test_many_paths_at_once_are_what_each_is() -> None:
    noise, spots = MarketNoise(7), Spots()
    paths = [Path(f"p{number}", 100.0 + number, 0.2, 0.5, noise) for number in range(5)]
    assert [spots.add(path) for path in paths] == [0, 1, 2, 3, 4]
    for at in (AT, AT + 1, AT + MINUTE, AT - MINUTE):
        assert spots.at(at) == pytest.approx([path.price(at) for path in paths], rel=1e-12)
