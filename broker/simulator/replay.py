"""A recorded feed as a market: frames go out in order, each `Feed` exactly as recorded, recorded time as market time.

It waits for subscribers and stands still while there are none, so nothing passes unseen. Nothing is invented: there is no
snapshot of a key before its first recorded `Feed` has gone out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from broker.simulator import calendar
from broker.simulator.calendar import MINUTE_MS, Hours
from broker.simulator.captures import read_recording
from broker.simulator.placeholders import option_type, placeholder_row
from broker.simulator.source import Bar, Update
from broker.upstox import MarketDataFeedV3_pb2 as pb

SETTLE_MS = 1000
"""With keys of the recording still unsubscribed, it starts so long after the last change of what is subscribed, ms."""
FRAMES_AT_ONCE = 64
"""Frames of one step when it goes as fast as the client reads."""


class SnapshotUpdate(Update):
    """An Update that was recorded as `initial_feed`, and goes out as one."""

    __slots__ = ()


class Replay:
    """Recorded frames behind the port `source.MarketSource`."""

    hours: Hours = "real"

    def __init__(
        self, frames: Iterable[bytes], *, speed: float = 1.0, loop: bool = False, rows: list[dict[str, Any]] | None = None
    ) -> None:
        """Index a recording.

        Args:
            frames: encoded `FeedResponse`s, oldest first, at least one.
            speed: recorded seconds in a second; 0 = as fast as the clients read.
            loop: begin again at the end; recorded times stay, so market time steps back then.
            rows: a master that names recorded keys; the keys that it does not name get placeholder rows.
        """
        self.speed = speed
        self._frames = list(frames)
        self._loop = loop
        self._position = 0
        self._latest: dict[str, pb.Feed] = {}
        self._bars: dict[str, dict[int, Bar]] = {}
        self._segments: dict[str, str] = {}
        self._auctions: dict[str, tuple[str, int]] = {}
        self._wanted: set[str] = set()
        self._changed_ms = 0
        self._anchor: tuple[int, int] | None = None
        self._now_ms = pb.FeedResponse.FromString(self._frames[0]).currentTs
        self.rows_by_key = self._named(rows or [])

    @classmethod
    def from_files(cls, paths: Iterable[Path], *, speed: float, loop: bool, rows: list[dict[str, Any]] | None = None) -> Replay:
        """Read recordings (captures.py) and replay them merged. Raises CaptureError."""
        return cls(read_recording(paths), speed=speed, loop=loop, rows=rows)

    def _named(self, rows: list[dict[str, Any]]) -> Mapping[str, dict[str, Any]]:
        kinds: dict[str, str | None] = {}
        for encoded in self._frames:
            for key, feed in pb.FeedResponse.FromString(encoded).feeds.items():
                if not kinds.get(key):
                    kinds[key] = option_type(feed)
        known = {row["instrument_key"]: row for row in rows}
        missing = {key: placeholder_row(key, kind, self._now_ms) for key, kind in sorted(kinds.items()) if key not in known}
        self._keys = set(kinds)
        return known | missing

    # --- the port ---------------------------------------------------------------------------------------------------------

    def now_ms(self) -> int:
        """Recorded time of the last frame that went out; of the first one before that."""
        return self._now_ms

    def master_rows(self) -> list[dict[str, Any]]:
        """The given rows, then placeholders for recorded keys that none of them names."""
        return list(self.rows_by_key.values())

    def segments(self) -> dict[str, str]:
        """As last recorded; of what the recording does not say, as the exchange's calendar has it at recorded time."""
        return self._planned(self._now_ms) | self._segments

    def auctions(self) -> dict[str, tuple[str, int]]:
        """As last recorded; as the exchange's calendar has it in a recording that says nothing of the market's state."""
        return self._auctions if self._segments else calendar.auctions(self._now_ms, self.hours)

    def finished(self) -> bool:
        """True once every frame has gone out."""
        return self._position >= len(self._frames)

    def due(self, wall_ms: int, wanted: set[str]) -> list[Update]:
        """The frames whose time has come, oldest first; nothing while nobody has subscribed a recorded key."""
        if not self._is_awake(wall_ms, wanted):
            return []
        if self._loop and self.finished():
            self._position, self._anchor = 0, None
        updates: list[Update] = []
        for frame in self._take(wall_ms):
            update = self._play(frame, wanted)
            if update is not None:
                updates.append(update)
        return updates

    def snapshot(self, keys: set[str]) -> dict[str, pb.Feed]:
        """The last `Feed` that went out of each key; keys that have not been played yet are left out."""
        return {key: self._latest[key] for key in keys if key in self._latest}

    def minute_bars(self, key: str, from_ms: int, to_ms: int) -> list[Bar]:
        """The broker's own finished bars (`I1`) that have been played, oldest first. The forming one is not recorded."""
        return [bar for start, bar in sorted(self._bars.get(key, {}).items()) if from_ms <= start < to_ms]

    def day_bars(self, key: str, from_ms: int, to_ms: int) -> list[Bar]:
        """The recorded day's bar as last played, if it has been."""
        bars = [_bar(candle, 0) for candle in _candles(self._latest.get(key)) if candle.interval == "1d" and from_ms <= candle.ts < to_ms]
        return bars[:1]

    # --- what REST asks beyond the port -----------------------------------------------------------------------------------

    def feed(self, key: str) -> pb.Feed | None:
        """The last `Feed` that went out of this key."""
        return self._latest.get(key)

    def previous_open_interest(self, key: str) -> float:
        """Not in a recording: 0."""
        return 0.0

    def spot(self, underlying_key: str) -> float:
        """Last price of the underlying, INR. Raises KeyError when it was not recorded, or has not been played yet."""
        full = self._latest[underlying_key].fullFeed
        return (full.indexFF if full.WhichOneof("FullFeedUnion") == "indexFF" else full.marketFF).ltpc.ltp

    # --- steps ------------------------------------------------------------------------------------------------------------

    def _is_awake(self, wall_ms: int, wanted: set[str]) -> bool:
        if wanted != self._wanted:
            self._wanted, self._changed_ms = set(wanted), wall_ms
        settled = self._keys <= wanted or wall_ms - self._changed_ms >= SETTLE_MS
        awake = not self._keys.isdisjoint(wanted) and (self._anchor is not None or settled)
        if not awake:
            self._anchor = None
        return awake

    def _take(self, wall_ms: int) -> list[pb.FeedResponse]:
        """Move on to the frames that are due, and return them; only up to a change of state in the calendar, which is told in its place."""
        if self._anchor is None and not self.finished():
            self._anchor = (wall_ms, pb.FeedResponse.FromString(self._frames[self._position]).currentTs)
        frames: list[pb.FeedResponse] = []
        while not self.finished() and (self.speed or len(frames) < FRAMES_AT_ONCE):
            frame = pb.FeedResponse.FromString(self._frames[self._position])
            if frames and self._changes(frames[-1].currentTs, frame.currentTs):
                break
            if self.speed and self._anchor and frame.currentTs - self._anchor[1] > (wall_ms - self._anchor[0]) * self.speed:
                break
            frames.append(frame)
            self._position += 1
        return frames

    def _planned(self, ms: int) -> dict[str, str]:
        return {segment: calendar.segment_status(segment, ms, self.hours) for segment in calendar.SEGMENTS}

    def _changes(self, from_ms: int, to_ms: int) -> bool:
        """Whether the calendar has another state at the second time than at the first."""
        if from_ms // MINUTE_MS == to_ms // MINUTE_MS:
            return False
        states = [(self._planned(ms), calendar.auctions(ms, self.hours)) for ms in (from_ms, to_ms)]
        return states[0] != states[1]

    def _play(self, frame: pb.FeedResponse, wanted: set[str]) -> Update | None:
        """Fold one frame into the state; return what of it is wanted."""
        self._now_ms = frame.currentTs
        for segment, status in frame.marketInfo.segmentStatus.items():
            self._segments[segment] = pb.MarketStatus.Name(status)
        if frame.HasField("marketInfo"):
            self._auctions = {segment: (info.status, info.updatedTime) for segment, info in frame.marketInfo.casMarketStatus.items()}
        wanted_feeds = {}
        for key, feed in frame.feeds.items():
            self._latest[key] = feed
            for candle in _candles(feed):
                if candle.interval == "I1" and candle.ts:
                    self._bars.setdefault(key, {})[candle.ts] = _bar(candle, int(feed.fullFeed.marketFF.oi))
            if key in wanted:
                wanted_feeds[key] = feed
        if not wanted_feeds:
            return None
        kind = SnapshotUpdate if frame.type == pb.initial_feed else Update
        return kind(frame.currentTs, wanted_feeds)


def _candles(feed: pb.Feed | None) -> Iterable[pb.OHLC]:
    if feed is None:
        return ()
    full = feed.fullFeed
    return (full.indexFF if full.WhichOneof("FullFeedUnion") == "indexFF" else full.marketFF).marketOHLC.ohlc


def _bar(candle: pb.OHLC, open_interest: int) -> Bar:
    return Bar(candle.ts, candle.open, candle.high, candle.low, candle.close, candle.vol, open_interest)
