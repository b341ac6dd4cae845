"""Expiries as the master lists them: which are alive, of what kind, and what a trader's words for them mean. Pure.

Nothing is computed from weekdays: expiry days move with holidays and with the regulator (Thursday to Tuesday in 2025). Words:

    @w0, @w1 …    this week's expiry, the next … : the listed expiries in order, up to the last weekly one. The month's slot is the
                  week's expiry in its week. @w0 is always the nearest; where there are no weeklies (BANKNIFTY), @w1 is nothing.
    @m0, @m1 …    the nearest expiry in a month's slot, the next …, quarterly ones included
    2026-11-24    that day
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, time
from enum import StrEnum
from typing import NamedTuple

from instruments.domain.instrument import DAY_END, IST, ist_date, ms_of

SERIAL_MONTHS = 3
"""Months that are always listed in full; a month's slot further out is quarterly (or half-yearly) · Source: FACTS §6."""
_CLOSING_AUCTION = date(2026, 8, 3)
_WORD = re.compile(r"@([wm])([0-9]{1,2})")


class ExpiryKind(StrEnum):
    """Weekly; monthly, in one of the three serial months; quarterly, in a month's slot further out (half-yearly ones too)."""

    WEEKLY = "weekly"
    MONTHLY = "monthly"
    QUARTERLY = "quarterly"


class Expiry(NamedTuple):
    """One listed expiry. `date`: IST day · `expiry_ms`: its end, 23:59:59 IST, ms UTC."""

    date: date
    kind: ExpiryKind
    expiry_ms: int


TradingEnd = Callable[[str, date], int]
"""(segment, expiry day in IST) → when trading in its contracts ends · ms UTC."""


def usual_end_ms(segment: str, day: date) -> int:
    """When a segment usually stops trading, for days that no calendar knows. Segments whose hours we do not know trade until midnight.

    Source: FACTS §6: F&O trades to 15:40 since 3 August 2026 (closing auction session), to 15:30 before.
    """
    end = DAY_END
    if segment in ("NSE_FO", "BSE_FO"):
        end = time(15, 40) if day >= _CLOSING_AUCTION else time(15, 30)
    return ms_of(datetime.combine(day, end, IST))


def is_alive(segment: str, expiry_ms: int, now_ms: int, end_of: TradingEnd = usual_end_ms) -> bool:
    """True until trading ends on the expiry day: the broker's own stamp, 23:59:59, keeps a dead contract until midnight."""
    return now_ms < end_of(segment, ist_date(expiry_ms))


def expiries_of(listed: Iterable[tuple[int, bool | None]], *, now_ms: int, segment: str, end_of: TradingEnd = usual_end_ms) -> list[Expiry]:
    """Say which listed expiries of one underlying are alive, and their kinds.

    The broker's flag alone decides between weekly and month's slot; segments without the flag (commodities) have no weeklies. "The last
    one of the month" would be wrong: of April 2025 the monthly was the 24th, and the weekly of 1 May, a holiday, came on the 30th.

    Args:
        listed: (expiry · ms UTC, the broker's `weekly` flag) of any of its contracts, in any order, repeated or not.
        now_ms: market time · ms UTC.
        end_of: the calendar.

    Returns:
        the living ones, nearest first; empty when there are none.
    """
    flags: dict[int, bool | None] = {}
    for expiry_ms, weekly in listed:
        flags[expiry_ms] = weekly if flags.get(expiry_ms) is None else flags[expiry_ms] and weekly is not False
    found: list[Expiry] = []
    first_slot: date | None = None
    for expiry_ms in sorted(flags):
        day, weekly = ist_date(expiry_ms), bool(flags[expiry_ms])
        if not is_alive(segment, expiry_ms, now_ms, end_of):
            continue
        if not weekly and first_slot is None:
            first_slot = day
        found.append(Expiry(day, _kind(day, weekly, first_slot), expiry_ms))
    return found


def _kind(day: date, weekly: bool, first_slot: date | None) -> ExpiryKind:
    if weekly:
        return ExpiryKind.WEEKLY
    near = first_slot is None or (day.year - first_slot.year) * 12 + day.month - first_slot.month < SERIAL_MONTHS
    return ExpiryKind.MONTHLY if near else ExpiryKind.QUARTERLY


def check_expiry_word(word: str) -> None:
    """Raise ValueError, with the words that there are, unless `word` is one."""
    if _WORD.fullmatch(word):
        return
    try:
        ok = date.fromisoformat(word).isoformat() == word
    except ValueError:
        ok = False
    if not ok:
        raise ValueError(f"{word[:20]!r} is no expiry; write @w0 (this week's), @w1 …, @m0 (the nearest monthly), @m1 …, or YYYY-MM-DD")


def resolve_expiry(word: str, expiries: Sequence[Expiry]) -> Expiry | None:
    """Return the expiry that a word means.

    Args:
        word: see the module's docstring.
        expiries: the living ones of one underlying, nearest first.

    Returns:
        None when none of them is meant.

    Raises:
        ValueError: it is no such word.
    """
    check_expiry_word(word)
    match = _WORD.fullmatch(word)
    if match is None:
        return next((expiry for expiry in expiries if expiry.date.isoformat() == word), None)
    named = weekly_rhythm(expiries) if match[1] == "w" else [expiry for expiry in expiries if expiry.kind is not ExpiryKind.WEEKLY]
    number = int(match[2])
    return named[number] if number < len(named) else None


def weekly_rhythm(expiries: Sequence[Expiry]) -> Sequence[Expiry]:
    """The expiries that come week by week: up to the last weekly one; at least the nearest."""
    weeklies = [number for number, expiry in enumerate(expiries) if expiry.kind is ExpiryKind.WEEKLY]
    return expiries[: max(weeklies[-1] + 1 if weeklies else 1, 1)]


def expiry_words(expiries: Sequence[Expiry]) -> Mapping[date, list[str]]:
    """The relative words of each expiry: `{2026-11-24: ["@w0", "@m0"]}`."""
    words: dict[date, list[str]] = {expiry.date: [] for expiry in expiries}
    for number, expiry in enumerate(weekly_rhythm(expiries)):
        words[expiry.date].append(f"@w{number}")
    for number, expiry in enumerate(expiry for expiry in expiries if expiry.kind is not ExpiryKind.WEEKLY):
        words[expiry.date].append(f"@m{number}")
    return words
