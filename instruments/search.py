"""Search for instruments as a trader types them. Every query is answered by an index and bounded; nothing scans the collection.

Order: what is named exactly, then the nearest expiry, then what begins with the words. Whole words anywhere in a name come with the
token index of a later version.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from instruments.domain.instrument import INDEX_TYPE, IST, day_end, ist_date, ms_of
from instruments.domain.search_words import SearchWords, read_search, strike_ranges
from instruments.selectors import ID_PREFIX, UnknownInstrument, instrument_resolve
from instruments.store import Document, instruments_collection
from instruments.trading_ends import trading_end_ms

QUERY_LENGTH_MAX = 60
CANDIDATES = 300
"""Documents that one index range is read for; of more, the best of the first are shown."""
UNDERLYINGS_MAX = 4
"""Underlyings whose symbol begins with the words; the shortest symbols win."""
LAST_CHARACTER = "\uffff"
"""Behind every character of a symbol: the end of the range that begins with a text."""
SERIES_RANK = {INDEX_TYPE: 0, "EQ": 1, "BE": 2, "SM": 2, "BZ": 2, "ST": 2}
DEBT_RANK = 3


def search(query: str, *, limit: int, at: datetime) -> list[Document]:
    """Find active instruments.

    Args:
        query: what was typed; beyond QUERY_LENGTH_MAX characters nothing is read. A key or `id:<n>` finds exactly that one.
        limit: most results, at least 1.
        at: market time (aware): contracts past their last trading minute are not found.

    Returns:
        stored documents, best first; empty when nothing fits.
    """
    query = query[:QUERY_LENGTH_MAX].strip()
    if not query:
        return []
    if "|" in query or query.startswith(ID_PREFIX):
        return _named(query)
    words = read_search(query)
    found: dict[int, Document] = {}
    for document in _candidates(words, limit, at):
        found.setdefault(document["_id"], document)
        if len(found) >= limit:
            break
    return list(found.values())


def _named(name: str) -> list[Document]:
    try:
        instrument = instrument_resolve(name)
    except UnknownInstrument:
        return []
    document = instruments_collection().find_one({"_id": instrument.pk})
    return [] if document is None else [document]


def _candidates(words: SearchWords, limit: int, at: datetime) -> Iterator[Document]:
    exact, beginning = _underlyings(words)
    if words.asks_for_derivatives:
        for symbol in exact + beginning:
            yield from _derivatives(symbol, words, limit, at)
        yield from _cash(words)
        return
    cash = _cash(words)
    yield from (document for document in cash if _is_exact(document, words))
    for symbol in exact:
        if words.strike is None:
            yield from _derivatives(symbol, words._replace(instrument_type="FUT"), limit, at)
        else:
            yield from _derivatives(symbol, words, limit, at)
    yield from cash
    for symbol in beginning if words.strike is not None else exact:
        yield from _derivatives(symbol, words, limit, at)


def _underlyings(words: SearchWords) -> tuple[list[str], list[str]]:
    """Underlyings that the names are ("BANK NIFTY" is BANKNIFTY), and those that only begin so."""
    name = "".join(words.names)
    if not name:
        return [], []
    first = {"active": True, "underlying_symbol": {"$gte": name, "$lt": name + LAST_CHARACTER}}
    known: list[str] = instruments_collection().distinct("underlying_symbol", first)
    exact = [symbol for symbol in known if symbol == name]
    return exact, sorted((symbol for symbol in known if symbol != name), key=lambda symbol: (len(symbol), symbol))[:UNDERLYINGS_MAX]


def _derivatives(symbol: str, words: SearchWords, limit: int, at: datetime) -> Iterator[Document]:
    """Contracts of one underlying, nearest expiry first, then by strike; of a strike typed in part, those that begin so."""
    wanted: Document = {"active": True, "underlying_symbol": symbol, "expiry": {"$gt": _dead_until(at)}}
    if words.instrument_type is not None:
        wanted["instrument_type"] = words.instrument_type
    if words.day or words.month or words.year or words.weekly is not None:
        wanted["expiry"] = {"$in": _matching_expiries(wanted, words)}
    if words.strike is None:
        yield from _by_chain(wanted, limit)
        return
    whole = list(_by_chain({**wanted, "strike_price": float(words.strike)}, limit))
    yield from whole
    if not whole:
        begun = [{"strike_price": {"$gte": low, "$lt": high}} for low, high in strike_ranges(words.strike)]
        yield from _by_chain({**wanted, "$or": begun}, limit)


def _by_chain(wanted: Document, limit: int) -> Iterable[Document]:
    order = [("expiry", 1), ("strike_price", 1), ("instrument_type", 1)]
    return instruments_collection().find(wanted).sort(order).hint("instrument_chain").limit(limit)


def _matching_expiries(wanted: Document, words: SearchWords) -> list[datetime]:
    listed = instruments_collection().distinct("expiry", {name: wanted[name] for name in ("active", "underlying_symbol", "expiry")})
    matching = [expiry for expiry in listed if words.expiry_matches(ist_date(ms_of(expiry)))]
    if words.weekly is None:
        return matching
    return [expiry for expiry in matching if _is_weekly(wanted, expiry) is words.weekly]


def _is_weekly(wanted: Document, expiry: datetime) -> bool:
    first = {"active": True, "underlying_symbol": wanted["underlying_symbol"], "expiry": expiry}
    document = instruments_collection().find_one(first, {"weekly": 1}, hint="instrument_chain")
    return bool(document and document["weekly"])


def _dead_until(at: datetime) -> datetime:
    """Contracts whose expiry is not later than this are dead: before the end of trading those of yesterday, after it today's too."""
    local = at.astimezone(IST)
    today = day_end(local.date())
    return today if ms_of(at) >= trading_end_ms("NSE_FO", local.date()) else today - timedelta(days=1)


def _cash(words: SearchWords) -> list[Document]:
    """Indices, shares and debt whose symbol or name begins with the words ("hdfc bank" and "hdfcbank" alike); best first."""
    beginnings = [
        *((symbol, "trading_symbol", "instrument_symbol") for symbol in dict.fromkeys((words.text, words.joined))),
        *((name, "name", "instrument_name") for name in dict.fromkeys((words.text, words.text.title()))),
    ]
    found: dict[int, Document] = {}
    for text, field, index in beginnings:
        wanted = {"active": True, "underlying_symbol": None, field: {"$gte": text, "$lt": text + LAST_CHARACTER}}
        found.update((document["_id"], document) for document in instruments_collection().find(wanted).hint(index).limit(CANDIDATES))
    return sorted(found.values(), key=lambda document: _cash_rank(document, words))


def _is_exact(document: Document, words: SearchWords) -> bool:
    return document["trading_symbol"] in (words.text, words.joined) or document["name"].upper() == words.text


def _cash_rank(document: Document, words: SearchWords) -> tuple[bool, int, bool, int, str]:
    symbol = document["trading_symbol"]
    rank = SERIES_RANK.get(document["instrument_type"], DEBT_RANK)
    return not _is_exact(document, words), rank, not symbol.startswith((words.text, words.joined)), len(symbol), symbol
