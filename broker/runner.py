"""The feed process of one shard: startup, loops, shutdown; and what each loop does in one turn.

    socket ─▶ connecting ─▶ receiving: journal ─▶ decode ─▶ pipeline ─┬▶ store writer (own thread)
                                     │                                └▶ one group message a window, quotes each second (own task)
                                     └▶ candles: with the window's message; finished ones by the recorder into the store

Nothing here waits for the slowest: the receiver only appends, decodes and folds. What clients want comes in as state that is
read (`live_state.ademand_read`, the rules), compared with what is subscribed, and reconciled.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from broker.announcing import Announcer
from broker.candles import ShardCandles
from broker.connecting import Connector
from broker.following import Following, name_unknown
from broker.holding import ShardHolder
from broker.holes import Holes
from broker.hours import TradingHours
from broker.journal import Journal
from broker.journal_keeping import JournalLimits
from broker.learning_hours import HoursLearner
from broker.liveness import Liveness, Mark, trading_segments
from broker.pacing import AuthorizePacer
from broker.pipeline import Pipeline
from broker.publisher import Publisher
from broker.receiving import Receiver, spare_the_collector
from broker.recording import Recorder
from broker.report import Report
from broker.rolling import Roller
from broker.sessions import Token
from broker.store_writer import StoreWriter
from broker.tending import JournalTender
from broker.warming import warm_up
from instruments.domain.limits import Limits
from marketdata import bus, live_state
from marketdata.domain.feed_status import FeedState, FeedStatus
from marketdata.domain.tick import stamp_to_ms

log = logging.getLogger(__name__)

STATUS_SECONDS = 1.0
STOP_SECONDS = 20.0
CANDLE_SECONDS = 0.25
"""Forming candles are published so often; and so often market time goes on while nothing comes."""
SETTLE_SECONDS = 60.0
"""After so long clients have said what they want; what an earlier run left in the shared state beside it is forgotten then."""
SILENCE_MS = 60_000
"""So long in market time without a tick, in a session, is a gap. A few options may be silent for longer: then there is nothing to heal."""


@dataclass(frozen=True)
class FeedConfig:
    """What a feed needs to know, read from the settings by its command.

    Attributes:
        folder: the shard's own folder: journal, authorise times.
        shard, shards: its number, and how many there are; an instrument's shard is its id mod `shards`.
        api_url: the broker's REST address.
        window_ms: one group message a window.
        candle_grace_ms: market time that a minute waits for its bar before it is told as closed.
        limits: of this connection.
        batch_ticks, batch_ms, queue_ticks: of the store writer.
        segment_bytes: size at which a journal segment is closed.
        journal_limits: how much of the journal is kept.
    """

    folder: Path
    shard: int
    shards: int
    api_url: str
    window_ms: int
    candle_grace_ms: int
    limits: Limits
    batch_ticks: int
    batch_ms: int
    queue_ticks: int
    segment_bytes: int
    journal_limits: JournalLimits


class FeedRunner:
    """Runs until `stop()`; `run` returns the process's exit code."""

    def __init__(self, config: FeedConfig) -> None:
        self.config = config
        self.pipeline = Pipeline()
        self.liveness = Liveness()
        self.report = Report(shard=config.shard)
        self.counts = self.report.counts
        self.journal = Journal(config.folder, shard=config.shard, segment_bytes=config.segment_bytes)
        self.holes = Holes(config.folder / "holes.json", shard=config.shard)
        self.following = Following(self.journal, self.pipeline, shard=config.shard, shards=config.shards, limits=config.limits)
        self.hours = TradingHours()
        self.candles = ShardCandles(self.hours, grace_ms=config.candle_grace_ms)
        self.publisher = Publisher(self.pipeline, self.candles, shard=config.shard, epoch=time.time_ns() // 1_000_000)
        pacer = AuthorizePacer(config.folder.parent / "authorize.json")  # one for all shards: the limits are the user's
        self.connector = Connector(self, api_url=config.api_url, pacer=pacer, counts=self.counts)
        self._announcer = Announcer(self.report, shard=config.shard)
        self.roller = Roller(self.following, self._announcer, self.connector, self.report)
        self._tender = JournalTender(
            self.journal, config.journal_limits, stored_us=lambda: self.writer.stored_us, flushed=lambda: self.writer.release()
        )
        self._learner = HoursLearner(self.hours, self.candles, self.pipeline, self.report, api_url=config.api_url)
        self._recorder = Recorder(self.pipeline, self.candles, self.holes, self.report, shard=config.shard)
        self.writer: StoreWriter
        self._receiver: Receiver
        self._holder = ShardHolder(config.folder, shard=config.shard, shards=config.shards)
        self._settles_at = time.monotonic() + SETTLE_SECONDS
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._tell_state = False
        self._ticks_ms = 0
        """Market time of the newest frame with ticks."""

    def stop(self) -> None:
        """Ask for an orderly end. Safe to call more than once."""
        self._stopping.set()

    # --- startup → loops → shutdown -----------------------------------------------------------------------------------

    async def run(self) -> int:
        """Run until stopped or until a loop fails.

        Returns:
            0 after an orderly end with everything journalled and stored; 1 when a loop failed, when the disk did not take every
            frame, or when the store did not take all in time (the journal holds the rest for the next start).

        Raises:
            JournalBusy, ShardTaken: another feed runs.
        """
        await self._start()
        loops = [
            asyncio.create_task(loop(), name=name)
            for name, loop in (
                ("the connection", self.connector.run),
                ("publishing", self._publish_loop),
                ("the status", self._status_loop),
                ("the universe", self.roller.run),
                ("announcing", self._announcer.run),
                ("flushing", self._tender.flush),
                ("keeping the journal", self._tender.keep),
                ("recording", self._recorder.run),
                ("the candles", self._candle_loop),
                ("the calendar", self._learner.run),
            )
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
        loop.set_default_executor(ThreadPoolExecutor(3, thread_name_prefix="look-up"))  # each thread has a MongoDB client of its own
        self.journal.open()
        if self.journal.last_us:  # a clock that was set back must not make this run an earlier one than the last
            self.publisher.epoch = max(self.publisher.epoch, stamp_to_ms(self.journal.last_us) + 1)
        try:
            await self._holder.take()
        except BaseException:
            self.journal.close()
            raise
        await self._learner.learn()
        ended_ms = await asyncio.to_thread(warm_up, self.candles, config.folder, self.journal.last_us)
        self.holes.load(ended_ms or (stamp_to_ms(self.journal.last_us) if self.journal.last_us else 0))
        self.writer = StoreWriter(
            config.folder,
            shard=config.shard,
            journal_last_us=self.journal.last_us,
            name_unknown=name_unknown,
            batch_ticks=config.batch_ticks,
            batch_ms=config.batch_ms,
            queue_ticks=config.queue_ticks,
            in_session=self.candles.in_session,
        )
        self._receiver = Receiver(
            journal=self.journal,
            following=self.following,
            pipeline=self.pipeline,
            candles=self.candles,
            liveness=self.liveness,
            writer=self.writer,
            counts=self.counts,
            on_ticks=self._ticks_came,
        )
        self.writer.start()
        spare_the_collector()
        log.info("feed: shard %d of %d started, epoch %d", config.shard, config.shards, self.publisher.epoch)

    async def _shut_down(self) -> bool:
        """Drain: close the socket, finish the journal, tell clients, let the store finish. True when all is journalled and stored."""
        if self.liveness.is_open:
            self._receiver.closed()
        self.report.change(FeedState.CLOSED, "stopped")
        self.journal.finish()
        with contextlib.suppress(bus.Unavailable, live_state.Unavailable):
            await self.publisher.publish(self.following.live, self._status())
            await self.publisher.save(self._status())
            await self._holder.release()
        with contextlib.suppress(Exception):
            await live_state.aclose()
        await self._recorder.step()  # what it cannot bring now lies beside the journal
        stored = await asyncio.to_thread(self.writer.stop, STOP_SECONDS)
        self.journal.close()
        lost = self.journal.counts["frames_unjournalled_total"]
        if lost:
            log.critical("feed: %d frames were never journalled, the disk did not take them", lost)
        log.info("feed: stopped, %s", "everything stored" if stored else "the journal holds what the store has not taken yet")
        return stored and not lost

    # --- the connection: what `connecting` tells --------------------------------------------------------------------------

    def opened(self, token: Token) -> None:
        """Everything begins anew, as the broker keeps nothing over a reconnect: clocks, greeting, subscription."""
        self.report.token_expires_ms = token.expires_ms
        self._receiver.opened()
        self.roller.due.set()

    def take(self, message: bytes | str) -> None:
        """Receive one message."""
        self._receiver.take(message)

    def gave_data(self) -> bool:
        """Whether the present, or last, connection gave live ticks."""
        return self.liveness.gave_data

    def lost(self, state: FeedState, detail: str) -> None:
        """The connection is gone, or still is: note since when, in market time, nothing comes."""
        if self.liveness.is_open:
            self._receiver.closed()
            if self.pipeline.market_ms:
                start_ms = self._ticks_ms if self.liveness.trading else 0  # a market_info or two may have come since
                self.holes.begin(start_ms or self.pipeline.market_ms, detail, traded=bool(self.liveness.trading))
            self.liveness.closed()
            self.following.disconnected()
        self._change(state, detail)

    def _ticks_came(self) -> None:
        self._changed.set()
        if self.pipeline.doubts:
            return
        now_ms, before_ms, self._ticks_ms = self.pipeline.market_ms, self._ticks_ms, self.pipeline.market_ms
        if self.holes.open is not None:
            segments = self.following.by_segment()
            self.holes.end(now_ms, segments=segments, traded=bool(trading_segments(segments, self.pipeline.segments)))
        elif before_ms and now_ms - before_ms >= SILENCE_MS:
            followed = list(self.following.by_segment())
            start_ms, end_ms, traded_ms = self.hours.traded_within(followed, before_ms, now_ms)
            if traded_ms >= SILENCE_MS:
                self.holes.silence(start_ms, end_ms, followed)

    # --- the loops ----------------------------------------------------------------------------------------------------------

    async def _publish_loop(self) -> None:
        """One group message a window, as soon as something changed; while one is under way the changes merge."""
        window = self.config.window_ms / 1000
        while True:
            await self._changed.wait()
            self._changed.clear()
            began = time.monotonic()
            with contextlib.suppress(bus.Unavailable):  # counted by the publisher, told by the status loop
                tell, self._tell_state = self._tell_state, False
                await self.publisher.publish(self.following.live, self._status() if tell else None)
            await asyncio.sleep(max(0.0, window - (time.monotonic() - began)))

    async def _status_loop(self) -> None:
        """Each second: judge the state, publish it, save changed quotes, keep the lease."""
        while True:
            began = time.monotonic()
            if not self.writer.is_alive():
                raise RuntimeError("the store's writer has ended")
            await self._judge()
            self.report.measure()
            await self._drop_ghosts()
            self.publisher.forget_unfollowed()
            try:
                await self.publisher.publish(self.following.live, self._status())
                await self.publisher.save(self._status())
                await self._holder.keep()
                self.report.failing("Redis", None)
            except (bus.Unavailable, live_state.Unavailable) as error:
                self.report.failing("Redis", error)
            await asyncio.sleep(max(0.05, STATUS_SECONDS - (time.monotonic() - began)))

    async def _candle_loop(self) -> None:
        """A few times a second: let market time go on, which closes minutes over a silence, too, and have what changed published."""
        while True:
            await asyncio.sleep(CANDLE_SECONDS)
            if self.candles.advance(time.monotonic()):
                self.candles.due = True
                self._changed.set()

    # --- one turn of the status loop ------------------------------------------------------------------------------------------

    async def _judge(self) -> None:
        """Say what clients may rely on; end a connection that is open but gives nothing."""
        self.report.trouble = self._tender.trouble
        connection = self.connector.connection
        if connection is None:
            return
        now = time.monotonic()
        self.liveness.observe(
            now,
            followed=self.following.by_segment(),
            statuses=self.pipeline.segments,
            mark=self._mark,
            latency=connection.latency,
        )
        verdict = self.liveness.judge(now)
        self._change(verdict.state, verdict.detail)
        if verdict.drop:
            self.counts["mute_total" if verdict.state is FeedState.STALE else "ungreeted_total"] += 1
            await self.connector.drop(verdict.detail)

    def _mark(self, instrument: int) -> Mark | None:
        quote = self.pipeline.quotes.get(instrument)
        return None if quote is None else (quote.seq, quote.broker_ms)

    async def _drop_ghosts(self) -> None:
        """Forget quotes that nobody follows any more: frames may still come for a while after an `unsub`; and those of earlier runs."""
        if not self.following.subscribed:
            return
        known = {*self.pipeline.quotes, *self.candles.known}
        if time.monotonic() > self._settles_at:
            with contextlib.suppress(live_state.Unavailable):
                known |= await self.publisher.left_behind(self.config.shards)
        ghosts = known - self.following.followed()
        if ghosts:
            self.pipeline.forget(ghosts)
            self.candles.forget(ghosts)
            with contextlib.suppress(live_state.Unavailable):
                await live_state.aquotes_remove(ghosts)

    def _change(self, state: FeedState, detail: str) -> None:
        """Take a state on; have the publisher tell clients at once when it is another one."""
        if self.report.change(state, detail):
            self._tell_state = True
            self._changed.set()

    def _status(self) -> FeedStatus:
        writer, modes = self.writer, Counter(self.following.subscribed.values())
        limits = self.config.limits.of(modes)
        counters: dict[str, float] = {}
        parts = (
            self.journal,
            self._tender,
            self.pipeline,
            self.candles,
            writer,
            self.publisher,
            self.following,
            self.holes,
            self._announcer,
        )
        for part in parts:
            counters |= part.counts
        counters |= {f"subscribed_{mode}": modes[mode] for mode in limits} | {f"limit_{mode}": limit for mode, limit in limits.items()}
        counters |= {
            "demand_refused": len(self.following.refused),
            "frames_waiting": self.journal.frames_waiting,
            "journal_bytes": self.journal.bytes_written,
            "quotes_waiting": self.pipeline.waiting + self.publisher.under_way,
            "gaps_waiting": len(self.holes.waiting),
            "candles_waiting": self.candles.waiting,
            "store_lag_ticks": writer.queued_ticks,
            "store_lag_ms": writer.lag_us(self.journal.last_us) // 1000,
            "store_behind": int(writer.behind),
        }
        return self.report.status(
            epoch=self.publisher.epoch,
            n=self.publisher.n,
            data_ms=self.pipeline.market_ms,
            segments=self.pipeline.segments,
            counters=counters | self._tender.gauges() | self.liveness.gauges(time.monotonic()),
        )
