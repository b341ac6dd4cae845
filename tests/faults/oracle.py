"""Whether a tick was lost, doubled or changed, judged from outside: nothing of ours decodes, reads the journal or the store here.

    exchange's ledger ─▶ journal (mcap's reader) ─▶ frames (the SDK's module) ─▶ documents expected = documents in MongoDB (pymongo)

What may be missing is the end of a connection: what was on its way when it was cut, or when the feed was killed. Of one that is still
open nothing may. Anything missing before a frame that is there, anything twice, anything out of its order, anything stored that no frame
said, is an AssertionError.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from bson.codec_options import CodecOptions, DatetimeConversion
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from mcap.exceptions import EndOfFile
from mcap.reader import NonSeekingReader
from pymongo.database import Database
from upstox_client.feeder.proto import MarketDataFeedV3_pb2 as sdk

from broker.simulator.ledger import LedgerReader, SentFrame
from tests.payloads.figures import EPOCH_2020_NS, Figures, content_hash, figures_of

LOST_MS = 5_000
"""The longest end of a connection that may be missing. A generous bound: the real figure is printed (100 ms and what was in flight)."""
PLAIN = CodecOptions[dict[str, Any]](datetime_conversion=DatetimeConversion.DATETIME_MS)
TIMES = frozenset({"t", "r", "lt"})
Bar = tuple[float, float, float, float, int]


class Journalled(NamedTuple):
    """One record of a journal. `stamp` microseconds since 2020-01-01 · `content` the WebSocket message."""

    stamp: int
    content: bytes


class Proof(NamedTuple):
    """What the oracle has seen.

    Attributes:
        sent: frames in the ledger; 0 where none was given.
        journalled: frames.
        lost: frames that were sent and never journalled, all at the ends of connections.
        lost_ms: the longest such end, ms from its first frame to its last.
        lost_since: connection → when the first frame of such an end was sent, ns UTC.
        stored: ticks.
        candles: the broker's 1-minute bars.
        last: key → figures of its newest update, by the broker's clock.
        known: key → the newest value that any update gave of each figure: what a quote may show besides `last`.
    """

    sent: int
    journalled: int
    lost: int
    lost_ms: float
    lost_since: dict[int, int]
    stored: int
    candles: int
    last: dict[str, Figures]
    known: dict[str, Figures]

    def __str__(self) -> str:
        return (
            f"{self.sent} frames sent, {self.journalled} journalled, {self.lost} lost at the ends of connections (≤ {self.lost_ms:.0f} ms);"
            f" {self.stored} ticks of {len(self.last)} instruments stored once, unchanged; {self.candles} candles"
        )


def journalled_frames(*journals: Path) -> Iterator[Journalled]:
    """Read frames with MCAP's own reader, each journal folder in order. A segment whose writer was killed ends at its last whole chunk."""
    for folder in journals:
        for path in sorted(folder.glob("*.mcap")):
            yield from segment_frames(path)


def segment_frames(path: Path) -> Iterator[Journalled]:
    """Read one segment's frames."""
    with path.open("rb") as stream, suppress(EndOfFile, struct.error):
        for _, _, message in NonSeekingReader(stream, validate_crcs=True).iter_messages(topics=["frames"], log_time_order=False):
            yield Journalled((message.log_time - EPOCH_2020_NS) // 1000, message.data)


def assert_lossless(
    database: Database[dict[str, Any]],
    journals: Sequence[Path],
    ledger: Path | None = None,
    *,
    lost_ms: float = LOST_MS,
    still_open: int | None = None,
) -> Proof:
    """Compare ledger, journals and store, once everything has come to rest.

    Args:
        database: the store.
        journals: folder of each feed shard's journal.
        ledger: the exchange's; None: the journal alone is what counts.
        lost_ms: the longest end of a connection that may be missing, ms; a socket that was dead for long, though open, needs more.
        still_open: the connection that was never cut, and on which nothing is under way: all of it must be there. None: all have ended.

    Returns:
        The counts.

    Raises:
        AssertionError: something is lost, doubled, changed or invented; what, and the first of it.
    """
    frames = [frame for folder in journals for frame in journalled_frames(folder)]
    sent = list(LedgerReader(ledger).frames()) if ledger is not None else []
    lost = _assert_journalled(sent, frames, lost_ms, still_open) if ledger is not None else []
    instruments = {row["instrument_key"]: row["_id"] for row in database["instruments_instrument"].find({"active": True})}
    documents, bars, last, known = _expected(frames, instruments)
    _assert_stored(database, documents)
    _assert_candles(database, bars)
    longest = max(((end[-1].sent_ns - end[0].sent_ns) / 1e6 for end in lost), default=0.0)
    since = {end[0].connection: end[0].sent_ns for end in lost}
    return Proof(len(sent), len(frames), sum(map(len, lost)), longest, since, len(documents), len(bars), last, known)


def _assert_journalled(
    sent: Iterable[SentFrame], frames: Iterable[Journalled], lost_ms: float, still_open: int | None
) -> list[list[SentFrame]]:
    """Each journalled frame is the next one of some connection of the exchange; return the ends of connections that are missing."""
    connections: dict[int, list[SentFrame]] = defaultdict(list)
    for one in sent:
        connections[one.connection].append(one)
    done = dict.fromkeys(connections, 0)
    last_stamp = dict.fromkeys(range(8), -1)
    for frame in frames:
        shard = frame.stamp & 7
        assert frame.stamp > last_stamp[shard], f"the stamp {frame.stamp} comes after {last_stamp[shard]}"
        last_stamp[shard] = frame.stamp
        number = next((number for number, all_of in connections.items() if _content(all_of, done[number]) == frame.content), None)
        assert number is not None, _why_not(frame, connections, done)
        done[number] += 1
    ends = [all_of[done[number] :] for number, all_of in connections.items() if done[number] < len(all_of)]
    for end in ends:
        assert end[0].connection != still_open, f"{len(end)} frames at the end of connection {still_open} are lost, and it is still open"
        missing_ms = (end[-1].sent_ns - end[0].sent_ns) / 1e6
        assert missing_ms <= lost_ms, f"{len(end)} frames at the end of connection {end[0].connection} are lost, {missing_ms:.0f} ms of it"
    return ends


def _content(frames: Sequence[SentFrame], place: int) -> bytes | None:
    return frames[place].content if place < len(frames) else None


def _why_not(frame: Journalled, connections: Mapping[int, Sequence[SentFrame]], done: Mapping[int, int]) -> str:
    for number, all_of in connections.items():
        for place, one in enumerate(all_of):
            if one.content == frame.content:
                if place < done[number]:
                    return f"frame {place} of connection {number} is in the journal twice, or out of its order; it is at {done[number]}"
                lost = all_of[done[number] : place]
                return f"{len(lost)} frames are lost inside connection {number}, before its frame {place}"
    return f"the journalled frame {frame.stamp} was never sent"


def _expected(
    frames: Iterable[Journalled], instruments: Mapping[str, int]
) -> tuple[dict[int, tuple[int, Figures]], dict[tuple[int, int], Bar], dict[str, Figures], dict[str, Figures]]:
    """Say what the store must hold: id → (instrument, its figures), (instrument, minute) → bar; and `last` and `known` of Proof."""
    documents: dict[int, tuple[int, Figures]] = {}
    bars: dict[tuple[int, int], Bar] = {}
    last: dict[str, Figures] = {}
    known: dict[str, Figures] = defaultdict(dict)
    newest: dict[str, float] = {}
    for stamp, content in frames:
        try:
            frame = MessageToDict(sdk.FeedResponse.FromString(content))
        except DecodeError:
            continue  # garbage is journalled, and says nothing
        feeds = frame.get("feeds", {})
        received_ms = (stamp + EPOCH_2020_NS // 1000) // 1000
        broker_ms = float(frame.get("currentTs", received_ms))
        kind = float(frame.get("type") == "live_feed")
        for rank, key in enumerate(sorted(feeds, key=str.encode)):
            instrument = instruments.get(key)
            if instrument is None:
                continue  # no instrument of ours: only the journal has it
            figures = update_figures(feeds[key])
            documents[(stamp << 13) + rank] = instrument, {**figures, "t": broker_ms, "r": float(received_ms), "k": kind}
            if broker_ms >= newest.get(key, 0.0):
                last[key], newest[key] = figures, broker_ms
                known[key].update(figures)
            for bar in _bars(feeds[key]):
                prices = [float(bar.get(name, 0)) for name in ("open", "high", "low", "close")]
                bars[instrument, int(bar["ts"])] = (prices[0], prices[1], prices[2], prices[3], int(bar.get("vol", 0)))
    return documents, bars, last, known


def update_figures(feed: Mapping[str, Any]) -> Figures:
    """Read a Feed of any mode (protobuf-JSON) as a tick's stored figures (FACTS §3.4)."""
    if "fullFeed" in feed:
        return figures_of(dict(feed))
    if "ltpc" in feed:
        price = feed["ltpc"]
        figures = {"p": price.get("ltp"), "q": price.get("ltq"), "c": price.get("cp"), "lt": price.get("ltt")}
        return {name: float(value) for name, value in figures.items() if value is not None}
    raise AssertionError(f"the oracle cannot read this update: {feed}")


def _bars(feed: Mapping[str, Any]) -> list[dict[str, Any]]:
    full = feed.get("fullFeed", {})
    body = full.get("marketFF") or full.get("indexFF") or {}
    return [bar for bar in body.get("marketOHLC", {}).get("ohlc", []) if bar.get("interval") == "I1" and int(bar.get("ts", 0))]


def _assert_stored(database: Database[dict[str, Any]], expected: Mapping[int, tuple[int, Figures]]) -> None:
    """The store's ids are those expected, and each instrument's documents, in their order, say what its updates said."""
    stored = {row["_id"]: row for row in database.get_collection("marketdata_markettick", codec_options=PLAIN).find().sort("_id", 1)}
    missing, invented = expected.keys() - stored.keys(), stored.keys() - expected.keys()
    assert not missing, f"{len(missing)} of {len(expected)} ticks are not stored, {min(missing)} first"
    assert not invented, f"{len(invented)} stored ticks come from no journalled frame, {min(invented)} first"
    said: dict[int, list[Figures]] = defaultdict(list)
    kept: dict[int, list[Figures]] = defaultdict(list)
    for identifier in sorted(expected):
        said[expected[identifier][0]].append(expected[identifier][1])
    for row in stored.values():
        kept[row["i"]].append(_row_figures(row))
    assert kept.keys() == said.keys(), f"the store's instruments are not the journal's: {sorted(kept.keys() ^ said.keys())[:5]}"
    for instrument, figures in said.items():
        if content_hash(figures) != content_hash(kept[instrument]):
            first = next(pair for pair in zip(figures, kept[instrument], strict=True) if content_hash([pair[0]]) != content_hash([pair[1]]))
            raise AssertionError(f"a tick of instrument {instrument} is stored other than it was sent: {first}")


def _row_figures(row: Mapping[str, Any]) -> Figures:
    """A document's figures; times as ms since 1970."""
    return {name: float(int(value) if name in TIMES else value) for name, value in row.items() if name not in ("_id", "i")}


def _assert_candles(database: Database[dict[str, Any]], expected: Mapping[tuple[int, int], Bar]) -> None:
    """Each of the broker's 1-minute bars is stored once, with the figures that it had last."""
    rows = list(database.get_collection("marketdata_ohlc", codec_options=PLAIN).find({"n": "1m", "s": "confirmed"}))
    stored = {(row["i"], int(row["t"])): (row["o"], row["h"], row["l"], row["c"], int(row["v"])) for row in rows}
    assert len(stored) == len(rows), "a candle is stored twice"
    assert stored.keys() == expected.keys(), f"candles that are not the broker's bars: {sorted(stored.keys() ^ expected.keys())[:5]}"
    wrong = [(place, bar, stored[place]) for place, bar in expected.items() if stored[place] != bar]
    assert not wrong, f"{len(wrong)} candles are not as the broker sent them, {wrong[0]} first"
