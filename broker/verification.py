"""Proves a day: every tick and finished minute that the journal's frames give is in the store, once, as they say, and nothing else is.

Journal and store are walked side by side in order of tick id, so memory follows instruments and minutes, not ticks. Frame by frame the
expected documents' BSON is compared with the stored bytes; only where they differ are documents decoded and told apart. It reads only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import bson
from bson.datetime_ms import DatetimeMS
from django.db.models import Q
from pymongo import ASCENDING

from broker.certificate import NAMED, Certificate, Finding, InstrumentProof
from broker.finished_minutes import FinishedMinutes
from broker.journal_reading import Record
from broker.journalled_day import JournalledDay
from broker.position import position_read
from broker.stored_ticks import BATCH, EXACT, StoredTicks, differences, document_of, identifier_of
from broker.upstox.decode import Frame, decode
from instruments.domain.instrument import IST
from instruments.selectors import instrument_ids, instrument_keys
from marketdata import live_state
from marketdata.domain.continuity import continuity
from marketdata.domain.tick import EPOCH_2020_US, MAX_RANK, SHARD_BITS, stamp_to_ms, tick_id, tick_id_received_us
from marketdata.models import Gap
from marketdata.store import Document, tick_bson, ticks_collection

DAY_MS = 86_400_000
NOW_MS = 5_000
"""A day that ends so near to now is still being written."""
GAPS = 1_000

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
        self._is_written = is_written = now_ms - self._until_ms < NOW_MS
        self._kept_from_ms = now_ms - retention_days * DAY_MS
        self._only = shard
        self._certificate = Certificate(day, from_ms, self._until_ms)
        self._counts = self._certificate.counts
        self._positions = {number: position_read(number) for number in range(1 << SHARD_BITS)}  # before the store is read
        self._journal = JournalledDay(journal, shard, from_ms, self._until_ms, is_written=is_written, positions=self._positions)
        self._stored = StoredTicks(tick_id(self._from_us, 0), tick_id(self._until_us, 0))
        self._finished = FinishedMinutes()
        self._instruments: dict[int, _Instrument] = {}
        self._keys: dict[int, str] = {}
        self._map: Mapping[str, int] = {}
        self._unknown: dict[str, int | None] = {}
        self._minutes: dict[int, bytes] = {}
        self._unproved: dict[str, int] = {}
        self._waiting_ms = 0
        """When the oldest frame that is not stored yet was received; 0: all are."""
        self._seen = 0
        """Stored documents under ids of the day whose time of receipt is of the day."""

    def run(self) -> Certificate:
        for number, (stamp, shard, record) in enumerate(self._journal.frames()):
            self._frame(stamp, shard, record)
            if not number % 200:
                self._tell(stamp)
        for raw in self._stored.until(tick_id(self._until_us, 0)):
            self._unexplained(raw)
        self._elsewhere()
        self._finished.compare(self._certificate, self._keys)
        self._finish()
        return self._certificate

    # --- frame by frame -------------------------------------------------------------------------------------------------

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
        young = stamp > self._positions[shard]
        self._finished.take(frame, young=young)
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
        awaited = {identifier_of(raw): (instrument, raw) for instrument, raw in expected}
        for raw in self._stored.until(tick_id(stamp, MAX_RANK)):
            said = awaited.pop(identifier_of(raw), None)
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
                self._find("ticks_missing", document_of(raw), "")
        if young and awaited:
            self._counts["frames_waiting"] += 1
            self._waiting_ms = self._waiting_ms or stamp_to_ms(stamp)

    def _stored_as(self, instrument: int, expected: bytes, raw: bytes) -> None:
        """A stored document stands where the journal says one must: is it the same?"""
        self._counts["ticks_stored"] += 1
        different = [] if raw == expected else differences(document_of(expected), document_of(raw))
        if not different:
            self._counts["ticks_equal"] += 1
            self._seen += 1
            self._of(instrument).agree(expected)
            return
        self._of(instrument).differ(expected, raw)
        self._seen += self._is_of_the_day(document_of(raw))
        self._find("ticks_altered", document_of(expected), "; ".join(different))

    def _unexplained(self, raw: bytes) -> None:
        """A stored document that no frame gives."""
        document = document_of(raw)
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
        reason = self._journal.why_unproved(shard, stamp)
        if twin or reason is None:
            self._find("ticks_extra", document, twin)
        elif reason:
            self._counts["ticks_unproved"] += 1
            self._unproved[reason] = self._unproved.get(reason, 0) + 1
        else:
            self._counts["ticks_ahead"] += 1

    def _twin(self, document: Document) -> str:
        """Name another tick that says exactly the same, if there is one."""
        rest = {name: value for name, value in document.items() if name != "_id"}
        if "i" not in rest or "t" not in rest:
            return ""
        same = {"i": rest["i"], "t": rest["t"], "_id": {"$ne": document["_id"]}}
        options = ticks_collection().with_options(codec_options=EXACT)
        for other in options.find(same).sort("_id", ASCENDING).limit(BATCH):
            if not differences(rest, {name: value for name, value in other.items() if name != "_id"}):
                return f"a copy of {other['_id']}"
        return ""

    def _elsewhere(self) -> None:
        """Find documents received on this day that lie under ids of no time of this day."""
        received = {"r": {"$gte": DatetimeMS(self._from_ms), "$lt": DatetimeMS(self._until_ms)}}
        ticks = ticks_collection().with_options(codec_options=EXACT)
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
        self._journal.finish(certificate)
        if counts["ticks_expired"]:
            certificate.unproved.append(f"{counts['ticks_expired']} ticks have passed their retention and are gone from the store.")
        if self._waiting_ms and not self._journal.is_recent(self._waiting_ms):
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
        found = Gap.objects.filter(Q(end=None) | Q(end__gt=since), start__lt=until, shard__in=self._journal.proofs).order_by("start")[:GAPS]
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
            statuses = [status for status in live_state.statuses_read() if status.shard in self._journal.proofs]
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
