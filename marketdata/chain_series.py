"""One option chain on its way to clients: its rows, encoded once a change, and the windows of strikes that are followed. Pure.

Laws: a turn makes all windows of a chain current, at the pace of who calls it; between two turns nothing of what clients are given
changes. A window's `seq` counts the turns that had news for it, and each strike carries the number of its last one, so a client is one
number: up to where it has the channel. Its first drain is the whole. Everybody gets the whole again when the window holds other
strikes, is shown on another chain (the next expiry's; the same with other contracts) or was left out of a turn, and who is more than LATE
turns behind.

A row's bytes are made once for all windows, and a push's once for all clients that are equally far.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from marketdata.commands import ChainChannel
from marketdata.domain.chain import Aggregate, Chain
from marketdata.ohlc_series import NOTHING, Drained
from marketdata.wire import chain_push, chain_row_fragment, chain_snapshot_push

LATE = 20
"""Who is more turns behind gets the whole: so many different pushes may be kept for one turn."""


class ChainBook:
    """A chain, and the bytes of the rows that somebody follows.

    Attributes:
        chain: it.
        turns: how often it was turned.
        market_ms: market time of what is shown · ms UTC.
        aggregate: as of the last turn.
        encoded: counts how often bytes were made, of all books that share it.
    """

    def __init__(self, chain: Chain, encoded: Counter[str]) -> None:
        self.chain, self.encoded = chain, encoded
        self.turns = self.market_ms = 0
        self.aggregate: Aggregate | None = None
        self._fragments: dict[float, bytes] = {}
        self._read_to = -1

    def turn(self, windows: Collection[ChainSeries], market_ms: int) -> list[ChainSeries]:
        """Make windows current; return those that have news. Strikes that none of them has are forgotten."""
        self.turns += 1
        self.market_ms = market_ms
        strikes = {series: self.chain.window(series.channel.strikes) for series in windows}
        before = self.aggregate
        changed = self._read(set().union(*strikes.values()))
        is_other = self.aggregate != before
        return [series for series, window in strikes.items() if series.show(self, window, changed, is_other)]

    def _read(self, strikes: set[float]) -> set[float]:
        """Encode those of the strikes that have changed; return them."""
        held = self._fragments
        for strike in held.keys() - strikes:
            del held[strike]
        rows = self.chain.rows(held.keys(), newer_than=self._read_to) if held else []
        rows += self.chain.rows(strikes - held.keys()) if len(strikes) > len(held) else []
        self.aggregate = self.chain.aggregate()
        self._read_to = self.chain.seq
        self.encoded["chain_rows_encoded_total"] += len(rows)
        changed = set()
        for row in rows:
            fragment = chain_row_fragment(row)
            if held.get(row.strike_price) != fragment:
                held[row.strike_price] = fragment
                changed.add(row.strike_price)
        return changed

    def fragments(self, strikes: Iterable[float]) -> list[bytes]:
        """Return the bytes of strikes that the last turn had."""
        return [self._fragments[strike] for strike in strikes]


class ChainSeries:
    """A window of strikes on a chain, for all clients of one channel.

    Attributes:
        channel: what was asked for.
        seq: number of the last turn with news; 0 before the first.
        window: its strikes, ascending.
    """

    def __init__(self, channel: ChainChannel) -> None:
        self.channel = channel
        self.seq = 0
        self.window: tuple[float, ...] = ()
        self._book: ChainBook | None = None
        self._changed: dict[float, int] = {}
        """Strike → number of its last change."""
        self._turns = self._whole_at = 0
        self._pushes: dict[int, Drained] = {}
        """Up to where clients have the channel → what they are given now."""

    def show(self, book: ChainBook, window: tuple[float, ...], changed: set[float], aggregate_changed: bool) -> bool:
        """Take what a turn has brought; False: nothing for this window."""
        is_whole = book is not self._book or window != self.window or self._turns != book.turns - 1
        self._turns = book.turns
        news = changed.intersection(window)
        if not (is_whole or news or aggregate_changed):
            return False
        self.seq += 1
        self._pushes.clear()
        if is_whole:
            self._book, self.window, self._whole_at = book, window, self.seq
            self._changed = dict.fromkeys(window, self.seq)
        self._changed |= dict.fromkeys(news, self.seq)
        return True

    def leave(self) -> None:
        """Give nothing until the next turn that has this window: turns without it drop its rows."""
        self._book = None
        self._pushes.clear()

    def drain(self, seen: int) -> Drained:
        """Return what has changed since a client was given something; the same bytes to all that are equally far.

        Args:
            seen: `Drained.seen` of the last time; NOTHING at first.
        """
        book = self._book
        if book is None or book.aggregate is None or seen == self.seq:
            return Drained([], seen)
        if seen < self._whole_at or seen < self.seq - LATE:
            seen = NOTHING
        drained = self._pushes.get(seen)
        if drained is None:
            drained = self._pushes[seen] = self._drained(book, book.aggregate, seen)
            book.encoded["chain_pushes_encoded_total"] += 1
        return drained

    def _drained(self, book: ChainBook, aggregate: Aggregate, seen: int) -> Drained:
        name, expiry = self.channel.name, book.chain.listing.expiry.isoformat()
        if seen == NOTHING:
            whole = chain_snapshot_push(name, expiry, self.seq, book.market_ms, aggregate, book.fragments(self.window))
            return Drained([whole], self.seq, is_snapshot=True)
        strikes = [strike for strike in self.window if self._changed[strike] > seen]
        push = chain_push(name, expiry, self.seq, book.market_ms, aggregate, book.fragments(strikes))
        return Drained([push], self.seq, self.seq - seen - 1)
