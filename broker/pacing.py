"""Keeps authorise calls inside the broker's limits, also over a crash loop: their times are kept in a small file."""

from __future__ import annotations

import json
import os
from pathlib import Path

WINDOWS = ((10.0, 3), (60.0, 8), (1800.0, 120))
"""(seconds, calls): far inside 50/s, 500/min, 2,000/30 min, because repeated authorise calls drew 403s for minutes · FACTS §2.4."""


class AuthorizePacer:
    """Says how long to wait before the next authorise call. One process at a time uses the file (the journal's lock sees to it)."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._calls = self._load()

    def wait_seconds(self, now: float) -> float:
        """Return the seconds to wait; 0 when a call may be made.

        Args:
            now: wall clock, seconds since 1970.
        """
        self._calls = [at for at in self._calls if now - WINDOWS[-1][0] < at <= now]
        wait = 0.0
        for seconds, calls in WINDOWS:
            recent = [at for at in self._calls if at > now - seconds]
            if len(recent) >= calls:
                wait = max(wait, recent[-calls] + seconds - now)
        return wait

    def record(self, now: float) -> None:
        """Note a call that is about to be made."""
        self._calls.append(now)
        temporary = self._file.with_suffix(".tmp")
        temporary.write_text(json.dumps(self._calls))
        os.replace(temporary, self._file)

    def _load(self) -> list[float]:
        try:
            return sorted(float(at) for at in json.loads(self._file.read_text()))
        except (OSError, ValueError, TypeError):
            return []
