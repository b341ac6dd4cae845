"""The simulated market: one random walk an underlying, everything else priced from it, and a conflated view of the trades.

Every trade is folded into the minute's and the day's bar; an update shows only what stands when it is cut. The same seed, start
and sequence of `due` calls give the same bytes in every process. Nothing here reads a clock.

Feeds that are handed out must not be changed: a repeated update is the same object again.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from datetime import date, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broker.simulator import calendar, depth, master
from broker.simulator.calendar import DAY_MS, MINUTE_MS, Hours
from broker.simulator.contract import WALKS, Contract, Kind, contract_of, infer_walks, unknown_walk
from broker.simulator.history import OLDEST_DAYS, History, uniform
from broker.simulator.path import MarketNoise, Path, Spots
from broker.simulator.source import Bar, Update
from broker.simulator.tape import Tape
from broker.simulator.view import View
from broker.upstox import MarketDataFeedV3_pb2 as pb

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]
OnTrade = Callable[[str, int, float, int], None]

#: Milliseconds between two updates of the market. Source: FACTS §3.5, measured 133–166.
STEP_MS = (133, 166)
#: Mean milliseconds between two updates of one instrument at rate 1: about 1.8 a second (1.4–2.0 measured).
UPDATE_MS = 540
#: The youngest trade in an update is so old, ms (27 measured).
LAG_MS = 30
#: A market that was not asked for longer than this was halted: nothing traded in between. So much of the host's time, if that is longer.
CATCH_UP_MS, CATCH_UP_WALL_MS = 10_000, 200
#: However fast its clock runs, the market updates so often in market time; and every trade is made up to this speed, past it fewer.
LONGEST_STEP_MS, FULL_SPEED = 20_000, 60
#: An instrument that nobody follows is brought up to date when asked for, at most so often.
FRESH_MS = 1000
#: Volatility of a year by which the volatility index's level is scaled to other underlyings.
_INDEX_VOLATILITY = 0.12
_EXPIRED_MS = 7 * DAY_MS


class Market:
    """A market that makes its own prices; implements `source.MarketSource`.

    Args:
        seed: names the market; another seed, other prices.
        start_ms: when it opens, ms UTC.
        rate: multiplies trades and updates; 1 is the real feed's pace.
        instruments: make at least so many (up to 5,000); None: about 1,800.
        master_rows: serve these instead of an own master. Contracts that have expired are priced as if a week were left.
        hours: `always`: every minute is market time; `real`: the exchange's calendar.
        speed: milliseconds of the market in one of the host, in which it updates as much as it would without.
        partial_share, repeat_share: of all updates those without depth and greeks; of those without a trade those that repeat the last one.

    Attributes:
        rows_by_key: the instruments of now.
        on_trade: called with (key, ms, price, quantity) for every trade; for tests and proofs.
        trades_total, halted_total: trades made; times the market was halted.
    """

    def __init__(
        self,
        *,
        seed: int,
        start_ms: int,
        rate: float = 1.0,
        instruments: int | None = None,
        master_rows: list[dict[str, Any]] | None = None,
        hours: Hours = "always",
        speed: float = 1.0,
        partial_share: float = 0.003,
        repeat_share: float = 0.15,
    ) -> None:
        self.rate = rate * min(1.0, FULL_SPEED / speed) ** 2
        self._update_ms = UPDATE_MS * speed / rate
        self._step_ratio = min(speed, LONGEST_STEP_MS / STEP_MS[1]) * min(1.0, 2 * speed / rate)
        self._catch_up_ms = max(CATCH_UP_MS, round(CATCH_UP_WALL_MS * speed))
        self.on_trade: OnTrade | None = None
        self.trades_total = self.halted_total = 0
        self._seed, self.hours = seed, hours
        self._partial_share, self._repeat_share = partial_share, repeat_share
        self._rng = np.random.default_rng(seed)
        self._noise = MarketNoise(seed)
        self._walks = WALKS | infer_walks(master_rows or ())
        self._paths: dict[str, int] = {}
        self._spots = Spots()
        self._tape = Tape()
        volatility_path = self._path(master.VIX_KEY)
        self._history = History(self._tape, self._spots, volatility_path, hours)
        self._view = View(self._tape, self._spots, volatility_path)
        self._slots: dict[str, int] = {}
        self._fresh: dict[int, int] = {}
        self._sent: dict[int, pb.Feed] = {}
        self._asked: frozenset[str] = frozenset()
        self._followed: frozenset[str] = frozenset()
        self._active: Integers = np.empty(0, np.int64)
        self._segments: list[str] = []
        self._segment_places: Integers = np.empty(0, np.int64)
        self._now_ms = self._last_ms = start_ms
        self._next_ms = self._after(start_ms)
        self._given, self._instruments = master_rows, instruments
        self._day = calendar.day_of(start_ms)
        self.rows_by_key: dict[str, dict[str, Any]] = {}
        self._list_instruments()

    # --- the port ---------------------------------------------------------------------------------------------------

    def now_ms(self) -> int:
        return self._now_ms

    def master_rows(self) -> list[dict[str, Any]]:
        return list(self.rows_by_key.values())

    def segments(self) -> dict[str, str]:
        return {segment: calendar.segment_status(segment, self._now_ms, self.hours) for segment in calendar.SEGMENTS}

    def auctions(self) -> dict[str, tuple[str, int]]:
        return calendar.auctions(self._now_ms, self.hours)

    def finished(self) -> bool:
        return False

    def due(self, wall_ms: int, wanted: set[str]) -> list[Update]:
        if wall_ms - self._next_ms > self._catch_up_ms:
            self.halted_total += 1
            self._last_ms, self._next_ms = wall_ms - self._catch_up_ms - STEP_MS[0], wall_ms - self._catch_up_ms
        if wanted != self._asked:
            self._follow(wanted)
        updates = []
        while self._next_ms <= wall_ms:
            feeds = self._step(self._last_ms, self._next_ms)
            if feeds:
                updates.append(Update(self._next_ms, feeds))
            self._last_ms, self._next_ms = self._next_ms, self._after(self._next_ms)
        self._now_ms = max(self._now_ms, wall_ms)
        return updates

    def snapshot(self, keys: set[str]) -> dict[str, pb.Feed]:
        slots = self._touch(keys)
        # A generator of its own: what is asked over REST must not change what the feed goes on to show.
        rng = np.random.default_rng((self._seed, self._now_ms, *self._tape.identity[slots[:1]].tolist()))
        feeds = self._view.feeds(slots, self._now_ms, rng, np.zeros(len(slots), np.bool_))
        return {self._tape.contracts[slot].key: feed for slot, feed in zip(slots.tolist(), feeds, strict=True)}

    def minute_bars(self, key: str, from_ms: int, to_ms: int) -> list[Bar]:
        """Bars of every trade where the key was followed; the history's where it was not: past trading days, and the session so far."""
        slots = self._touch((key,))
        if not len(slots):
            return []
        slot = int(slots[0])
        found = {}
        for bar in self._past_minutes(slot, from_ms, min(to_ms, self._now_ms - self._now_ms % MINUTE_MS)):
            found[bar.start_ms] = bar
        found.update(self._tape.minutes.of(slot, from_ms, to_ms))
        forming = self._tape.forming(slot)
        if forming is not None and from_ms <= forming.start_ms < to_ms:
            found[forming.start_ms] = forming
        return [found[start] for start in sorted(found)]

    def day_bars(self, key: str, from_ms: int, to_ms: int) -> list[Bar]:
        slots = self._touch((key,))
        if not len(slots):
            return []
        slot = int(slots[0])
        found = {}
        day = max(calendar.day_of(from_ms), self._day - timedelta(days=OLDEST_DAYS))
        while day < self._day and calendar.midnight_ms(day) < to_ms:
            bar = self._history.day_bar(slot, day)
            if bar is not None:
                found[bar.start_ms] = bar
            day += timedelta(days=1)
        for bar in (*self._tape.days.get(slot, ()), self._tape.day_bar(slot)):
            found[bar.start_ms] = bar
        return [found[start] for start in sorted(found) if from_ms <= start < to_ms]

    def _past_minutes(self, slot: int, from_ms: int, to_ms: int) -> list[Bar]:
        """The history's minutes: sessions of past trading days, and today's session as far as it has come."""
        segment = self._tape.contracts[slot].segment
        found: list[Bar] = []
        day = max(calendar.day_of(from_ms), self._day - timedelta(days=OLDEST_DAYS))
        while calendar.midnight_ms(day) < to_ms and day <= self._day:
            if day == self._day and self.hours == "always":
                found.extend(self._history.minutes(slot, day, from_ms, to_ms))
            elif minutes := calendar.session_minutes(segment, day):
                midnight = calendar.midnight_ms(day)
                start, end = midnight + minutes[0] * MINUTE_MS, midnight + minutes[1] * MINUTE_MS
                found.extend(self._history.minutes(slot, day, max(from_ms, start), min(to_ms, end)))
            day += timedelta(days=1)
        return found

    # --- figures for REST -------------------------------------------------------------------------------------------

    def feed(self, key: str) -> pb.Feed | None:
        """The present full-mode feed of one instrument; None for an unknown key."""
        return self.snapshot({key}).get(key)

    def spot(self, underlying_key: str) -> float:
        """Where an underlying stands now, INR. Raises KeyError for a key that is no instrument and no underlying."""
        if underlying_key not in self._paths and underlying_key not in self.rows_by_key:
            raise KeyError(underlying_key)
        return float(self._spots.paths[self._path(underlying_key)].price(self._now_ms))

    def previous_open_interest(self, key: str) -> int:
        """Open interest at the end of the previous day, units; 0 for an unknown key and for what has none."""
        slots = self._touch((key,))
        return int(self._tape.previous_open_interest[slots[0]]) if len(slots) else 0

    # --- instruments ------------------------------------------------------------------------------------------------

    def _list_instruments(self) -> None:
        rows, midnight = self._given, calendar.midnight_ms(self._day)
        if rows is None:
            rows = master.build(self._day, lambda key: self._spots.paths[self._path(key)].price(midnight), self._instruments)
        alive = {key: row for key, row in self.rows_by_key.items() if row.get("expiry", midnight) >= midnight}
        self.rows_by_key = alive | {row["instrument_key"]: row for row in rows}  # a listed strike stays until its contract ends

    def _path(self, key: str) -> int:
        place = self._paths.get(key)
        if place is None:
            walk = self._walks.get(key) or unknown_walk(key)
            place = self._paths[key] = self._spots.add(Path(key, walk.level, walk.volatility, walk.correlation, self._noise))
        return place

    def _slot(self, key: str) -> int:
        slot = self._slots.get(key)
        if slot is None:
            contract = self._living(contract_of(self.rows_by_key[key]))
            path = self._path(contract.underlying)
            ratio = self._spots.paths[path].volatility / _INDEX_VOLATILITY
            slot = self._slots[key] = self._tape.add(contract, path, zlib.crc32(f"{self._seed}|{key}".encode()), ratio)
        return slot

    def _living(self, contract: Contract) -> Contract:
        if contract.expiry_ms and contract.expiry_ms < self._now_ms:
            return contract._replace(expiry_ms=self._now_ms + _EXPIRED_MS)
        return contract

    def _touch(self, keys: Iterable[str]) -> Integers:
        """Slots of the known ones of `keys`, in the order of the keys; what nobody follows is brought up to date."""
        known = self.rows_by_key.keys() & keys
        slots = self._slots_of(known)
        unwatched = self._slots_of(known - self._followed).tolist()
        self._refresh([slot for slot in unwatched if self._now_ms - self._fresh.get(slot, -FRESH_MS) >= FRESH_MS])
        return slots

    def _follow(self, wanted: set[str]) -> None:
        self._asked = frozenset(wanted)
        known = self._asked & self.rows_by_key.keys()
        added = self._slots_of(known - self._followed)
        self._refresh(added.tolist())
        self._tape.due_ms[added] = self._last_ms + self._rng.integers(0, max(1, round(self._update_ms)), len(added))
        self._activate(known)

    def _activate(self, keys: frozenset[str]) -> None:
        self._followed, self._active = keys, self._slots_of(keys)
        segments = [self._tape.contracts[slot].segment for slot in self._active.tolist()]
        self._segments = sorted(set(segments))
        self._segment_places = np.array([self._segments.index(segment) for segment in segments], np.int64)

    def _slots_of(self, keys: Iterable[str]) -> Integers:
        """Slots of known keys, in the order of the keys: sets have another order in each process."""
        return np.array([self._slot(key) for key in sorted(keys)], np.int64)

    def _refresh(self, slots: list[int]) -> None:
        """Give instruments that were not followed the figures that the market has brought them to by its last step."""
        self._fresh.update(dict.fromkeys(slots, self._now_ms))
        for segment, members in self._by_segment(slots):
            self._refresh_segment(members, segment)

    def _by_segment(self, slots: Iterable[int]) -> list[tuple[str, Integers]]:
        found: dict[str, list[int]] = {}
        for slot in slots:
            found.setdefault(self._tape.contracts[slot].segment, []).append(slot)
        return [(segment, np.array(members, np.int64)) for segment, members in found.items()]

    def _refresh_segment(self, slots: Integers, segment: str) -> None:
        tape, at_ms = self._tape, self._last_ms
        session = calendar.session_at(segment, at_ms, self.hours)
        self._open_day(slots, segment, session.day)
        day = self._history.day(slots, segment, at_ms)
        same = tape.day_ms[slots] == day.day_ms
        tape.finish_before(slots, at_ms - at_ms % MINUTE_MS)
        tape.open[slots] = np.where(same, tape.open[slots], day.open)
        tape.high[slots] = np.where(same, np.maximum(tape.high[slots], day.high), day.high)
        tape.low[slots] = np.where(same, np.minimum(tape.low[slots], day.low), day.low)
        tape.last[slots] = day.last
        tape.volume[slots] = np.where(same, np.maximum(tape.volume[slots], day.volume), day.volume)
        tape.value[slots] = (tape.open[slots] + tape.high[slots] + tape.low[slots] + day.last) / 4 * tape.volume[slots]
        tape.open_interest[slots] = np.where(same, tape.open_interest[slots], day.open_interest)
        tape.day_ms[slots] = day.day_ms
        tape.quantity[slots] = tape.lot[slots]
        young = day.end_ms - LAG_MS - (uniform(tape.identity[slots], at_ms) * 400).astype(np.int64)
        tape.traded_ms[slots] = np.maximum(young, np.where(same, tape.traded_ms[slots], 0))
        tape.done_ms[slots[~same]] = 0
        minute = self._history.last_minute(slots, segment, at_ms)
        if minute is not None:
            tape.show_finished(slots, *minute)

    def _open_day(self, slots: Integers, segment: str, day: date) -> None:
        opening = self._history.opening(slots, segment, day)
        self._tape.previous_close[slots] = opening.previous_close
        self._tape.previous_open_interest[slots] = opening.previous_open_interest
        self._tape.pace[slots] = opening.pace

    # --- one step ---------------------------------------------------------------------------------------------------

    def _after(self, ms: int) -> int:
        """When the market updates next after `ms`: sooner where the rate asks for more than one step can show, and where a session ends."""
        step = max(1, round(int(self._rng.integers(STEP_MS[0], STEP_MS[1] + 1)) * self._step_ratio))
        return min(ms + step, max(ms + 1, calendar.turn_after(ms, self.hours) - 1))

    def _step(self, from_ms: int, to_ms: int) -> dict[str, pb.Feed]:
        """Trade from one moment to the next and cut the update."""
        if calendar.day_of(to_ms) != self._day:
            self._roll(to_ms)
        slots = self._open_slots(to_ms)
        if not len(slots):
            return {}
        tape = self._tape
        counts = self._rng.poisson(tape.pace[slots] * (self.rate * (to_ms - from_ms) / 1000))
        counts[tape.is_index(slots)] = 1
        self._trade(slots[counts > 0], counts[counts > 0], from_ms - LAG_MS, to_ms - LAG_MS)
        tape.finish_before(slots, (to_ms - LAG_MS) // MINUTE_MS * MINUTE_MS)
        shown = slots[tape.due_ms[slots] <= to_ms]
        mean = max(1.0, self._update_ms - sum(STEP_MS) / 4 * self._step_ratio)
        spread = np.where(to_ms - tape.due_ms[shown] > mean, 0.0, 0.6)  # what waits for the open comes at once then, and spreads again
        tape.due_ms[shown] = to_ms + (mean * (spread + (1.4 - spread) * self._rng.random(len(shown)))).astype(np.int64)
        return self._cut(shown, to_ms)

    def _open_slots(self, ms: int) -> Integers:
        if self.hours == "always":
            return self._active
        is_open = np.array([calendar.is_open(segment, ms, "real") for segment in self._segments], np.bool_)
        return self._active[is_open[self._segment_places]]

    def _roll(self, ms: int) -> None:
        """A new day in India: expired contracts leave the master, new ones come, and each instrument gets its previous close."""
        self._day = calendar.day_of(ms)
        self._now_ms = max(self._now_ms, ms)
        if self._given is None:
            self._list_instruments()
            # What was asked for and not known yet may be known now: the next call of `due` looks again.
            self._asked = frozenset()
        self._activate(self._followed & self.rows_by_key.keys())
        for segment, members in self._by_segment(self._active.tolist()):
            self._open_day(members, segment, self._day)

    def _trade(self, slots: Integers, counts: Integers, from_ms: int, to_ms: int) -> None:
        """Make `counts` trades of each slot within (from_ms, to_ms], at the best prices, in the order of time within a slot."""
        if not len(slots):
            return
        tape, rng = self._tape, self._rng
        best = depth.touch(tape.kind[slots], self._view.values(slots, to_ms).fair.price, tape.tick[slots])
        total = int(counts.sum())
        of = np.repeat(np.arange(len(slots)), counts)
        turn = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
        at_ms = from_ms + 1 + ((turn + rng.random(total)) / counts[of] * (to_ms - from_ms - 1)).astype(np.int64)
        bought = rng.random(total) < 0.5
        price = np.maximum(np.where(bought, best.ask[of], best.bid[of]), tape.tick[slots][of])
        quantity = (1 + rng.exponential(tape.lots[slots][of]).astype(np.int64)) * tape.lot[slots][of]
        quantity[tape.is_index(slots)[of]] = 0
        for number in range(int(counts.max())):
            now = turn == number
            tape.fold(slots[of[now]], at_ms[now], price[now], quantity[now])
            self._tell(slots[of[now]], at_ms[now], price[now], quantity[now])
        self.trades_total += total

    def _tell(self, slots: Integers, at_ms: Integers, price: Floats, quantity: Integers) -> None:
        if self.on_trade is not None:
            for slot, *trade in zip(slots.tolist(), at_ms.tolist(), price.tolist(), quantity.tolist(), strict=True):
                self.on_trade(self._tape.contracts[slot].key, *trade)

    def _cut(self, slots: Integers, ms: int) -> dict[str, pb.Feed]:
        """The feeds of one update. A quiet instrument now and then repeats its last one byte for byte."""
        tape, rng = self._tape, self._rng
        derivative = tape.kind[slots] >= Kind.FUTURE
        moved = np.rint(rng.normal(0, 1.5, len(slots))).astype(np.int64) * tape.lot[slots] * (derivative & (rng.random(len(slots)) < 0.3))
        quiet = tape.pending[slots] == 0
        chance = rng.random((2, len(slots)))
        repeat = quiet & (chance[0] < self._repeat_share)
        tape.open_interest[slots] = np.maximum(tape.open_interest[slots] + np.where(repeat, 0, moved), 0)
        tape.pending[slots] = 0
        fresh = self._view.feeds(slots, ms, rng, chance[1] < self._partial_share)
        found: dict[str, pb.Feed] = {}
        for slot, feed, again in zip(slots.tolist(), fresh, repeat.tolist(), strict=True):
            if again and slot in self._sent:
                feed = self._sent[slot]
            self._sent[slot] = feed
            found[tape.contracts[slot].key] = feed
        return found
