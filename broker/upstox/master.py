"""The broker's instrument master: its bytes checked and turned into `InstrumentRow`s. Pure; nothing is fetched, nothing is stored.

    MasterRejected        the bytes are not an instrument master; nothing may be changed because of them

A master is one gzipped JSON array of objects (FACTS §4). Failed downloads have left HTML pages, error envelopes and halves of files
under the same name, so nothing is believed before the whole of it is read.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from functools import lru_cache

import msgspec

from instruments.domain.instrument import InstrumentRow, day_end, ist_date, ms_of

GZIP_MAGIC = b"\x1f\x8b"
MASTER_BYTES_MAX = 512 * 1024 * 1024
"""Largest master accepted, unpacked, in bytes. The largest seen has 69 MB (complete, January 2026); past this something is wrong."""
PAISE = 100.0
"""Paise in a rupee: `tick_size` is in paise, strikes are in rupees · Source: FACTS §4."""
_SHOWN = 160


class MasterRejected(Exception):
    """The bytes are no instrument master. The message says what they are instead; reading them again cannot help."""


class _Row(msgspec.Struct, gc=False):
    """The fields that we take of one row, as the broker names them. What is not named here is skipped."""

    instrument_key: str
    segment: str
    exchange: str
    instrument_type: str
    trading_symbol: str
    name: str = ""
    underlying_key: str | None = None
    underlying_symbol: str | None = None
    asset_symbol: str | None = None
    expiry: int | None = None
    weekly: bool | None = None
    strike_price: float | None = None
    lot_size: float | None = None
    tick_size: float | None = None
    freeze_quantity: float | None = None
    exchange_token: str | int | None = None
    isin: str | None = None
    cas_eligible: bool | None = None


_decoder = msgspec.json.Decoder(list[_Row])


def unpack_master(chunks: Iterable[bytes]) -> bytes:
    """Unpack a gzipped master that comes in pieces, checking it against its own length and checksum.

    Returns:
        the JSON text.

    Raises:
        MasterRejected: empty, not gzip (the message says what it looks like), damaged, cut off, or larger than MASTER_BYTES_MAX.
    """
    unpacker = zlib.decompressobj(wbits=31)
    text = bytearray()
    head = b""
    for chunk in chunks:
        if len(head) < 2:
            head += chunk
            if len(head) < 2:
                continue
            if not head.startswith(GZIP_MAGIC):
                raise MasterRejected(f"the instrument master is not gzip but {_looks_like(head)}")
            chunk = head
        try:
            text += unpacker.decompress(chunk, MASTER_BYTES_MAX + 1 - len(text))
        except zlib.error as error:
            raise MasterRejected(f"the instrument master is damaged: {error}") from error
        if len(text) > MASTER_BYTES_MAX:
            raise MasterRejected(f"the instrument master is larger than {MASTER_BYTES_MAX} bytes when unpacked")
    if not head:
        raise MasterRejected("the instrument master is empty")
    if not unpacker.eof:
        raise MasterRejected(f"the instrument master is cut off: its gzip stream has no end ({len(text)} bytes could be unpacked)")
    return bytes(text)


def parse_master(text: bytes) -> list[InstrumentRow]:
    """Parse the JSON text of a master.

    Returns:
        its rows in the file's order, prices in rupees; never empty.

    Raises:
        MasterRejected: no JSON array of objects with the fields of a master, no rows, or a row that repeats a key.
    """
    try:
        rows = _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MasterRejected(f"the instrument master is {_looks_like(text[:4096])}: {error}") from error
    if not rows:
        raise MasterRejected("the instrument master is an empty list")
    return _neutral(rows)


def _neutral(rows: Sequence[_Row]) -> list[InstrumentRow]:
    seen: set[str] = set()
    neutral = []
    for number, row in enumerate(rows):
        segment, bar, token = row.instrument_key.partition("|")
        if not (bar and token and segment == row.segment):
            raise MasterRejected(
                f"row {number} of the instrument master has the key {row.instrument_key[:80]!r} in segment {row.segment[:12]!r}"
            )
        if row.instrument_key in seen:
            raise MasterRejected(f"row {number} of the instrument master repeats the key {row.instrument_key!r}")
        seen.add(row.instrument_key)
        neutral.append(_instrument(row))
    return neutral


def _instrument(row: _Row) -> InstrumentRow:
    option = row.instrument_type in ("CE", "PE")
    return InstrumentRow(
        instrument_key=row.instrument_key,
        segment=row.segment,
        exchange=row.exchange,
        instrument_type=row.instrument_type,
        trading_symbol=row.trading_symbol,
        name=row.name or row.trading_symbol,
        underlying_key=row.underlying_key,
        underlying_symbol=row.underlying_symbol or row.asset_symbol,
        expiry_ms=_expiry_ms(row.expiry),
        weekly=row.weekly,
        strike_price=row.strike_price if option else None,
        lot_size=None if row.lot_size is None else int(row.lot_size),
        tick_size=None if row.tick_size is None else round(row.tick_size / PAISE, 6),
        freeze_quantity=row.freeze_quantity,
        exchange_token=None if row.exchange_token is None else str(row.exchange_token),
        isin=row.isin or None,
        cas_eligible=bool(row.cas_eligible),
    )


@lru_cache(maxsize=4096)
def _expiry_ms(expiry: int | None) -> int | None:
    if not expiry:
        return None
    try:
        return ms_of(day_end(ist_date(expiry)))
    except (ValueError, OverflowError, OSError) as error:
        raise MasterRejected(f"the instrument master has an expiry of {expiry}, which is no time in milliseconds") from error


def _looks_like(head: bytes) -> str:
    """Name what a file is instead, for the person who has to fix it."""
    text = head.lstrip()[:_SHOWN]
    if not text:
        return "empty"
    if text[:1] == b"<":
        return f"a web page ({_quoted(text)})"
    if text[:1] == b"{":
        return f"a JSON object, such as an error envelope ({_quoted(text)})"
    if text[:1] == b"[":
        return "a JSON list that is not a master"
    return f"something else ({_quoted(text)})"


def _quoted(text: bytes) -> str:
    return repr(text.decode("utf-8", "replace"))
