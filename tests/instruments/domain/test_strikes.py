"""Strikes round the money: the words, and the anchor that keeps windows still."""

from __future__ import annotations

import csv
import gzip
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyvolr import bs

from instruments.domain.strikes import ANCHOR_SHARE, anchored, at_the_money, check_strikes_word, strikes_window
from tests.instruments.rows import REAL_MASTER

MINUTES = REAL_MASTER.with_name("nifty_1m_2024-01_2024-08.csv.gz")
LADDER = [float(strike) for strike in range(20_000, 30_001, 50)]
ladders = st.lists(st.integers(1, 2_000), min_size=2, max_size=60, unique=True).map(lambda found: [25.0 * each for each in sorted(found)])


def window(word: str, spot: float | None, ladder: list[float] = LADDER, *, days: int = 7, volatility: float = 0.15) -> list[float]:
    return [ladder[place] for place in strikes_window(word, ladder, spot, days=days, volatility=volatility)]


@pytest.mark.parametrize("word", ["all", "atm0", "atm10", "atm999", "pct1", "pct100", "delta1", "delta50"])
def test_the_words_there_are(word: str) -> None:
    check_strikes_word(word)


@pytest.mark.parametrize(
    "word", ["", "atm", "ATM5", "10", "all ", "atm1000", "atm-1", "pct0", "pct101", "pct2.5", "delta0", "delta51", "delta"]
)
def test_other_words_are_refused_with_those_there_are(word: str) -> None:
    for ask in (check_strikes_word, lambda wrong: strikes_window(wrong, LADDER, 25_000.0, days=1, volatility=0.1)):
        with pytest.raises(ValueError, match=r"write all, or atm10 .* pct5 .* delta10"):
            ask(word)


@pytest.mark.parametrize(
    ("word", "spot", "lowest", "highest", "count"),
    [
        ("atm0", 25_012.0, 25_000, 25_000, 1),
        ("atm2", 25_026.0, 24_950, 25_150, 5),
        ("atm2", 20_010.0, 20_000, 20_100, 3),
        ("pct1", 25_012.0, 24_800, 25_250, 10),  # 24,761.88 to 25,262.12
        ("pct1", 25_000.0, 24_750, 25_250, 11),  # the edges belong to it
        ("pct1", 100.0, 20_000, 20_000, 1),  # the money outside the list: its nearest strike alone
        ("all", 25_012.0, 20_000, 30_000, 201),
        ("atm1", None, 24_950, 25_050, 3),
        ("pct1", None, 24_750, 25_250, 11),
    ],
)
def test_a_word_means_the_strikes_a_person_counts(word: str, spot: float | None, lowest: float, highest: float, count: int) -> None:
    found = window(word, spot)
    assert (min(found), max(found), len(found)) == (lowest, highest, count)


def test_a_window_goes_from_the_money_outwards() -> None:
    assert window("atm2", 25_012.0) == [25_000, 24_950, 25_050, 24_900, 25_100]
    assert window("pct1", 25_020.0, [20_000.0, 24_800.0, 25_000.0, 25_005.0]) == [25_005, 25_000, 24_800]


@pytest.mark.parametrize("days", [1, 7, 30, 180])
@pytest.mark.parametrize(("number", "volatility"), [(5, 0.15), (10, 0.15), (25, 0.3), (50, 0.15)])
def test_delta_words_mean_what_another_library_computes(number: int, volatility: float, days: int) -> None:
    spot = 25_012.0
    strikes = np.array(LADDER)
    calls = bs.delta("c", spot, strikes, days / 365, 0.0, volatility)
    outside = np.minimum(calls, 1 - calls)
    expected = {strike for strike, delta in zip(LADDER, outside, strict=True) if delta >= number / 100} | {25_000.0}
    between = {strike for strike in LADDER if min(expected) <= strike <= max(expected)}  # the greatest deltas are not at the money itself
    assert set(window(f"delta{number}", spot, days=days, volatility=volatility)) == between
    assert number == 50 or len(expected) > 3


@given(ladders, st.floats(1, 60_000), st.sampled_from(["atm0", "atm7", "pct3", "delta10", "delta50", "all"]), st.integers(1, 400))
def test_every_window_is_of_neighbours_and_holds_the_money(ladder: list[float], spot: float, word: str, days: int) -> None:
    places = strikes_window(word, ladder, spot, days=days, volatility=0.15)
    centre = at_the_money(ladder, spot)
    assert places[0] == centre
    assert sorted(places) == list(range(min(places), max(places) + 1))
    distances = [abs(place - centre) for place in places]
    assert distances == sorted(distances)


@given(ladders, st.lists(st.floats(1, 60_000), min_size=1, max_size=30))
def test_a_window_is_never_off_by_more_than_one_strike(ladder: list[float], prices: list[float]) -> None:
    """However irregular the list; and of any part of it, as one expiry lists."""
    part = [strike for number, strike in enumerate(ladder) if number % 3 != 1]
    anchor: float | None = None
    for price in prices:
        anchor = anchored(anchor, price, ladder)
        for strikes in (ladder, part):
            assert abs(at_the_money(strikes, anchor) - at_the_money(strikes, price)) <= 1


@given(st.integers(0, 199), st.floats(-0.5, 0.5), st.lists(st.floats(-0.37, 0.37), min_size=2, max_size=50))
def test_a_price_that_oscillates_round_a_midpoint_does_not_flap(place: int, off: float, swings: list[float]) -> None:
    """Wherever it oscillates: within three quarters of a step the money moves at most with the first price."""
    middle = (LADDER[place] + LADDER[place + 1]) / 2 + off * 50
    anchor = middle + swings[0] * 50
    nearest = set()
    for swing in swings:
        price = middle + swing * 50
        anchor = anchored(anchor, price, LADDER)
        nearest.add(at_the_money(LADDER, anchor))
    assert len(nearest) == 1


@given(st.lists(st.floats(21_000, 29_000), min_size=2, max_size=60))
def test_an_anchor_moves_only_by_three_quarters_of_a_step_and_more(prices: list[float]) -> None:
    anchor = anchored(None, prices[0], LADDER)
    assert anchor == prices[0]
    for price in prices[1:]:
        moved = anchored(anchor, price, LADDER)
        assert moved in (anchor, price)
        assert (moved == price) == (abs(price - anchor) >= ANCHOR_SHARE * 50 or price == anchor)
        anchor = moved


def test_the_step_is_that_beside_the_money() -> None:
    ladder = [20_000.0, 24_000.0, 24_100.0, 24_200.0, 24_250.0, 24_300.0, 28_000.0]
    assert anchored(24_110.0, 24_184.0, ladder) == 24_184.0  # 24,200 has a step of 50 beside it
    assert anchored(24_090.0, 24_140.0, ladder) == 24_090.0  # 100 on both sides here
    assert anchored(24_090.0, 24_165.0, ladder) == 24_165.0
    assert anchored(20_000.0, 22_000.0, ladder) == 20_000.0  # 4,000


@pytest.mark.parametrize("ladder", [[], [25_000.0]])
def test_without_a_step_the_price_is_taken(ladder: list[float]) -> None:
    assert anchored(25_000.0, 25_000.05, ladder) == 25_000.05


def test_a_midpoint_without_an_anchor_would_flap() -> None:
    """Why there are anchors: the strike nearest to the price itself changes with each swing of a rupee."""
    prices = [25_024.0, 25_026.0] * 5
    assert len({at_the_money(LADDER, price) for price in prices}) == 2
    anchors, anchor = [], None
    for price in prices:
        anchor = anchored(anchor, price, LADDER)
        anchors.append(anchor)
    assert anchors == [25_024.0] * 10
    assert math.isclose(ANCHOR_SHARE, 0.75)


@pytest.mark.realdata
@pytest.mark.skipif(not MINUTES.exists(), reason=f"the real minutes are not at {MINUTES}")
def test_eight_real_months_move_the_money_an_eighth_as_often_and_never_off_by_two() -> None:
    """Each minute as its open, low, high, close, or high before low in a falling one."""
    price_moves = anchor_moves = 0
    anchor = previous = None
    with gzip.open(MINUTES, "rt") as file:
        for row in csv.DictReader(file):
            opened, low, high, close = (float(row[name]) for name in ("Open", "Low", "High", "Close"))
            for price in (opened, low, high, close) if close >= opened else (opened, high, low, close):
                anchor = anchored(anchor, price, LADDER)
                places = at_the_money(LADDER, price), at_the_money(LADDER, anchor)
                assert abs(places[0] - places[1]) <= 1
                if previous is not None:
                    price_moves += places[0] != previous[0]
                    anchor_moves += places[1] != previous[1]
                previous = places
    assert price_moves > 16_000
    assert 7 * anchor_moves < price_moves
