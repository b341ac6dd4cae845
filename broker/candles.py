"""The 1-minute candles of one shard, between its frames, its publisher and its recorder. Pure: no clock, no I/O.

Market time is the newest frame's; while no frame comes it goes on as our own clock does, which in a replay is the least it can be.
Finished candles wait here until the store has them, each once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import islice

from broker.hours import TradingHours
from broker.liveness import TRADING, segment_of
from broker.upstox.decode import Frame
from marketdata.domain.candle import MINUTE_MS, Candle, candle_id
from marketdata.domain.minutes import Finished, MinuteBuilder
from marketdata.domain.session import Calendar

HORIZON_MS = 15 * MINUTE_MS
"""Market time for which minutes are kept, for updates that come late: about 35 MB with 2,000 instruments."""
MOST_UNWRITTEN = 100_000
"""Finished candles that wait for the store: 50 minutes of 2,000 instruments, about 50 MB."""
COUNTS = ("candles_finished_total", "candles_recorded_total", "candles_overtaken_total", "candles_unwritten_total")


class ShardCandles:
    """Of the instruments of one feed shard.

    Args:
        hours: when each segment trades; kept up with what the frames say of it.
        grace_ms: as of MinuteBuilder.

    Attributes:
        due: set it when forming candles are to go with the next drain; finished ones always go.
        counts: those of MinuteBuilder; of the finished candles that were drained: `candles_recorded_total` (the store has them),
            `candles_overtaken_total` (told again before they were written), `candles_unwritten_total` (dropped, the store was
            away for too long); the rest is `waiting`.
    """

    def __init__(self, hours: TradingHours, *, grace_ms: int) -> None:
        self.due = False
        self._hours = hours
        self._builder = MinuteBuilder(self.in_session, grace_ms=grace_ms, horizon_ms=HORIZON_MS)
        self.counts = self._builder.counts
        self.counts.update(dict.fromkeys(COUNTS, 0))
        self._instruments: Mapping[str, int] = {}
        self._keys: dict[int, str] = {}
        self._auctioned: Collection[str] = ()
        self._statuses: dict[str, str] = {}
        self._market_ms = 0
        self._heard_at = 0.0
        self._unwritten: dict[int, Finished] = {}
        self._under_way: list[Finished] = []
        self._again: list[Candle] = []

    def take_calendar(self, calendar: Calendar, auctioned: Collection[str]) -> None:
        """Take what the store knows of the market.

        Args:
            auctioned: keys of the shares that take part in the closing auction.
        """
        self._hours.take_calendar(calendar)
        self._auctioned = auctioned

    def in_session(self, instrument: int, minute_ms: int) -> bool:
        """Whether an instrument trades continuously in the minute that begins at `minute_ms`; also where nobody knows. From any thread."""
        key = self._keys.get(instrument)
        return key is None or self._hours.trades(segment_of(key), minute_ms, cas=key in self._auctioned)

    def apply(self, frame: Frame, received_us: int, instruments: Mapping[str, int], market_ms: int, heard_at: float) -> None:
        """Fold one frame.

        Args:
            received_us: its stamp.
            instruments: what it was decoded with.
            market_ms: market time with this frame, ms UTC.
            heard_at: monotonic seconds when it came.
        """
        if instruments is not self._instruments:
            self._instruments, self._keys = instruments, {instrument: key for key, instrument in instruments.items()}
        if 0 < market_ms < self._market_ms - HORIZON_MS:  # a replay that begins anew: what is ahead now would be told by nobody
            self._builder.forget(list(self._builder.known))
            self._builder.advance(market_ms)
        self._market_ms, self._heard_at = market_ms, heard_at
        if frame.auctions:
            self._hours.observe_auctions(frame.auctions)
        self._builder.apply(frame, received_us)
        if frame.segments:
            self._observe(frame.segments)
        self._builder.advance(market_ms)

    def advance(self, now: float) -> bool:
        """Let market time go on while nothing comes; say whether there is anything to publish.

        Args:
            now: monotonic seconds.
        """
        if not self._market_ms:
            return False
        self._hours.observe(self._statuses, self._market_ms)
        self._builder.advance(self._market_ms + round((now - self._heard_at) * 1000))
        return self._builder.waiting

    def drain(self) -> list[Candle]:
        """Return the candles that changed since the last call; those that are finished wait for the store, too."""
        finished, forming = self._builder.drain(forming=self.due)
        self.due = False
        for each in finished:
            self._keep(each)
        self.counts["candles_finished_total"] += len(finished)
        again, self._again = self._again, []
        return [*again, *(each.candle for each in finished), *forming]

    def tell_again(self, candles: Iterable[Candle]) -> None:
        """Have the next drain return these as well: nobody knows whether the last run could still publish them."""
        self._again.extend(candles)

    def forget(self, instruments: Collection[int]) -> None:
        """Keep no more of instruments that are no longer followed, but for those of which a minute forms: it is closed in its time, as one
        that goes on should they come back within it. Ask again then."""
        self._builder.forget(set(instruments) - self._builder.forming)

    @property
    def known(self) -> Collection[int]:
        """Instruments of which minutes are kept."""
        return self._builder.known

    # --- the recorder's side ---

    @property
    def waiting(self) -> int:
        """Finished candles that the store has not got yet."""
        return len(self._unwritten) + len(self._under_way)

    def take(self, most: int) -> list[Finished]:
        """Return finished candles that wait, the oldest first. `written` or `give_back` says what became of them."""
        self._under_way = [self._unwritten.pop(key) for key in list(islice(self._unwritten, most))]
        return self._under_way

    def written(self) -> None:
        """The store has what was taken."""
        self.counts["candles_recorded_total"] += len(self._under_way)
        self._under_way = []

    def give_back(self) -> None:
        """The store did not take them: they wait again, unless they have been overtaken."""
        newer, self._unwritten = self._unwritten, {}
        taken, self._under_way = self._under_way, []
        for each in (*taken, *newer.values()):
            self._keep(each)

    def _keep(self, finished: Finished) -> None:
        candle = finished.candle
        key = candle_id(candle.instrument, candle.interval, candle.start_ms)
        if self._unwritten.pop(key, None) is not None:
            self.counts["candles_overtaken_total"] += 1
        elif len(self._unwritten) >= MOST_UNWRITTEN:
            del self._unwritten[next(iter(self._unwritten))]  # the oldest; broker's bars come into the store from the journal as well
            self.counts["candles_unwritten_total"] += 1
        self._unwritten[key] = finished

    # ---

    def _observe(self, segments: Mapping[str, str]) -> None:
        """Take the statuses of a market_info; what trades no more is closed."""
        ended = {name for name, status in segments.items() if status != TRADING and self._statuses.get(name) == TRADING}
        self._statuses = self._statuses | dict(segments)
        self._hours.observe(segments, self._market_ms)
        if ended:
            self._builder.close({instrument for instrument, key in self._keys.items() if segment_of(key) in ended})
