"""Keeps authorise calls inside the broker's limits: of all shards of a copy together, and over a crash loop.

The limits are per user, so every feed takes its calls from one small file of their times, under a lock.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections import Counter
from pathlib import Path

log = logging.getLogger(__name__)

WINDOWS = ((10.0, 3), (60.0, 8), (1800.0, 120))
"""(seconds, calls): far inside 50/s, 500/min, 2,000/30 min, because repeated authorise calls drew 403s for minutes · FACTS §2.4."""
BUSY_SECONDS = 0.1
"""Pause while another feed has the file."""


class AuthorizePacer:
    """Says how long to wait before the next authorise call, and notes those that are made.

    Args:
        file: the same for every feed of this copy; made when missing.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._calls: list[float] = []

    def take(self, now: float) -> float:
        """Note a call that is about to be made and return 0; or return the seconds to wait, and note nothing.

        A file that cannot be read or written is logged and done without: this process then keeps to the limits by itself.

        Args:
            now: wall clock, seconds since 1970.
        """
        wait: float | None = None
        try:
            with open(os.open(self._file, os.O_RDWR | os.O_CREAT, 0o600), "r+", errors="replace") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._calls = sorted((Counter(self._calls) | Counter(_times(file.read()))).elements())  # ours may be missing there
                wait = self._note(now)
                file.seek(0)
                file.write(json.dumps(self._calls))
                file.truncate()
        except BlockingIOError:
            return BUSY_SECONDS
        except OSError as error:
            log.error("feed: the times of authorise calls cannot be kept: %s", error)
        return self._note(now) if wait is None else wait

    def _note(self, now: float) -> float:
        wait = self._wait_seconds(now)
        if not wait:
            self._calls.append(now)
        return wait

    def _wait_seconds(self, now: float) -> float:
        self._calls = [at for at in self._calls if now - WINDOWS[-1][0] < at <= now]
        wait = 0.0
        for seconds, calls in WINDOWS:
            recent = [at for at in self._calls if at > now - seconds]
            if len(recent) >= calls:
                wait = max(wait, recent[-calls] + seconds - now)
        return wait


def _times(text: str) -> list[float]:
    """Return the times in a file; none where it is empty, torn or anything else."""
    try:
        return [float(at) for at in json.loads(text)]
    except (ValueError, TypeError, OverflowError, RecursionError):
        return []
