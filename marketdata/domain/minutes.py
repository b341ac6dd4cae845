"""Ticks and the broker's bars folded into 1-minute candles. Pure: no clock; market time is an argument.

Laws: what a minute's ticks make of it is a function of the set of its updates, whatever their order of arrival, repetition and
batching: they are ordered by (last trade time, tick id). A candle is "live" until market time has passed its end and the grace, then
"closed"; the broker's own bar makes it "confirmed" at any time, and no tick changes it again. What was told finished is told again
only with a difference, and with the next revision where that is one of open, high, low, close, volume.

How the figures come about, and how near they are to the exchange's: docs/candles.md.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from operator import attrgetter, itemgetter
from typing import NamedTuple, Protocol

from marketdata.domain.candle import DAY_MS, IST_OFFSET_MS, MINUTE_MS, Candle
from marketdata.domain.tick import RANK_BITS, Tick

GRACE_MS = 1500
"""The broker's bar comes a median 0.4–1.4 s after the minute's end (../shared/upstox/data, 2025-12-15)."""
COUNTS = ("candles_closed_total", "candles_confirmed_total", "candles_revised_total", "candle_late_total")

Values = tuple[float, float, float, float, int]
"""Open, high, low, close in INR; volume in units."""

_PICKED = ("instrument", "rank", "last_trade_ms", "last_price", "volume", "open_interest", "day_high", "day_low")
_pick = itemgetter(*map(Tick._fields.index, _PICKED))
_start_ms = attrgetter("start_ms")
_NEVER = 1 << 62
"""`last_ms` of a minute without a price: every update goes the long way."""


class Updates(Protocol):
    """What a frame says: `broker.upstox.decode.Frame`."""

    @property
    def broker_ms(self) -> int:
        """Broker's clock, ms UTC; 0 where there is none."""

    @property
    def ticks(self) -> Sequence[Tick]:
        """Of different instruments."""

    @property
    def bars(self) -> Sequence[Candle]:
        """The broker's own finished minutes."""


class Finished(NamedTuple):
    """A candle that no trade is expected for any more.

    Attributes:
        candle: closed or confirmed.
        built: what the ticks had made of it when its bar was first seen; None while it has no bar, or had no tick.
    """

    candle: Candle
    built: Values | None


class Changes(NamedTuple):
    """What changed: each candle once, finished ones oldest first."""

    finished: list[Finished]
    forming: list[Candle]


@dataclass(slots=True, eq=False)
class _Minute:
    """One instrument's minute. Without a price (`last_ms` is _NEVER) it only holds the day's volume, or a bar."""

    instrument: int
    start_ms: int
    until_ms: int
    """Its end; 0 once it is finished: then every update goes the long way."""
    trades: bool
    """Whether there may be a candle at all."""
    last_ms: int = _NEVER
    last_id: int = 0
    first_ms: int = 0
    first_id: int = 0
    open: float = 0.0
    high: float = 0.0
    low: float = 0.0
    close: float = 0.0
    open_interest: float | None = None
    volume: int = 0
    """The day's highest so far, and lowest; 0: not known."""
    least_volume: int = 0
    base: int = 0
    """The day's volume before this minute; 0: not known."""
    is_first: bool = False
    """Of its session."""
    day_high: float | None = None
    day_low: float | None = None
    most_high: float = 0.0
    least_high: float = 0.0
    most_low: float = 0.0
    least_low: float = 0.0
    times: array[int] = field(default_factory=lambda: array("H"))
    """When it traded, ms from its start, each once."""
    bar: Candle | None = None
    built: Values | None = None
    told: Candle | None = None
    revision: int = 0
    is_closed: bool = False
    is_moved: bool = False
    is_ready: bool = False

    @property
    def is_priced(self) -> bool:
        return self.last_ms != _NEVER

    def values(self) -> Values:
        """Return what its ticks say. The day's extremes count where they moved within this minute: else they are of another one."""
        high = max(self.high, self.most_high) if self.most_high > self.least_high else self.high
        low = min(self.low, self.least_low) if self.least_low < self.most_low else self.low
        base = self.base or (0 if self.is_first else self.least_volume)
        return self.open, high, low, self.close, max(self.volume - base, 0)

    def repeats(self, tick: Tick, traded_ms: int, identifier: int) -> bool:
        """Whether an update is but the last trade again, as where only the book has changed; take note of its id if so."""
        if not (
            traded_ms == self.last_ms
            and self.until_ms
            and identifier > self.last_id
            and tick.last_price == self.close
            and (tick.volume or self.volume) == self.volume
            and tick.open_interest == self.open_interest
            and tick.day_high == self.day_high
            and tick.day_low == self.day_low
        ):
            return False
        self.last_id = identifier
        return True

    def see_volume(self, volume: int) -> bool:
        """Note the day's volume as one of its updates tells it (not 0); say whether it is the highest so far."""
        if volume < self.least_volume or not self.least_volume:
            self.least_volume = volume
        if volume <= self.volume:
            return False
        self.volume = volume
        return True

    def see_day(self, day_high: float | None, day_low: float | None) -> None:
        """Note the day's extremes as one of its updates tells them."""
        if day_high is not None:
            first = self.day_high is None
            self.day_high = day_high
            self.most_high = day_high if first else max(self.most_high, day_high)
            self.least_high = day_high if first else min(self.least_high, day_high)
        if day_low is not None:
            first = self.day_low is None
            self.day_low = day_low
            self.most_low = day_low if first else max(self.most_low, day_low)
            self.least_low = day_low if first else min(self.least_low, day_low)

    def fold(self, traded_ms: int, identifier: int, price: float, open_interest: float | None) -> None:
        """Fold one trade, wherever in the order it belongs."""
        offset = traded_ms - self.start_ms
        if self.last_ms == _NEVER:
            self.open = self.high = self.low = self.close = price
            self.open_interest = open_interest
            self.first_ms = self.last_ms = traded_ms
            self.first_id = self.last_id = identifier
            self.times.append(offset)
        else:
            if (traded_ms, identifier) < (self.first_ms, self.first_id):
                self.open, self.first_ms, self.first_id = price, traded_ms, identifier
            if (traded_ms, identifier) > (self.last_ms, self.last_id):
                self.close, self.open_interest, self.last_ms, self.last_id = price, open_interest, traded_ms, identifier
            self.high, self.low = max(self.high, price), min(self.low, price)
            if offset not in self.times:
                self.times.append(offset)

    def candle(self, values: Values, state: str) -> Candle:
        known = self.open_interest
        if known is None and self.bar is not None:
            known = self.bar.open_interest
        ticks = len(self.times) if self.times else None
        return Candle(self.instrument, "1m", self.start_ms, *values, known, state, self.revision, ticks)


class MinuteBuilder:
    """The minutes of many instruments.

    Args:
        in_session: says whether an instrument trades continuously in the minute that begins at a time (ms UTC). Asked once for each
            new minute; where it does not, there is no candle.
        grace_ms: so long after its end, in market time, a minute may still get its bar before it is told as closed.
        horizon_ms: minutes are kept so long, in market time; None: for ever. Later updates are counted `candle_late_total`.

    Attributes:
        market_ms: market time as last told, ms UTC.
        counts: `candles_closed_total` (told as closed), `candles_confirmed_total` (told as confirmed, each candle once),
            `candles_revised_total` (told again with other values), `candle_late_total` (updates of minutes that are kept no more).
    """

    def __init__(self, in_session: Callable[[int, int], bool], *, grace_ms: int = GRACE_MS, horizon_ms: int | None = None) -> None:
        self.market_ms = 0
        self.counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
        self._in_session = in_session
        self._grace_ms = grace_ms
        self._horizon_ms = horizon_ms
        self._minutes: dict[int, dict[int, _Minute]] = {}
        self._bases: dict[int, tuple[int, int]] = {}
        """Instrument → day and its volume before the minutes that are kept."""
        self._latest: dict[int, _Minute] = {}
        """Instrument → the latest of its minutes."""
        self._live: dict[int, list[_Minute]] = {}
        """Start → minutes that are to be closed."""
        self._moved: list[_Minute] = []
        self._ready: list[_Minute] = []

    @property
    def waiting(self) -> bool:
        """Whether anything has changed."""
        return bool(self._ready or self._moved)

    @property
    def known(self) -> Collection[int]:
        """Instruments of which minutes are kept."""
        return self._minutes.keys()

    @property
    def forming(self) -> set[int]:
        """Instruments that have a minute which is to be closed yet."""
        return {minute.instrument for minutes in self._live.values() for minute in minutes}

    def apply(self, frame: Updates, received_us: int) -> None:
        """Fold one frame. A price counts where its trade lies near the frame's own time: snapshots, and updates of the book alone,
        carry trades of long ago. The day's volume counts whenever it was traded.

        Args:
            received_us: the frame's stamp (`received_stamp_us`).
        """
        stamp = received_us << RANK_BITS
        minute_ms = frame.broker_ms // MINUTE_MS * MINUTE_MS
        from_ms, to_ms = (minute_ms - MINUTE_MS, minute_ms + 2 * MINUTE_MS) if minute_ms else (0, _NEVER)
        latest, moved = self._latest, self._moved
        for tick in frame.ticks:
            instrument, rank, traded_ms, price, volume, open_interest, day_high, day_low = _pick(tick)
            if traded_ms is None:
                continue
            is_fresh = price is not None and from_ms <= traded_ms < to_ms
            minute = latest.get(instrument)
            if minute is None or not is_fresh or not minute.last_ms < traded_ms < minute.until_ms:
                if minute is None or not (is_fresh and minute.repeats(tick, traded_ms, stamp | rank)):
                    self._take(tick, stamp | rank, traded_ms, price if is_fresh else None)
                continue
            minute.times.append(traded_ms - minute.start_ms)
            minute.last_ms = traded_ms
            minute.last_id = stamp | rank
            minute.close = price
            minute.open_interest = open_interest
            if price > minute.high:
                minute.high = price
            elif price < minute.low:
                minute.low = price
            if volume:
                if volume > minute.volume > 0:
                    minute.volume = volume
                elif volume != minute.volume:
                    minute.see_volume(volume)
            if day_high != minute.day_high or day_low != minute.day_low:
                minute.see_day(day_high, day_low)
            if not minute.is_moved:
                minute.is_moved = True
                moved.append(minute)
        for bar in frame.bars:
            self._confirm(bar)

    def advance(self, market_ms: int) -> None:
        """Close the minutes whose time, grace included, is over at `market_ms` (ms UTC)."""
        self.market_ms = market_ms
        due_ms = market_ms - MINUTE_MS - self._grace_ms
        for start_ms in [start_ms for start_ms in self._live if start_ms <= due_ms]:
            for minute in self._live.pop(start_ms):
                self._close(minute)

    def close(self, instruments: Collection[int]) -> None:
        """Close what still forms of these: they trade no more."""
        for start_ms, minutes in list(self._live.items()):
            self._live[start_ms] = [minute for minute in minutes if minute.instrument not in instruments]
            for minute in minutes:
                if minute.instrument in instruments:
                    self._close(minute)

    def drain(self, *, forming: bool = True) -> Changes:
        """Return what changed since the last call, and begin anew.

        Args:
            forming: give the candles that still form, too; else they wait.
        """
        ready, self._ready = self._ready, []
        finished = [told for minute in sorted(ready, key=_start_ms) if (told := self._tell(minute))]
        if not forming:
            return Changes(finished, [])
        moved, self._moved = self._moved, []
        candles = []
        for minute in moved:
            minute.is_moved = False
            if minute.trades and not minute.is_closed and minute.bar is None:
                candles.append(minute.candle(minute.values(), "live"))
        return Changes(finished, candles)

    def forget(self, instruments: Collection[int]) -> None:
        """Drop what is kept of these, but what is finished and not drained yet."""
        for instrument in instruments:
            for minute in self._minutes.pop(instrument, {}).values():
                minute.trades = False
            self._latest.pop(instrument, None)
            self._bases.pop(instrument, None)

    # --- one update that is not the usual one: in order, of a minute that forms already ---

    def _take(self, tick: Tick, identifier: int, traded_ms: int, price: float | None) -> None:
        """Fold a tick into whatever minute it belongs to; without a price only its volume."""
        instrument, volume = tick.instrument, tick.volume or 0
        start_ms = traded_ms // MINUTE_MS * MINUTE_MS
        minute = self._minutes.get(instrument, {}).get(start_ms)
        if minute is None:
            if self._is_past(start_ms):
                self.counts["candle_late_total"] += price is not None
                self._keep_base(instrument, start_ms, volume)
                return
            if price is None and not volume:
                return
            minute = self._begin(instrument, start_ms)
        if volume and minute.see_volume(volume):
            self._rebase(instrument, start_ms)
        if price is None or not minute.trades:
            if minute.is_priced:
                self._mark(minute)
            return
        if not minute.is_priced and not minute.is_closed and minute.bar is None:
            self._live.setdefault(start_ms, []).append(minute)
        minute.fold(traded_ms, identifier, price, tick.open_interest)
        minute.see_day(tick.day_high, tick.day_low)
        self._mark(minute)

    def _begin(self, instrument: int, start_ms: int) -> _Minute:
        """Return a new minute, and let go of those that are past."""
        minutes = self._minutes.setdefault(instrument, {})
        latest = self._latest.get(instrument)  # its bar may come with this very update
        for past_ms in [past_ms for past_ms, past in minutes.items() if past is not latest and self._is_past(past_ms)]:
            self._keep_base(instrument, past_ms, minutes.pop(past_ms).volume)
        minute = minutes[start_ms] = _Minute(instrument, start_ms, start_ms + MINUTE_MS, self._in_session(instrument, start_ms))
        if start_ms == max(minutes):
            self._latest[instrument] = minute
        minute.base = self._base(instrument, start_ms)
        minute.is_first = minute.trades and not minute.base and not self._in_session(instrument, start_ms - MINUTE_MS)
        return minute

    def _is_past(self, start_ms: int) -> bool:
        return self._horizon_ms is not None and start_ms < self.market_ms - self._horizon_ms

    def _keep_base(self, instrument: int, start_ms: int, volume: int) -> None:
        """Note the day's volume of a minute that is not kept."""
        kept = self._bases.get(instrument, (0, 0))
        if volume and (_day(start_ms), volume) > kept:
            self._bases[instrument] = (_day(start_ms), volume)
            self._rebase(instrument, start_ms)

    def _base(self, instrument: int, start_ms: int) -> int:
        """Return the day's highest volume before a minute; 0 where none is known."""
        day = _day(start_ms)
        base_day, base = self._bases.get(instrument, (0, 0))
        earlier = [m.volume for m in self._minutes.get(instrument, {}).values() if m.start_ms < start_ms and _day(m.start_ms) == day]
        return max([base if base_day == day else 0, *earlier])

    def _rebase(self, instrument: int, start_ms: int) -> None:
        """Let the minutes behind `start_ms` begin at the day's volume as it is known now."""
        for minute in self._minutes.get(instrument, {}).values():
            if minute.start_ms > start_ms and (base := self._base(instrument, minute.start_ms)) != minute.base:
                minute.base = base
                if minute.is_priced:
                    self._mark(minute)

    # --- finishing ---

    def _confirm(self, bar: Candle) -> None:
        start_ms = bar.start_ms // MINUTE_MS * MINUTE_MS
        minute = self._minutes.get(bar.instrument, {}).get(start_ms)
        if minute is None:
            if self._is_past(start_ms):  # told, and not kept
                minute = _Minute(bar.instrument, start_ms, start_ms + MINUTE_MS, self._in_session(bar.instrument, start_ms))
            else:
                minute = self._begin(bar.instrument, start_ms)
        if not minute.trades or (minute.bar is not None and minute.bar[3:8] == bar[3:8]):
            return
        if minute.bar is None and minute.is_priced:
            minute.built = minute.values()
        minute.bar = bar
        self._finish(minute)

    def _close(self, minute: _Minute) -> None:
        if minute.trades and minute.bar is None:
            minute.is_closed = True
            self._finish(minute)

    def _finish(self, minute: _Minute) -> None:
        minute.until_ms = 0
        self._mark(minute)

    def _mark(self, minute: _Minute) -> None:
        """Note that a minute may have changed."""
        if minute.is_closed or minute.bar is not None:
            if not minute.is_ready:
                minute.is_ready = True
                self._ready.append(minute)
        elif not minute.is_moved:
            minute.is_moved = True
            self._moved.append(minute)

    def _tell(self, minute: _Minute) -> Finished | None:
        """Return a finished candle as it is to be told; None where that is what was told."""
        minute.is_ready = False
        bar, told = minute.bar, minute.told
        values = minute.values() if bar is None else (bar.open, bar.high, bar.low, bar.close, bar.volume)
        if told is not None and told[3:8] != values:
            minute.revision += 1
            self.counts["candles_revised_total"] += 1
        candle = minute.candle(values, "closed" if bar is None else "confirmed")
        if candle == told:
            return None
        if told is None or told.state != candle.state:
            self.counts[f"candles_{candle.state}_total"] += 1
        minute.told = candle
        return Finished(candle, minute.built)


def _day(time_ms: int) -> int:
    """Return the number of the IST day."""
    return (time_ms + IST_OFFSET_MS) // DAY_MS
