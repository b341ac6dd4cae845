"""What an option chain says: the shapes of its rows and figures, and the words for its strikes. Pure.

Apart from `chain`, so that who only reads or writes them need not load the library of option values.
"""

from __future__ import annotations

import re
from typing import NamedTuple

ALL = "all"
MOST_EACH_SIDE = 200
_AROUND_MONEY = re.compile(r"atm([0-9]{1,3})")


class OptionQuote(NamedTuple):
    """What the feed says of one option. Prices INR, quantities and interest units, `implied_volatility` a fraction; None = not known."""

    last_price: float | None = None
    last_trade_ms: int | None = None
    previous_close: float | None = None
    bid_price: float | None = None
    bid_quantity: int | None = None
    ask_price: float | None = None
    ask_quantity: int | None = None
    volume: int | None = None
    open_interest: float | None = None
    implied_volatility: float | None = None
    delta: float | None = None
    theta: float | None = None
    gamma: float | None = None
    vega: float | None = None
    rho: float | None = None


class InterestBase(NamedTuple):
    """Open interest to compare with, units; None = not known. `day_start`: the day's first · `previous_close`: the day before's last."""

    day_start: float | None = None
    previous_close: float | None = None


class Side(NamedTuple):
    """One option of the chain, in the order of the wire's columns (`SIDE_COLUMNS`). Units as in `OptionQuote`.

    Attributes:
        change, change_percent: of the last price against the previous close · INR, percent.
        oi_change_day: open interest against the day's first.
        oi_change_close: open interest against the previous trading day's last.
        theta: INR a calendar day · vega: INR per 1 % of volatility · rho: INR per 1 % of interest.
        computed: whether volatility and greeks (or these alone, at the broker's volatility) are ours, because the broker sent none: at the
            volatility of the mark (the last price, or the nearer side of a book that has left it behind), or, where that has none, of the
            middle between bid and ask.
        moneyness: "itm", "atm" or "otm": against the strike at the money; None while nothing says where the money is.
    """

    instrument: int
    key: str
    last_price: float | None
    change: float | None
    change_percent: float | None
    bid_price: float | None
    bid_quantity: int | None
    ask_price: float | None
    ask_quantity: int | None
    volume: int | None
    open_interest: float | None
    oi_change_day: float | None
    oi_change_close: float | None
    implied_volatility: float | None
    delta: float | None
    gamma: float | None
    theta: float | None
    vega: float | None
    rho: float | None
    computed: bool
    moneyness: str | None


SIDE_COLUMNS = Side._fields


class Row(NamedTuple):
    """One strike. `stamp`: number of its last change · a side that is not listed is None."""

    strike_price: float
    stamp: int
    call: Side | None
    put: Side | None


class Aggregate(NamedTuple):
    """What the chain says as a whole, over all its strikes whatever window a client follows; None = cannot be said.

    Attributes:
        spot: last price of the underlying · INR.
        forward: implied by put-call parity round the money; held for a moment where books are away · INR.
        atm_strike: the listed strike nearest to the forward, or to the spot where there is none · INR.
        atm_iv: mean of call and put there, or the one that is known · fraction.
        straddle: last prices of call and put there, added · INR.
        pcr_oi, pcr_volume: puts divided by calls.
        max_pain: the strike at which option writers owe the least at expiry · INR.
        call_oi, put_oi, call_volume, put_volume: units.
        call_oi_change_day, put_oi_change_day, call_oi_change_close, put_oi_change_close: units, over sides whose base is known.
        iv_skew: volatility of the 25-delta put minus that of the 25-delta call · fraction.
        gamma_exposure: see `Chain.aggregate` · INR per 1 % move.
        options, options_known: listed, and those of them whose open interest is known: what is not followed counts nothing in sums, ratios
            and max pain.
    """

    spot: float | None
    forward: float | None
    atm_strike: float | None
    atm_iv: float | None
    straddle: float | None
    pcr_oi: float | None
    pcr_volume: float | None
    max_pain: float | None
    call_oi: float
    put_oi: float
    call_volume: int
    put_volume: int
    call_oi_change_day: float | None
    put_oi_change_day: float | None
    call_oi_change_close: float | None
    put_oi_change_close: float | None
    iv_skew: float | None
    gamma_exposure: float | None
    options: int
    options_known: int


def each_side(word: str) -> int | None:
    """How many strikes each side of the money a word means, None for all.

    Raises:
        ValueError: it names no strikes; the message says which words there are.
    """
    check_window(word)
    return None if word == ALL else int(word[3:])


def check_window(word: str) -> None:
    """Raise ValueError, with the words that there are, unless `word` names strikes: `all`, or `atm10` (ten each side; 1 to 200)."""
    match = _AROUND_MONEY.fullmatch(word)
    if word != ALL and not (match and 1 <= int(match[1]) <= MOST_EACH_SIDE):
        raise ValueError(f"{word[:20]!r} names no strikes; write all, or atm10 for ten on each side of the money (1 to {MOST_EACH_SIDE})")
