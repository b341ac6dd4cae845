"""Search for instruments as a trader types them, by an index in memory that follows the master: see `instruments.search_index`."""

from __future__ import annotations

import logging
import threading
import time
from datetime import datetime
from typing import NamedTuple

from pymongo.errors import PyMongoError

from instruments.domain.instrument import ms_of
from instruments.history import former_symbols
from instruments.search_index import Listed, SearchIndex
from instruments.selectors import ID_PREFIX, UnknownInstrument, instrument_state
from instruments.store import Document, instruments_collection, loads_collection, spots_read
from instruments.trading_ends import trading_end_ms

log = logging.getLogger(__name__)

QUERY_LENGTH_MAX = 60
CANDIDATES = 1000
"""So many instruments are looked through where only some of what a query means is wanted."""
BATCH = 1000
"""Documents that are decoded at a time, while nothing else of the process runs: 10,000 would stop its event loop for 38 ms."""
CHECK_SECONDS = 2.0
"""So often it is asked whether there is a newer master."""

_FIELDS = {
    "segment": 1,
    "instrument_type": 1,
    "trading_symbol": 1,
    "name": 1,
    "isin": 1,
    "underlying_symbol": 1,
    "underlying_key": 1,
    "expiry": 1,
    "weekly": 1,
    "strike_price": 1,
}


def search(query: str, *, limit: int, at: datetime, only: Document | None = None) -> list[Document]:
    """Find active instruments.

    Args:
        query: what was typed; beyond QUERY_LENGTH_MAX characters nothing is read. A key or `id:<n>` finds exactly that one.
        limit: most results, at least 1.
        at: market time (aware): contracts past their last trading minute are not found.
        only: conditions on stored fields that results must meet, too; the best CANDIDATES are looked through then.

    Returns:
        stored documents, best first; empty when nothing fits.

    Raises:
        pymongo.errors.PyMongoError: worth a retry.
    """
    query = query[:QUERY_LENGTH_MAX].strip()
    if not query:
        return []
    named = _named(query) if "|" in query or query.startswith(ID_PREFIX) else None
    if named is not None and not only:
        return named
    if named is not None:
        ids = [document["_id"] for document in named]
    else:
        most = CANDIDATES if only else limit
        ids = index_current().find(query, limit=most, at_ms=ms_of(at), spots=spots_read().spots, end_of=trading_end_ms)
    found = instruments_collection().find({"$and": [{"_id": {"$in": ids}, "active": True}, only or {}]})
    documents = {document["_id"]: document for document in found}
    return [documents[number] for number in ids if number in documents][:limit]


def _named(name: str) -> list[Document]:
    try:
        return [instrument_state(name)]
    except UnknownInstrument:
        return []


# --- the index of this process ------------------------------------------------------------------------------------------------
class _Version(NamedTuple):
    """Of which state of the instruments an index is: the newest load, and how many instruments there are in all."""

    load: object
    instruments: int


class Built(NamedTuple):
    """An index, and what its making took · seconds."""

    search_index: SearchIndex
    version: _Version
    seconds: float


_lock = threading.Lock()
_built: Built | None = None
_checked_at = float("-inf")


def index_built() -> Built | None:
    """Return the index of this process as it is; None while nobody has searched."""
    return _built


def index_current() -> SearchIndex:
    """Return the index; the first call makes it (a second or two on a whole master), later ones have a stale one remade in a thread.

    Raises:
        pymongo.errors.PyMongoError: worth a retry.
    """
    global _checked_at
    built, now = _built, time.monotonic()
    if built is None:
        with _lock:
            return (_built or _build()).search_index
    if now - _checked_at > CHECK_SECONDS and not _lock.locked():
        _checked_at = now
        if _version() != built.version:
            threading.Thread(target=_rebuild, name="search index", daemon=True).start()
    return built.search_index


def index_warm() -> None:
    """Make the index in a thread, so that the first search does not wait for it."""
    threading.Thread(target=_rebuild, name="search index", daemon=True).start()


def index_forget() -> None:
    """Let the next search make the index anew."""
    global _built
    _built = None


def _version() -> _Version:
    newest = loads_collection().find_one({}, {"_id": 1}, sort=[("as_of", -1)])
    return _Version(None if newest is None else newest["_id"], instruments_collection().estimated_document_count())


def _rebuild() -> None:
    if _lock.acquire(blocking=False):
        try:
            _build()
        except PyMongoError as error:
            log.warning("search goes on with the instruments of before: %s", error)
        finally:
            _lock.release()


def _build() -> Built:
    global _built, _checked_at
    began, version = time.perf_counter(), _version()
    found = instruments_collection().find({"active": True, "placeholder": False}, _FIELDS, hint="instrument_active", batch_size=BATCH)
    former = former_symbols()
    index = SearchIndex(_listed(document, former.get(document["_id"], ())) for document in found)
    _built, _checked_at = Built(index, version, time.perf_counter() - began), time.monotonic()
    log.info("search: %d instruments in %.1f MB, read in %.1f s", index.size, index.memory_bytes / 1e6, _built.seconds)
    return _built


def _listed(document: Document, former: tuple[str, ...]) -> Listed:
    expiry = document["expiry"]
    return Listed(
        document["_id"],
        document["segment"],
        document["instrument_type"],
        document["trading_symbol"],
        document["name"],
        document["isin"],
        document["underlying_symbol"],
        document["underlying_key"],
        None if expiry is None else ms_of(expiry),
        document["weekly"],
        document["strike_price"],
        former,
    )
