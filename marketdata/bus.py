"""The Channels group that carries the feed to the hubs: one message a window and shard, never one a tick.

Messages may be lost (a restart of the server drops them silently, a slow reader drops its oldest): each batch is
numbered, and a reader that sees a jump loads the state again. Source for the layer's behaviour: channels_redis 4.3.0,
pubsub.py, read 2026-11-22: its queue has no bound, and cancelling `receive` unsubscribes.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, NamedTuple, TypeVar

import msgspec
import zstandard
from channels.layers import get_channel_layer
from redis import RedisError

from marketdata.domain.candle import Candle
from marketdata.domain.feed_status import FeedStatus
from marketdata.domain.gap import GapNotice
from marketdata.wire import QuoteEntry

logger = logging.getLogger(__name__)
# The layer logs a traceback each second while its server is away; the hub logs the change of state, once.
logging.getLogger("channels_redis.pubsub").setLevel(logging.CRITICAL)

GROUP = "market.ticks"
PUBLISH_SECONDS = 2.0
"""Longest wait for the server to take a message."""
OPEN_SECONDS = 2.0
BACKLOG_BATCHES = 200
"""Messages that may wait for a reader: five seconds of windows of 25 ms. Past it the older half is dropped."""


class BusBatch(NamedTuple):
    """One window of one feed shard.

    Attributes:
        shard: 0–7.
        epoch: this run of the shard.
        n: number of this message in the epoch, without holes at the source.
        entries: the quotes that changed in the window, each once.
        status: the feed's report, once a second and when its state or segments change; else None.
        candles: 1-minute candles that changed, forming and finished, each once.
    """

    shard: int
    epoch: int
    n: int
    entries: list[QuoteEntry]
    status: FeedStatus | None
    candles: list[Candle] = []


class UniverseNotice(NamedTuple):
    """What a feed shard follows has changed.

    Attributes:
        at_ms: market time · ms UTC.
        causes: start, master, rules, expiry, day, spot, time, demand, limit.
        entered: key → mode.
        left: key → (our instrument id, why: expired, key, rules, demand, limit, and the key of what takes its place or "").
    """

    at_ms: int
    causes: list[str]
    entered: dict[str, str]
    left: dict[str, tuple[int, str, str]]


class Notice(NamedTuple):
    """What is told beside the feed's numbered batches: it may be lost, REST has it too.

    Attributes:
        candles: stored candles of any interval that have got other values.
        gaps: gaps that are new, or whose healing has moved.
        universe: what has entered and left, or None.
        refused: instrument id → why a demanded one is not followed; a feed tells all of its own each few seconds while there are any.
    """

    candles: list[Candle] = []
    gaps: list[GapNotice] = []
    universe: UniverseNotice | None = None
    refused: dict[int, str] = {}


class Unavailable(Exception):
    """The channel layer's server does not answer, or not in time. Worth a retry after a second."""


_T = TypeVar("_T", BusBatch, Notice)
_encoder = msgspec.msgpack.Encoder(enc_hook=int)
_decoder = msgspec.msgpack.Decoder(BusBatch)
_notice_decoder = msgspec.msgpack.Decoder(Notice)


def encode_batch(batch: BusBatch | Notice) -> bytes:
    """Return a batch as it travels.

    Compressed, because the reader's buffer takes 128 KiB a turn of the event loop: a busy hub fell behind a window of
    500 whole quotes (384 kB plain, 110 kB so) until the server cut it off. 0.8 ms to make, 0.2 ms to read.
    """
    return zstandard.compress(_encoder.encode(batch), 1)


def decode_batch(packed: bytes) -> BusBatch:
    """Return the batch that `encode_batch` made.

    Raises:
        ValueError: the bytes are not such a batch.
    """
    return _decode(_decoder, packed, "a batch of the feed")


def decode_notice(packed: bytes) -> Notice:
    """Return the notice that `encode_batch` made.

    Raises:
        ValueError: the bytes are not such a notice.
    """
    return _decode(_notice_decoder, packed, "a notice")


def _decode(decoder: msgspec.msgpack.Decoder[_T], packed: bytes, what: str) -> _T:
    try:
        return decoder.decode(zstandard.decompress(packed))
    except (zstandard.ZstdError, msgspec.DecodeError, TypeError) as error:
        raise ValueError(f"not {what}") from error


async def publish(batch: BusBatch) -> None:
    """Hand one window to every hub, as one group message.

    Raises:
        Unavailable: nobody got it (or nobody knows); hubs see the jump in `n`. Not worth a retry of the same batch.
    """
    await _send({"type": "market.ticks", "batch": encode_batch(batch)})


async def publish_notice(notice: Notice) -> None:
    """Hand a notice to every hub. From sync code: `async_to_sync(publish_notice_once)(notice)`.

    Raises:
        Unavailable: nobody got it (or nobody knows); worth a retry, repeating is harmless.
    """
    await _send({"type": "market.notice", "notice": encode_batch(notice)})


async def publish_notice_once(notice: Notice) -> None:
    """The same from an event loop that ends with this call: the layer's connections are closed behind it."""
    try:
        await publish_notice(notice)
    finally:
        await _layer().flush()


async def _send(message: dict[str, Any]) -> None:
    try:
        async with asyncio.timeout(PUBLISH_SECONDS):
            await _layer().group_send(GROUP, message)
    except (RedisError, OSError, TimeoutError) as error:
        raise Unavailable(str(error) or "no answer in time") from error


def _layer() -> Any:
    return get_channel_layer()


class Batches:
    """The batches and notices as they come, without end: `async for batch in batches()`.

    Closed by `aclose`. While the server is away it waits and opens again by itself.

    Attributes:
        dropped_total: messages dropped because the reader was slower than the feed.
        rejected_total: messages that could not be decoded (another version's).
        opened: set while the group is joined.
    """

    def __init__(self) -> None:
        self.dropped_total = 0
        self.rejected_total = 0
        self.opened = asyncio.Event()
        self._channel: str | None = None

    def __aiter__(self) -> Batches:
        return self

    async def __anext__(self) -> BusBatch | Notice:
        while True:
            if self._channel is None:
                await self._open()
                continue
            if self.waiting > BACKLOG_BATCHES:
                self._drop_backlog(self._channel)
            message = await _layer().receive(self._channel)
            try:
                return decode_notice(message["notice"]) if "notice" in message else decode_batch(message.get("batch"))
            except ValueError:
                self.rejected_total += 1

    @property
    def waiting(self) -> int:
        """Messages that have come and were not read yet."""
        queue = None if self._channel is None else _layer().channels.get(self._channel)
        return 0 if queue is None else int(queue.qsize())

    async def aclose(self) -> None:
        """Leave the group and close the layer's connections. The next `__anext__` opens again."""
        self._channel = None
        self.opened.clear()
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await _layer().flush()
        except (RedisError, OSError, TimeoutError):
            logger.debug("the channel layer did not close in time")

    async def _open(self) -> None:
        layer = _layer()
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                channel = await layer.new_channel()
                await layer.group_add(GROUP, channel)
        except (RedisError, OSError, TimeoutError):
            await self.aclose()  # a half-open channel stays in the layer for ever
            await asyncio.sleep(1)
        else:
            self._channel = channel
            self.opened.set()

    def _drop_backlog(self, channel: str) -> None:
        # Dropped: the older half, still undecoded. The reader sees the jump in `n` and loads the state again.
        queue = _layer().channels[channel]
        for _ in range(BACKLOG_BATCHES // 2):
            queue.get_nowait()
            self.dropped_total += 1


def batches() -> Batches:
    """Return a new reader of the group, joined when it is first asked."""
    return Batches()
