"""The fan-out of one web process: the only member of the feed's group here, and the latest quotes in memory.

Each batch is taken once: it replaces entries, gives each to who follows it (`hub_quotes`: its ready-made bytes where the client's
window is open, a mark where it is not) and wakes those clients; the group's window is the only window.

Lost messages are never guessed at. A jump in a batch's number, another epoch, or silence makes the hub `reconnecting`;
it reads the shared state again once the feed reports, applies what is newer by (epoch, seq), and owes every client
whole quotes.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable

from channels.db import database_sync_to_async

from marketdata import live_state
from marketdata.bus import BusBatch, Notice, batches
from marketdata.credential_watch import CredentialWatch
from marketdata.domain.candle import Candle
from marketdata.domain.feed_status import FeedState, FeedStatus
from marketdata.feed_board import FeedBoard
from marketdata.hub_client import COUNTS, OUTBOX_COUNTS, Client, totals
from marketdata.hub_presence import HubPresence
from marketdata.hub_quotes import HubQuotes, stored_entries
from marketdata.outbox import Outbox
from marketdata.subscriptions import Subscriptions
from marketdata.wire import FeedView, QuoteEntry, feed_status_push, market_status_push

logger = logging.getLogger(__name__)

SILENCE_SECONDS = 3.0
"""Without a report of the feed for so long, the hub is reconnecting."""
REOPEN_SECONDS = 10.0
"""Without one for so long, the channel layer's connections are made anew: one may be half-open."""
SETTLE_SECONDS = 1.5
"""After a loss the shared hash is read once it must hold what was lost: the feed writes it each second."""
FORGET_SECONDS = 3600.0
FORGET_MS = 7 * 86_400_000
"""So often, quotes that nobody follows and that are so much older than the newest are dropped: contracts expire."""
TOGETHER_BATCHES = 8
"""Where more batches have come already, so many are sent as one: writing to a socket costs more than all the rest."""
LISTING_CAUSES = {"start", "master"}
"""Causes of a change in what the feed follows after which the listings of chains may be others."""
CLOSE_SECONDS = 1.0
"""Clients have so long to take their `bye`; less than the web server gives the whole farewell."""


class Hub:
    """The fan-out of one event loop. Read from any thread; everything else belongs to its loop.

    Attributes:
        name: its own, for leases.
        entries: instrument id → newest quote. Copy with `list(…)` before iterating in another thread.
        unfollowed: instruments of which the newest quote tells nothing of now (`Standing.unfollowed`).
        board: what clients may rely on.
        clients: outbox → connection.
        subscriptions: what they follow.
        counts: totals of this process. Of the group: `batches_received_total`, `batches_lost_total` (jumps in the numbers),
            `entries_received_total`, `entries_stale_total` (not newer than what was known), `reloads_total` (of the shared
            state). Of connections: accepted, refused, told that they are slow, aborted. `marked_total` is of all clients; the
            rest of OUTBOX_COUNTS is of those that are gone, until `counters` adds the present ones.
    """

    def __init__(self) -> None:
        self.name = secrets.token_hex(8)
        self.entries: dict[int, QuoteEntry] = {}
        self.board = FeedBoard()
        self.clients: dict[Outbox, Client] = {}
        self.counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
        self._touched: set[Outbox] = set()
        self.subscriptions = Subscriptions(self.clients, self.entries, self.market_ms, self._wake_all, self._is_live)
        self.unfollowed = self.subscriptions.unfollowed
        self._followers, self._notices = self.subscriptions.followers, self.subscriptions.notices
        self._charts, self._chains = self.subscriptions.charts, self.subscriptions.chains
        epochs = self._current_epochs, self._live_epochs
        self._quotes = HubQuotes(self.entries, self.subscriptions, self.counts, self._touched, *epochs, self.market_ms)
        self._presence = HubPresence(self.name, self.clients, self.subscriptions, self.counters)
        self._credentials = CredentialWatch(self.clients)
        self._positions: dict[int, tuple[int, int]] = {}
        self._reading = batches()
        self._together = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._follower: asyncio.Task[None] | None = None
        self._losses = 0
        self._reload_due = asyncio.Event()
        self._reported = asyncio.Event()
        self._reports_at: dict[int, float] = {}
        """Shard → when it reported last; so long must it be silent until clients are told."""
        self._report_at = self._entries_at = self._reopened_at = self._forgot_at = 0.0
        self._closed = False
        self._told: tuple[object, ...] = ()
        self._told_segments: dict[str, str] = {}

    # --- life -----------------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Join the group, then load what is known; within about three seconds, whatever is down."""
        self._report_at = self._reopened_at = time.monotonic()
        self._follow_again()
        try:
            async with asyncio.timeout(live_state.CALL_SECONDS):
                await self._reading.opened.wait()
        except TimeoutError:
            logger.warning("the channel layer does not answer; trying on")
        await self._load()
        if not self.board.statuses:
            self._lost("No feed has reported yet.")
        self._reload_due.set()  # again, when the hash must hold what changed while the group was joined
        self._announce()
        self._tasks += [
            asyncio.create_task(self._for_ever(step), name=f"hub {step.__name__}")
            for step in (self._recover_step, self._watch_step, *self._part_steps)
        ]
        self._tasks.append(asyncio.create_task(self._load_stored(), name="hub stored quotes"))

    @property
    def _part_steps(self) -> tuple[Callable[[], Awaitable[None]], ...]:
        followed = self._charts.load_step, self._chains.load_step, self._chains.turn_step, self._quotes.untold_step
        return *followed, self._presence.demand_step, self._presence.places_step, self._credentials.step

    async def close(self, code: int) -> None:
        """Say bye to every client, wait CLOSE_SECONDS for them to go, abort the rest, leave the group."""
        self._closed = True
        for client in list(self.clients.values()):
            client.close(code)
        deadline = time.monotonic() + CLOSE_SECONDS
        while self.clients and time.monotonic() < deadline:  # noqa: ASYNC110 - clients go one by one
            await asyncio.sleep(0.02)
        for client in list(self.clients.values()):
            client.abort()
        await self._reading.aclose()
        tasks = [*self._tasks, *([self._follower] if self._follower else [])]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
        await live_state.aclose()

    async def _for_ever(self, step: Callable[[], Awaitable[None]]) -> None:
        while not self._closed:  # the layer's flush swallows a cancellation
            try:
                await step()
            except Exception:
                logger.exception("a step of the hub failed; going on")
                await asyncio.sleep(1)

    # --- clients --------------------------------------------------------------------------------------------------------
    def connect(self, client: Client) -> None:
        """Take a client in: it gets status pushes from now on."""
        self.counts["connections_accepted_total"] += 1
        self.clients[client.outbox] = client

    def disconnect(self, client: Client) -> None:
        """Forget a client and all that it followed."""
        self.subscriptions.remove_all(client)
        client.outbox.forget()
        if self.clients.pop(client.outbox, None) is not None:
            for name, attribute in OUTBOX_COUNTS.items():
                self.counts[name] += getattr(client.outbox, attribute)

    def _is_live(self, instrument: int) -> bool:
        """Whether a quote of an instrument has come from a feed that runs, and it has not left since."""
        return self._quotes.epoch_of(instrument) in self._current_epochs() and not self._notices.has_left(instrument)

    def _current_epochs(self) -> set[int]:
        return {epoch for epoch, _ in self._positions.values()} | {status.epoch for status in self.board.statuses.values()}

    def _live_epochs(self) -> set[int]:
        is_live = self.settled and self.feed_view().state in (FeedState.LIVE, FeedState.QUIET)
        return self._current_epochs() if is_live else set()

    def recent_minutes(self, instrument: int) -> list[Candle]:
        """Return the newest few 1-minute candles that the feed has told, oldest first; from any thread."""
        return self._charts.recent_minutes(instrument)

    def fragments(self, outbox: Outbox) -> list[bytes]:
        """Drain an outbox's quotes: one ready-made `market:tick` item for each dirty key."""
        return self._quotes.fragments(outbox)

    def counters(self) -> dict[str, float]:
        """Return `counts` with what the present clients add, and gauges. From another thread, clients may be read between two steps.

        marked_total = delivered_total + merged_total + forgotten_total + waiting, whatever clients come and go: a mark is a
        quote that one client is owed, `waiting` those that no transport has yet.
        """
        outboxes = list(self.clients)
        return {
            **totals(self.counts, outboxes),
            "batches_dropped_total": self._reading.dropped_total,
            "batches_rejected_total": self._reading.rejected_total,
            "waiting": sum(outbox.waiting for outbox in outboxes),
            "clients": len(outboxes),
            "quotes": len(self.entries),
            "charts": len(self._charts),
            "chains": len(self._chains),
            **self._chains.counts,
        }

    def _tell(self, message: bytes) -> None:
        for client in self.clients.values():
            client.outbox.push(message)
            client.wake()

    # --- the way of a batch ---------------------------------------------------------------------------------------------
    async def _follow(self) -> None:
        async for batch in self._reading:
            try:
                if isinstance(batch, Notice):
                    self._take_notice(batch)
                else:
                    self._apply(batch)
            except Exception:
                logger.exception("a batch could not be applied")
                self._lost("A batch could not be applied.")
            if not self._together:  # clients were woken: let their writers run, however many batches wait
                await asyncio.sleep(0)

    def _apply(self, batch: BusBatch) -> None:
        try:
            if self._follows_on(batch):
                self._take_batch(batch)
        finally:
            self._together += 1
            if self._together >= TOGETHER_BATCHES or not self._reading.waiting:
                self._wake_touched()

    def _take_batch(self, batch: BusBatch) -> None:
        self.counts["batches_received_total"] += 1
        if batch.status is not None:
            self._report_at = self._reports_at[batch.shard] = time.monotonic()
            self._reported.set()
            self.board.take(batch.status)
            self.board.hear(batch.shard)
            self._touched |= self._charts.pass_time(self.market_ms())
            self._announce()
        if batch.entries:
            self._entries_at = time.monotonic()
            self.counts["entries_received_total"] += len(batch.entries)
            taken = self._quotes.take_all((batch.epoch, entry) for entry in batch.entries)
            self.counts["entries_stale_total"] += len(batch.entries) - taken
        if batch.candles:
            self.counts["candles_received_total"] += len(batch.candles)
            self._touched |= self._charts.take(batch.shard, batch.candles)

    def _take_notice(self, notice: Notice) -> None:
        self.counts["notices_received_total"] += 1
        self._touched |= self._charts.correct(notice.candles, notice.gaps)
        if notice.universe is not None and not LISTING_CAUSES.isdisjoint(notice.universe.causes):
            self._chains.read_again()
        self._touched |= self._notices.take(notice, time.monotonic())
        self._wake_touched()

    def _follows_on(self, batch: BusBatch) -> bool:
        """Whether the batch is not of an earlier run or moment; notes a loss when it does not come right after the last."""
        epoch, n = self._positions.get(batch.shard, (batch.epoch, batch.n - 1))
        if batch.epoch < epoch or (batch.epoch == epoch and batch.n <= n):
            return False
        if batch.epoch > epoch:
            self._charts.begin_again(batch.shard)
            self._lost("The feed has started again.", batch.shard)
        elif batch.n > n + 1:
            self.counts["batches_lost_total"] += batch.n - n - 1
            self._lost(f"{batch.n - n - 1} messages of the feed were lost.", batch.shard)
        self._positions[batch.shard] = (batch.epoch, batch.n)
        return True

    def _wake_all(self, outboxes: Iterable[Outbox]) -> None:
        self._touched |= set(outboxes)
        self._wake_touched()

    def _wake_touched(self) -> None:
        """Wake every client that was given something, once."""
        touched, self._together = list(self._touched), 0
        self._touched.clear()
        for outbox in touched:
            client = self.clients.get(outbox)
            if client is not None:  # it may have gone between two batches
                client.wake()

    # --- what clients may rely on ---------------------------------------------------------------------------------------
    @property
    def statuses(self) -> dict[int, FeedStatus]:
        """Shard → newest report."""
        return self.board.statuses

    @property
    def settled(self) -> bool:
        """Whether nothing is missing and nothing has to be loaded again."""
        return self.board.lost_since_ms is None and not self._reload_due.is_set()

    def feed_view(self) -> FeedView:
        """Return the feed's state as this process may tell it."""
        age_ms = int((time.monotonic() - self._entries_at) * 1000) if self._entries_at else None
        return self.board.view(age_ms)

    def market_ms(self) -> int:
        """Return market time · ms UTC; our own clock while no feed runs."""
        return self.board.market_ms or _now_ms()

    def _announce(self) -> None:
        """Tell every client the feed's state and the segments, where they differ from what was told."""
        view, segments = self.feed_view(), self.board.segments()
        told = (view.state, view.since_ms, view.scope, view.detail, view.epoch)
        if told != self._told:
            if self._told:
                self._tell(feed_status_push(view))
            self._told = told
        if segments != self._told_segments:
            self._tell(market_status_push(segments, _now_ms()))
            self._told_segments = segments

    # --- loss and recovery ----------------------------------------------------------------------------------------------
    def _lost(self, why: str, shard: int | None = None) -> None:
        self._losses += 1
        self._reported.clear()
        self._reload_due.set()
        if self.board.lose(why, _now_ms(), shard):
            logger.warning("hub reconnecting%s: %s", "" if shard is None else f" to shard {shard}", why)
            self._announce()

    async def _recover_step(self) -> None:
        """Wait for a loss, then for the feed's report, load the shared state, and end the loss unless there was another."""
        await self._reload_due.wait()
        losses = self._losses
        await self._load()  # what is known, at once
        await self._reported.wait()
        await asyncio.sleep(SETTLE_SECONDS)
        loaded = await self._load()
        if not loaded or losses != self._losses:
            return
        self._reload_due.clear()
        self._charts.read_again()
        for outbox, client in self.clients.items():
            outbox.mark_all(self.entries)
            client.wake()
        if self.board.find():
            logger.info("hub recovered: %d quotes", len(self.entries))
            self._announce()

    async def _load(self) -> bool:
        """Take what is newer in the shared state; False: it could not be read."""
        try:
            stamped = await live_state.astamped_quotes_read()
            statuses = await live_state.astatuses_read()
        except live_state.Unavailable:
            return False
        self.counts["reloads_total"] += 1
        for status in statuses:
            self.board.take(status)
            self._reports_at.setdefault(status.shard, time.monotonic())
        self._quotes.take_all(stamped)
        self._wake_touched()
        return True

    async def _load_stored(self) -> None:
        """Take what MongoDB holds for instruments that nobody has told of: a start without a feed has something to show."""
        self._quotes.take_all(await database_sync_to_async(stored_entries, thread_sensitive=False)())
        self._wake_touched()

    # --- once a second --------------------------------------------------------------------------------------------------
    async def _watch_step(self) -> None:
        await asyncio.sleep(1)
        now = time.monotonic()
        if now - self._report_at > SILENCE_SECONDS and self.board.lost_since_ms is None and not self.board.is_closed:
            self._lost(f"No report of the feed for {SILENCE_SECONDS:.0f} s.")
        for shard, reported_at in self._reports_at.items():
            if now - reported_at > SILENCE_SECONDS and self.board.hush(shard, _now_ms()):
                self._announce()
        if now - max(self._report_at, self._reopened_at) > REOPEN_SECONDS:
            self._reopened_at = now
            await self._reading.aclose()
            self._follow_again()
        for client in list(self.clients.values()):
            client.inspect(now)
        self._tell_no_data(now)
        if now - self._forgot_at > FORGET_SECONDS:
            self._forgot_at = now
            self._forget_old()

    def _follow_again(self) -> None:
        if self._follower is not None:
            self._follower.cancel()
        self._follower = asyncio.create_task(self._for_ever(self._follow), name="hub follow")

    def _tell_no_data(self, now: float) -> None:
        self._wake_all(self._notices.tell_late(self.feed_view().state, now))

    def _forget_old(self) -> None:
        self._quotes.forget_old(FORGET_MS)
        self._charts.forget_old()
        self._notices.forget(time.monotonic())


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
