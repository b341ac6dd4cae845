"""How soon an instrument outside the rules moves once a client wants it, beside all that the default rules follow.

`python -m tests.bench demand`. Exchange, feed and web server are processes with default settings. One WebSocket client subscribes
to contracts that nobody follows, one after the other, and keeps them; a time is from sending the request to its first `market:tick`.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from pathlib import Path
from statistics import median

from marketdata.live_state import quotes_read
from tests.bench.table import Row
from tests.fakes.stack import Stack
from tests.marketdata.way_out import DEADLINE, market_client

CONTRACTS = 20
WORST_MS = 2000.0
"""The issue's figure."""
PAUSE_SECONDS = 0.5
"""Before each request at most: hub and feed look at demand in rounds, and a request may come at any moment of them."""


def run() -> list[Row]:
    """Measure; raises when a contract is refused or stays silent."""
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder), "--seed", "5")
        try:
            keys = _outside(stack)
            followed = stack.get("/api/broker-status")["shards"][0]["counters"]["subscribed_full"]
            print(f"  {followed:.0f} instruments followed by the rules")
            taken_ms = asyncio.run(_demand(stack, keys))
        finally:
            stack.stop()
    return [
        Row(f"subscribe → first tick of what no rule follows, median of {len(keys)}", median(taken_ms), "ms"),
        Row("    the worst of them", max(taken_ms), "ms", at_least=WORST_MS, lower_is_better=True),
    ]


def _outside(stack: Stack) -> list[str]:
    """Return CONTRACTS keys of futures and options that nobody follows, and of which nothing was ever said."""
    rows = stack.get("/api/marketdata/instruments/", segment="NSE_FO", subscribed="false", limit=500)["results"]
    known = {entry.key for entry in quotes_read().values()}
    return random.Random(5).sample([row["key"] for row in rows if row["key"] not in known], CONTRACTS)


async def _demand(stack: Stack, keys: list[str]) -> list[float]:
    """Subscribe to one key after the other; return how long each took until its first tick, ms."""
    taken_ms, draw = [], random.Random(5).random
    async with market_client(stack.ws_url, stack.api_key, max_size=None) as client:
        for number, key in enumerate(keys, start=1):
            await asyncio.sleep(PAUSE_SECONDS * draw())
            began = time.monotonic()
            await client.send(id=number, op="subscribe", instruments=[key], mode="full")
            (result,) = (await client.next(id=number))["results"]
            if result["status"] != "accepted":
                raise RuntimeError(f"{key} is not demanded: {result}")
            async with asyncio.timeout(DEADLINE):
                while all(tick[0] != key for tick in (await client.next(event="market:tick"))["ticks"]):
                    pass
            taken_ms.append((time.monotonic() - began) * 1000)
    return taken_ms
