"""The V3 feed: accepts connections, reads their requests, and pumps the market to them.

One pump task drives the market; it never waits for a client, except in an unpaced replay, where the slowest client sets the pace.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from broker.simulator.alterations import Alterations, Outgoing
from broker.simulator.clock import Clock, HostClock
from broker.simulator.connection import REQUEST, Connection
from broker.simulator.cut import cut, feed_frame, market_info_frame
from broker.simulator.errors import ApiError, error_response
from broker.simulator.faults import ConnectionLimit, Faults, Holiday, Mute, Pause
from broker.simulator.ledger import Asked, Ledger
from broker.simulator.limits import CONNECTIONS, PLUS_CONNECTIONS
from broker.simulator.login import Access
from broker.simulator.market_port import Market
from broker.simulator.replay import SnapshotUpdate
from broker.simulator.source import Update
from broker.upstox import MarketDataFeedV3_pb2 as pb

STEP_SECONDS = 0.020
"""The market is asked so often what is due; the rhythm of frames (133–166 ms, FACTS §3.5) is the market's own."""
IDLE_INFO_SECONDS = 3.0
"""A connection that got nothing for so long gets a market_info again. The broker's own period is not known (FACTS §3.5)."""
UNPACED_BYTES = 1024 * 1024
"""An unpaced replay waits while a connection has more than this in its outbox."""

log = logging.getLogger(__name__)


class FeedServer:
    """Every feed connection of the exchange, and the pump."""

    def __init__(
        self,
        source: Market,
        access: Access,
        faults: Faults,
        *,
        clock: Clock | None = None,
        ledger: Ledger | None = None,
        unpaced: bool = False,
        plus: bool = False,
    ) -> None:
        """Bind a market to the wire.

        Args:
            source: the market.
            access: checks feed codes.
            faults: what to do wrong.
            clock: of the market; None: the host's.
            ledger: where each sent message is written down; None: nowhere.
            unpaced: the source gives as much as it is asked for (replay at full speed).
            plus: limits of the broker's Plus plan.
        """
        self.counts: Counter[str] = Counter()
        self.connections: dict[int, Connection] = {}
        self.before_step: Callable[[], None] = lambda: None
        self._alterations = Alterations(faults)
        self._source, self._access, self._faults, self._ledger = source, access, faults, ledger
        self._clock = clock or HostClock()
        self._unpaced, self._plus = unpaced, plus
        self._number = ledger.connections if ledger else 0
        self._told = self._state_now()

    # --- one connection ---------------------------------------------------------------------------------------------------

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one upgrade request to its end."""
        token = await self._admit(websocket)
        if token is None:
            return
        self._number += 1
        connection = Connection(self._number, token, websocket, self._ledger, plus=self._plus)
        self.connections[connection.number] = connection
        self.counts["connections_opened_total"] += 1
        self._write_down(connection, "open")
        writer = None
        try:
            await websocket.accept()
            writer = asyncio.create_task(connection.write())
            writer.add_done_callback(lambda ended: None if ended.cancelled() else connection.abort())
            self._queue_info(connection)
            await self._read(websocket, connection)
        finally:
            del self.connections[connection.number]
            connection.modes.clear()
            self._write_down(connection, "close")
            self._alterations.forget(connection.number)
            self._add_sent(connection)
            if writer is not None:
                writer.cancel()
                with contextlib.suppress(asyncio.CancelledError, WebSocketDisconnect, RuntimeError, OSError):
                    await writer

    async def _admit(self, websocket: WebSocket) -> str | None:
        """Check fault, code and connection limit; None: refused, with an HTTP answer."""
        now = time.time()
        token = self._access.spend_feed_code(websocket.query_params.get("code", ""), now)
        response = self._faults.refusal("upgrade", now)
        if response is None and (token is None or not self._has_room(token, now)):
            response = error_response(ApiError("UDAPI100050", status=403))
        if response is None:
            return token
        self.counts["upgrades_refused_total"] += 1
        await websocket.send_denial_response(response)
        return None

    def _has_room(self, token: str, now: float) -> bool:
        """Whether this user may have one more connection."""
        used = sum(other.token == token for other in self.connections.values())
        fault = self._faults.in_force(ConnectionLimit, now)
        if fault is not None and used >= fault.limit:
            self._faults.happen(fault)
            return False
        return used < (PLUS_CONNECTIONS if self._plus else CONNECTIONS)

    async def _read(self, websocket: WebSocket, connection: Connection) -> None:
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            content = message.get("bytes")
            if content is None:
                self.counts["requests_text_total"] += 1  # accepted and ignored, as the broker does (FACTS §3.3)
                continue
            self._request(connection, content)

    def _request(self, connection: Connection, content: bytes) -> None:
        self.counts["requests_total"] += 1
        try:
            request = REQUEST.decode(content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.counts["requests_bad_total"] += 1
            return
        changed = connection.apply(request, self._source.rows_by_key.__contains__, self.counts)
        self._write_down(connection, request.method, request.data.mode or "", request.data.instrumentKeys)
        if changed:
            self._queue_feeds(connection, pb.initial_feed, self._source.now_ms(), self._source.snapshot(changed))

    def _write_down(self, connection: Connection, method: str, mode: str = "", keys: Sequence[str] = ()) -> None:
        """Have the ledger hold what a connection asked, and what it subscribes now."""
        if self._ledger is None:
            return
        modes = connection.modes
        refused = [key for key in keys if method != "unsub" and modes.get(key) != (mode or "ltpc")]
        now = (time.time_ns(), self._source.now_ms())
        self._ledger.ask(Asked(*now, connection.number, method, mode, list(keys), refused, dict(Counter(modes.values()))))

    # --- the pump ---------------------------------------------------------------------------------------------------------

    async def pump(self) -> None:
        """Advance the market and send what changed, for ever."""
        while True:
            began = time.monotonic()
            moved = self.step(time.time_ns() // 1_000_000)
            if self._unpaced and moved:
                await self._wait_for_room()
            else:
                await asyncio.sleep(max(0.0, STEP_SECONDS - (time.monotonic() - began)))

    def step(self, wall_ms: int) -> bool:
        """Send what is due at this time of the host; return whether anything was."""
        self.before_step()
        moved = False
        pause = self._faults.in_force(Pause, time.time())
        if pause is not None and self._source.now_ms() >= pause.at_market_ms:
            self._faults.happen(pause)
            self._clock.stand(wall_ms)
        else:
            for market_ms in self._clock.advance(wall_ms):
                moved |= self._bring_to(market_ms)
        self._tend()
        return moved

    def _bring_to(self, market_ms: int) -> bool:
        """Have the market go on to this moment; tell what it has become, and what came on the way."""
        updates = self._source.due(market_ms, self.wanted())
        state = self._state_now()
        if state != self._told:
            self._told = state
            for connection in list(self.connections.values()):
                self._queue_info(connection)
        for update in updates:
            self._fan_out(update)
        return bool(updates)

    def wanted(self) -> set[str]:
        """Keys that any connection subscribes."""
        return set().union(*(connection.modes for connection in self.connections.values()))

    def _state_now(self) -> tuple[dict[str, str], dict[str, tuple[str, int]]]:
        """What a market_info tells now: of the segments, and of their closing auctions."""
        segments = self._source.segments()
        if self._faults.in_force(Holiday, time.time()) is not None:
            return dict.fromkeys(segments, "NORMAL_CLOSE"), {}
        return segments, self._source.auctions()

    def _fan_out(self, update: Update) -> None:
        if self._faults.in_force(Holiday, time.time()) is not None:
            return
        kind = pb.initial_feed if isinstance(update, SnapshotUpdate) else pb.live_feed
        for connection in list(self.connections.values()):
            self._queue_feeds(connection, kind, update.broker_ms, update.feeds)

    def _queue_feeds(self, connection: Connection, kind: pb.Type.ValueType, broker_ms: int, feeds: dict[str, pb.Feed]) -> None:
        modes = connection.modes
        cuts = {key: part for key, feed in feeds.items() if key in modes and (part := cut(feed, modes[key])) is not None}
        now = time.time()
        if not cuts or self._faults.take(Mute, now) is not None:
            return
        frame = feed_frame(kind, broker_ms, cuts)
        if kind == pb.live_feed:
            messages = self._alterations.outgoing(connection.number, frame, now)
        else:
            messages = [Outgoing(frame.SerializeToString(), frame)]
        for message in messages:
            self._count_queued(connection.queue(*message))

    def _queue_info(self, connection: Connection) -> None:
        now = time.time()
        if self._faults.take(Mute, now) is not None:
            connection.last_queued = time.monotonic()  # the next one is due in IDLE_INFO_SECONDS
            return
        self._faults.take(Holiday, now)
        frame = market_info_frame(self._source.now_ms(), *self._state_now())
        self._count_queued(connection.queue(frame.SerializeToString()))

    def _count_queued(self, queued: bool) -> None:
        if not queued:
            self.counts["slow_clients_aborted_total"] += 1

    def _tend(self) -> None:
        """Repeat market_info on idle connections; abort stalled ones."""
        now = time.monotonic()
        holiday = self._faults.in_force(Holiday, time.time()) is not None
        for connection in list(self.connections.values()):
            if connection.is_stalled():
                self.counts["slow_clients_aborted_total"] += 1
                connection.abort()
            elif now - connection.last_queued >= IDLE_INFO_SECONDS and not holiday:
                self._queue_info(connection)

    async def _wait_for_room(self) -> None:
        await asyncio.sleep(0)
        while any(connection.pending_bytes > UNPACED_BYTES for connection in self.connections.values()):
            await asyncio.sleep(0.005)
            self._tend()

    # --- faults and figures -----------------------------------------------------------------------------------------------

    def drop(self, number: int | None = None, token: str | None = None) -> int:
        """Cut connections without a close frame: all, or one by number, or those of a token. Returns how many."""
        chosen = [c for c in self.connections.values() if number in (None, c.number) and token in (None, c.token)]
        for connection in chosen:
            connection.abort()
        return len(chosen)

    def send_garbage(self, count: int, size: int) -> int:
        """Send `count` messages of `size` bytes that no protobuf parser takes, on each connection. Returns how many."""
        return sum(
            connection.queue(b"\xff" + os.urandom(max(0, size - 1))) for connection in list(self.connections.values()) for _ in range(count)
        )

    def send_text(self, text: str) -> int:
        """Send a text frame on each connection. Returns how many."""
        return sum(connection.queue(text.encode(), text=True) for connection in list(self.connections.values()))

    def has_sent_all(self) -> bool:
        """Whether every outbox is empty."""
        return not any(connection.pending_bytes for connection in self.connections.values())

    def figures(self) -> dict[str, object]:
        """Counters and connections, for /simulator/state."""
        sent = sum((connection.sent for connection in self.connections.values()), Counter(self.counts))
        modes = {c.number: dict(Counter(c.modes.values())) for c in self.connections.values()}
        return {
            "connections": [
                {"number": c.number, "modes": modes[c.number], "pending_bytes": c.pending_bytes} for c in self.connections.values()
            ],
            "frames_sent_total": sent.pop("frames", 0),
            "updates_sent_total": sent.pop("updates", 0),
            "subscribed": len(self.wanted()),
            "counts": dict(sorted(sent.items())),
        }

    def _add_sent(self, connection: Connection) -> None:
        self.counts.update(connection.sent)
