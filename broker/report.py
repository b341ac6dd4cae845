"""What the feed says of itself: its state, its counts, its rates, as one FeedStatus. It decides nothing: `liveness` does."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping

from marketdata.domain.feed_status import FeedState, FeedStatus

log = logging.getLogger(__name__)

COUNTS = (
    "frames_received_total",
    "frames_decoded_total",
    "frames_rejected_total",
    "text_frames_total",
    "ticks_decoded_total",
    "authorize_calls_total",
    "reconnects_total",
    "mute_total",
    "ungreeted_total",
    "universe_failed_total",
    "calendar_failed_total",
)
"""What the loops and the receiver count. All are in every report, 0 before they first happen."""


class Report:
    """State and counters of one feed shard.

    Attributes:
        state: a FeedState; `since_ms` when it began, ms UTC; `detail` one sentence or "".
        trouble: a sentence on what fails beside the state, or ""; part of the detail that is told.
        counts: monotonic counts by name.
        token_expires_ms: of the token in use, ms UTC; 0 unknown.
    """

    def __init__(self, *, shard: int) -> None:
        self.state = FeedState.CLOSED
        self.since_ms = time.time_ns() // 1_000_000
        self.detail = "starting"
        self.trouble = ""
        self.counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
        self.token_expires_ms = 0
        self._shard = shard
        self._rates_at = time.monotonic()
        self._rates_of = (0, 0)
        self._frames_per_second = self._ticks_per_second = 0.0
        self._failing: set[str] = set()

    def change(self, state: FeedState, detail: str = "") -> bool:
        """Take a state on; log it and say so when it is another one."""
        self.detail = detail
        if state is self.state:
            return False
        log.info("feed: %s → %s%s", self.state, state, f" ({detail})" if detail else "")
        self.state, self.since_ms = state, time.time_ns() // 1_000_000
        return True

    def measure(self) -> None:
        """Take frames and ticks a second since the last call."""
        now = time.monotonic()
        frames, ticks = self.counts["frames_received_total"], self.counts["ticks_decoded_total"]
        elapsed = max(now - self._rates_at, 0.001)
        self._frames_per_second = (frames - self._rates_of[0]) / elapsed
        self._ticks_per_second = (ticks - self._rates_of[1]) / elapsed
        self._rates_at, self._rates_of = now, (frames, ticks)

    def failing(self, what: str, error: Exception | None) -> None:
        """Log when something begins to fail (`error`) and when it works again (None)."""
        if error is not None and what not in self._failing:
            self._failing.add(what)
            log.warning("feed: %s fails: %s", what, first_line(error))
        elif error is None and what in self._failing:
            self._failing.discard(what)
            log.info("feed: %s works again", what)

    def status(self, *, epoch: int, n: int, data_ms: int, segments: Mapping[str, str], counters: Mapping[str, float]) -> FeedStatus:
        """Return the report of now; `counters` are those that others keep."""
        return FeedStatus(
            shard=self._shard,
            epoch=epoch,
            n=n,
            state=self.state.value,
            since_ms=self.since_ms,
            data_ms=data_ms,
            reported_ms=time.time_ns() // 1_000_000,
            segments=dict(segments),
            counters={
                **self.counts,
                **counters,
                "frames_per_second": round(self._frames_per_second, 1),
                "ticks_per_second": round(self._ticks_per_second, 1),
                "token_expires_ms": self.token_expires_ms,
            },
            detail="; ".join(part for part in (self.detail, self.trouble) if part),
        )


def first_line(error: Exception) -> str:
    """Return an error's text for a log line."""
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
