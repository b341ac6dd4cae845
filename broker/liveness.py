"""Whether the feed gives what it should: four clocks of one connection, read beside the market's session. Pure: time is an argument.

The clocks: the newest *pong*, the newest *frame* of any kind, per *segment* and per *instrument* the newest update. The session is
the status of each segment in the feed's own market_info. A segment *trades* when it is followed and its status is NORMAL_OPEN:
nothing is promised before, after or in the auctions, so silence there says nothing (FACTS §3.5).

The law; of the rows that apply the first counts:

    | first frame | followed | trades  | silence                                       | state        | connection |
    |-------------|----------|---------|-----------------------------------------------|--------------|------------|
    | not yet     |          |         | less than GREETING_SECONDS                    | reconnecting | kept       |
    | not yet     |          |         | GREETING_SECONDS                              | reconnecting | dropped    |
    | came        | some     | none    |                                               | quiet        | kept       |
    | came        |          |         | no tick yet, open less than STALE_SECONDS     | reconnecting | kept       |
    | came        | none     |         |                                               | quiet        | kept       |
    | came        | some     | some    | no frame for MUTE_SECONDS                     | stale        | dropped    |
    | came        | some     | some    | a trading segment silent for its patience     | stale        | kept       |
    | came        | some     | some    |                                               | live         | kept       |

A missing pong drops the connection in every row: the WebSocket library does that (`upstox.feed.PING_SECONDS`), here it is a gauge.
Where a mute connection never gave a live tick, MUTE_SECONDS are doubled for the next one, up to a quarter of an hour: a status
that stays NORMAL_OPEN on a holiday costs a few reconnects, not one each 30 s. A silent instrument drops nothing: illiquid ones are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from marketdata.domain.feed_status import FeedState

TRADING = "NORMAL_OPEN"
GREETING_SECONDS = 10.0
"""The broker sends market_info at once on open (FACTS §3.5)."""
STALE_SECONDS = 10.0
"""Patience with a segment of which FEW_INSTRUMENTS or more are followed, and with one of indices, which move each second."""
SPARSE_SECONDS = 60.0
"""Patience with any other: a handful of illiquid strikes is silent for long."""
FEW_INSTRUMENTS = 10
MUTE_SECONDS = 30.0
LONGEST_MUTE_SECONDS = 900.0
SILENT_SECONDS = 60.0
"""An instrument without an update for so long counts as silent."""
TOLD_SECONDS = (10, 20, 30, 60, 120, 300, 600, 1800, 3600)
"""Steps in which a silence is told: every change of the sentence goes to every client."""

Mark = tuple[int, int]
"""Anything of an instrument that moves with each update: its quote's `seq` and `broker_ms`."""


class Verdict(NamedTuple):
    """What clients may rely on, and what is to be done.

    Attributes:
        state: live, quiet, stale or reconnecting.
        detail: a sentence that names what is silent, or "".
        drop: whether the connection is to be dropped and made anew.
    """

    state: FeedState
    detail: str = ""
    drop: bool = False


class Liveness:
    """The clocks of the present connection. All times are seconds of one monotonic clock.

    Attributes:
        is_open: whether there is a connection.
        frame_at: newest frame of any kind. Set for each frame by whoever receives.
        data_at: newest frame with ticks, likewise.
        live_at: newest frame with ticks that is no snapshot, likewise.
        trading: segments that are followed and trade.
    """

    def __init__(self) -> None:
        self.frame_at = self.data_at = self.live_at = float("-inf")
        self.trading: frozenset[str] = frozenset()
        self.is_open = False
        self._opened_at = float("-inf")
        self._mute_seconds = MUTE_SECONDS
        self._was_mute = False
        self._pong_at = float("-inf")
        self._latency = 0.0
        self._followed: Mapping[str, Collection[int]] = {}
        self._updates: dict[int, tuple[Mark | None, float]] = {}
        self._since: dict[str, float] = {}

    def opened(self, now: float) -> None:
        """A connection was made: every clock begins anew."""
        doubled = self._was_mute and not self.gave_data
        self._mute_seconds = min(2 * self._mute_seconds, LONGEST_MUTE_SECONDS) if doubled else MUTE_SECONDS
        self._was_mute = False
        self.closed()
        self.is_open = True
        self._opened_at = self._pong_at = now

    def closed(self) -> None:
        """The connection is gone."""
        self.is_open = False
        self._latency = 0.0
        self._followed = {}
        self._updates = {}
        self._since = {}

    @property
    def gave_data(self) -> bool:
        """Whether a live tick came on the present, or the last, connection."""
        return self.live_at >= self._opened_at

    def observe(
        self,
        now: float,
        *,
        followed: Mapping[str, Collection[int]],
        statuses: Mapping[str, str],
        mark: Callable[[int], Mark | None],
        latency: float,
    ) -> None:
        """Read the clocks that nobody sets; about once a second.

        Args:
            now: monotonic seconds.
            followed: segment → instruments subscribed on this connection.
            statuses: segment → status name, by the newest market_info.
            mark: of an instrument; None before its first update.
            latency: round trip of the newest pong, seconds; 0 before the first.
        """
        self._followed = followed
        self.trading = trading_segments(followed, statuses)
        self._since = {segment: self._since.get(segment, now) for segment in self.trading}
        updates, known = {}, self._updates
        for instruments in followed.values():
            for instrument in instruments:
                moved = mark(instrument)
                last = known.get(instrument)
                updates[instrument] = last if last is not None and last[0] == moved else (moved, now)
        self._updates = updates
        if latency != self._latency:
            self._pong_at, self._latency = now, latency

    def judge(self, now: float) -> Verdict:
        """Return the first row of the law that applies to an open connection."""
        if self.frame_at < self._opened_at:
            waited = now - self._opened_at
            return Verdict(FeedState.RECONNECTING, "connected, waiting for the broker's first frame", waited >= GREETING_SECONDS)
        if self._followed and not self.trading:
            return Verdict(FeedState.QUIET, "no segment that is followed trades now")
        if self.data_at < self._opened_at and now - self._opened_at < STALE_SECONDS:
            return Verdict(FeedState.RECONNECTING, "connected, waiting for the first quotes")
        if not self._followed:
            return Verdict(FeedState.QUIET, "nothing is subscribed; load the master with `manage.py refresh_instruments`")
        if now - self.frame_at >= (MUTE_SECONDS if self.gave_data else self._mute_seconds):
            self._was_mute = True
            trade = f"{_and(self.trading)} {'trades' if len(self.trading) == 1 else 'trade'}"
            return Verdict(FeedState.STALE, f"open but mute: no frame for {now - self.frame_at:.0f} s while {trade}", True)
        silent = {segment: silence for segment in self.trading if (silence := self._silence(segment, now)) >= self._patience(segment)}
        if silent:
            over = max(step for step in TOLD_SECONDS if step <= min(silent.values()))
            return Verdict(FeedState.STALE, f"{_and(silent)} {'has' if len(silent) == 1 else 'have'} sent nothing for over {over} s")
        return Verdict(FeedState.LIVE)

    @property
    def heard_at(self) -> float:
        """The time up to which nothing can be missing: that of the newest ticks while something trades, else of the newest frame."""
        return max(self.data_at, *self._since.values()) if self._since else max(self.frame_at, self._opened_at)

    def gauges(self, now: float) -> dict[str, float]:
        """Return the clocks as figures: `pong_age_ms`, `latency_ms`, `frame_age_ms` (0 without a connection), `instruments_silent`."""
        ages = (now - self._pong_at, self._latency, now - max(self.frame_at, self._opened_at)) if self.is_open else (0.0, 0.0, 0.0)
        pong, latency, frame = (round(seconds * 1000, 1) for seconds in ages)
        oldest = now - SILENT_SECONDS
        silent = sum(self._updates[instrument][1] <= oldest for segment in self.trading for instrument in self._followed.get(segment, ()))
        return {"pong_age_ms": pong, "latency_ms": latency, "frame_age_ms": frame, "instruments_silent": silent}

    def _silence(self, segment: str, now: float) -> float:
        """Seconds since a trading segment gave anything; since it began to trade, or to be followed, where that is later."""
        newest = max((self._updates[instrument][1] for instrument in self._followed[segment]), default=now)
        return now - max(newest, self._since[segment])

    def _patience(self, segment: str) -> float:
        few = len(self._followed[segment]) < FEW_INSTRUMENTS and not segment.endswith("_INDEX")
        return SPARSE_SECONDS if few else STALE_SECONDS


def segment_of(key: str) -> str:
    """Return the segment of an instrument key: what stands before its bar."""
    return key.partition("|")[0]


def trading_segments(followed: Collection[str], statuses: Mapping[str, str]) -> frozenset[str]:
    """Return those of the followed segments that trade."""
    return frozenset(segment for segment in followed if statuses.get(segment) == TRADING)


def _and(names: Collection[str]) -> str:
    *first, last = sorted(names)
    return f"{', '.join(first)} and {last}" if first else last
