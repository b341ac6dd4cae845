"""The WebSocket of clients, `/ws/market/`: commands in, pushes out. Quotes and their order are the hub's and the outbox's.

One task reads commands, one writes. The writer never holds a quote: it drains the outbox when the transport has taken what
came before, so that a slow client gets fewer and newer quotes, and costs nobody else anything. Where the server gives us its
line (`tradingok.bounded_server`), a client that is owed nothing has its window open: the hub's batch goes to it in the same
step, without waking the writer. When the line is full the window closes until the writer has caught up.

Who reads too slowly is told (`reading_pace` says who is late): late for SLOW_SECONDS on end, a client gets `error` 407, `bye` 4008
and the close, and is aborted if it has not taken them in BYE_SECONDS. Who takes no byte at all for WS_STALL_SECONDS is aborted
without a word.

It is a plain ASGI application, not a Channels consumer: those join the channel layer, and only the hub may.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from itertools import chain
from typing import Any, Protocol

from django.conf import settings

from accounts.services import Credential
from marketdata import commands, leases, live_state, wire
from marketdata.admission import Scope, WrongOrigin, admit
from marketdata.client_channels import CHAINS_MAX, CHARTS_MAX, ClientChannels
from marketdata.client_errors import ClientError, CloseCode
from marketdata.client_instruments import ClientInstruments
from marketdata.commands import Command, parse_command
from marketdata.hub import Hub, get_hub
from marketdata.outbox import Outbox
from marketdata.reading_pace import ReadingPace

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 15.0
RECONNECT_AFTER_MS = 1000
SLOW_RECONNECT_MS = 5000
SLOW_SECONDS = 15.0
BYE_SECONDS = 30.0
FLOOD_PAUSE_SECONDS = 0.05
"""Each refused command costs its sender so long, so that a flood waits in its own socket."""
REFUSALS = {401: CloseCode.BAD_CREDENTIALS, 403: CloseCode.FORBIDDEN, 406: CloseCode.CONNECTION_LIMIT, 500: CloseCode.TRY_AGAIN}
"""Error that refuses a connection → its close code."""

Message = dict[str, Any]


class Line(Protocol):
    """What our own server lets an application do with a connection, beside ASGI; `scope["extensions"]["tradingok.line"]`."""

    def write_text(self, payload: bytes) -> bool:
        """Send one text frame now. False: write no more before `until_writable`. Raises OSError: it is closed, nothing was sent."""

    async def until_writable(self) -> None:
        """Wait until the connection takes more, or is gone."""

    def backlog(self) -> int:
        """Return the bytes that the client's machine has not taken yet."""

    def abort(self) -> None:
        """Drop the connection at once."""


class MarketConnection:
    """One client.

    Attributes:
        outbox: what it still has to get.
        credential: what let it in.
        lease: (user, connection): its place among the user's connections.
    """

    def __init__(self, scope: Scope, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]) -> None:
        self.outbox = Outbox()
        self.credential: Credential | None = None
        self.lease: tuple[str, str] | None = None
        self._scope, self._receive, self._send = scope, receive, send
        self._line: Line | None = scope.get("extensions", {}).get("tradingok.line")
        self._hub: Hub
        self._channels: ClientChannels
        self._instruments: ClientInstruments
        self._ready = asyncio.Event()
        self._closing: int | None = None
        self._last_words: tuple[bytes, ...] = ()
        self._aborted = False
        self._frames = 0
        self._sending = False
        self._woken_at = time.monotonic()
        self._pace = ReadingPace(self._woken_at)
        self._closing_at = 0.0
        self._lag = 0.0
        self._allowance = float(settings.WS_COMMANDS_PER_SECOND)
        self._allowance_at = time.monotonic()
        self._writer: asyncio.Task[None] | None = None

    # --- life -----------------------------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Serve the client until it goes, or is refused."""
        if (await self._receive())["type"] != "websocket.connect":
            return
        self._hub = await get_hub()
        self._instruments = ClientInstruments(self, self._hub)
        self._channels = ClientChannels(self, self._hub)
        try:
            self.credential = await admit(self._scope)
        except WrongOrigin:
            self._hub.counts["connections_refused_total"] += 1
            await self._send({"type": "websocket.close", "code": CloseCode.FORBIDDEN})  # before accept: HTTP 403
            return
        except ClientError as error:
            await self._accept()
            await self._refuse(error)
            return
        await self._accept()
        try:
            await self._take_place(str(self.credential.user))
        except ClientError as error:
            await self._refuse(error)
            return
        await self._serve()

    async def _accept(self) -> None:
        offered = self._scope.get("subprotocols", [])
        await self._send({"type": "websocket.accept", "subprotocol": wire.SUBPROTOCOL if wire.SUBPROTOCOL in offered else None})

    async def _refuse(self, error: ClientError) -> None:
        self._hub.counts["connections_refused_total"] += 1
        await self._send({"type": "websocket.send", "text": error.push().decode()})
        await self._send({"type": "websocket.close", "code": REFUSALS[error.code]})

    async def _take_place(self, user: str) -> None:
        limit = settings.WS_CONNECTIONS_PER_USER
        lease = (user, secrets.token_hex(8))
        try:
            free = await leases.aconnection_acquire(*lease, limit)
        except live_state.Unavailable:
            here = sum(1 for client in self._hub.clients.values() if client.lease is not None and client.lease[0] == user)
            free = here < limit  # nobody knows of the other processes now
        if not free:
            raise ClientError(406, f"You have {limit} connections open already.")
        self.lease = lease

    async def _serve(self) -> None:
        hub = self._hub
        hub.connect(self)
        feed, segments = hub.feed_view(), hub.board.segments()
        self.outbox.push(wire.hello_push(limits=_limits(), feed=feed, segments=segments, time_ms=_now_ms()))
        self.wake()
        self._writer = writer = asyncio.create_task(self._write())  # done: who is gone has its waiting commands ignored
        try:
            while (message := await self._receive())["type"] != "websocket.disconnect" and not writer.done():
                await self._on_message(message)
        finally:
            hub.disconnect(self)
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
            if self.lease is not None:
                with contextlib.suppress(live_state.Unavailable):  # it ends by itself
                    await leases.aconnection_release(*self.lease)

    # --- the hub's side -------------------------------------------------------------------------------------------------
    def wake(self) -> None:
        """Send at once what the window has collected, and let the writer do the rest, if there is any."""
        box = self.outbox
        if box.collected:
            self._write_window()
            if box.window is not None:
                return
        if not self._ready.is_set():
            self._woken_at = time.monotonic()
            self._ready.set()

    def inspect(self, now: float) -> None:
        """Owe a heartbeat after HEARTBEAT_SECONDS without a frame; tell a client that is slow; abort one that takes nothing.

        Without a line only what the server lets us wait for is known: a `send` that takes WS_STALL_SECONDS is the end.
        """
        if self._aborted:
            return  # it is going
        pace = self._pace
        backlog = self._line.backlog() if self._line is not None else int(self._sending)
        pace.observe(now, self.outbox.sent_bytes, backlog)
        if now - pace.taken_at > settings.WS_STALL_SECONDS or (self._closing_at and now - self._closing_at > BYE_SECONDS):
            logger.info("client aborted: it took nothing for %.0f s", now - pace.taken_at)
            self._hub.counts["clients_aborted_total"] += 1
            self.abort()
        elif self._closing is None and self._line is not None and now - pace.in_time_at > SLOW_SECONDS:
            self._tell_slow(backlog)
        elif not backlog and now - pace.sent_at > HEARTBEAT_SECONDS:
            self._answer(self._heartbeat())

    def _tell_slow(self, backlog: int) -> None:
        logger.info("client told that it is slow: %d bytes wait for it", backlog)
        self._hub.counts["clients_slow_told_total"] += 1
        text = f"You read slower than you are sent to: {backlog} bytes wait for you. Follow fewer instruments, or use mode ltpc."
        self.close(CloseCode.SLOW, ClientError(407, text).push())

    def close(self, code: int, *why: bytes) -> None:
        """Say why and bye after the control messages that wait, and nothing after it; then close. The first call counts."""
        if self._closing is not None:
            return
        self._closing, self._closing_at = code, time.monotonic()
        after_ms = SLOW_RECONNECT_MS if code == CloseCode.SLOW else RECONNECT_AFTER_MS
        bye = wire.bye_push(code, reconnect_after_ms=after_ms if code < CloseCode.BAD_CREDENTIALS - 1 else None)
        self._last_words = (*why, bye)
        self.outbox.window = None
        self.wake()

    def abort(self) -> None:
        """End the connection without another word. A server that gives no line gets a close it may not be able to send."""
        self._aborted = True
        if self._line is not None:
            self._line.abort()
            return
        if self._writer is not None:
            self._writer.cancel()
        self._writer = asyncio.create_task(self._close(CloseCode.SLOW))

    # --- the writer -----------------------------------------------------------------------------------------------------
    def _write_window(self) -> None:
        """Send what the present batch has for this client, in the hub's own step; close the window when the line is full."""
        box, line = self.outbox, self._line
        frames = wire.tick_frames(self._frames + 1, box.collected)
        self._frames += len(frames)
        taking = False
        try:
            for frame in frames:
                taking = line is not None and line.write_text(frame)
                box.sent_bytes += len(frame)
            box.window_delivered()
        except OSError:
            box.forget()  # it went; the reader learns of it too
        except Exception:  # one client's trouble must not end the batch of the others
            logger.exception("a client could not be written to")
            box.forget()
            self.abort()
        if not taking:
            box.window = None

    async def _write(self) -> None:
        try:
            while True:
                await self._ready.wait()
                self._ready.clear()
                closing = self._closing  # as of now: a bye that comes while we drain is sent by the next turn
                await self._drain()
                if closing is not None:
                    for message in self._last_words:
                        await self._deliver(message)
                    await self._close(closing)
                    return
                if self._line is not None:
                    await self._line.until_writable()
                    if self._closing is None:
                        self.outbox.open_window()
        except OSError:
            return  # the client went; the reader learns of it too
        except Exception:
            logger.exception("a client's writer failed")
            self.abort()

    async def _drain(self) -> None:
        """Send what is owed. A step of its own, so that an idle client's writer holds on to no frame: 25 kB each."""
        if self.outbox.collected:
            self._write_window()  # it is older than what follows
        for message in self.outbox.drain_control():
            await self._deliver(message)
        if self._closing is None:
            for push in chain(self.outbox.drain_charts(), self.outbox.drain_chains()):
                await self._deliver(push)
            for frame in wire.tick_frames(self._frames + 1, self._hub.fragments(self.outbox)):
                self._frames += 1
                await self._deliver(frame)
            self.outbox.delivered()

    async def _deliver(self, message: bytes) -> None:
        if self._line is not None:
            taking = self._line.write_text(message)
            self.outbox.sent_bytes += len(message)
            if not taking:
                await self._line.until_writable()
        else:
            self._sending = True
            await self._send({"type": "websocket.send", "text": message.decode()})
            self._sending = False
            self.outbox.sent_bytes += len(message)
        lag = time.monotonic() - self._woken_at
        if lag > self._lag:
            self._lag = lag

    async def _close(self, code: int) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            await self._send({"type": "websocket.close", "code": code})

    def _heartbeat(self) -> bytes:
        lag, self._lag = self._lag, 0.0
        box = self.outbox
        return wire.heartbeat_push(time_ms=_now_ms(), lag_ms=int(lag * 1000), merged=box.merged_total, dropped=box.dropped_total)

    # --- commands -------------------------------------------------------------------------------------------------------
    async def _on_message(self, message: Message) -> None:
        command: Command | None = None
        try:
            command = self._command(message)
            await self._obey(command)
        except ClientError as error:
            self._answer(error.push())
            if error.code == 429:
                await asyncio.sleep(FLOOD_PAUSE_SECONDS)
        except Exception:
            logger.exception("a command failed")
            self._answer(ClientError(500, "The command failed; try again.", command=command.id if command else None).push())

    def _answer(self, message: bytes) -> None:
        self.outbox.push(message)
        self.wake()

    def _command(self, message: Message) -> Command:
        text = message.get("text")
        if text is not None and len(text.encode()) > settings.WS_COMMAND_BYTES:
            self._spend(None)
            raise ClientError(413, f"A command may have {settings.WS_COMMAND_BYTES} bytes.")
        if text is None:
            self._spend(None)
            raise ClientError(400, "Commands are text frames of JSON; this was a binary frame.")
        try:
            command = parse_command(text)
        except ClientError as error:
            self._spend(error.command)
            raise
        self._spend(command.id)
        return command

    def _spend(self, command: int | None) -> None:
        """Take one command from the allowance, which fills at WS_COMMANDS_PER_SECOND.

        Raises:
            ClientError: 429 when it is empty.
        """
        rate, now = settings.WS_COMMANDS_PER_SECOND, time.monotonic()
        self._allowance = min(rate, self._allowance + (now - self._allowance_at) * rate)
        self._allowance_at = now
        if self._allowance < 1:
            raise ClientError(429, f"More than {rate} commands a second.", command=command)
        self._allowance -= 1

    async def _obey(self, command: Command) -> None:
        match command:
            case commands.Subscribe():
                results = await self._instruments.subscribe(command.instruments, wire.MODES[command.mode], {})
                results += await self._channels.subscribe(command.channels, command.candles)
                reply = wire.subscribe_reply(command.id, results)
            case commands.Resume():
                same_run = command.epoch == self._hub.feed_view().epoch
                seen = command.seq if same_run else {}
                results = await self._instruments.subscribe(list(command.seq), wire.MODES[command.mode], seen)
                reply = wire.resume_reply(command.id, self._hub.feed_view().epoch, results)
            case commands.Unsubscribe():
                await self._instruments.unsubscribe(command.instruments)
                self._channels.unsubscribe(command.channels)
                reply = self._list(command.id, "unsubscribe")
            case commands.List():
                reply = self._list(command.id, "list")
            case commands.Ping():
                reply = wire.pong_reply(command.id, _now_ms())
        self._answer(reply)

    def _list(self, command: int, op: str) -> bytes:
        return wire.list_reply(command, op, self._instruments.followed(), self._channels.names())


def _limits() -> dict[str, float]:
    return {
        "connections": settings.WS_CONNECTIONS_PER_USER,
        "instruments": settings.WS_INSTRUMENTS_PER_USER,
        "charts": CHARTS_MAX,
        "chains": CHAINS_MAX,
        "commands_per_second": settings.WS_COMMANDS_PER_SECOND,
        "command_bytes": settings.WS_COMMAND_BYTES,
        "stall_seconds": settings.WS_STALL_SECONDS,
    }


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def market_consumer(scope: Scope, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]) -> None:
    """The ASGI application of `/ws/market/`."""
    await MarketConnection(scope, receive, send).run()
