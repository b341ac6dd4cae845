"""One feed connection: what it subscribes, and a bounded outbox that one writer task empties.

Nothing here reads the market. Past OUTBOX_BYTES, or when nothing could be sent for STALL_SECONDS, the connection is aborted:
memory does not follow a client that does not read.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec
from starlette.websockets import WebSocket

from broker.simulator.cut import MODES
from broker.simulator.ledger import Ledger
from broker.simulator.limits import key_limit
from broker.upstox import MarketDataFeedV3_pb2 as pb

OUTBOX_BYTES = 8 * 1024 * 1024
MESSAGE_WEIGHT = 1024 * 1024
"""A message counts at most so much: one that a fault has made too large must reach the client, not abort the connection."""
STALL_SECONDS = 20.0


class RequestData(msgspec.Struct):
    """The `data` of a request. Source: FACTS §3.3."""

    instrumentKeys: list[str] = msgspec.field(default_factory=list)  # noqa: N815 (the wire's name)
    mode: str | None = None


class FeedRequest(msgspec.Struct):
    """A request of the V3 feed. `method`: sub, change_mode, unsub."""

    method: str
    data: RequestData = msgspec.field(default_factory=RequestData)
    guid: str | None = None


REQUEST = msgspec.json.Decoder(FeedRequest)


class _Message(NamedTuple):
    """Bytes to send (`text`: as a text frame), and the frame they encode when it carries feeds."""

    content: bytes
    frame: pb.FeedResponse | None
    text: bool


class Connection:
    """One client of the feed."""

    def __init__(self, number: int, token: str, websocket: WebSocket, ledger: Ledger | None, *, plus: bool) -> None:
        self.number, self.token = number, token
        self.modes: dict[str, str] = {}
        self.last_queued = time.monotonic()
        self.pending_bytes = 0
        self.sent: Counter[str] = Counter()
        self._websocket, self._ledger, self._plus = websocket, ledger, plus
        self._outbox: deque[_Message] = deque()
        self._wake = asyncio.Event()
        self._last_progress = time.monotonic()
        self._aborted = False

    # --- subscription -----------------------------------------------------------------------------------------------------

    def apply(self, request: FeedRequest, known: Callable[[str], bool], counts: Counter[str]) -> set[str]:
        """Change the subscription.

        Args:
            request: what the client asks.
            known: whether the market has a key.
            counts: gains `keys_unknown_total`, `keys_over_limit_total`, `requests_bad_total`.

        Returns:
            the keys that are new or whose mode changed: those that get a snapshot.
        """
        mode = request.data.mode or "ltpc"
        keys = dict.fromkeys(request.data.instrumentKeys)
        if request.method == "unsub":
            for key in keys:
                self.modes.pop(key, None)
            return set()
        if request.method not in ("sub", "change_mode") or mode not in MODES:
            counts["requests_bad_total"] += 1
            return set()
        if request.method == "change_mode":
            keys = {key: None for key in keys if key in self.modes}
        return self._subscribe(keys, mode, known, counts)

    def _subscribe(self, keys: Iterable[str], mode: str, known: Callable[[str], bool], counts: Counter[str]) -> set[str]:
        room = key_limit(mode, {*self.modes.values(), mode}, plus=self._plus) - sum(used == mode for used in self.modes.values())
        changed = set()
        for key in keys:
            if self.modes.get(key) == mode:
                continue
            if not known(key):
                counts["keys_unknown_total"] += 1  # the broker says nothing of an unknown key
            elif room <= 0:
                counts["keys_over_limit_total"] += 1  # nor of one past the limit
            else:
                self.modes[key] = mode
                changed.add(key)
                room -= 1
        return changed

    # --- the way out ------------------------------------------------------------------------------------------------------

    def queue(self, content: bytes, frame: pb.FeedResponse | None = None, *, text: bool = False) -> bool:
        """Put a message into the outbox. False: the outbox was full, and the connection is aborted now."""
        if self._aborted:
            return True
        weight = min(len(content), MESSAGE_WEIGHT)
        if self.pending_bytes + weight > OUTBOX_BYTES:
            self.abort()
            return False
        self.last_queued = time.monotonic()
        if not self._outbox:
            self._last_progress = self.last_queued  # nothing waited until now
        self._outbox.append(_Message(content, frame, text))
        self.pending_bytes += weight
        self._wake.set()
        return True

    def is_stalled(self) -> bool:
        """Whether something has waited for STALL_SECONDS without any progress."""
        return bool(self._outbox) and time.monotonic() - self._last_progress > STALL_SECONDS

    def abort(self) -> None:
        """Cut the connection at once, without a close frame; what is in the outbox is thrown away."""
        self._aborted = True
        self._outbox.clear()
        self.pending_bytes = 0
        abort: Callable[[], None] = self._websocket.scope["state"]["abort"]
        abort()

    async def write(self) -> None:
        """Send what is queued, for ever. Each message is in the ledger before it goes to the socket."""
        while True:
            self._last_progress = time.monotonic()
            await self._wake.wait()
            self._wake.clear()
            while self._outbox:
                self._last_progress = time.monotonic()
                await self._send(self._outbox[0])
                if self._outbox:
                    self.pending_bytes -= min(len(self._outbox.popleft().content), MESSAGE_WEIGHT)

    async def _send(self, message: _Message) -> None:
        if self._ledger is not None and not message.text:
            self._ledger.record(time.time_ns(), self.number, message.content, message.frame)
        self.sent["frames"] += 1
        self.sent["updates"] += len(message.frame.feeds) if message.frame is not None else 0
        if message.text:
            await self._websocket.send_text(message.content.decode())
        else:
            await self._websocket.send_bytes(message.content)
