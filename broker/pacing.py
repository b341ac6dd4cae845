"""Keeps authorise calls inside the broker's limits: of all shards of a copy together, and over a crash loop.

The limits are per user, so every feed takes its calls from one small file of their times, under a lock. A feed that can do nothing
else needs no Redis for it; the calls of tasks and commands are paced by `broker.rest_pacing`.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
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
        return seconds_to_wait(self._calls, now, WINDOWS)


def seconds_to_wait(calls: Sequence[float], now: float, windows: Iterable[tuple[float, int]]) -> float:
    """Return how long to wait until one more call is inside every window; 0 when it is now.

    Args:
        calls: when earlier ones were made, ascending, none after `now` · seconds of any clock.
        windows: (seconds, calls within any stretch of so many seconds).
    """
    wait = 0.0
    for seconds, most in windows:
        recent = calls[bisect_right(calls, now - seconds) :]
        if len(recent) >= most:
            wait = max(wait, recent[-most] + seconds - now)
    return wait


def _times(text: str) -> list[float]:
    """Return the times in a file; none where it is empty, torn or anything else."""
    try:
        return [float(at) for at in json.loads(text)]
    except (ValueError, TypeError, OverflowError, RecursionError):
        return []
