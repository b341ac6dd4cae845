"""Who follows what: instrument → outboxes, and who still waits for a first quote. Pure: time is an argument."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from marketdata.outbox import Outbox
from marketdata.wire import FULL, LTPC, MODE_NAMES

TOLD = float("inf")
"""The deadline of who has been told that nothing comes, and waits on."""
_NOBODY: frozenset[Outbox] = frozenset()


class Followers:
    """The index of one hub."""

    def __init__(self) -> None:
        self._outboxes: dict[int, dict[int, set[Outbox]]] = {LTPC: {}, FULL: {}}
        self._awaited: dict[int, dict[Outbox, tuple[float, str]]] = {}
        self._charts: Counter[int] = Counter()

    def of(self, instrument: int, mode: int) -> set[Outbox] | frozenset[Outbox]:
        """Return the outboxes that follow an instrument in LTPC or in FULL. Do not change the set."""
        return self._outboxes[mode].get(instrument, _NOBODY)

    def anyone(self, instrument: int) -> bool:
        """Whether anybody follows an instrument."""
        return instrument in self._charts or any(instrument in outboxes for outboxes in self._outboxes.values())

    def add(self, outbox: Outbox, instrument: int, mode: int) -> bool:
        """Let an outbox follow an instrument in a mode, and in that alone; True: what is wanted may have changed."""
        changed = self._discard(outbox, instrument, FULL if mode == LTPC else LTPC)
        outboxes = self._outboxes[mode].setdefault(instrument, set())
        changed |= not outboxes
        outboxes.add(outbox)
        return changed

    def remove(self, outbox: Outbox, instrument: int) -> bool:
        """Let it follow no more; True: what is wanted may have changed."""
        awaited = self._awaited.get(instrument, {})
        awaited.pop(outbox, None)
        if not awaited:
            self._awaited.pop(instrument, None)
        return self._discard(outbox, instrument, LTPC) | self._discard(outbox, instrument, FULL)

    def _discard(self, outbox: Outbox, instrument: int, mode: int) -> bool:
        """Take an outbox out of one mode; True: it was the last."""
        outboxes = self._outboxes[mode].get(instrument)
        if outboxes is None:
            return False
        outboxes.discard(outbox)
        if not outboxes:
            del self._outboxes[mode][instrument]
        return not outboxes

    def add_chart(self, instrument: int) -> bool:
        """Note one more chart of an instrument, or one more chain with it; True: what is wanted may have changed."""
        self._charts[instrument] += 1
        return self._charts[instrument] == 1

    def remove_chart(self, instrument: int) -> bool:
        """Note one chart or chain less; True: it was the last."""
        self._charts[instrument] -= 1
        if not self._charts[instrument]:
            del self._charts[instrument]
        return instrument not in self._charts

    def wanted(self) -> dict[int, str]:
        """Return instrument → mode, the greatest that anybody asked for; charts and chains ask for the full one, with the bars."""
        followed = {instrument: MODE_NAMES[mode] for mode in (LTPC, FULL) for instrument in self._outboxes[mode]}
        return followed | dict.fromkeys(self._charts, MODE_NAMES[FULL])

    def wait(self, outbox: Outbox, instrument: int, key: str, deadline: float) -> None:
        """Note that a follower of an instrument waits for its first quote, and when that is late; TOLD: it knows."""
        self._awaited.setdefault(instrument, {})[outbox] = (deadline, key)

    def is_awaited(self, instrument: int) -> bool:
        """Whether anybody waits for a quote of the instrument."""
        return instrument in self._awaited

    def arrived(self, instrument: int) -> list[Outbox]:
        """Return who waited for the instrument; nobody does then."""
        return list(self._awaited.pop(instrument, ()))

    def late(self, now: float) -> Iterator[tuple[Outbox, int, str]]:
        """Yield outbox, instrument and key of each wait whose deadline has passed, once; the wait goes on."""
        for instrument, waits in self._awaited.items():
            for outbox, (deadline, key) in waits.items():
                if deadline <= now:
                    waits[outbox] = (TOLD, key)
                    yield outbox, instrument, key

    def untold(self, instrument: int, key: str) -> list[tuple[Outbox, str]]:
        """Return who follows an instrument and does not know that nothing comes, whether they wait or had it; they know it from now on.

        Args:
            key: of the instrument, for those who had it.
        """
        waits = self._awaited.setdefault(instrument, {})
        followers = [*self.of(instrument, LTPC), *self.of(instrument, FULL)]
        untold = [(outbox, waits.get(outbox, (0.0, key))[1]) for outbox in followers if waits.get(outbox, (0.0, key))[0] != TOLD]
        waits.update({outbox: (TOLD, name) for outbox, name in untold})
        if not waits:
            del self._awaited[instrument]
        return untold
