"""The state of a feed as clients see it. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple


class FeedState(StrEnum):
    """What a client may rely on now."""

    LIVE = "live"
    QUIET = "quiet"
    STALE = "stale"
    RECONNECTING = "reconnecting"
    TOKEN_EXPIRED = "token_expired"  # noqa: S105 - a state's name
    CLOSED = "closed"


class FeedStatus(NamedTuple):
    """One feed shard's report, published each second.

    Attributes:
        shard: 0–7.
        epoch: this run of the shard, ms UTC of its start; a higher one resets every `seq`.
        n: number of the last group message of this epoch.
        state: a FeedState.
        since_ms: when that state began, ms UTC.
        data_ms: broker's clock of the newest frame, ms UTC; 0 before the first.
        reported_ms: our clock when this report was made, ms UTC.
        segments: segment → status name.
        counters: monotonic counts and gauges by name (`frames_received_total`…).
        detail: one sentence for a person, or "".
    """

    shard: int
    epoch: int
    n: int
    state: str
    since_ms: int
    data_ms: int
    reported_ms: int
    segments: dict[str, str]
    counters: dict[str, float]
    detail: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for a message or JSON."""
        return self._asdict()
