"""When the rules have to be resolved anew, and what has become of the universe since: what was seen against what is. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from instruments.domain.succession import Held, successor
from marketdata.domain.candle import day_start_ms

AGAIN_SECONDS = 30.0
"""Rules are resolved again so long after the last time, whatever was seen: what nobody looks at may have changed."""


class Seen(NamedTuple):
    """What the rules are resolved from, at one moment.

    Attributes:
        at: our clock · s, monotonic.
        market_ms: market time · ms UTC.
        master: names the newest load of the instruments.
        rules: hash of the rules.
        anchors: underlying's key → the price that stands for the money · INR.
        next_end_ms: when trading next ends in an expiry that the rules speak of, as of the last resolution · ms UTC.
    """

    at: float
    market_ms: int
    master: str
    rules: int
    anchors: Mapping[str, float]
    next_end_ms: int | None = None


def causes_of(was: Seen | None, now: Seen) -> list[str]:
    """Return why the rules have to be resolved: start, master, rules, expiry, day, spot, or time alone; empty when they need not be.

    Args:
        was: what they were resolved from last; None: they never were.
        now: what there is.
    """
    if was is None:
        return ["start"]
    happened = {
        "master": now.master != was.master,
        "rules": now.rules != was.rules,
        "expiry": was.next_end_ms is not None and was.market_ms < was.next_end_ms <= now.market_ms,
        "day": day_start_ms(now.market_ms) != day_start_ms(was.market_ms),
        "spot": now.anchors != was.anchors,
    }
    causes = [cause for cause, so in happened.items() if so]
    return causes or (["time"] if now.at - was.at >= AGAIN_SECONDS else [])


class Followed(NamedTuple):
    """An instrument in the universe. `ruled`: a rule wants it; else only clients do."""

    held: Held
    mode: str
    ruled: bool


class Left(NamedTuple):
    """What left. `why`: expired, key (it goes on under another), rules, demand, limit · `follows`: key of what takes its place, or ""."""

    instrument: int
    why: str
    follows: str


class Change(NamedTuple):
    """What entered, left and moved between two moments.

    Attributes:
        at_ms: market time · ms UTC.
        causes: why the rules were resolved, where they played a part; then demand and limit, where these did.
        entered: key → mode.
        left: key → what became of it. A key that passed to another contract has left and entered.
        moved: key → its new mode.
        by_mode: mode → how many are followed now.
    """

    at_ms: int
    causes: list[str]
    entered: dict[str, str]
    left: dict[str, Left]
    moved: dict[str, str]
    by_mode: dict[str, int]


def change_of(
    was: Mapping[str, Followed],
    now: Mapping[str, Followed],
    *,
    at_ms: int,
    causes: Collection[str],
    short: Collection[str],
    known: Mapping[int, Held | None],
    elsewhere: Iterable[Held] = (),
) -> Change | None:
    """Compare two moments of the universe, each key → what it stands for; None when they are the same.

    Args:
        at_ms: market time · ms UTC.
        causes: why the rules were resolved since `was`.
        short: keys that are wanted, and that the broker's limits leave no room for.
        known: by id what instruments are by now: another key, or listed no more. Those that are not in it are as they were.
        elsewhere: what is followed on other connections, as far as that is known: what takes an expired contract's place may be there.
    """
    entered = {key: each.mode for key, each in now.items() if key not in was or was[key].held.id != each.held.id}
    gone = {key: each for key, each in was.items() if key not in now or key in entered}
    moved = {key: each.mode for key, each in now.items() if key in was and key not in entered and was[key].mode != each.mode}
    if not (entered or gone or moved):
        return None
    present = {**known, **{each.held.id: each.held for each in now.values()}}
    alike = defaultdict(list)
    for other in (*elsewhere, *(each.held for each in now.values())):
        if other.ending(at_ms) is None:
            alike[_contract(other)].append(other)
    left = {}
    for key, each in gone.items():
        held, follows = present.get(each.held.id) or each.held, ""
        if held.is_over(at_ms) or not held.active or (key in entered and held.key == key):
            why, follows = "expired", successor(held, alike[_contract(held)])
        elif held.key != key:
            why, follows = "key", held.key
        else:
            why = "limit" if key in short else "rules" if each.ruled else "demand"
        left[key] = Left(held.id, why, follows)
    ruled = [(now.get(key) or was[key]).ruled for key in {*entered, *gone, *moved}]
    told = list(causes) if any(ruled) else []
    told += ["expiry"] * (any(each.why == "expired" for each in left.values()) and not {"expiry", "master"} & {*told})
    told += ["demand"] * (not all(ruled))
    told += ["limit"] * any(each.why == "limit" for each in left.values())
    told = told or ["demand"]  # a rule's instrument in a client's stronger mode
    return Change(at_ms, told, entered, left, moved, dict(Counter(each.mode for each in now.values())))


def _contract(held: Held) -> tuple[str | None, str, float]:
    """What a contract has in common with the one that takes its place."""
    return held.underlying, held.kind, held.strike_price or 0.0
