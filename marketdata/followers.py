"""Who follows what: instrument → outboxes, and who still waits for a first quote. Pure: time is an argument."""

from __future__ import annotations

from collections.abc import Iterator

from marketdata.outbox import Outbox
from marketdata.wire import FULL, MODE_NAMES

_NOBODY: frozenset[Outbox] = frozenset()


class Followers:
    """The index of one hub."""

    def __init__(self) -> None:
        self._outboxes: dict[int, set[Outbox]] = {}
        self._awaited: dict[int, dict[Outbox, tuple[float, str]]] = {}

    def of(self, instrument: int) -> set[Outbox] | frozenset[Outbox]:
        """Return the outboxes that follow an instrument. Do not change the set."""
        return self._outboxes.get(instrument, _NOBODY)

    def add(self, outbox: Outbox, instrument: int, mode: int) -> bool:
        """Let an outbox follow an instrument; True: what is wanted may have changed."""
        outboxes = self._outboxes.setdefault(instrument, set())
        changed = not outboxes or mode == FULL
        outboxes.add(outbox)
        return changed

    def remove(self, outbox: Outbox, instrument: int) -> bool:
        """Let it follow no more; True: nobody does now."""
        self._awaited.get(instrument, {}).pop(outbox, None)
        outboxes = self._outboxes.get(instrument)
        if outboxes is None:
            return False
        outboxes.discard(outbox)
        if outboxes:
            return False
        del self._outboxes[instrument]
        self._awaited.pop(instrument, None)
        return True

    def wanted(self) -> dict[int, str]:
        """Return instrument → mode, the greatest that anybody asked for."""
        return {
            instrument: MODE_NAMES[max(outbox.modes[instrument] for outbox in outboxes)] for instrument, outboxes in self._outboxes.items()
        }

    def wait(self, outbox: Outbox, instrument: int, key: str, deadline: float) -> None:
        """Note that a follower of an instrument waits for its first quote, and when that is late."""
        self._awaited.setdefault(instrument, {})[outbox] = (deadline, key)

    def arrived(self, instrument: int) -> list[Outbox]:
        """Return who waited for the instrument; nobody does then."""
        return list(self._awaited.pop(instrument, ()))

    def late(self, now: float) -> Iterator[tuple[Outbox, int, str]]:
        """Yield outbox, instrument and key of each wait whose deadline has passed, once; the wait goes on."""
        for instrument, waits in self._awaited.items():
            for outbox, (deadline, key) in waits.items():
                if deadline <= now:
                    waits[outbox] = (float("inf"), key)
                    yield outbox, instrument, key
