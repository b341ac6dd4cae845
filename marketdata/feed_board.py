"""What clients may rely on: the reports of all feed shards, and our own loss of them, made into one view. Pure."""

from __future__ import annotations

from typing import NamedTuple

from marketdata.domain.feed_status import FeedState, FeedStatus
from marketdata.wire import FeedView

_GRAVITY = (FeedState.LIVE, FeedState.QUIET, FeedState.CLOSED, FeedState.STALE, FeedState.TOKEN_EXPIRED, FeedState.RECONNECTING)
"""States of several shards: the last of these that one of them is in is told."""


class _Told(NamedTuple):
    shard: int
    state: FeedState
    since_ms: int | None
    detail: str


class FeedBoard:
    """The newest report of each shard, and whether what we have may miss something.

    How many shards there are is what the feed that began last says (`feed_shards`): reports of further ones are of an earlier set-up
    and are dropped, and one that has not reported is told as `reconnecting`.

    Attributes:
        statuses: shard → newest report.
        shards: how many feeds there are; 0 where no report says.
    """

    def __init__(self) -> None:
        self.statuses: dict[int, FeedStatus] = {}
        self.shards = 0
        self._lost: dict[int | None, tuple[int, str]] = {}
        """Shard (None: all) → since when its messages are missing here, ms UTC, and why."""
        self._silent: dict[int, int] = {}
        """Shard → since when it has not reported, ms UTC."""

    def take(self, status: FeedStatus) -> None:
        """Keep a report, unless a newer one of its shard is known."""
        known = self.statuses.get(status.shard)
        if known is None or (status.epoch, status.n, status.reported_ms) >= (known.epoch, known.n, known.reported_ms):
            self.statuses[status.shard] = status
        newest = max(self.statuses.values(), key=lambda each: each.epoch)
        self.shards = int(newest.counters.get("feed_shards", 0))
        for shard in [shard for shard in self.statuses if shard >= self.shards > 0]:
            del self.statuses[shard]

    def lose(self, why: str, now_ms: int, shard: int | None = None) -> bool:
        """Note that messages are missing, of one shard or (None) of all. False: that was known already."""
        if shard in self._lost or None in self._lost:
            return False
        self._lost[shard] = (now_ms, why)
        return True

    def find(self) -> bool:
        """Note that nothing is missing any more. False: nothing was."""
        found = bool(self._lost)
        self._lost = {}
        return found

    @property
    def lost_since_ms(self) -> int | None:
        """Since when messages are missing, ms UTC; None while nothing is."""
        return min(self._lost.values())[0] if self._lost else None

    @property
    def lost_why(self) -> str:
        """The reason for that, in a sentence; empty while nothing is missing."""
        return min(self._lost.values())[1] if self._lost else ""

    @property
    def is_closed(self) -> bool:
        """Whether every feed said that it stops: no report is expected then."""
        return bool(self.statuses) and all(status.state == FeedState.CLOSED for status in self.statuses.values())

    @property
    def market_ms(self) -> int | None:
        """Market time · ms UTC: the newest that any feed told; None while no feed runs."""
        told = max((status.data_ms for status in self.statuses.copy().values()), default=0)
        return None if self.is_closed else told or None

    def hush(self, shard: int, now_ms: int) -> bool:
        """Note that a shard reports no more. False: that was known already, it said that it stops, or there is no such shard."""
        if shard in self._silent or shard not in self.statuses or self.statuses[shard].state == FeedState.CLOSED:
            return False
        self._silent[shard] = now_ms
        return True

    def hear(self, shard: int) -> None:
        """Note that a shard reports."""
        self._silent.pop(shard, None)

    def view(self, age_ms: int | None) -> FeedView:
        """Return the feed's state; `age_ms` is the time since quotes came, None before the first."""
        statuses = self.statuses.copy()
        epoch = max((status.epoch for status in statuses.values()), default=0)
        data_ms = max((status.data_ms for status in statuses.values()), default=0) or None
        all_lost = self._lost.get(None)
        if all_lost is not None or not statuses:
            since_ms, why = all_lost or (None, "")
            return FeedView(FeedState.RECONNECTING, since_ms, data_ms, age_ms, "all", why, epoch)
        told = [self._told(shard, statuses.get(shard)) for shard in (range(self.shards) if self.shards else sorted(statuses))]
        state = max((one.state for one in told), key=_GRAVITY.index)
        those = [one for one in told if one.state == state]
        scope = "all" if len(those) == len(told) else "shard:" + ",".join(str(one.shard) for one in those)
        since_ms = min((one.since_ms for one in those if one.since_ms is not None), default=None)
        return FeedView(state, since_ms, data_ms, age_ms, scope, those[0].detail, epoch)

    def _told(self, shard: int, status: FeedStatus | None) -> _Told:
        lost, silent_since_ms = self._lost.get(shard), self._silent.get(shard)
        if lost is not None:
            return _Told(shard, FeedState.RECONNECTING, *lost)
        if status is None:
            return _Told(shard, FeedState.RECONNECTING, None, f"Feed {shard + 1} of {self.shards} has not reported.")
        if silent_since_ms is not None:
            return _Told(shard, FeedState.RECONNECTING, silent_since_ms, f"Feed {shard + 1} of {self.shards} reports no more.")
        return _Told(shard, FeedState(status.state), status.since_ms, status.detail)

    def segments(self) -> dict[str, str]:
        """Return segment → status name, as the feeds told them; those that report no more only where no other does."""
        merged: dict[str, str] = {}
        for _, status in sorted(self.statuses.copy().items(), key=lambda each: each[0] not in self._silent):
            merged |= status.segments
        return merged
