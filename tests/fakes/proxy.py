"""A small TCP proxy in front of the exchange, for faults of the network: it cuts, drips, stalls and refuses.

    proxy = TcpProxy(exchange.url)         # or the fixture `start_proxy`
    feed = start_feed(proxy.url)           # REST and WebSocket both: the exchange's authorise answer names the host that was asked
    proxy.drip(2000); proxy.stall(); proxy.cut(reset=True); proxy.refuse(); proxy.clear(); proxy.counts

It runs on a thread of its own. What a mode changes, it changes for the connections that are open and for later ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest

PIECE_BYTES = 64 * 1024
DRIP_STEP_SECONDS = 0.05
_T = TypeVar("_T")
StartProxy = Callable[[str], "TcpProxy"]


class TcpProxy:
    """Forwards `url` to a server, until told otherwise.

    Attributes:
        url: where it listens.
        counts: `accepted`; `cut` and `reset` connections; `refused` ones; `stalled` pieces (withheld), `dripped` pieces; bytes
            `up` (to the server) and `down`.
    """

    def __init__(self, server_url: str) -> None:
        """Listen on a free loopback port. `server_url`: http://host:port of the server."""
        parts = urlsplit(server_url)
        self._server = (str(parts.hostname), int(parts.port or 80))
        self.counts: Counter[str] = Counter()
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._bytes_a_second = 0
        self._cut_after: int | None = None
        self._refusing = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._listener = self._call(lambda: asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"

    # --- what it does to connections ------------------------------------------------------------------------------------------

    def cut(self, *, reset: bool = False) -> int:
        """Close every connection now, on both sides; with `reset` by RST, without the rest of what was written. Returns how many."""

        async def work() -> int:
            pairs = list(self._pairs)
            for pair in pairs:
                self._end(pair, reset=reset)
            return len(pairs)

        return self._call(work)

    def cut_after(self, count: int) -> None:
        """Close the connection, once (`count` > 0), on which so many more bytes have come from the server (all connections together)."""
        self._set(lambda: setattr(self, "_cut_after", count))

    def drip(self, bytes_a_second: int) -> None:
        """Let each connection have only so many bytes a second from the server."""
        self._set(lambda: setattr(self, "_bytes_a_second", bytes_a_second))

    def stall(self) -> None:
        """Keep connections open, accept new ones, and forward nothing either way; what comes meanwhile is kept back, not lost."""
        self._set(self._flowing.clear)

    def refuse(self) -> None:
        """Reset new connections at once; those that are open stay."""
        self._set(lambda: setattr(self, "_refusing", True))

    def clear(self) -> None:
        """Forward everything again."""

        def work() -> None:
            self._bytes_a_second, self._cut_after, self._refusing = 0, None, False
            self._flowing.set()

        self._set(work)

    def stop(self) -> None:
        """End everything."""

        async def work() -> None:
            self._listener.close()
            for pair in list(self._pairs):
                self._end(pair, reset=True)
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self._call(work)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    # --- forwarding -----------------------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            self.counts["refused"] += 1
            _reset(writer)
            return
        self.counts["accepted"] += 1
        await self._flowing.wait()
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._server)
        except OSError:
            _reset(writer)
            return
        pair = (writer, server_writer)
        self._pairs.add(pair)
        ways = [asyncio.create_task(self._up(reader, server_writer)), asyncio.create_task(self._down(pair, server_reader, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._pairs.discard(pair)
            for one in pair:
                one.close()

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(PIECE_BYTES):
                await self._wait_for_flow()
                self.counts["up"] += len(piece)
                writer.write(piece)
                await writer.drain()

    async def _down(
        self, pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while content := await reader.read(PIECE_BYTES):
                while content:
                    await self._wait_for_flow()
                    piece, content = content[: self._piece_bytes()], content[self._piece_bytes() :]
                    self.counts["down"] += len(piece)
                    writer.write(piece)
                    await writer.drain()
                    if self._cut_after is not None and self._is_cut_after(len(piece)):
                        self._end(pair, reset=False)
                        return
                    if self._bytes_a_second:
                        self.counts["dripped"] += 1
                        await asyncio.sleep(len(piece) / self._bytes_a_second)

    def _piece_bytes(self) -> int:
        drip = max(1, int(self._bytes_a_second * DRIP_STEP_SECONDS)) if self._bytes_a_second else PIECE_BYTES
        return drip if self._cut_after is None else min(drip, self._cut_after)

    def _is_cut_after(self, count: int) -> bool:
        """Count bytes towards the cut; whether this was the last."""
        left = (self._cut_after or 0) - count
        self._cut_after = left if left > 0 else None
        return left <= 0

    async def _wait_for_flow(self) -> None:
        if not self._flowing.is_set():
            self.counts["stalled"] += 1
            await self._flowing.wait()

    def _end(self, pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter], *, reset: bool) -> None:
        if pair not in self._pairs:
            return
        self._pairs.discard(pair)
        self.counts["reset" if reset else "cut"] += 1
        for writer in pair:
            if reset:
                _reset(writer)
            else:
                writer.close()

    # --- from other threads ---------------------------------------------------------------------------------------------------

    def _call(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Run a coroutine on the proxy's thread and wait for it."""
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(10)

    def _set(self, work: Callable[[], None]) -> None:
        """Run a function on the proxy's thread and wait for it."""

        async def run() -> None:
            work()

        self._call(run)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST: the other side sees `connection reset by peer`."""
    raw = writer.get_extra_info("socket")
    if raw is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@pytest.fixture
def start_proxy() -> Iterator[StartProxy]:
    """Starts proxies; each is stopped after the test."""
    running: list[TcpProxy] = []

    def start(server_url: str) -> TcpProxy:
        running.append(TcpProxy(server_url))
        return running[-1]

    yield start
    for proxy in running:
        proxy.stop()
