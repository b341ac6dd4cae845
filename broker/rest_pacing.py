"""Keeps the REST calls of tasks and commands inside the broker's limits: of all processes together, through Redis.

The limits are per user: 50 calls a second, 500 a minute, 2,000 in 30 minutes; the last one binds. What is left between them and WINDOWS is
the feed's (its authorise calls have a pacer of their own) and the market status's. Source: FACTS §2.4, read 2026-11-22.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from broker.pacing import seconds_to_wait
from marketdata import call_limits, live_state

WINDOWS = ((1.0, 8), (60.0, 400), (1800.0, 1700))
"""(seconds, calls). 8 a second, because faster ones only spend the longer windows."""
NAME = "broker.rest"
LONGEST_SLEEP_SECONDS = 1.0
"""Between two looks while waiting: another process may give way, or end a pause."""


class RestPacer:
    """Says when the next call may be made. Without Redis it goes on by what this process has called itself.

    Args:
        share: part of each window that this use may fill, 0–1: what is less urgent leaves room for what is more.
        clock: seconds, never set back.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        share: float = 1.0,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._windows = [(seconds, max(1, int(calls * share))) for seconds, calls in WINDOWS]
        self._clock = clock
        self._sleep = sleep
        self._calls: list[float] = []
        self._paused_until = 0.0

    def acquire(self, seconds: float) -> bool:
        """Wait until a call may be made, and note it. False: not within `seconds`, and nothing is noted."""
        deadline = self._clock() + seconds
        while wait := self.take():
            left = deadline - self._clock()
            if wait > left:
                return False
            self._sleep(min(wait, LONGEST_SLEEP_SECONDS))
        return True

    def take(self) -> float:
        """Note a call that is about to be made and return 0; or return the seconds to wait, and note nothing."""
        now = self._clock()
        self._calls = [at for at in self._calls if at > now - WINDOWS[-1][0]]
        wait = max(self._paused_until - now, seconds_to_wait(self._calls, now, self._windows))
        if wait <= 0:
            wait = self._shared_wait(self._windows)
        if wait <= 0:
            self._calls.append(now)
        return max(wait, 0.0)

    def pause(self, seconds: float) -> None:
        """The broker said 429: nobody calls it for so long."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)
        try:
            call_limits.calls_pause(NAME, seconds)
        except live_state.Unavailable:
            return  # this process keeps to it by itself

    @staticmethod
    def _shared_wait(windows: Sequence[tuple[float, int]]) -> float:
        try:
            return call_limits.call_take(NAME, windows)
        except live_state.Unavailable:
            return 0.0
