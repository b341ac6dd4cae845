"""What has to change so that the instruments we know become those of a new master. Pure: two lists in, a plan out.

A plan obeys the law of instrument ids: an id is one identity for ever. A key may pass from one instrument to another, and then both
change in one transaction; everything else is a change of single documents that can stop half-way and be planned again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from instruments.domain.instrument import InstrumentRow, fingerprint_of, identity_of, repeated


class Known(NamedTuple):
    """An active instrument as stored. `placeholder`: only the feed has named it."""

    id: int
    identity: str
    instrument_key: str
    exchange: str
    fingerprint: int
    placeholder: bool


class Change(NamedTuple):
    """One instrument that is to be as `row` says. `id` is None while it has none: a new one, or one that comes back."""

    identity: str
    row: InstrumentRow
    fingerprint: int
    id: int | None
    moved: bool = False


class Passing(NamedTuple):
    """Keys that change hands together: `leaving` loses its key (and is retired, unless it is among `taking` with another)."""

    leaving: list[int]
    taking: list[Change]


@dataclass
class Plan:
    """Attributes:
    changed: known instruments whose row differs, under the key they have or a key that nobody holds.
    entering: identities that are not active, under keys that nobody holds.
    passing: groups that must change together, each with its own keys.
    gone: ids of instruments that the master no longer names and whose key nobody takes.
    """

    changed: list[Change] = field(default_factory=list)
    entering: list[Change] = field(default_factory=list)
    passing: list[Passing] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Documents that will be written."""
        return (
            len(self.changed) + len(self.entering) + len(self.gone) + sum(len(group.leaving) + len(group.taking) for group in self.passing)
        )


def plan_changes(known: Iterable[Known], rows: Iterable[InstrumentRow]) -> Plan:
    """Compare the active instruments with a master's rows.

    Only instruments of the exchanges that the master covers can be gone; placeholders never are, they only lose their key to the
    contract that the master names under it.

    Args:
        known: every active instrument.
        rows: the whole master; keys are unique within it.

    Returns:
        the differences only; an equal master gives an empty plan.
    """
    named = _by_identity(rows)
    active = list(known)
    by_identity = {instrument.identity: instrument for instrument in active}
    by_key = {instrument.instrument_key: instrument for instrument in active}
    exchanges = {row.exchange for row in named.values()}
    plan = Plan()
    takers: dict[str, Change] = {}
    for identity, row in named.items():
        mine, fingerprint = by_identity.get(identity), fingerprint_of(row)
        if mine is not None and mine.fingerprint == fingerprint and mine.instrument_key == row.instrument_key:
            continue
        moved = mine is not None and mine.instrument_key != row.instrument_key
        change = Change(identity, row, fingerprint, None if mine is None else mine.id, moved)
        holder = by_key.get(row.instrument_key)
        if holder is not None and holder.identity != identity:
            takers[row.instrument_key] = change
        else:
            (plan.entering if mine is None else plan.changed).append(change)
    losers = {by_key[key].id for key in takers}
    plan.gone = [
        instrument.id
        for instrument in active
        if instrument.identity not in named
        and not instrument.placeholder
        and instrument.exchange in exchanges
        and instrument.id not in losers
    ]
    _group(plan, takers, by_key)
    return plan


def _by_identity(rows: Iterable[InstrumentRow]) -> dict[str, InstrumentRow]:
    """Name each row by its identity; rows that share one (never seen in a real master) are told apart by their keys."""
    pairs = [(identity_of(row), row) for row in rows]
    shared = repeated(identity for identity, _ in pairs)
    return {f"{identity}#{row.instrument_key}" if identity in shared else identity: row for identity, row in pairs}


def _group(plan: Plan, takers: Mapping[str, Change], by_key: Mapping[str, Known]) -> None:
    """Put takers and holders of keys that hang together into groups: A takes B's key while B takes C's.

    A holder that itself only moves to a free key joins the group, out of `plan.changed`.
    """
    held = {instrument.id: key for key, instrument in by_key.items()}
    onward = {change.id: change for change in takers.values() if change.id is not None}
    free_movers = {change.id: change for change in plan.changed if change.moved}
    placed: set[str] = set()
    for start in takers:
        if start in placed:
            continue
        group = Passing([], [])
        plan.passing.append(group)
        key = _head_of_chain(start, takers, held)
        while key not in placed:
            placed.add(key)
            holder = by_key[key].id
            group.leaving.append(holder)
            group.taking.append(takers[key])
            if holder in onward:
                key = onward[holder].row.instrument_key
            elif holder in free_movers:
                group.taking.append(free_movers.pop(holder))
    plan.changed = [change for change in plan.changed if not change.moved or change.id in free_movers]


def _head_of_chain(start: str, takers: Mapping[str, Change], held: Mapping[int, str]) -> str:
    """Walk back from a key to the first taker of its chain, whose own old key nobody takes; around a ring until its beginning."""
    key = start
    while (mine := takers[key].id) is not None and held[mine] in takers and held[mine] != start:
        key = held[mine]
    return key
