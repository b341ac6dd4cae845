"""Which instrument a key means now, remembered for a few seconds: the look-up cost two thirds of a request for latest quotes."""

from __future__ import annotations

import time
from collections.abc import Sequence

from instruments.selectors import instrument_ids

SECONDS = 5.0
"""A key that passes to another contract, before the open, is followed after so long at the latest."""
MOST_KEYS = 100_000


class KeyMemory:
    """Keys and their instrument ids. Forgets all of them at once, every SECONDS; unknown keys are never remembered."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._until = 0.0

    def read(self, keys: Sequence[str]) -> dict[str, int]:
        """Return the instrument id of each key that an active instrument holds."""
        now = time.monotonic()
        if now > self._until or len(self._ids) > MOST_KEYS:
            self._ids, self._until = {}, now + SECONDS
        ids = self._ids
        missing = [key for key in keys if key not in ids]
        if missing:
            ids.update(instrument_ids(missing))
        return {key: ids[key] for key in keys if key in ids}

    def forget(self) -> None:
        """Ask the database for every key again."""
        self._until = 0.0


key_memory = KeyMemory()
