"""What clients may rely on: the reports of all feed shards, and our own loss of them, made into one view. Pure."""

from __future__ import annotations

from marketdata.domain.feed_status import FeedState, FeedStatus
from marketdata.wire import FeedView

_GRAVITY = (FeedState.LIVE, FeedState.QUIET, FeedState.CLOSED, FeedState.STALE, FeedState.TOKEN_EXPIRED, FeedState.RECONNECTING)
"""States of several shards: the last of these that one of them is in is told."""


class FeedBoard:
    """The newest report of each shard, and whether what we have may miss something.

    Attributes:
        statuses: shard → newest report.
        lost_since_ms: since when messages are missing, ms UTC; None while nothing is.
        lost_why: the reason in a sentence.
    """

    def __init__(self) -> None:
        self.statuses: dict[int, FeedStatus] = {}
        self.lost_since_ms: int | None = None
        self.lost_why = ""

    def take(self, status: FeedStatus) -> None:
        """Keep a report, unless a newer one of its shard is known."""
        known = self.statuses.get(status.shard)
        if known is None or (status.epoch, status.n, status.reported_ms) >= (known.epoch, known.n, known.reported_ms):
            self.statuses[status.shard] = status

    def lose(self, why: str, now_ms: int) -> bool:
        """Note that messages are missing. False: that was known already."""
        if self.lost_since_ms is not None:
            return False
        self.lost_since_ms, self.lost_why = now_ms, why
        return True

    def find(self) -> bool:
        """Note that nothing is missing any more. False: nothing was."""
        if self.lost_since_ms is None:
            return False
        self.lost_since_ms, self.lost_why = None, ""
        return True

    def view(self, age_ms: int | None) -> FeedView:
        """Return the feed's state; `age_ms` is the time since quotes came, None before the first."""
        statuses = list(self.statuses.values())
        epoch = max((status.epoch for status in statuses), default=0)
        data_ms = max((status.data_ms for status in statuses), default=0) or None
        if self.lost_since_ms is not None or not statuses:
            return FeedView(FeedState.RECONNECTING, self.lost_since_ms, data_ms, age_ms, "all", self.lost_why, epoch)
        state = max((FeedState(status.state) for status in statuses), key=_GRAVITY.index)
        those = [status for status in statuses if status.state == state]
        scope = "all" if len(those) == len(statuses) else "shard:" + ",".join(str(status.shard) for status in those)
        return FeedView(state, min(status.since_ms for status in those), data_ms, age_ms, scope, those[0].detail, epoch)

    def segments(self) -> dict[str, str]:
        """Return segment → status name, as the feeds told them."""
        merged: dict[str, str] = {}
        for status in list(self.statuses.values()):
            merged |= status.segments
        return merged
