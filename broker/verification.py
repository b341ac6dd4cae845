"""Proves a day: every tick and finished minute that the journal's frames give is in the store, once, as they say, and nothing else is.

Journal and store are walked side by side in order of tick id, so memory follows instruments and minutes, not ticks. Frame by frame the
expected documents' BSON is compared with the stored bytes; only where they differ are documents decoded and told apart. It reads only.
"""

from __future__ import annotations

import heapq
import math
import struct
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import bson
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from django.db.models import Q
from pymongo import ASCENDING

from broker.certificate import NAMED, Certificate, Finding, InstrumentProof, ShardProof
from broker.hours import TradingHours
from broker.journal_reading import JournalReader, Record
from broker.journal_segments import segment_paths
from broker.liveness import segment_of
from broker.position import position_read
from broker.upstox.decode import Frame, decode
from instruments.domain.instrument import INDEX_TYPE, IST
from instruments.models import Instrument
from instruments.selectors import instrument_ids, instrument_keys
from marketdata import live_state
from marketdata.calendar import calendar_read
from marketdata.domain.candle import Candle, candle_id
from marketdata.domain.continuity import continuity
from marketdata.domain.tick import EPOCH_2020_US, MAX_RANK, SHARD_BITS, stamp_to_ms, tick_id, tick_id_received_us
from marketdata.models import Gap
from marketdata.services import candle_id_parts
from marketdata.store import Document, candles_collection, tick_bson, ticks_collection, time_ms

DAY_MS = 86_400_000
NOW_MS = 5_000
"""A day that ends so near to now is still being written: its journal is given FLUSHED_SECONDS to reach the disk."""
FLUSHED_SECONDS = 1.0
YOUNG_MS = 60_000
"""Of a day that is still being written, ticks so young may be stored before their frame can be read, or not be stored yet."""
BATCH = 5_000
GAPS = 1_000
_EXACT: CodecOptions[dict[str, Any]] = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_MS)
_HEAD = struct.Struct("<ib4xq")
"""A document that begins with an int64 `_id`: its length, the type, the name, the value. Source: bsonspec.org, read 2026-11-22."""
_INT64 = 0x12
_FIGURES = struct.Struct("<4dq")

Progress = Callable[[int, float, int], None]
"""Told now and then: ticks compared, seconds, the time of receipt that was reached (ms UTC)."""


def day_verify(
    day: date, *, journal: Path, shard: int | None = None, retention_days: int, now_ms: int, progress: Progress | None = None
) -> Certificate:
    """Compare one day's journal with the store.

    Args:
        day: IST day of receipt.
        journal: the folder with a folder per shard.
        shard: only this one; None: every shard that has a folder.
        retention_days: how long ticks are kept in the store.
        now_ms: our clock, ms UTC; of today only what was received before is looked at.
        progress: see Progress.

    Raises:
        pymongo.errors.PyMongoError: the store does not answer; worth a retry.
    """
    return _Verification(day, journal, shard, retention_days, now_ms, progress).run()


class _UndecodableError(Exception):
    """A frame's bytes cannot be read."""


class _StoredTicks:
    """The stored documents of a range of ids, in order, as raw BSON."""

    def __init__(self, low: int, high: int) -> None:
        found = ticks_collection().find_raw_batches({"_id": {"$gte": low, "$lt": high}}, batch_size=BATCH, no_cursor_timeout=True)
        self._batches: Iterator[bytes] = iter(found.sort("_id", ASCENDING).hint("_id_"))
        self._bytes = b""
        self._at = 0

    def _more(self) -> bool:
        batch = next(self._batches, None)
        if batch is not None:
            self._bytes = self._bytes[self._at :] + batch
            self._at = 0
        return batch is not None

    def take(self, expected: bytes) -> bool:
        """Step over exactly these documents, if they come next; say whether."""
        while len(self._bytes) - self._at < len(expected):
            if not self._more():
                return False
        if self._bytes.startswith(expected, self._at):
            self._at += len(expected)
            return True
        return False

    def until(self, last: int) -> Iterator[bytes]:
        """Step over the documents whose id is not above `last`, and yield them."""
        while self._at < len(self._bytes) or self._more():
            length, kind, identifier = _HEAD.unpack_from(self._bytes, self._at)
            raw = self._bytes[self._at : self._at + length]
            if kind != _INT64:
                identifier = _document(raw)["_id"]
            if identifier > last:
                return
            self._at += length
            yield raw


class _Instrument:
    """What is known of one instrument while the day goes by."""

    __slots__ = ("expected", "journal", "store", "stored")

    def __init__(self) -> None:
        self.expected = self.stored = 0
        self.journal = sha256()
        self.store: Any = None
        """A hash of its own from the first difference on; until then the store's is the journal's."""

    def agree(self, raw: bytes) -> None:
        """The store has what the journal says."""
        self.expected += 1
        self.stored += 1
        self.journal.update(raw)
        if self.store is not None:
            self.store.update(raw)

    def differ(self, expected: bytes | None, stored: bytes | None) -> None:
        """The journal says the one, the store has the other; None: nothing."""
        if self.store is None:
            self.store = self.journal.copy()
        if expected is not None:
            self.expected += 1
            self.journal.update(expected)
        if stored is not None:
            self.stored += 1
            self.store.update(stored)


class _Verification:
    """One run."""

    def __init__(self, day: date, journal: Path, shard: int | None, retention_days: int, now_ms: int, progress: Progress | None) -> None:
        from_ms = int(datetime(day.year, day.month, day.day, tzinfo=IST).timestamp() * 1000)
        self._began = time.monotonic()
        self._told = self._began
        self._progress = progress
        self._from_us, self._from_ms = from_ms * 1000 - EPOCH_2020_US, from_ms
        self._until_ms = max(from_ms, min(from_ms + DAY_MS, now_ms))
        self._until_us = self._until_ms * 1000 - EPOCH_2020_US
        self._is_written = now_ms - self._until_ms < NOW_MS
        self._kept_from_ms = now_ms - retention_days * DAY_MS
        self._folders = {int(path.name): path for path in sorted(journal.glob("[0-9]*")) if path.name.isdigit()}
        self._only = shard
        if shard is not None:
            self._folders = {shard: self._folders.get(shard, journal / str(shard))}
        self._certificate = Certificate(day, from_ms, self._until_ms)
        self._counts = self._certificate.counts
        self._positions = {number: position_read(number) for number in range(1 << SHARD_BITS)}  # before the store is read
        self._readers: dict[int, JournalReader] = {}
        self._shards: dict[int, ShardProof] = {}
        self._begins_us: dict[int, list[int]] = {}
        self._newest_us: dict[int, int] = {}
        """Shard → stamp of the frame that its journal was read to: while frames are walked, the next one."""
        self._stored: _StoredTicks
        self._instruments: dict[int, _Instrument] = {}
        self._keys: dict[int, str] = {}
        self._map: Mapping[str, int] = {}
        self._unknown: dict[str, int | None] = {}
        self._hours = TradingHours()
        self._bars: dict[int, bytes] = {}
        self._minutes: dict[int, bytes] = {}
        self._young_bars: set[int] = set()
        self._unproved: dict[str, int] = {}
        self._waiting_ms = 0
        """When the oldest frame that is not stored yet was received; 0: all are."""
        self._seen = 0
        """Stored documents under ids of the day whose time of receipt is of the day."""

    def run(self) -> Certificate:
        self._hours.take_calendar(calendar_read())
        for number, folder in self._folders.items():
            self._open(number, folder)
        self._stored = _StoredTicks(tick_id(self._from_us, 0), tick_id(self._until_us, 0))
        frames = heapq.merge(*(self._records(number, reader) for number, reader in self._readers.items()), key=lambda row: row[0])
        for number, (stamp, shard, record) in enumerate(frames):
            self._frame(stamp, shard, record)
            if not number % 200:
                self._tell(stamp)
        for raw in self._stored.until(tick_id(self._until_us, 0)):
            self._unexplained(raw)
        self._elsewhere()
        self._candles()
        self._finish()
        return self._certificate

    # --- the journal ----------------------------------------------------------------------------------------------------

    def _open(self, shard: int, folder: Path) -> None:
        paths = segment_paths(folder)
        stamps = [int(path.stem) for path in paths]
        self._begins_us[shard] = stamps
        before = [path.name for path, stamp in zip(paths, stamps, strict=True) if stamp < self._from_us]
        within = [path.name for path, stamp in zip(paths, stamps, strict=True) if self._from_us <= stamp < self._until_us]
        position = self._positions.get(shard, 0)
        self._shards[shard] = ShardProof(
            shard,
            segments=before[-1:] + within,
            begins_ms=stamp_to_ms(stamps[0]) if stamps else None,
            stored_until_ms=stamp_to_ms(position) if position else None,
        )
        if not self._shards[shard].segments:
            self._certificate.unproved.append(f"Shard {shard} has no journal of this day.")
        self._readers[shard] = JournalReader(folder, after_us=self._from_us - 1)
        self._newest_us[shard] = 0

    def _records(self, shard: int, reader: JournalReader) -> Iterator[tuple[int, int, Record]]:
        """Yield the day's frames; of a day that is still being written, those too that are just on their way to the disk."""
        proof = self._shards[shard]
        flushed = not self._is_written
        while True:
            records = reader.read()
            if not records:
                if flushed:
                    return
                time.sleep(max(0.0, self._began + FLUSHED_SECONDS - time.monotonic()))
                flushed = True
            for record in records:
                if record.received_us >= self._until_us:
                    return
                proof.frames += 1
                self._newest_us[shard] = record.received_us
                yield record.received_us, shard, record

    def _decode(self, record: Record) -> Frame:
        """Decode as the store's writer does, but give nobody a placeholder: keys that have none are left unknown."""
        frame = _decoded(record, record.instruments, self._minutes)
        if record.instruments is not self._map:
            self._map = record.instruments
            self._keys |= {instrument: key for key, instrument in record.instruments.items()}
        if not frame.unknown:
            return frame
        missing = [key for key in frame.unknown if key not in self._unknown]
        if missing:
            held = instrument_ids(missing)
            self._unknown |= {key: held.get(key) for key in missing}
            self._keys |= {instrument: key for key, instrument in held.items()}
        named = {key: instrument for key in frame.unknown if (instrument := self._unknown[key]) is not None}
        return _decoded(record, {**record.instruments, **named}, None)

    def _frame(self, stamp: int, shard: int, record: Record) -> None:
        self._counts["frames_journalled"] += 1
        try:
            frame = self._decode(record)
        except _UndecodableError:
            self._counts["frames_rejected"] += 1
            return
        self._counts["frames_decoded"] += 1
        self._hours.observe(frame.segments, frame.broker_ms)
        self._hours.observe_auctions(frame.auctions)
        young = stamp > self._positions[shard]
        for bar in frame.bars:
            self._bar(bar, young=young)
        ticks = frame.ticks if frame.kind is not None else []
        self._counts["ticks_decoded"] += len(ticks) + len(frame.unknown)
        self._counts["ticks_unnamed"] += len(frame.unknown)
        if not ticks:
            return
        code = int(frame.kind or 0)
        self._counts["ticks_expected"] += len(ticks)
        expected = [tick_bson(tick, stamp, frame.broker_ms, code) for tick in ticks]
        if self._stored.take(b"".join(expected)):
            self._counts["ticks_equal"] += len(ticks)
            self._counts["ticks_stored"] += len(ticks)
            self._seen += len(ticks)
            for tick, raw in zip(ticks, expected, strict=True):
                self._of(tick.instrument).agree(raw)
        else:
            self._compare(stamp, [(tick.instrument, raw) for tick, raw in zip(ticks, expected, strict=True)], young=young)

    # --- tick by tick, where frame and store differ -----------------------------------------------------------------------

    def _compare(self, stamp: int, expected: list[tuple[int, bytes]], *, young: bool) -> None:
        """Tell apart what a frame gives and what the store has up to its last id."""
        awaited = {_identifier(raw): (instrument, raw) for instrument, raw in expected}
        for raw in self._stored.until(tick_id(stamp, MAX_RANK)):
            said = awaited.pop(_identifier(raw), None)
            if said is None:
                self._unexplained(raw)
            else:
                self._stored_as(*said, raw)
        for instrument, raw in awaited.values():
            self._of(instrument).differ(raw, None)
            if young:
                self._counts["ticks_waiting"] += 1
            elif stamp_to_ms(stamp) < self._kept_from_ms:
                self._counts["ticks_expired"] += 1
            else:
                self._find("ticks_missing", _document(raw), "")
        if young and awaited:
            self._counts["frames_waiting"] += 1
            self._waiting_ms = self._waiting_ms or stamp_to_ms(stamp)

    def _stored_as(self, instrument: int, expected: bytes, raw: bytes) -> None:
        """A stored document stands where the journal says one must: is it the same?"""
        self._counts["ticks_stored"] += 1
        differences = [] if raw == expected else _differences(_document(expected), _document(raw))
        if not differences:
            self._counts["ticks_equal"] += 1
            self._seen += 1
            self._of(instrument).agree(expected)
            return
        self._of(instrument).differ(expected, raw)
        self._seen += self._is_of_the_day(_document(raw))
        self._find("ticks_altered", _document(expected), "; ".join(differences))

    def _unexplained(self, raw: bytes) -> None:
        """A stored document that no frame gives."""
        document = _document(raw)
        stamp = tick_id_received_us(int(document["_id"]))
        shard = stamp & ((1 << SHARD_BITS) - 1)
        self._seen += self._is_of_the_day(document)
        if self._only is not None and shard != self._only:
            return
        self._counts["ticks_stored"] += 1
        instrument = document.get("i")
        if isinstance(instrument, int):
            self._of(instrument).differ(None, raw)
        twin = self._twin(document) if len(self._certificate.findings) < NAMED else ""
        reason = self._why_unproved(shard, stamp)
        if twin or reason is None:
            self._find("ticks_extra", document, twin)
        elif reason:
            self._counts["ticks_unproved"] += 1
            self._unproved[reason] = self._unproved.get(reason, 0) + 1
        else:
            self._counts["ticks_ahead"] += 1

    def _why_unproved(self, shard: int, stamp: int) -> str | None:
        """Say why nothing explains a stored tick; "" where its frame is just being written, None where there is no excuse."""
        if shard not in self._shards:
            return f"the journal of shard {shard} is not here" if self._positions[shard] else None
        begins, read_us = self._begins_us[shard], self._newest_us[shard]
        following = bisect_right(begins, stamp)
        if not begins or (following < len(begins) and (read_us <= stamp or begins[following] <= read_us)):
            return f"shard {shard} has no journal segment of then"  # behind one's last frame, before the next one's beginning
        return "" if stamp > read_us and self._is_recent(stamp_to_ms(stamp)) else None

    def _is_recent(self, time_ms: int) -> bool:
        return self._is_written and time_ms > self._until_ms - YOUNG_MS

    def _twin(self, document: Document) -> str:
        """Name another tick that says exactly the same, if there is one."""
        rest = {name: value for name, value in document.items() if name != "_id"}
        if "i" not in rest or "t" not in rest:
            return ""
        same = {"i": rest["i"], "t": rest["t"], "_id": {"$ne": document["_id"]}}
        options = ticks_collection().with_options(codec_options=_EXACT)
        for other in options.find(same).sort("_id", ASCENDING).limit(BATCH):
            if not _differences(rest, {name: value for name, value in other.items() if name != "_id"}):
                return f"a copy of {other['_id']}"
        return ""

    def _elsewhere(self) -> None:
        """Find documents received on this day that lie under ids of no time of this day."""
        received = {"r": {"$gte": DatetimeMS(self._from_ms), "$lt": DatetimeMS(self._until_ms)}}
        ticks = ticks_collection().with_options(codec_options=_EXACT)
        if ticks.count_documents(received) == self._seen:
            return
        ids = {"_id": {"$gte": tick_id(self._from_us, 0), "$lt": tick_id(self._until_us, 0)}}
        for document in ticks.find({**received, "$nor": [ids]}):
            self._counts["ticks_stored"] += 1
            instrument = document.get("i")
            if isinstance(instrument, int):
                self._of(instrument).differ(None, bson.encode(document))
            self._find("ticks_extra", document, self._twin(document) or "under an id of another time")

    def _is_of_the_day(self, document: Document) -> bool:
        received = document.get("r")
        return isinstance(received, DatetimeMS) and self._from_ms <= int(received) < self._until_ms

    # --- finished minutes ---------------------------------------------------------------------------------------------------

    def _bar(self, bar: Candle, *, young: bool) -> None:
        """Remember the broker's last word on a minute."""
        identifier = candle_id(bar.instrument, "1m", bar.start_ms)
        self._bars[identifier] = _FIGURES.pack(bar.open, bar.high, bar.low, bar.close, bar.volume)
        if young:
            self._young_bars.add(identifier)

    def _candles(self) -> None:
        """Compare the finished minutes with the stored candles."""
        identifiers = sorted(self._bars)
        for start in range(0, len(identifiers), BATCH):
            part = identifiers[start : start + BATCH]
            stored = {row["_id"]: row for row in candles_collection().find({"_id": {"$in": part}})}
            for identifier in part:
                self._candle(identifier, stored.get(identifier))

    def _candle(self, identifier: int, row: Document | None) -> None:
        if row is None and not self._in_session(identifier):
            return  # the feed leaves such a bar alone: no candle of the pre-open, the closing auction or the post-close
        self._counts["candles_expected"] += 1
        figures = dict(zip("ohlcv", _FIGURES.unpack(self._bars[identifier]), strict=True)) | {"s": "confirmed"}
        differences = [] if row is None else _differences(figures, {name: row.get(name) for name in figures})
        if row is not None and not differences:
            self._counts["candles_equal"] += 1
        elif identifier in self._young_bars:
            self._counts["candles_waiting"] += 1
        elif row is not None and row.get("rev") and time_ms(row["u"]) >= self._until_ms:  # by a frame that is not of this day
            self._counts["candles_later"] += 1
        else:
            instrument, start_ms = candle_id_parts(identifier)
            kind = "candles_missing" if row is None else "candles_altered"
            key = self._keys.get(instrument, "")
            self._certificate.find(Finding(kind, str(identifier), instrument, key, start_ms, "; ".join(differences)))

    def _in_session(self, identifier: int) -> bool:
        """Whether the broker's bar belongs to continuous trading, by the calendar and by what the journal's frames said of the market."""
        instrument, start_ms = candle_id_parts(identifier)
        key = self._keys.get(instrument)
        if key is None:
            return True
        cas = Instrument.objects.filter(pk=instrument, cas_eligible=True).exclude(instrument_type=INDEX_TYPE).exists()
        return self._hours.trades(segment_of(key), start_ms, cas=cas)

    # --- small things -------------------------------------------------------------------------------------------------------

    def _of(self, instrument: int) -> _Instrument:
        found = self._instruments.get(instrument)
        if found is None:
            found = self._instruments[instrument] = _Instrument()
        return found

    def _find(self, kind: str, document: Document, detail: str) -> None:
        instrument, received = document.get("i"), document.get("r")
        self._certificate.find(
            Finding(
                kind,
                str(document["_id"]),
                instrument if isinstance(instrument, int) else None,
                self._keys.get(instrument, "") if isinstance(instrument, int) else "",
                int(received) if isinstance(received, DatetimeMS) else None,
                detail,
            )
        )

    def _tell(self, stamp: int) -> None:
        now = time.monotonic()
        if self._progress is not None and now - self._told >= 1:
            self._told = now
            self._progress(self._counts["ticks_expected"], now - self._began, stamp_to_ms(stamp))

    def _finish(self) -> None:
        """Put down what is not counted tick by tick."""
        certificate, counts = self._certificate, self._counts
        counts["chunks_damaged"] = sum(reader.damaged_chunks for reader in self._readers.values())
        for shard, proof in self._shards.items():
            proof.last_ms = stamp_to_ms(self._newest_us[shard]) if self._newest_us[shard] else None
            certificate.shards.append(proof)
        vanished = sum(reader.segments_vanished for reader in self._readers.values())
        if vanished:
            certificate.unproved.append(f"{vanished} segments of the journal were removed while they were read.")
        torn = sum(reader.segments_torn for reader in self._readers.values())
        if torn:
            certificate.notes.append(f"{torn} segments end without a footer: the feed was killed there, or the disk refused.")
        if not self._folders:
            certificate.unproved.append("There is no journal here.")
        if counts["ticks_expired"]:
            certificate.unproved.append(f"{counts['ticks_expired']} ticks have passed their retention and are gone from the store.")
        if self._waiting_ms and not self._is_recent(self._waiting_ms):
            certificate.unproved.append(f"{counts['frames_waiting']} frames are not stored yet.")
        certificate.unproved += [f"{number} stored ticks: {reason}." for reason, number in self._unproved.items()]
        if counts["ticks_ahead"]:
            certificate.notes.append(f"{counts['ticks_ahead']} of the last minute's ticks were stored before their frame could be read.")
        nameless = [instrument for instrument in self._instruments if instrument not in self._keys]
        self._keys |= instrument_keys(nameless)
        certificate.instruments = [
            _proof(instrument, self._keys.get(instrument, ""), found) for instrument, found in sorted(self._instruments.items())
        ]
        certificate.gaps = self._gaps()
        if self._is_written:
            certificate.continuity = self._continuity()
        certificate.seconds = time.monotonic() - self._began

    def _gaps(self) -> list[dict[str, Any]]:
        since, until = (datetime.fromtimestamp(moment / 1000, UTC) for moment in (self._from_ms, self._until_ms))
        found = Gap.objects.filter(Q(end=None) | Q(end__gt=since), start__lt=until, shard__in=self._shards).order_by("start")[:GAPS]
        return [
            {
                "shard": gap.shard,
                "from": gap.start.isoformat(timespec="milliseconds"),
                "to": None if gap.end is None else gap.end.isoformat(timespec="milliseconds"),
                "cause": gap.cause,
                "detail": gap.detail,
            }
            for gap in found
        ]

    def _continuity(self) -> list[Any]:
        try:
            statuses = [status for status in live_state.statuses_read() if status.shard in self._shards]
            return continuity({str(status.shard): status.counters for status in statuses}, live_state.hub_counters_read())
        except live_state.Unavailable:
            self._certificate.notes.append("The running processes' counters cannot be read: Redis does not answer.")
            return []


def _proof(instrument: int, key: str, found: _Instrument) -> InstrumentProof:
    journal = found.journal.hexdigest()
    return InstrumentProof(
        instrument, key, found.expected, found.stored, journal, journal if found.store is None else found.store.hexdigest()
    )


def _decoded(record: Record, instruments: Mapping[str, int], minutes: dict[int, bytes] | None) -> Frame:
    try:
        return decode(record.data, instruments, minutes)
    except Exception as error:  # whatever it is, the store's writer passes the frame
        raise _UndecodableError from error


def _document(raw: bytes) -> Document:
    return bson.decode(raw, codec_options=_EXACT)


def _identifier(raw: bytes) -> Any:
    _, kind, identifier = _HEAD.unpack_from(raw)
    return identifier if kind == _INT64 else _document(raw)["_id"]


def _differences(expected: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    """Name each field that differs: what the journal says, what the store has."""
    names: Sequence[str] = [*expected, *(name for name in stored if name not in expected)]
    return [
        f"{name}: journal {_shown(expected, name)}, store {_shown(stored, name)}"
        for name in names
        if not _same(expected.get(name, ...), stored.get(name, ...))
    ]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other):
        return True
    return bool(one == other)


def _shown(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name, ...)
    if value is ...:
        return "nothing"
    return str(int(value)) if isinstance(value, DatetimeMS) else repr(value)
