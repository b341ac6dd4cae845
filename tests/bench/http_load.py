"""A light load client: HTTP/1.1 over loopback on kept-alive connections, one request in flight on each. Counts, checks, times."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Load:
    """What a run measured: answers, seconds of all, milliseconds of each, and what was not a 200."""

    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    failures: dict[int, int] = field(default_factory=dict)
    bytes_read: int = 0

    @property
    def per_second(self) -> float:
        return len(self.latencies_ms) / self.seconds

    def percentile_ms(self, share: float) -> float:
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


async def load(port: int, targets: Sequence[str], headers: dict[str, str], *, connections: int, seconds: float) -> Load:
    """Ask for `targets` in turn for `seconds`, on `connections` at once."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    requests = [f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{lines}\r\n".encode() for target in targets]
    result = Load()
    start = time.perf_counter()
    await asyncio.gather(*(_ask(port, requests[offset:] + requests[:offset], result, start + seconds) for offset in range(connections)))
    result.seconds = time.perf_counter() - start
    return result


async def _ask(port: int, requests: list[bytes], result: Load, until: float) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    number = 0
    while (began := time.perf_counter()) < until:
        writer.write(requests[number % len(requests)])
        number += 1
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        lower = head.lower()
        at = lower.index(b"content-length:") + 15
        body = await reader.readexactly(int(lower[at : lower.index(b"\r\n", at)]))
        if status == 200:
            result.latencies_ms.append((time.perf_counter() - began) * 1000)
            result.bytes_read += len(body)
        else:
            result.failures[status] = result.failures.get(status, 0) + 1
    writer.close()
