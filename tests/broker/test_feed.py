"""The broker's socket: requests go out in pieces, an end is named by its kind, no address with a code is ever in an error."""

from __future__ import annotations

import asyncio
import json
import random

import pytest
from websockets.asyncio.server import ServerConnection

from broker.upstox import feed
from broker.upstox.feed import open_feed, reconnect_delays
from broker.upstox.protocol import AuthExpired, BrokerError, FeedRefused, FeedUnavailable, ProtocolViolation, RateLimited
from tests.broker.scripted_broker import BLOCKED, FORBIDDEN, UNAUTHORIZED, Answer, limited, scripted_broker, until


def address(url: str) -> str:
    return f"ws{url[4:]}/feed?code=secret-code"


def test_delays_double_up_to_a_limit_and_are_spread() -> None:
    source = random.Random(7)
    delays = [next(delay) for delay in [reconnect_delays(source)] for _ in range(12)]
    for number, delay in enumerate(delays):
        middle = min(0.5 * 2**number, 30)
        assert 0.5 * middle <= delay <= 1.5 * middle
    assert len({round(delay / min(0.5 * 2**number, 30), 3) for number, delay in enumerate(delays)}) == 12


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (UNAUTHORIZED, AuthExpired), (FORBIDDEN, FeedRefused), (BLOCKED, FeedRefused), (limited(7), RateLimited),
        (Answer(503, b"<html>"), FeedUnavailable), (Answer(200, b"<html>"), BrokerError),
        (Answer(403, UNAUTHORIZED.body), FeedRefused),  # here a 403 is never the token's (FACTS §3.1)
    ],
)  # fmt: skip
async def test_a_refused_upgrade_is_an_error_of_its_kind_without_the_code(answer: Answer, error: type[BrokerError]) -> None:
    async with scripted_broker(upgrade=[answer]) as broker:
        with pytest.raises(error) as refused:
            await open_feed(address(broker.url))
    assert "secret-code" not in str(refused.value)
    if isinstance(refused.value, RateLimited):
        assert refused.value.retry_after == 7


async def test_nobody_there_is_worth_a_retry_and_tells_no_code() -> None:
    async with scripted_broker() as broker:
        url = address(broker.url)
    with pytest.raises(FeedUnavailable) as refused:
        await open_feed(url)
    assert not refused.value.permanent
    assert "secret-code" not in str(refused.value)


@pytest.mark.parametrize(
    "host", ["127.0.0.1:99999", "127.0.0.1:port", "[::1", "host\u2100", "a" * 64 + ".example", "a..example", ""], ids=lambda host: host[:15]
)
@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_an_address_that_can_be_none_is_worth_a_retry_and_tells_no_code(scheme: str, host: str) -> None:
    with pytest.raises(ProtocolViolation) as refused:
        await open_feed(f"{scheme}://{host}/feed?code=secret-code")
    assert not refused.value.permanent
    assert "secret-code" not in str(refused.value)


async def test_many_keys_go_out_in_binary_pieces_of_a_thousand() -> None:
    requests: list[bytes | str] = []

    async def served(connection: ServerConnection) -> None:
        requests.extend([message async for message in connection])

    async with scripted_broker(served=served) as broker:
        connection = await open_feed(address(broker.url))
        keys = [f"NSE_FO|{number}" for number in range(2500)]
        assert await connection.request("sub", "full", keys) == 3
        await connection.close()
        await until(lambda: len(requests) == 3)
    assert all(isinstance(request, bytes) for request in requests)
    assert [key for request in requests for key in json.loads(request)["data"]["instrumentKeys"]] == keys


async def test_how_a_connection_ended_is_told() -> None:
    async def served(connection: ServerConnection) -> None:
        message = await connection.recv()
        if message == b"close":
            await connection.close(1012)
        elif message == b"cut":
            connection.transport.abort()
        else:
            await connection.send(b"x" * (feed.MESSAGE_BYTES + 1))

    expected = {
        b"close": "the broker closed the feed with 1012",
        b"cut": "the feed's connection broke",
        b"big": "the broker's messages break",
    }
    async with scripted_broker(served=served) as broker:
        for word, text in expected.items():
            connection = await open_feed(address(broker.url))
            await connection._socket.send(word)
            with pytest.raises(FeedUnavailable, match=text):
                await connection.receive()
            with pytest.raises(FeedUnavailable):
                await connection.request("sub", "full", ["NSE_FO|1"])


@pytest.mark.long
async def test_a_pong_moves_the_latency_and_its_absence_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "PING_SECONDS", 0.2)
    paused = asyncio.Event()

    async def served(connection: ServerConnection) -> None:
        await paused.wait()
        connection.transport.pause_reading()  # pings are read no more: no pong comes
        await connection.wait_closed()

    async with scripted_broker(served=served) as broker:
        connection = await open_feed(address(broker.url))
        assert connection.latency == 0
        seen = {0.0}

        def moved() -> bool:
            seen.add(connection.latency)
            return len(seen) > 3

        await until(moved)
        paused.set()
        with pytest.raises(FeedUnavailable, match="did not answer a ping"):
            await connection.receive()
