"""What one feed shard follows: the rules and the clients' demand compared with what is subscribed, and what each key means.

Wishes come in as state that is read, never as a call: rules from MongoDB, demand from `live_state`.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from broker.journal import Journal
from broker.liveness import segment_of
from broker.pipeline import Pipeline
from broker.store_calls import STORE_ERRORS, ask_store
from broker.universe import Limits, fit, reconcile
from broker.upstox.feed import FeedConnection
from instruments.selectors import instrument_ids, instrument_keys, universe_resolve
from instruments.services import instrument_placeholder_create, rules_default_create, spots_record
from marketdata import live_state

log = logging.getLogger(__name__)

DEMAND_SECONDS = 10.0
"""A Redis that was away may come back empty; each hub says what its clients want every 5 s."""


class Following:
    """Keys, their instruments and their subscription on the present connection.

    Attributes:
        instruments: key → instrument id; replaced, never changed in place, because journal records refer to it.
        keys: instrument id → key.
        subscribed: key → mode, as asked of the present connection; empty without one.
        unsettled: whether the rules select nothing at all, or a sibling has not told its prices yet: to be resolved again soon.
        counts: `feed_requests_total`, `demand_failed_total` (a look-up that the store did not answer), `rules_refused`: how many
            rules are left out because they are not valid, and `feed_shards`: how many feeds there are.
    """

    def __init__(self, journal: Journal, pipeline: Pipeline, *, shard: int, shards: int, limits: Limits) -> None:
        self.instruments: dict[str, int] = {}
        self.keys: dict[int, str] = {}
        self.subscribed: dict[str, str] = {}
        self.unsettled = False
        self.counts: Counter[str] = Counter(feed_requests_total=0, demand_failed_total=0, rules_refused=0, feed_shards=shards)
        self._journal = journal
        self._pipeline = pipeline
        self._shard = shard
        self._shards = shards
        self._limits = limits
        self._rules: dict[str, str] = {}
        self._refused: dict[str, str] = {}
        self._defaults_made = False
        self._connection: FeedConnection | None = None
        self._asking: dict[str, str] = {}
        self._demand_whole_at = 0.0

    def learn(self, instruments: Mapping[str, int]) -> None:
        """Take over what keys mean; the journal first. A key that passed to another contract starts with no state."""
        moved = {self.instruments[key] for key, value in instruments.items() if self.instruments.get(key, value) != value}
        self._pipeline.forget(moved)
        self._journal.instruments_add(instruments, time.time_ns() // 1000)
        self.instruments = {**self.instruments, **instruments}
        for instrument in moved:
            self.keys.pop(instrument, None)
        self.keys |= {value: key for key, value in instruments.items()}

    async def resolve_rules(self) -> None:
        """Ask the rules what to follow, at the prices and the market time of now.

        Raises:
            pymongo.errors.PyMongoError: what was followed stays; worth a retry.
        """
        at_ms = self._pipeline.market_ms or time.time_ns() // 1_000_000
        spots = self._spots()
        if not self._defaults_made:
            await ask_store(rules_default_create)
            self._defaults_made = True
        shard, shards = self._shard, self._shards
        recorded = await ask_store(lambda: spots_record(spots=spots, at_ms=at_ms, shard=shard, shards=shards))
        universe = await ask_store(lambda: universe_resolve(spots=recorded.spots, at_ms=at_ms, shards=shards))
        self._tell_refused({cut.rule: cut.reason for cut in universe.cut if not cut.mode})
        wanted = {key: mode for mode, chosen in universe.by_mode.items() for key in chosen}
        ids = await ask_store(lambda: ids_with_placeholders(list(wanted)))
        self.learn(ids)
        rules = {key: mode for key, mode in wanted.items() if ids[key] % shards == shard}
        if set(rules) != set(self._rules):
            log.info("feed: the rules select %d instruments, limits cut %d", len(rules), len(universe.cut))
        if not rules and (self._rules or not self.unsettled):
            log.warning("feed: no instrument to follow; load the master with `manage.py refresh_instruments`")
        self.unsettled = not rules or 0 < recorded.priced < shards
        self._rules = rules

    def _tell_refused(self, refused: dict[str, str]) -> None:
        for name, reason in refused.items():
            if self._refused.get(name) != reason:
                log.error("feed: rule %r is passed: %s", name, reason)
        self._refused = refused
        self.counts["rules_refused"] = len(refused)

    async def reconcile(self, connection: FeedConnection) -> None:
        """Ask the broker for the difference between wanted and subscribed.

        Raises:
            FeedUnavailable: the connection is gone.
        """
        if connection is not self._connection:
            self._connection, self.subscribed = connection, {}
        wanted = fit(self._rules, await self._demanded(), self._limits).wanted
        requests = reconcile(self.subscribed, wanted, self._limits)
        if not requests:
            return
        left = {self.instruments[key] for key in self.subscribed if key not in wanted}
        self._asking = wanted  # snapshots may come while the requests are still going out
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

    def _spots(self) -> dict[str, float]:
        """Return the last price of each key."""
        spots = {}
        for quote in list(self._pipeline.quotes.values()):
            price, key = quote.values[1], self.keys.get(quote.instrument)
            if price is not None and key is not None:
                spots[key] = float(price)
        return spots

    async def _demanded(self) -> dict[str, str]:
        """Return what clients want, as key → mode; when Redis does not answer what they wanted last, and for a while after it that, too."""
        last = {key: mode for key, mode in self.subscribed.items() if key not in self._rules}
        try:
            demand = await live_state.ademand_read()
        except live_state.Unavailable:
            self._demand_whole_at = time.monotonic() + DEMAND_SECONDS
            return last
        own = {instrument: mode for instrument, mode in demand.items() if instrument % self._shards == self._shard}
        missing = [instrument for instrument in own if instrument not in self.keys]
        if missing:
            try:
                keys = await ask_store(lambda: instrument_keys(missing))
                held = await ask_store(lambda: instrument_ids(list(keys.values())))  # a retired contract's key is another's now
                self.learn({key: held[key] for instrument, key in keys.items() if held.get(key) == instrument})
            except STORE_ERRORS:
                self.counts["demand_failed_total"] += 1  # asked again with the next turn; what is known is subscribed all the same
        told = {self.keys[instrument]: mode for instrument, mode in own.items() if instrument in self.keys}
        return told if time.monotonic() >= self._demand_whole_at else last | told


def name_unknown(keys: Sequence[str]) -> dict[str, int]:
    """Return the (placeholder) instrument of each key, the same however often it is asked."""
    return instrument_placeholder_create(keys=keys, at=datetime.now(UTC))


def ids_with_placeholders(keys: list[str]) -> dict[str, int]:
    """Return the instrument id of each key; one that no instrument holds gets a placeholder."""
    ids = instrument_ids(keys)
    missing = [key for key in keys if key not in ids]
    return {**ids, **name_unknown(missing)} if missing else ids
