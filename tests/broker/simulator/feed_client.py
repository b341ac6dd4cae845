"""A plain `websockets` client of the V3 feed, for the tests of the exchange."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from broker.upstox import MarketDataFeedV3_pb2 as pb
from tests.fakes.exchange import RunningExchange


def open_feed(exchange: RunningExchange) -> ClientConnection:
    """A connection through authorise. It does not ping: Python 3.11's `Thread.join` may fail where two threads join a third."""
    return connect(exchange.authorized_url(), max_size=None, open_timeout=60, ping_interval=None, proxy=None)


def request(method: str, keys: list[str], mode: str | None = None) -> bytes:
    """A request as a binary message."""
    data: dict[str, object] = {"instrumentKeys": keys} | ({"mode": mode} if mode else {})
    return json.dumps({"guid": "g", "method": method, "data": data}).encode()


def receive(connection: ClientConnection, timeout: float = 60) -> pb.FeedResponse:
    """The next binary message, decoded."""
    message = connection.recv(timeout=timeout)
    assert isinstance(message, bytes)
    return pb.FeedResponse.FromString(message)


def receive_until(
    connection: ClientConnection, holds: Callable[[list[pb.FeedResponse]], bool], seconds: float = 60
) -> list[pb.FeedResponse]:
    """Frames received until `holds(frames)`. Raises TimeoutError after `seconds`."""
    frames: list[pb.FeedResponse] = []
    deadline = time.monotonic() + seconds
    while not holds(frames):
        frames.append(receive(connection, timeout=max(0.0, deadline - time.monotonic())))
    return frames


def drain(connection: ClientConnection, seconds: float) -> list[pb.FeedResponse]:
    """Every frame that arrives within `seconds`."""
    frames: list[pb.FeedResponse] = []
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        try:
            frames.append(receive(connection, timeout=left))
        except TimeoutError:
            break
    return frames


def has(frames: list[pb.FeedResponse], key: str, kind: pb.Type.ValueType = pb.live_feed) -> bool:
    """Whether a frame of this kind carries the key."""
    return any(frame.type == kind and key in frame.feeds for frame in frames)


def refused_status(url: str) -> int:
    """The HTTP status that refuses the upgrade."""
    with pytest.raises(InvalidStatus) as caught:
        connect(url, proxy=None)
    return caught.value.response.status_code
