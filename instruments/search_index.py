"""All active instruments in memory, so that a search as a trader types it is answered in milliseconds, mistakes forgiven. Pure.

A *subject* is what a name means: a share, an index, or an underlying with all its contracts. Names are matched by level: exactly,
by their beginning, word by word, and only where that finds nothing, by likeness (one edit in a short word, two in a long one; an
exchange of neighbours is one). Contracts lie in arrays, each underlying's by expiry, strike and type.
"""

from __future__ import annotations

import re
import sys
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, compress, islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import OSA

from instruments.domain.expiry import TradingEnd, expiries_of, resolve_expiry
from instruments.domain.instrument import FUTURE_TYPE, INDEX_TYPE, OptionType, day_end, ist_date, ms_of
from instruments.domain.search_words import OPTION, SearchWords, read_search, shortened, spellings, strike_ranges

SERIES_RANK = {INDEX_TYPE: 0, "EQ": 1, "BE": 2, "SM": 2, "BZ": 2, "ST": 2}
DEBT_RANK = 3
UNDERLYINGS_MAX = 4
"""Underlyings whose symbol only begins with the words; the shortest symbols win."""
MANY = 500
"""Of more names than these ("l" begins every LIMITED), only symbols that begin so are looked at."""
LIKE_MAX = 5
"""Names that are only alike."""
CUT_MIN = 3
"""Letters that a master leaves of a longer word at least."""
NEAR_STRIKE = 0.01
"""A strike that is not listed stands for listed ones that are so near, as a share of it."""
_TYPES = {FUTURE_TYPE: 0, OptionType.CALL.value: 1, OptionType.PUT.value: 2}
_WORD = re.compile(r"[0-9A-Z&]+")
_LAST = "\uffff"
"""Behind every character of a name: the end of the range that begins with a text."""

Mask = NDArray[np.bool_]


class Listed(NamedTuple):
    """What of an instrument a search goes by: as in `Instrument`. `expiry_ms`: ms UTC · `strike_price`: INR · `former`: earlier symbols."""

    instrument: int
    segment: str
    instrument_type: str
    symbol: str
    name: str
    isin: str | None
    underlying_symbol: str | None
    underlying_key: str | None
    expiry_ms: int | None
    weekly: bool | None
    strike_price: float | None
    former: tuple[str, ...] = ()


class Contracts(NamedTuple):
    """An underlying's contracts, ordered by expiry, strike and type (FUT, CE, PE)."""

    segment: str
    underlying_key: str | None
    instruments: NDArray[np.int64]
    expiries: NDArray[np.int64]
    strikes: NDArray[np.float64]
    types: NDArray[np.int8]
    weekly: Mask


class Subject(NamedTuple):
    """What a name means. `rank`: of its series, smaller first · `name`: upper case · one of `instrument` and `contracts` is there."""

    symbol: str
    name: str
    rank: int
    instrument: int
    contracts: Contracts | None


class Found(NamedTuple):
    """Subjects that names mean, best first in each list."""

    exact: list[Subject]
    others: list[Subject]


class SearchIndex:
    """The index over one state of the master. Never changed: another state makes another.

    Attributes:
        size: instruments in it.
        memory_bytes: what its arrays, words and tables take.
    """

    def __init__(self, listed: Iterable[Listed]) -> None:
        contracts: dict[tuple[str, str], list[Listed]] = defaultdict(list)
        self._subjects: list[Subject] = []
        self._by_isin: dict[str, int] = {}
        """Only whole: nobody types the beginning of one, and every share's begins alike."""
        words: dict[str, list[int]] = defaultdict(list)
        former: dict[str, tuple[str, ...]] = {}
        self.size = 0
        for each in listed:
            self.size += 1
            if each.underlying_symbol is not None and each.expiry_ms is not None:
                contracts[each.underlying_symbol, each.segment].append(each)
            else:
                rank = SERIES_RANK.get(each.instrument_type, DEBT_RANK)
                if each.isin is not None:
                    self._by_isin[each.isin] = len(self._subjects)
                if each.former:
                    former[each.symbol] = each.former
                self._add(Subject(each.symbol, shortened(each.name), rank, each.instrument, None), each.former, words)
        for (symbol, _), members in contracts.items():
            self._add(Subject(symbol, shortened(members[0].name), 0, 0, _contracts(members)), former.get(symbol, ()), words)
        self._underlyings = frozenset(symbol for symbol, _ in contracts)
        self._words = sorted(words)
        self._subjects_of = [array("I", words[word]) for word in self._words]
        self._by_length: dict[int, dict[int, str]] = defaultdict(dict)
        """Length → place in `_words` → word."""
        for place, word in enumerate(self._words):
            self._by_length[len(word)][place] = word
        self.memory_bytes = self._measured()

    def _add(self, subject: Subject, former: tuple[str, ...], words: dict[str, list[int]]) -> None:
        number = len(self._subjects)
        self._subjects.append(subject)
        parts = _WORD.findall(subject.name)
        together = ["".join(parts)] if subject.rank <= SERIES_RANK["EQ"] else []
        for word in {subject.symbol, *former, *_WORD.findall(subject.symbol), *parts, *together}:
            words[word].append(number)

    def _measured(self) -> int:
        arrays = sum(part.nbytes for each in self._subjects if each.contracts for part in each.contracts[2:])
        texts = sum(map(sys.getsizeof, chain(self._words, self._by_isin, *((each.symbol, each.name) for each in self._subjects))))
        tables = (
            self._words,
            self._subjects_of,
            self._subjects,
            self._by_isin,
            *self._subjects,
            *self._subjects_of,
            *self._by_length.values(),
        )
        return arrays + texts + sum(map(sys.getsizeof, tables))

    # --- asking ---------------------------------------------------------------------------------------------------------
    def find(self, query: str, *, limit: int, at_ms: int, spots: Mapping[str, float], end_of: TradingEnd) -> list[int]:
        """Return the ids of what a query means, best first, each once.

        Order: what is named exactly; the nearest expiry; nearest the money, where a price is known, else by strike.

        Args:
            query: as typed.
            limit: most results, at least 1.
            at_ms: market time · ms UTC: contracts past the end of trading are not found.
            spots: price by the underlying's key, as far as it is known · INR.
            end_of: the calendar.
        """
        asked = _Asked(limit, at_ms, spots, end_of)
        readings = [read_search(spelling) for spelling in spellings(query)]
        for names in (self._named, self._alike):
            for words in readings:
                found = dict.fromkeys(islice(self._matching(words, asked, names(words)), limit * 2))
                if found:
                    return list(found)[:limit]
        return []

    def _matching(self, words: SearchWords, asked: _Asked, found: Found) -> Iterator[int]:
        if words.asks_for_derivatives:
            for subject in chain(found.exact, found.others):
                yield from _derivatives(subject, words, asked)
            return
        yield from (subject.instrument for subject in found.exact if subject.contracts is None)
        only = words if words.strike is not None else words._replace(instrument_type=FUTURE_TYPE)
        for subject in found.exact:
            yield from _derivatives(subject, only, asked)
        yield from (subject.instrument for subject in found.others if subject.contracts is None)
        for subject in found.exact if words.strike is None else found.others:
            yield from _derivatives(subject, words, asked)
        if words.strike is None and not found.exact:
            for subject in found.others:
                yield from _derivatives(subject, only, asked)

    # --- names ----------------------------------------------------------------------------------------------------------
    def _named(self, words: SearchWords) -> Found:
        """Subjects called so: underlyings by the words that are names, all else by everything that was typed ("nifty 50")."""
        underlyings = self._called(words.names, is_underlying=True)
        others = self._called(tuple(words.text.split()), is_underlying=False)
        return Found(others.exact + underlyings.exact, others.others + underlyings.others[:UNDERLYINGS_MAX])

    def _called(self, names: tuple[str, ...], *, is_underlying: bool) -> Found:
        """Subjects whose name is these words, or begins with them, or has words that begin so."""
        name, joined = " ".join(names), "".join(names)
        parts = [part for word in names for part in _WORD.findall(word)]
        if not name:
            return Found([], [])
        numbers = self._beginning(joined) if name == joined else self._beginning(joined) | self._beginning(name)
        if parts and parts != [name]:
            numbers |= set.intersection(*map(self._beginning, parts))
        if name in self._by_isin:
            numbers.add(self._by_isin[name])
        if len(numbers) > MANY:
            numbers = {number for number in numbers if self._subjects[number].symbol.startswith((name, joined))}
        found = []
        for number in numbers:
            subject = self._subjects[number]
            if (subject.contracts is not None) is is_underlying:
                symbol = subject.symbol
                is_debt, begins, has_options = subject.rank == DEBT_RANK, symbol.startswith((name, joined)), symbol in self._underlyings
                order = (symbol not in (name, joined), is_debt, not begins, not has_options, subject.rank, len(symbol), symbol)
                found.append((order, number))
        ordered = [self._subjects[number] for _, number in sorted(found)]
        is_exact = [subject.symbol in (name, joined) or subject.name == name for subject in ordered]
        return Found(list(compress(ordered, is_exact)), [subject for subject, exact in zip(ordered, is_exact, strict=True) if not exact])

    def _beginning(self, text: str) -> set[int]:
        """Subjects that a word of begins with a text."""
        first, last = bisect_left(self._words, text), bisect_left(self._words, text + _LAST)
        return set(chain.from_iterable(self._subjects_of[first:last]))

    def _alike(self, words: SearchWords) -> Found:
        """Subjects whose words are alike: all that were typed, or these written together."""
        scores: dict[int, int] = {}
        joined = "".join(words.names)
        for number, distance in self._near(joined).items():
            scores[number] = distance
        if len(words.names) > 1:
            each = [self._near(word, beginning=True) for word in words.names]
            for number in set.intersection(*(set(near) for near in each)):
                scores[number] = min(scores.get(number, 99), sum(near[number] for near in each))
        found = []
        for number, score in scores.items():
            subject = self._subjects[number]
            if subject.contracts is not None or words.strike is None:
                by_symbol = OSA.distance(subject.symbol, joined, score_cutoff=score) <= score  # before those of whose name it is a word
                found.append((score, not by_symbol, subject.rank, len(subject.symbol), number))
        found.sort()
        nearest = [number for *order, number in found if order[:2] == list(found[0][:2])]  # farther ones are other names
        return Found([], [self._subjects[number] for number in nearest[:LIKE_MAX]])

    def _near(self, word: str, *, beginning: bool = False) -> dict[int, int]:
        """Subject → fewest edits from a word to one of its own.

        With `beginning`, words that begin so are at none, and those that it begins with at two: masters cut SERVICES to SERV.
        """
        most = 0 if len(word) < 4 else 1 if len(word) < 7 else 2
        found: dict[int, int] = {}
        if beginning:
            shorter = (bisect_left(self._words, word[:length]) for length in range(CUT_MIN, len(word)))
            cut = [place for place in shorter if place < len(self._words) and word.startswith(self._words[place])]
            found = dict.fromkeys(chain.from_iterable(self._subjects_of[place] for place in cut), 2)
            found |= dict.fromkeys(self._beginning(word), 0)
        for length in range(len(word) - most, len(word) + most + 1):
            alike = process.extract(word, self._by_length.get(length, {}), scorer=OSA.distance, score_cutoff=most, limit=None)
            for _, distance, place in alike:
                for number in self._subjects_of[place]:
                    found[number] = min(found.get(number, 99), int(distance))
        return found


class _Asked(NamedTuple):
    limit: int
    at_ms: int
    spots: Mapping[str, float]
    end_of: TradingEnd


def _contracts(members: list[Listed]) -> Contracts:
    members.sort(key=lambda each: (each.expiry_ms, each.strike_price or 0.0, _TYPES.get(each.instrument_type, 3)))
    return Contracts(
        members[0].segment,
        members[0].underlying_key,
        np.array([each.instrument for each in members], np.int64),
        np.array([each.expiry_ms for each in members], np.int64),
        np.array([each.strike_price or 0.0 for each in members], np.float64),
        np.array([_TYPES.get(each.instrument_type, 3) for each in members], np.int8),
        np.array([bool(each.weekly) for each in members], np.bool_),
    )


def _derivatives(subject: Subject, words: SearchWords, asked: _Asked) -> list[int]:
    """Contracts of an underlying that fit, nearest expiry first, then nearest the money or by strike."""
    own = subject.contracts
    if own is None:
        return []
    today = ist_date(asked.at_ms)
    is_over = asked.at_ms >= asked.end_of(own.segment, today)
    fits = own.expiries > (ms_of(day_end(today)) if is_over else asked.at_ms)
    if words.instrument_type == OPTION:
        fits &= own.types != _TYPES[FUTURE_TYPE]
    elif words.instrument_type is not None:
        fits &= own.types == _TYPES[words.instrument_type]
    if words.weekly is not None:
        fits &= own.weekly == words.weekly
    if words.slot is not None:
        fits = _of_slot(own, fits, words.slot, asked)
    fits = _of_expiry(own, fits, words)
    if words.strike is not None and words.instrument_type != FUTURE_TYPE:
        fits = _of_strike(own, fits, words.strike)
    places = np.flatnonzero(fits)
    spot = asked.spots.get(own.underlying_key or "")
    if spot:
        away = np.abs(own.strikes[places] - spot)
        places = places[np.lexsort((own.types[places], away, own.expiries[places]))]
    return [int(number) for number in own.instruments[places[: asked.limit]]]


def _of_slot(own: Contracts, fits: Mask, slot: str, asked: _Asked) -> Mask:
    """Narrow to the living expiry that a word means."""
    flags = set(zip(own.expiries.tolist(), own.weekly.tolist(), strict=True))
    meant = resolve_expiry(slot, expiries_of(flags, now_ms=asked.at_ms, segment=own.segment, end_of=asked.end_of))
    return np.zeros_like(fits) if meant is None else fits & (own.expiries == meant.expiry_ms)


def _of_expiry(own: Contracts, fits: Mask, words: SearchWords) -> Mask:
    """Narrow to the expiries that were named; a number beside a month may be its day or its year, and one without a month either."""
    if not (words.day or words.month or words.year):
        return fits
    listed = {int(expiry): ist_date(int(expiry)) for expiry in np.unique(own.expiries[fits])}
    other = words
    if words.day and not words.year:
        other = words._replace(day=None, year=2000 + words.day)
    elif words.year and words.month and not words.day:
        other = words._replace(day=words.year - 2000, year=None)
    dated = ([words], [other]) if words.month else ([words, other],)
    for wanted in (*dated, [words._replace(day=None)]):
        named = [expiry for expiry, day in listed.items() if any(each.expiry_matches(day) for each in wanted)]
        if named:
            return fits & np.isin(own.expiries, named)
    return np.zeros_like(fits)


def _of_strike(own: Contracts, fits: Mask, typed: str) -> Mask:
    """Narrow to a strike; where it is not listed, to those that begin so, else to the nearest ones."""
    strike = float(typed)
    whole: Mask = fits & (own.strikes == strike)
    if whole.any():
        return whole
    begun = np.zeros_like(fits)
    for low, high in strike_ranges(typed):
        begun |= (own.strikes >= low) & (own.strikes < high)
    if (fits & begun).any():
        return fits & begun
    away = np.where(fits & (own.strikes > 0), np.abs(own.strikes - strike), np.inf)
    nearest: Mask = fits & (away <= strike * NEAR_STRIKE) & (away == away.min(initial=np.inf))
    return nearest
