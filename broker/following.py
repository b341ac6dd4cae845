"""What one feed shard follows: the rules and the clients' demand compared with what is subscribed, and what each key means.

Wishes come in as state that is read, never as a call: rules from MongoDB, demand from `live_state`. Two steps: `resolve` asks what the
rules mean, whenever that may have changed; `decide` puts rules and demand together within the limits, and tells what has changed.
Without the store what is known goes on, but for contracts whose trading ends. `reconcile` asks the broker for the difference.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

from broker.journal import Journal
from broker.liveness import segment_of
from broker.pipeline import Pipeline
from broker.resolving import Change, Followed, Seen, causes_of, change_of
from broker.store_calls import STORE_ERRORS, ask_store
from broker.universe import fit, reconcile
from broker.upstox.feed import FeedConnection
from instruments.domain.instrument import INDEX_TYPE, PLACEHOLDER_TYPE
from instruments.domain.limits import Limits
from instruments.domain.succession import Held
from instruments.domain.universe import Universe
from instruments.selectors import universe_resolve
from instruments.services import instrument_placeholder_create, rules_default_create, spots_record
from instruments.universe_changes import Sources, instruments_held, instruments_named, universe_sources
from marketdata import live_state

log = logging.getLogger(__name__)

DEMAND_SECONDS = 10.0
"""A Redis that was away may come back empty; each hub says what its clients want every 5 s."""
UNANSWERED = "The database of instruments does not answer."
UNKNOWN = "There is no such instrument."


class Following:
    """Keys, their instruments and their subscription on the present connection.

    Attributes:
        instruments: key → instrument id; replaced, never changed in place, because journal records refer to it.
        keys: instrument id → key.
        live: the same of what is followed: frames of others may still come for a while, and concern nobody.
        subscribed: key → mode, as asked of the present connection; empty without one.
        refused: demanded instrument id → why it is not followed.
        counts: `feed_requests_total`, `universe_changes_total`, `demand_failed_total` (a look-up that the store did not answer),
            `rules_refused`: how many rules are left out because they are not valid, and `feed_shards`: how many feeds there are.
    """

    def __init__(self, journal: Journal, pipeline: Pipeline, *, shard: int, shards: int, limits: Limits) -> None:
        self.instruments: dict[str, int] = {}
        self.keys: dict[int, str] = {}
        self.live: dict[int, str] = {}
        self.subscribed: dict[str, str] = {}
        self.refused: dict[int, str] = {}
        names = ("feed_requests_total", "universe_changes_total", "demand_failed_total", "rules_refused")
        self.counts: Counter[str] = Counter(dict.fromkeys(names, 0) | {"feed_shards": shards})
        self._journal = journal
        self._pipeline = pipeline
        self._shard = shard
        self._shards = shards
        self._limits = limits
        self._seen: Seen | None = None
        self._causes: list[str] = []
        self._rules: dict[str, str] = {}
        self._elsewhere: list[Held] = []
        """What the rules follow on other connections."""
        self._cut: set[str] = set()
        self._bad_rules: dict[str, str] = {}
        self._defaults_made = self._told_empty = False
        self._held: dict[int, Held | None] = {}
        """What is known of each instrument that the rules or clients want; None: there is none."""
        self._followed: dict[str, Followed] = {}
        self._connection: FeedConnection | None = None
        self._asking: dict[str, str] = {}
        self._demand: dict[int, str] = {}
        """What clients want, instrument id → mode, who came first first."""
        self._demand_whole_at = 0.0

    def learn(self, instruments: Mapping[str, int]) -> None:
        """Take over what keys mean; the journal first. A key that passed to another contract starts with no state."""
        moved = {self.instruments[key] for key, value in instruments.items() if self.instruments.get(key, value) != value}
        self._pipeline.forget(moved)
        self._journal.instruments_add(instruments, time.time_ns() // 1000)
        self.instruments = {**self.instruments, **instruments}
        for instrument in moved:
            self.keys.pop(instrument, None)
            self.live.pop(instrument, None)
        self.keys |= {value: key for key, value in instruments.items()}
        self.live |= {value: key for key, value in instruments.items() if key in self._followed}

    @property
    def knows_time(self) -> bool:
        """Whether a frame has told what time it is in the market."""
        return bool(self._pipeline.market_ms)

    # --- what the rules mean ------------------------------------------------------------------------------------------------

    async def resolve(self) -> None:
        """Ask the rules what to follow at the prices and the market time of now, unless nothing has changed since the last time.

        Raises:
            pymongo.errors.PyMongoError, django.db.Error: what was followed stays; worth a retry.
        """
        now = await self._look()
        causes = causes_of(self._seen, now)
        if not causes:
            return
        if not self._defaults_made:
            await ask_store(rules_default_create)
            self._defaults_made = True
            now = now._replace(rules=(await ask_store(universe_sources)).rules)
        universe = await ask_store(partial(universe_resolve, spots=now.anchors, at_ms=now.market_ms, shards=self._shards))
        wanted = {key: mode for mode, chosen in universe.by_mode.items() for key in chosen}
        held = await ask_store(partial(held_with_placeholders, list(wanted)))
        asked = set(self._demand)
        going = {each.held.id for each in self._followed.values()} - {each.id for each in held.values()}
        named = await ask_store(partial(instruments_named, list(asked | going)))
        self._take_rules(universe, wanted, held)
        self.learn({each.key: each.id for each in named.values() if each.active})
        come = {each: known for each, known in self._held.items() if each in self._demand and each not in asked}  # meanwhile
        self._held = {**{each.id: each for each in held.values()}, **come, **named}
        self._causes += [cause for cause in causes if cause not in self._causes]
        self._seen = now._replace(next_end_ms=universe.next_end_ms)

    async def _look(self) -> Seen:
        at_ms = self._pipeline.market_ms or time.time_ns() // 1_000_000
        spots = self._spots()

        def look() -> tuple[Sources, dict[str, float]]:
            recorded = spots_record(spots=spots, at_ms=at_ms, shard=self._shard, shards=self._shards)
            return universe_sources(), recorded.spots

        sources, anchors = await ask_store(look)
        return Seen(time.monotonic(), at_ms, sources.master, sources.rules, anchors)

    def _take_rules(self, universe: Universe, wanted: Mapping[str, str], held: Mapping[str, Held]) -> None:
        self.learn({key: each.id for key, each in held.items()})
        self._rules = {key: mode for key, mode in wanted.items() if held[key].id % self._shards == self._shard}
        self._elsewhere = [each for each in held.values() if each.id % self._shards != self._shard]
        self._cut = {key for selection in universe.selections for key in selection.keys} - wanted.keys()
        self._tell_bad_rules({cut.rule: cut.reason for cut in universe.cut if not cut.mode})
        if not wanted and not self._told_empty:
            log.warning("feed: the rules select nothing; is one enabled, and the master loaded (`manage.py refresh_instruments`)?")
        self._told_empty = not wanted

    def _tell_bad_rules(self, bad: dict[str, str]) -> None:
        for name, reason in bad.items():
            if self._bad_rules.get(name) != reason:
                log.error("feed: rule %r is passed: %s", name, reason)
        self._bad_rules = bad
        self.counts["rules_refused"] = len(bad)

    def _spots(self) -> dict[str, float]:
        """Return the last price of each index, and of whatever else something followed is derived from."""
        known = [each for each in self._held.values() if each is not None]
        spots = {}
        for key in {each.underlying for each in known} | {each.key for each in known if each.kind == INDEX_TYPE}:
            quote = self._pipeline.quotes.get(self.instruments.get(key or "", 0))
            if quote is not None and quote.values[1] is not None and key is not None:
                spots[key] = float(quote.values[1])
        return spots

    # --- rules and demand ---------------------------------------------------------------------------------------------------

    async def decide(self) -> Change | None:
        """Put together what rules and clients want, within the limits and without what is over; return what has changed, if anything."""
        await self._read_demand()
        market_ms = self._pipeline.market_ms
        rules = {key: mode for key, mode in self._rules.items() if not self._is_over(self.instruments[key], market_ms)}
        refused, demanded = self._sort_demand(market_ms)
        fitted = fit(rules, demanded, self._limits)
        self.refused = refused | {self.instruments[key]: reason for key, reason in fitted.refused.items()}
        now = {}
        for key, mode in fitted.wanted.items():
            held = self._held[self.instruments[key]]
            assert held is not None, "rules and demand were sorted"
            now[key] = Followed(held, mode, key in rules)
        at_ms = market_ms or time.time_ns() // 1_000_000
        short = self._cut | fitted.refused.keys()
        change = change_of(self._followed, now, at_ms=at_ms, causes=self._causes, short=short, known=self._held, elsewhere=self._elsewhere)
        self._causes, self._followed = [], now
        if change is not None:
            self.counts["universe_changes_total"] += 1
            log.info("feed: the universe changes: %s", _told(change))
        return change

    def _sort_demand(self, market_ms: int) -> tuple[dict[int, str], dict[str, str]]:
        """Return what is demanded in vain, by instrument id with the reason, and what can be followed, key → mode."""
        refused: dict[int, str] = {}
        demanded: dict[str, str] = {}
        for instrument, mode in self._demand.items():
            held = self._held.get(instrument)
            if held is None:
                refused[instrument] = UNKNOWN if instrument in self._held else UNANSWERED
            elif ending := held.ending(market_ms):
                refused[instrument] = ending
            else:
                demanded[held.key] = mode
        return refused, demanded

    def _is_over(self, instrument: int, market_ms: int) -> bool:
        held = self._held.get(instrument)
        return held is not None and held.is_over(market_ms)

    async def _read_demand(self) -> None:
        """Take what clients want; when Redis does not answer what they wanted last stays, and for a while after it that, too."""
        try:
            told = await live_state.ademand_read()
        except live_state.Unavailable:
            self._demand_whole_at = time.monotonic() + DEMAND_SECONDS
            return
        if time.monotonic() < self._demand_whole_at:
            told = self._demand | told
        own = {instrument: mode for instrument, mode in told.items() if instrument % self._shards == self._shard}
        self._demand = {instrument: own[instrument] for instrument in self._demand if instrument in own} | own
        missing = [instrument for instrument in own if instrument not in self._held]
        if not missing:
            return
        try:
            found = await ask_store(lambda: instruments_named(missing))
        except STORE_ERRORS:
            self.counts["demand_failed_total"] += 1  # asked again with the next turn; what is known is followed all the same
            return
        self._held |= {instrument: found.get(instrument) for instrument in missing}
        self.learn({each.key: each.id for each in found.values() if each.active})

    # --- the connection -----------------------------------------------------------------------------------------------------

    async def reconcile(self, connection: FeedConnection) -> None:
        """Ask the broker for the difference between what was decided and what is subscribed.

        Raises:
            FeedUnavailable: the connection is gone.
        """
        if connection is not self._connection:
            self._connection, self.subscribed = connection, {}
        wanted = {key: each.mode for key, each in self._followed.items()}
        requests = reconcile(self.subscribed, wanted, self._limits)
        if not requests:
            return
        self._asking = wanted  # snapshots may come while the requests are still going out
        self.live = {self.instruments[key]: key for key in wanted}
        left = {self.instruments[key] for key in self.subscribed if key not in wanted} - self.live.keys()  # one may have another key now
        for request in requests:
            self.counts["feed_requests_total"] += await connection.request(request.method, request.mode, request.keys)
        if connection is not self._connection:
            return
        self.subscribed = wanted
        log.info("feed: %d instruments subscribed (%s)", len(wanted), ", ".join(f"{len(r.keys)} {r.method}" for r in requests))
        if left:
            self._pipeline.forget(left)
            with contextlib.suppress(live_state.Unavailable):
                await live_state.aquotes_remove(left)

    def disconnected(self) -> None:
        """The connection is gone, and with it all that was subscribed: the broker keeps nothing over a reconnect."""
        self._connection, self.subscribed, self._asking = None, {}, {}

    def by_segment(self) -> dict[str, list[int]]:
        """Return segment → the instruments that are subscribed on the present connection, or are being subscribed at this moment."""
        segments: dict[str, list[int]] = {}
        for key in self.subscribed.keys() | self._asking.keys():
            segments.setdefault(segment_of(key), []).append(self.instruments[key])
        return segments

    def followed(self) -> set[int]:
        """Return the instruments that are subscribed, or are being subscribed at this moment."""
        return {self.instruments[key] for key in (*self.subscribed, *self._asking)}


def _told(change: Change) -> str:
    """Return a change as a log line; its keys are stored as a UniverseChange."""
    whys = Counter(each.why for each in change.left.values())
    left = f" ({', '.join(f'{count} {why}' for why, count in whys.items())})" if whys else ""
    now = ", ".join(f"{count} {mode}" for mode, count in change.by_mode.items()) or "nothing"
    counts = f"{len(change.entered)} entered, {len(change.left)} left{left}, {len(change.moved)} in another mode"
    return f"{counts}; because of {', '.join(change.causes)}; now {now}"


def name_unknown(keys: Sequence[str]) -> dict[str, int]:
    """Return the (placeholder) instrument of each key, the same however often it is asked."""
    return instrument_placeholder_create(keys=keys, at=datetime.now(UTC))


def held_with_placeholders(keys: list[str]) -> dict[str, Held]:
    """Return what each key means; one that no instrument holds gets a placeholder."""
    held = instruments_held(keys)
    missing = [key for key in keys if key not in held]
    if missing:
        held |= {
            key: Held(number, key, True, None, segment_of(key), key, None, PLACEHOLDER_TYPE, None, None, None)
            for key, number in name_unknown(missing).items()
        }
    return held
