"""The load of the fan-out's benchmark: many clients in one native process, which parse every message and check every `seq`.

Told `mark` it counts from here on; told `count` it answers what came since; told `finish {key: seq}` it waits until every
client holds the source's last state, and answers that.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import msgspec
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from tests.bench.fanout_worker import asked, say

AT_ONCE = 40
"""Connections under way at a time."""
READY_SECONDS = 50.0
FINISH_SECONDS = 10.0
HISTOGRAM_MS = 60_000


class Quote(msgspec.Struct, gc=False):
    """What is checked of a quote: the moment at which the source made it, µs of the monotonic clock."""

    volume: int


class Tick(msgspec.Struct, array_like=True, gc=False):
    """One tick in our frames."""

    key: str
    seq: int
    quote: Quote


class Message(msgspec.Struct, gc=False):
    """Any message of ours, as far as it matters here."""

    event: str = ""
    ticks: list[Tick] = []


class NamedTick(msgspec.Struct, gc=False):
    """One tick of the others."""

    key: str
    seq: int
    quote: Quote


class ChainMessage(msgspec.Struct, gc=False):
    """A push of an option chain, as far as it matters here."""

    event: str = ""
    seq: int = 0
    snapshot: bool = False


_message = msgspec.json.Decoder(Message).decode
_chain_message = msgspec.json.Decoder(ChainMessage).decode
_named = msgspec.json.Decoder(NamedTick).decode
_named_list = msgspec.json.Decoder(list[NamedTick]).decode
_event = msgspec.json.Decoder(tuple[str, NamedTick]).decode


class Load:
    """What all clients of this process saw since the last mark."""

    def __init__(self) -> None:
        self.mark()
        self.went = 0

    def mark(self) -> None:
        self.delivered = self.frames = self.wrong = self.bytes = 0
        self.histogram = [0] * HISTOGRAM_MS
        self.cpu = time.process_time()

    def counts(self) -> dict[str, Any]:
        return {
            "delivered": self.delivered,
            "frames": self.frames,
            "wrong": self.wrong,
            "bytes": self.bytes,
            "p50_ms": self._percentile(0.50),
            "p99_ms": self._percentile(0.99),
            "max_ms": self._percentile(1.0),
            "cpu": time.process_time() - self.cpu,
        }

    def _percentile(self, share: float) -> float:
        """Return a percentile of the ages, ms; one tick of each frame was looked at, and stands for all of it."""
        wanted, seen = share * sum(self.histogram), 0
        for age_ms, count in enumerate(self.histogram):
            seen += count
            if count and seen >= wanted:
                return age_ms
        return 0.0


class Client(WSListener):
    """One client of our protocol."""

    def __init__(self, load: Load, keys: list[str]) -> None:
        self.load, self.keys = load, keys
        self.seqs = dict.fromkeys(keys, 0)
        self.ready = asyncio.Event()
        self.transport: WSTransport

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport
        self.subscribe()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.load.went += 1

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            self.load.bytes += frame.payload_size
            ticks = self.read(frame.get_payload_as_memoryview())
            if ticks:
                self.take(ticks)

    def take(self, ticks: list[Any]) -> None:
        load, seqs = self.load, self.seqs
        load.frames += 1
        load.delivered += len(ticks)
        for tick in ticks:
            key, seq = tick.key, tick.seq
            if seq <= seqs[key]:
                load.wrong += 1
            seqs[key] = seq
        born_us = ticks[load.frames % len(ticks)].quote.volume
        age_ms = (time.monotonic_ns() // 1000 - born_us) // 1000
        if age_ms < HISTOGRAM_MS:  # the snapshot has no birth
            load.histogram[age_ms] += len(ticks)

    # --- what differs between the protocols ---
    def subscribe(self) -> None:
        self.send({"id": 1, "op": "subscribe", "instruments": self.keys, "mode": "full"})

    def read(self, payload: memoryview) -> list[Any]:
        ticks = _message(payload).ticks
        if ticks and not self.ready.is_set() and sum(map(bool, self.seqs.values())) + len(ticks) >= len(self.keys):
            self.ready.set()
        return ticks

    def send(self, command: Any) -> None:
        self.transport.send(WSMsgType.TEXT, json.dumps(command).encode())


class ChainClient(Client):
    """One that follows an option chain: its only key is the channel, and pushes are counted as ticks are. `wrong`: a turn was left out."""

    def subscribe(self) -> None:
        self.send({"id": 1, "op": "subscribe", "channels": self.keys})

    def read(self, payload: memoryview) -> list[Any]:
        message = _chain_message(payload)
        if message.event != "market:chain":
            return []
        (channel,) = self.keys
        self.load.wrong += not message.snapshot and message.seq != self.seqs[channel] + 1
        self.seqs[channel] = message.seq
        self.ready.set()
        return [message]

    def take(self, ticks: list[Any]) -> None:
        self.load.frames += 1
        self.load.delivered += len(ticks)


class ChannelsClient(Client):
    """One of a Channels consumer: named ticks, one in each frame or a list."""

    def subscribe(self) -> None:
        self.send({"subscribe": self.keys})
        self.ready.set()

    def read(self, payload: memoryview) -> list[Any]:
        return _named_list(payload) if payload[0] == ord("[") else [_named(payload)]


class SocketClient(Client):
    """One of Socket.IO, over WebSocket from the beginning. Source: Engine.IO protocol 4, Socket.IO protocol 5."""

    def subscribe(self) -> None:
        pass

    def read(self, payload: memoryview) -> list[Any]:
        kind = bytes(payload[:2])
        if kind == b"42":
            return [_event(payload[2:])[1]]
        if kind[:1] == b"0":
            self.transport.send(WSMsgType.TEXT, b"40")
        elif kind == b"40":
            self.transport.send(WSMsgType.TEXT, b"42" + json.dumps(["subscribe", self.keys]).encode())
            self.ready.set()
        elif kind[:1] == b"2":
            self.transport.send(WSMsgType.TEXT, b"3")
        return []


KINDS: dict[str, type[Client]] = {"tradingok": Client, "chain": ChainClient, "channels": ChannelsClient, "socketio": SocketClient}


async def main() -> None:
    """Connect, then serve lines."""
    lines = asked()
    task = json.loads(await anext(lines))
    load, kind = Load(), KINDS[task["kind"]]
    clients = [kind(load, keys) for keys in task["keys"]]
    slots = asyncio.Semaphore(AT_ONCE)

    async def connect(client: Client) -> None:
        async with slots:
            await ws_connect(lambda: client, task["url"], extra_headers=task["headers"], websocket_handshake_timeout=READY_SECONDS)
            async with asyncio.timeout(READY_SECONDS):
                await client.ready.wait()

    await connect(clients[0])
    await asyncio.gather(*map(connect, clients[1:]))
    say(ready=len(clients))
    deaf: list[Client] = []
    async for line in lines:
        word, _, rest = line.partition(" ")
        if word == "mark":
            load.mark()
        elif word == "deafen":
            deaf.append(await _connect_deaf(task, json.loads(rest)))
        elif word == "undeafen":
            deaf.pop().transport.disconnect(graceful=False)
        elif word == "finish":
            say(**await _finish(load, clients, json.loads(rest)))
            continue
        say(**load.counts())


async def _connect_deaf(task: dict[str, Any], keys: list[str]) -> Client:
    """Connect a client that follows much and reads nothing."""
    client = Client(Load(), keys)
    await ws_connect(lambda: client, task["url"], extra_headers=task["headers"])
    client.transport.underlying_transport.pause_reading()
    return client


async def _finish(load: Load, clients: list[Client], last: dict[str, int]) -> dict[str, Any]:
    """Wait until every client holds the last state of these keys; tell how many quotes are still behind."""
    deadline = time.monotonic() + FINISH_SECONDS
    while (behind := _behind(clients, last)) and time.monotonic() < deadline:  # noqa: ASYNC110 - clients get there one by one
        await asyncio.sleep(0.2)
    return {**load.counts(), "behind": behind}


def _behind(clients: list[Client], last: dict[str, int]) -> int:
    return sum(seq != last.get(key, seq) for client in clients for key, seq in client.seqs.items())


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(main())
