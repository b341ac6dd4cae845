"""The finished minutes that a day's frames name, compared with the stored candles. It reads only."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import cached_property

from broker.certificate import Certificate, Finding
from broker.hours import TradingHours
from broker.liveness import segment_of
from broker.stored_ticks import BATCH, differences
from broker.upstox.decode import Frame
from instruments.domain.instrument import INDEX_TYPE
from instruments.models import Instrument
from marketdata.calendar import calendar_read
from marketdata.domain.candle import Candle, candle_id
from marketdata.services import candle_id_parts
from marketdata.store import Document, candles_collection, time_ms

_FIGURES = struct.Struct("<4dq")


class FinishedMinutes:
    """The broker's last word on each minute of a day. Memory follows instruments and minutes."""

    def __init__(self) -> None:
        self._bars: dict[int, bytes] = {}
        self._young: set[int] = set()
        self._hours = TradingHours()
        self._hours.take_calendar(calendar_read())

    def take(self, frame: Frame, *, young: bool) -> None:
        """Remember what a frame says of minutes and of the market; `young`: the store may not have it yet."""
        self._hours.observe(frame.segments, frame.broker_ms)
        self._hours.observe_auctions(frame.auctions)
        for bar in frame.bars:
            self._bar(bar, young=young)

    def _bar(self, bar: Candle, *, young: bool) -> None:
        identifier = candle_id(bar.instrument, "1m", bar.start_ms)
        self._bars[identifier] = _FIGURES.pack(bar.open, bar.high, bar.low, bar.close, bar.volume)
        if young:
            self._young.add(identifier)

    def compare(self, certificate: Certificate, keys: Mapping[int, str]) -> None:
        """Compare with the stored candles.

        Args:
            certificate: where it is counted.
            keys: instrument id → the broker's key.
        """
        identifiers = sorted(self._bars)
        for start in range(0, len(identifiers), BATCH):
            part = identifiers[start : start + BATCH]
            stored = {row["_id"]: row for row in candles_collection().find({"_id": {"$in": part}})}
            for identifier in part:
                self._compare(identifier, stored.get(identifier), certificate, keys)

    def _compare(self, identifier: int, row: Document | None, certificate: Certificate, keys: Mapping[int, str]) -> None:
        instrument, start_ms = candle_id_parts(identifier)
        key, counts = keys.get(instrument, ""), certificate.counts
        if row is None and not self._in_session(instrument, start_ms, key):
            return  # the feed leaves such a bar alone: no candle of the pre-open, the closing auction or the post-close
        counts["candles_expected"] += 1
        figures = dict(zip("ohlcv", _FIGURES.unpack(self._bars[identifier]), strict=True)) | {"s": "confirmed"}
        different = [] if row is None else differences(figures, {name: row.get(name) for name in figures})
        if row is not None and not different:
            counts["candles_equal"] += 1
        elif identifier in self._young:
            counts["candles_waiting"] += 1
        elif row is not None and row.get("rev") and time_ms(row["u"]) >= certificate.until_ms:  # by a frame that is not of this day
            counts["candles_later"] += 1
        else:
            kind = "candles_missing" if row is None else "candles_altered"
            certificate.find(Finding(kind, str(identifier), instrument, key, start_ms, "; ".join(different)))

    def _in_session(self, instrument: int, start_ms: int, key: str) -> bool:
        """Whether the broker's bar belongs to continuous trading, by the calendar and by what the journal's frames said of the market."""
        return not key or self._hours.trades(segment_of(key), start_ms, cas=instrument in self._auctioned)

    @cached_property
    def _auctioned(self) -> frozenset[int]:
        """The shares that take part in the closing auction. An index goes on through it."""
        return frozenset(Instrument.objects.filter(cas_eligible=True).exclude(instrument_type=INDEX_TYPE).values_list("pk", flat=True))
