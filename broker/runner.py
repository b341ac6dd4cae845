"""The feed process of one shard: one connection to the broker, its journal, its quotes, its store writer, its voice on the bus.

    socket ─▶ journal ─▶ decode ─▶ pipeline ─┬▶ store writer (own thread)
                                             └▶ one group message a window, quotes each second (own task)

Nothing here waits for the slowest: the reader only appends, decodes and folds. What clients want comes in as state that is
read (`live_state.ademand_read`, the rules), compared with what is subscribed, and reconciled.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from django.db import DatabaseError
from pymongo.errors import PyMongoError

from broker.following import Following, name_unknown
from broker.journal import Journal, Record
from broker.pacing import AuthorizePacer
from broker.pipeline import Pipeline
from broker.publisher import Publisher
from broker.report import Report, first_line
from broker.sessions import Token, token_current
from broker.store_writer import StoreWriter
from broker.upstox.decode import Frame, decode
from broker.upstox.feed import FeedConnection, open_feed, reconnect_delays
from broker.upstox.protocol import AuthExpired, BrokerError, FeedUnavailable, ProtocolViolation, RateLimited, parse_feed_text
from broker.upstox.rest import UpstoxRest
from marketdata import bus, live_state
from marketdata.domain.feed_status import FeedState, FeedStatus
from marketdata.domain.tick import stamp_to_ms
from marketdata.models import Gap
from marketdata.store import market_status_write

log = logging.getLogger(__name__)

STORE_ERRORS = (PyMongoError, DatabaseError)
FLUSH_SECONDS = 0.1
"""A killed process loses at most so much of what it had received."""
STATUS_SECONDS = 1.0
UNIVERSE_SECONDS = 30.0
TOKEN_POLL_SECONDS = 5.0
LEASE_SECONDS = 10.0
YIELD_SECONDS = 0.005
UNKNOWN_KEYS = 10_000
"""So many keys that nobody asked for are looked up in a run; the store's writer names what comes beyond."""
STOP_SECONDS = 20.0


class ShardTaken(Exception):
    """Another feed holds the lease of this shard; final until it ends."""


@dataclass(frozen=True)
class FeedConfig:
    """What a feed needs to know, read from the settings by its command.

    Attributes:
        folder: the shard's own folder: journal, authorise times.
        shard, shards: its number, and how many there are; an instrument's shard is its id mod `shards`.
        api_url: the broker's REST address.
        window_ms: one group message a window.
        limits: mode → keys on this connection.
        batch_ticks, batch_ms, queue_ticks: of the store writer.
        segment_bytes: size at which a journal segment is closed.
    """

    folder: Path
    shard: int
    shards: int
    api_url: str
    window_ms: int
    limits: Mapping[str, int]
    batch_ticks: int
    batch_ms: int
    queue_ticks: int
    segment_bytes: int


class FeedRunner:
    """Runs until `stop()`; `run` returns the process's exit code."""

    def __init__(self, config: FeedConfig) -> None:
        self.config = config
        self.pipeline = Pipeline()
        self.report = Report(shard=config.shard)
        self.counts = self.report.counts
        self._journal = Journal(config.folder, shard=config.shard, segment_bytes=config.segment_bytes)
        self.following = Following(self._journal, self.pipeline, shard=config.shard, shards=config.shards, limits=config.limits)
        self.publisher = Publisher(self.pipeline, shard=config.shard, epoch=time.time_ns() // 1_000_000)
        self._writer: StoreWriter
        self._lease: live_state.ShardLease | None = None
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._reconcile = asyncio.Event()
        self._tell_state = False
        self._asked: set[str] = set()
        self._connection: FeedConnection | None = None
        self._gap_from_ms: int | None = None
        self._gap_cause = Gap.Cause.STOPPED
        self._gap_detail = ""
        self._segments_told: dict[str, str] = {}
        self._background: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        """Ask for an orderly end. Safe to call more than once."""
        self._stopping.set()

    # --- startup → loops → shutdown -----------------------------------------------------------------------------------

    async def run(self) -> int:
        """Run until stopped or until a loop fails.

        Returns:
            0 after an orderly end with everything stored; 1 when a loop failed or the store did not take all in time
            (the journal holds the rest for the next start).

        Raises:
            JournalBusy, ShardTaken: another feed runs.
        """
        await self._start()
        loops = [
            asyncio.create_task(loop(), name=loop.__name__.strip("_"))
            for loop in (self._connect_loop, self._publish_loop, self._status_loop, self._universe_loop, self._flush_loop)
        ]
        stopped = asyncio.create_task(self._wait_for_stop(), name="stop")
        await asyncio.wait([*loops, stopped], return_when=asyncio.FIRST_COMPLETED)
        failed = False
        for task in loops:
            if task.done() and not task.cancelled() and task.exception():
                log.error("feed: %s failed", task.get_name(), exc_info=task.exception())
                failed = True
        for task in [*loops, stopped]:
            task.cancel()
        await asyncio.gather(*loops, stopped, return_exceptions=True)
        return 1 if not await self._shut_down() or failed else 0

    async def _wait_for_stop(self) -> None:
        await self._stopping.wait()

    async def _start(self) -> None:
        config = self.config
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(2, thread_name_prefix="look-up"))  # each thread has a MongoDB client of its own
        self._journal.open()
        try:
            self._pacer = AuthorizePacer(config.folder / "authorize.json")
            await self._take_lease()
        except BaseException:
            self._journal.close()
            raise
        if self._journal.last_us:
            self._gap_from_ms = stamp_to_ms(self._journal.last_us)
        self._writer = StoreWriter(
            config.folder,
            shard=config.shard,
            journal_last_us=self._journal.last_us,
            name_unknown=name_unknown,
            batch_ticks=config.batch_ticks,
            batch_ms=config.batch_ms,
            queue_ticks=config.queue_ticks,
        )
        self._writer.start()
        log.info("feed: shard %d of %d started, epoch %d", config.shard, config.shards, self.publisher.epoch)

    async def _take_lease(self) -> None:
        """Take the shard's lease. Its token lies beside the journal, so that a restart after a crash has it at once."""
        file = self.config.folder / "lease"
        if not file.exists():
            file.write_text(secrets.token_hex(16))
        self._lease = live_state.ShardLease(self.config.shard, self.config.shards, LEASE_SECONDS, token=file.read_text())
        try:
            if not (await self._lease.renew() or await self._lease.acquire()):
                raise ShardTaken(
                    f"another feed runs shard {self.config.shard} with the same Redis; stop it or choose another TRADINGOK_FEED_SHARD"
                )
            await self._lease.agree()
        except live_state.Unavailable:
            log.warning("feed: Redis does not answer; the journal's file lock alone keeps a second feed away")

    async def _shut_down(self) -> bool:
        """Drain: close the socket, tell clients, flush the journal, let the store finish. True when all is stored."""
        if self._connection is not None:
            with contextlib.suppress(Exception):
                await self._connection.close()
        self.report.change(FeedState.CLOSED, "stopped")
        with contextlib.suppress(bus.Unavailable, live_state.Unavailable):
            await self.publisher.publish(self.following.keys, self._status())
            await self.publisher.save(self._status())
            if self._lease is not None:
                await self._lease.release()
        with contextlib.suppress(Exception):
            await live_state.aclose()
        journalled = self._close_journal(last=False)
        clean = await asyncio.to_thread(self._writer.stop, STOP_SECONDS)
        clean = self._close_journal(last=True) and journalled and clean
        log.info("feed: stopped, %s", "everything stored" if clean else "the journal holds what the store has not taken yet")
        return clean

    def _close_journal(self, *, last: bool) -> bool:
        """Flush the journal, at the `last` close it; False when the disk does not take it."""
        try:
            if last:
                self._journal.close()
            else:
                self._journal.flush()
        except OSError as error:
            log.error("feed: the journal cannot be written: %s", error)
            return False
        return True

    # --- the connection ------------------------------------------------------------------------------------------------

    async def _connect_loop(self) -> None:
        """Keep one connection: when by `delays`, whether by the error's kind."""
        refused = token = Token("", "", 0)
        delays = reconnect_delays()
        while True:
            before = self.counts["frames_received_total"]
            try:
                token = await self._token(token)
                if token.token == refused.token:
                    raise AuthExpired("the broker does not accept the token; waiting for another one")
                await self._connect_once(token)
            except AuthExpired as error:
                if error.status or error.code:
                    refused = token
                self._lost(FeedState.TOKEN_EXPIRED, str(error))
                await asyncio.sleep(TOKEN_POLL_SECONDS)
                continue
            except RateLimited as error:
                self._lost(FeedState.RECONNECTING, str(error))
                await asyncio.sleep(error.retry_after)
                continue
            except (BrokerError, *STORE_ERRORS) as error:
                self._lost(FeedState.RECONNECTING, first_line(error))
            if self.counts["frames_received_total"] > before + 1:  # more than the greeting: real data came
                delays = reconnect_delays()
            await asyncio.sleep(next(delays))

    async def _token(self, last: Token) -> Token:
        """Return the token of now; the last one while the store, where sessions are kept, does not answer.

        Raises:
            AuthExpired: there is none.
        """
        try:
            return await asyncio.to_thread(token_current)
        except STORE_ERRORS:
            if not last.token:
                raise
            return last

    async def _connect_once(self, token: Token) -> None:
        """Authorise, connect, read until the connection ends.

        Raises:
            BrokerError: always; how it ended.
        """
        self.report.token_expires_ms = token.expires_ms
        while wait := self._pacer.wait_seconds(time.time()):
            self._change(FeedState.RECONNECTING, f"waiting {wait:.0f} s for the broker's limit on authorise calls")
            await asyncio.sleep(wait)
        self._pacer.record(time.time())
        self.counts["authorize_calls_total"] += 1
        url = await UpstoxRest(self.config.api_url, token.token).aauthorize()
        connection = await open_feed(url)
        self._connection = connection
        self.report.frame_at = self.report.data_at = time.monotonic()
        self._journal.event({"event": "opened"}, _now_us())
        log.info("feed: connected")
        self._reconcile.set()
        try:
            yielded = time.monotonic()
            while True:
                self._take(await connection.receive())
                if self.report.frame_at - yielded > YIELD_SECONDS:  # receiving does not yield while messages wait
                    await asyncio.sleep(0)
                    yielded = time.monotonic()
        finally:
            self._connection = None
            self.following.disconnected()
            self._journal.event({"event": "closed"}, _now_us())
            with contextlib.suppress(Exception):
                await connection.close()

    def _lost(self, state: FeedState, detail: str) -> None:
        """The connection is gone: note since when nothing comes."""
        if self._gap_from_ms is None and self.pipeline.market_ms:
            self._gap_from_ms = _now_ms() - round((time.monotonic() - self.report.data_at) * 1000)
            self._gap_cause, self._gap_detail = Gap.Cause.DISCONNECTED, detail[:200]
            self.counts["reconnects_total"] += 1
        self._change(state, detail)

    def _change(self, state: FeedState, detail: str) -> None:
        if self.report.change(state, detail):
            self._state_changed()

    def _take(self, message: bytes | str) -> None:
        """One message: journal first, then decode, fold, hand on. Never waits."""
        now_us = _now_us()
        self.report.frame_at = time.monotonic()
        if isinstance(message, str):
            self.counts["text_frames_total"] += 1
            self._journal.event({"event": "text", "text": message[:2000]}, now_us)
            complaint = parse_feed_text(message)
            log.warning("feed: text frame: %s", complaint or message[:200])
            return
        self.counts["frames_received_total"] += 1
        stamp = self._journal.append(message, now_us)
        self.counts["frames_journalled_total"] += 1
        try:
            frame = decode(message, self.following.instruments)
        except ProtocolViolation as error:
            self.counts["frames_rejected_total"] += 1
            if self.counts["frames_rejected_total"] in (1, 10, 100, 1000):
                log.warning("feed: frame rejected (%d so far): %s", self.counts["frames_rejected_total"], error)
            return
        self.counts["frames_decoded_total"] += 1
        self.counts["ticks_decoded_total"] += len(frame.ticks) + len(frame.unknown)
        self._writer.offer(Record(stamp, message, self.following.instruments), frame)
        self.pipeline.apply(frame)
        unknown = [key for key in frame.unknown if key not in self._asked]
        if unknown and len(self._asked) < UNKNOWN_KEYS:
            self._asked.update(unknown)
            self._in_background(self._name(unknown))
        if frame.ticks:
            self._first_data(frame)
            self._changed.set()

    def _first_data(self, frame: Frame) -> None:
        self.report.data_at = self.report.frame_at
        if self._gap_from_ms is not None:
            gap = Gap(
                shard=self.config.shard,
                start=_moment(self._gap_from_ms),
                end=datetime.now(UTC),
                cause=self._gap_cause,
                detail=self._gap_detail,
            )
            self._gap_from_ms = None
            self.counts["gaps_total"] += 1
            self._in_background(_in_thread(gap.save))

    async def _name(self, keys: Sequence[str]) -> None:
        """Give keys that the feed sent unasked their placeholders, so that clients get them too."""
        named = await asyncio.to_thread(name_unknown, keys)
        self.following.learn(named)
        log.warning("feed: %d keys that nobody asked for, %d got placeholders: %s", len(keys), len(named), ", ".join(keys[:5])[:300])

    async def _universe_loop(self) -> None:
        """Each second compare wanted with subscribed; resolve the rules anew from time to time, and once prices are known."""
        resolved_at = -UNIVERSE_SECONDS
        priced = failing = False
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._reconcile.wait(), 1.0)
            self._reconcile.clear()
            prices_are_new = bool(self.pipeline.quotes) and not priced
            try:
                if self.following.unsettled or prices_are_new or time.monotonic() - resolved_at > UNIVERSE_SECONDS:
                    await self.following.resolve_rules()
                    resolved_at, priced = time.monotonic(), bool(self.pipeline.quotes)
                if self._connection is not None:
                    await self.following.reconcile(self._connection)
                failing = False
            except STORE_ERRORS as error:
                self.counts["universe_failed_total"] += 1
                if not failing:
                    log.warning("feed: cannot resolve the rules now: %s", first_line(error))
                failing = True
            except FeedUnavailable as error:
                log.info("feed: the connection ended while subscribing: %s", error)  # the connect loop sees it too

    # --- the way out ---------------------------------------------------------------------------------------------------

    async def _publish_loop(self) -> None:
        """One group message a window, as soon as something changed; while one is under way the changes merge."""
        window = self.config.window_ms / 1000
        while True:
            await self._changed.wait()
            self._changed.clear()
            began = time.monotonic()
            with contextlib.suppress(bus.Unavailable):  # counted by the publisher, told by the status loop
                tell, self._tell_state = self._tell_state, False
                await self.publisher.publish(self.following.keys, self._status() if tell else None)
            await asyncio.sleep(max(0.0, window - (time.monotonic() - began)))

    async def _status_loop(self) -> None:
        """Each second: judge the state, publish it, save changed quotes, keep the lease."""
        while True:
            began = time.monotonic()
            if not self._writer.is_alive():
                raise RuntimeError("the store's writer has ended")
            await self._judge()
            self.report.measure()
            await self._drop_ghosts()
            self.publisher.forget_unfollowed()
            try:
                await self.publisher.publish(self.following.keys, self._status())
                await self.publisher.save(self._status())
                await self._keep_lease()
                self.report.failing("Redis", None)
            except (bus.Unavailable, live_state.Unavailable) as error:
                self.report.failing("Redis", error)
            self._tell_segments()
            await asyncio.sleep(max(0.05, STATUS_SECONDS - (time.monotonic() - began)))

    async def _drop_ghosts(self) -> None:
        """Forget quotes that nobody follows any more: frames may still come for a while after an `unsub`."""
        if not self.following.subscribed:
            return
        ghosts = self.pipeline.quotes.keys() - self.following.followed()
        if ghosts:
            self.pipeline.forget(ghosts)
            with contextlib.suppress(live_state.Unavailable):
                await live_state.aquotes_remove(ghosts)

    async def _keep_lease(self) -> None:
        if self._lease is not None and not await self._lease.renew() and not await self._lease.acquire():
            raise ShardTaken("another feed has taken this shard")

    async def _flush_loop(self) -> None:
        """Hand the journal's chunk to the system at least every FLUSH_SECONDS."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            self._journal.flush()

    # --- the state -----------------------------------------------------------------------------------------------------

    async def _judge(self) -> None:
        """Say what clients may rely on; end a socket that is open but mute in market hours."""
        connection = self._connection
        if connection is None:
            return
        segments = self.pipeline.segments
        if self.report.is_mute(segments):
            log.warning("feed: open but mute in market hours, connecting anew")
            self.counts["mute_total"] += 1
            await connection.close()
        elif self.report.judge(segments, subscribed=bool(self.following.subscribed)):
            self._state_changed()

    def _state_changed(self) -> None:
        """Have the publisher tell clients at once."""
        self._tell_state = True
        self._changed.set()

    def _status(self) -> FeedStatus:
        writer, limits = self._writer, self.config.limits
        modes = Counter(self.following.subscribed.values())
        counters: dict[str, float] = {}
        for counts in (self.pipeline.counts, writer.counts, self.publisher.counts, self.following.counts):
            counters |= counts
        counters |= {f"subscribed_{mode}": modes[mode] for mode in limits} | {f"limit_{mode}": limit for mode, limit in limits.items()}
        counters |= {
            "store_lag_ticks": writer.queued_ticks,
            "store_lag_ms": max(0, (self._journal.last_us - writer.stored_us) // 1000) if writer.queued_ticks or writer.behind else 0,
            "store_behind": int(writer.behind),
            "journal_bytes": self._journal.bytes_written,
        }
        return self.report.status(
            epoch=self.publisher.epoch,
            n=self.publisher.n,
            data_ms=self.pipeline.market_ms,
            segments=self.pipeline.segments,
            counters=counters,
        )

    def _tell_segments(self) -> None:
        """Keep changes of segments in the store."""
        changed = {name: status for name, status in self.pipeline.segments.items() if self._segments_told.get(name) != status}
        if changed:
            self._segments_told |= changed
            since = self.pipeline.market_ms or _now_ms()
            self._in_background(_in_thread(lambda: [market_status_write(name, status, since) for name, status in changed.items()]))

    # --- small things ---------------------------------------------------------------------------------------------------

    def _in_background(self, work: Awaitable[object]) -> None:
        """Do something that the hot path must not wait for; at most 100 of them, a failure is logged and counted."""
        if len(self._background) >= 100:
            self.counts["background_dropped_total"] += 1
            if asyncio.iscoroutine(work):
                work.close()
            return

        async def guarded() -> None:
            try:
                await work
            except Exception as error:
                self.counts["background_failed_total"] += 1
                log.warning("feed: %s", first_line(error))

        task = asyncio.get_running_loop().create_task(guarded())
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _now_us() -> int:
    return time.time_ns() // 1000


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


async def _in_thread(work: Callable[[], object]) -> None:
    await asyncio.to_thread(work)
