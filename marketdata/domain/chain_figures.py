"""Figures of a whole chain that follow from all its strikes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

SKEW_DELTA = 0.25


def ratio(puts: float, calls: float) -> float | None:
    """Puts divided by calls, to six places; None without calls."""
    return round(puts / calls, 6) if calls else None


def max_pain(strikes: Sequence[float], call_oi: Sequence[float], put_oi: Sequence[float]) -> float | None:
    """The listed strike at which the holders of all open options together would be paid least if the underlying ended there.

    What is paid at S: Σ call_oi · max(S − K, 0) + Σ put_oi · max(K − S, 0). It bends only at strikes: the least is at one of them.

    Args:
        strikes: ascending · INR.
        call_oi, put_oi: of each strike · units.

    Returns:
        INR, the lowest such strike; None when nobody holds anything.
    """
    below, above = 0.0, float(sum(put_oi))  # calls that pay at or below a strike, puts that pay above it
    if not above and not any(call_oi):
        return None
    paid = least = 0.0  # against what is paid at the first strike
    found = before = strikes[0]
    for strike, calls, puts in zip(strikes, call_oi, put_oi, strict=True):
        paid += (strike - before) * (below - above)
        if paid < least:
            least, found = paid, strike
        below, above, before = below + calls, above - puts, strike
    return found


def volatility_at_delta(options: Iterable[tuple[float | None, float | None]], delta: float = SKEW_DELTA) -> float | None:
    """Volatility where |delta| is so much, linearly between the two neighbouring strikes.

    Args:
        options: (delta, volatility) of one side from the money outwards; those of which either is unknown are passed over.
        delta: above 0.

    Returns:
        a fraction; None when no two neighbours enclose that delta.
    """
    before: tuple[float, float] | None = None
    for signed, volatility in options:
        if signed is None or not volatility:
            continue
        size = abs(signed)
        if size <= delta:
            if size == delta:
                return volatility
            if before is None:
                return None
            weight = (before[0] - delta) / (before[0] - size)
            return before[1] + weight * (volatility - before[1])
        before = size, volatility
    return None
