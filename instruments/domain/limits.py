"""The broker's limits on what one connection follows in each mode, and how the room there is is given away. Pure.

Laws: limits are those of the modes in use, counted by the keys that are followed, never by what was asked for; who comes first comes first,
and nothing that was given is taken away again, but a key may move to a stronger mode.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

MODES = ("ltpc", "option_greeks", "full", "full_d30")
"""What a subscription carries, from little to much."""
STRENGTH = {mode: rank for rank, mode in enumerate(MODES)}


class Limits(NamedTuple):
    """The broker's limits of one connection, mode → keys; a mode not named has none.

    Attributes:
        alone: while no other mode is in use.
        mixed: while several are; never more than `alone`.
    """

    alone: Mapping[str, int]
    mixed: Mapping[str, int]

    def of(self, counts: Mapping[str, int]) -> Mapping[str, int]:
        """Return the limits in force while so many keys are followed by mode."""
        if sum(count > 0 for count in counts.values()) < 2:
            return self.alone
        return {mode: min(limit, self.mixed.get(mode, 0)) for mode, limit in self.alone.items()}

    def passed(self, counts: Mapping[str, int]) -> str | None:
        """Return a mode whose limit so many keys by mode would pass; None when a connection may follow them."""
        limits = self.of(counts)
        return next((mode for mode, count in counts.items() if count > limits.get(mode, 0)), None)

    def hold(self, counts: Mapping[str, int]) -> bool:
        """Whether a connection may follow so many keys by mode."""
        return self.passed(counts) is None

    def refusal(self, counts: Mapping[str, int], mode: str) -> str:
        """Say, as a sentence without its full stop, why one key more in `mode` has no room beside so many keys by mode."""
        after = Counter(counts)
        after[mode] += 1
        passed, limits = self.passed(after), self.of(after)
        if passed is None or after[mode] > limits.get(mode, 0):
            return f"the broker's limit of {limits.get(mode, 0)} keys in {mode} mode is reached"
        return (
            f"no room in {mode} mode: beside it the broker's limit is {limits[passed]} keys in {passed} mode, and there are {after[passed]}"
        )


class Wish(NamedTuple):
    """A key that somebody wants in a mode, on the connection that it belongs to. `who`: whose wish it is."""

    who: int
    key: str
    mode: str
    connection: int


class Room:
    """What is followed on each connection.

    Attributes:
        taken: key → mode.
        used: connection → mode → how many keys.
    """

    def __init__(self, limits: Limits) -> None:
        self.taken: dict[str, str] = {}
        self.used: dict[int, Counter[str]] = defaultdict(Counter)
        self._limits = limits

    def give(self, wishes: Sequence[Wish], left: Sequence[Wish]) -> list[Wish]:
        """Follow what there is room for, first come first; return what is left over, in order.

        Args:
            left: what earlier wishes left over. A key that moves to a stronger mode makes room: these are offered it before the next call.
        """
        waiting = list(left)
        offered, moved = wishes, True
        while moved:
            moved = False
            for wish in offered:
                if self.serves(wish):
                    continue
                present = self.taken.get(wish.key)
                if not self._move(wish, present):
                    waiting.append(wish)
                elif present is not None:
                    moved = True
            if moved:
                offered, waiting = waiting, []
        return waiting

    def serves(self, wish: Wish) -> bool:
        """Whether a key is followed in at least the mode that is wanted."""
        present = self.taken.get(wish.key)
        return present is not None and STRENGTH[present] >= STRENGTH[wish.mode]

    def _move(self, wish: Wish, present: str | None) -> bool:
        counts = self.used[wish.connection]
        shift(counts, present, wish.mode)
        if not self._limits.hold(counts):
            shift(counts, wish.mode, present)
            return False
        self.taken[wish.key] = wish.mode
        return True


def shift(counts: Counter[str], before: str | None, after: str | None) -> None:
    """Count one key more in a mode and one less in another; None: in none."""
    if before is not None:
        counts[before] -= 1
    if after is not None:
        counts[after] += 1
