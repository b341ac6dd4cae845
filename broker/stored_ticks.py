"""Stored ticks of a range of ids, walked as raw BSON, and what two documents say differently. It reads only."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import bson
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from pymongo import ASCENDING

from marketdata.store import Document, ticks_collection

BATCH = 5_000
EXACT: CodecOptions[dict[str, Any]] = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_MS)
"""Times as the milliseconds that are stored."""
_HEAD = struct.Struct("<ib4xq")
"""A document that begins with an int64 `_id`: its length, the type, the name, the value. Source: bsonspec.org, read 2026-11-22."""
_INT64 = 0x12


class StoredTicks:
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
                identifier = document_of(raw)["_id"]
            if identifier > last:
                return
            self._at += length
            yield raw


def document_of(raw: bytes) -> Document:
    """Return a stored document, whatever its times are."""
    return bson.decode(raw, codec_options=EXACT)


def identifier_of(raw: bytes) -> Any:
    """Return a stored document's `_id` without decoding the rest."""
    _, kind, identifier = _HEAD.unpack_from(raw)
    return identifier if kind == _INT64 else document_of(raw)["_id"]


def differences(expected: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
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
