"""Market statistics, by hand and against a slower way of counting."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.domain.statistics import Standing, market_statistics

PRICES = st.one_of(st.none(), st.floats(0.05, 1e6))


def standing(number: int, last: float | None, base: float | None, volume: int | None = None) -> Standing:
    return Standing(f"K{number:03}", number, last, base, volume)


def test_a_change_needs_both_prices() -> None:
    assert standing(1, 110.0, 100.0).change_percent == pytest.approx(10)
    for last, base in ((None, 100.0), (100.0, None), (100.0, 0.0)):
        assert standing(1, last, base).change_percent is None


def test_each_instrument_is_counted_in_one_place() -> None:
    found = market_statistics(
        [standing(1, 110, 100, 5), standing(2, 90, 100, 9), standing(3, 100, 100, 0), standing(4, None, 100), standing(5, 120, 100, 9)], 10
    )
    assert (found.advances, found.declines, found.unchanged, found.unknown) == (2, 1, 1, 1)
    assert [row.instrument for row in found.gainers] == [5, 1]
    assert [row.instrument for row in found.losers] == [2]
    assert [row.instrument for row in found.most_active] == [2, 5, 1]  # equal volumes in order of key


def test_value_and_open_interest_have_lists_of_their_own() -> None:
    """As on the exchange's page: turnover is volume times the day's average price, interest is counted in units."""
    options = [
        Standing("A", 1, 10.0, 10.0, 1000, 11.0, 5000.0, 4000.0),
        Standing("B", 2, 10.0, 10.0, 100, 200.0, 3000.0, 4500.0),
        Standing("C", 3, 10.0, 10.0, 500, None, 900.0, None),
        Standing("D", 4, 10.0, 10.0, None, None, 7000.0, 0.0),
    ]
    found = market_statistics(options, 10)
    assert [row.key for row in found.most_active] == ["A", "C", "B"]
    assert [(row.key, row.value) for row in found.most_active_by_value] == [("B", 20_000.0), ("A", 11_000.0)]
    assert [(row.key, row.interest_change) for row in found.oi_gainers] == [("D", 7000.0), ("A", 1000.0)]
    assert [(row.key, row.interest_change) for row in found.oi_losers] == [("B", -1500.0)]
    assert [row.interest_change_percent for row in options] == [pytest.approx(25.0), pytest.approx(-100 / 3), None, None]


@given(st.lists(st.tuples(PRICES, PRICES, st.one_of(st.none(), st.integers(0, 10**9)))), st.integers(1, 5))
def test_it_equals_sorting_everything(rows: list[tuple[float | None, float | None, int | None]], count: int) -> None:
    standings = [standing(number, *row) for number, row in enumerate(rows)]
    found = market_statistics(standings, count)
    assert found.advances + found.declines + found.unchanged + found.unknown == len(rows)
    changes = [(row.change_percent, row) for row in standings if row.change_percent]
    assert found.gainers == [row for change, row in sorted(changes, key=lambda pair: (-pair[0], pair[1].key)) if change > 0][:count]
    assert found.losers == [row for change, row in sorted(changes, key=lambda pair: (pair[0], pair[1].key)) if change < 0][:count]
    active = sorted((row for row in standings if row.volume), key=lambda row: (-(row.volume or 0), row.key))
    assert found.most_active == active[:count]
