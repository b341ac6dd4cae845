"""Strikes round the money: a trader's words for them, and the price that stands for the money. Pure.

Words, each counted or measured on the real strike list, whose steps are irregular:

    all         every listed strike
    atm10       ten strikes on each side of the one at the money, and that one
    pct5        the strikes at most 5 % from the price
    delta10     the strikes whose out-of-the-money side has a delta of at least 0.10, both sides of them

The strike at the money is always among them, and what lies between.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from statistics import NormalDist

ALL_STRIKES = "all"
_WORD = re.compile(r"(atm|pct|delta)([0-9]{1,3})")
_RANGES = {"atm": (0, 999), "pct": (1, 100), "delta": (1, 50)}
INDEX_VOLATILITY, OTHER_VOLATILITY = 0.15, 0.30
"""Volatility a year that `delta` reckons with, of an index and of anything else. Fixed: a window that breathed with implied volatility
would subscribe and leave its edges all day. What it means in strikes is in docs/rules.md."""
ANCHOR_SHARE = 0.75
"""How far from the anchor, in strike steps, a price goes before the anchor follows. The more, the calmer the windows; up to 1, a window is
never off by more than one strike."""
_NORMAL = NormalDist()


def check_strikes_word(word: str) -> None:
    """Raise ValueError, with the words that there are, unless `word` is one."""
    _parsed(word)


def _parsed(word: str) -> tuple[str, int]:
    """Return the kind of a word and its number."""
    if word == ALL_STRIKES:
        return ALL_STRIKES, 0
    match = _WORD.fullmatch(word)
    if match is not None:
        kind, number = match[1], int(match[2])
        least, most = _RANGES[kind]
        if least <= number <= most:
            return kind, number
    raise ValueError(
        f"{word[:20]!r} names no strikes; write all, or atm10 for ten on each side of the money (0 to 999), "
        "pct5 for 5 % on each side (1 to 100), delta10 for a delta of 0.10 and more (1 to 50)"
    )


def at_the_money(strikes: Sequence[float], spot: float | None) -> int:
    """Return the place of the strike nearest to `spot` (the lower of two equally near); the middle one when there is no price.

    Args:
        strikes: ascending, not empty · INR.
    """
    if not spot or spot != spot:
        return (len(strikes) - 1) // 2
    right = bisect_left(strikes, spot)
    if right == 0:
        return 0
    if right == len(strikes) or spot - strikes[right - 1] <= strikes[right] - spot:
        return right - 1
    return right


def strikes_window(word: str, strikes: Sequence[float], spot: float | None, *, days: int, volatility: float) -> list[int]:
    """Return the places that a word means, from the money outwards, the lower first of two equally far.

    The delta is the lognormal one without interest: of a call N(d1) with d1 = (ln(S/K) + σ²T/2) / (σ√T), of a put N(d1) − 1
    (Source: Hull, Options, Futures, and Other Derivatives, "The Greek letters"). Time is in whole days: it moves the window once a day.

    Args:
        strikes: ascending, not empty · INR.
        spot: INR; None: the middle strike stands for it.
        days: calendar days to expiry, that one included, at least 1.
        volatility: a year, as a fraction.

    Raises:
        ValueError: it is no such word.
    """
    kind, number = _parsed(word)
    centre = at_the_money(strikes, spot)
    price = spot if spot and spot == spot else strikes[centre]
    low, high = 0, len(strikes)
    if kind == "atm":
        low, high = max(centre - number, 0), min(centre + number + 1, high)
    elif kind != ALL_STRIKES:
        cheapest, dearest = _bounds(kind, number / 100, price, volatility * math.sqrt(days / 365))
        low, high = bisect_left(strikes, cheapest), bisect_right(strikes, dearest)
        low, high = (min(low, centre), max(high, centre + 1)) if low < high else (centre, centre + 1)
    return sorted(range(low, high), key=lambda place: (abs(place - centre), place))


def _bounds(kind: str, share: float, price: float, deviation: float) -> tuple[float, float]:
    """Return the least and the greatest strike. `deviation`: σ√T."""
    if kind == "pct":
        return price * (1 - share), price * (1 + share)
    reach = -_NORMAL.inv_cdf(share) * deviation
    middle = deviation * deviation / 2
    return price * math.exp(middle - reach), price * math.exp(middle + reach)


def anchored(anchor: float | None, price: float, strikes: Sequence[float]) -> float:
    """Return the price that rules are resolved with: `anchor` until the price is ANCHOR_SHARE of a strike step away, then the price.

    The step is the smallest of those beside the strike nearest to the anchor and the one nearest to the price. So a price that
    oscillates within 0.75 of a step moves nothing, and the strike nearest to the anchor is at most one place from the one nearest to the
    price, however irregular the list; of a part of the list (one expiry's) that is true as well.

    Args:
        anchor: the last one · INR; None: there is none yet.
        price: the present one · INR.
        strikes: all listed ones of this underlying, ascending · INR; with fewer than two, the price is taken.
    """
    if anchor is None or len(strikes) < 2:
        return price
    steps = []
    for place in (at_the_money(strikes, anchor), at_the_money(strikes, price)):
        steps += [strikes[right] - strikes[right - 1] for right in (place, place + 1) if 0 < right < len(strikes)]
    return price if abs(price - anchor) >= ANCHOR_SHARE * min(steps) else anchor
