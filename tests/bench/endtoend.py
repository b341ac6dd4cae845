"""Exchange → feed → MongoDB and WebSocket client, 1,000 instruments in full mode: what arrives, how late, and whether all of it.

`python -m tests.bench endtoend [--seconds 60] [--instruments 1000]`. What was sent is the exchange's ledger, decoded with the
official SDK's module; what was stored is read from MongoDB. Fails when an update is lost, doubled or changed, when the load was
lower than promised, or when the median way to a client takes too long.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import quantiles
from typing import Any, NamedTuple

import websockets
from google.protobuf.json_format import MessageToDict

from broker.simulator.ledger import LedgerReader
from instruments.selectors import instrument_ids
from marketdata import store
from marketdata.live_state import quotes_read
from tests.bench.table import Row
from tests.fakes.stack import Stack
from tests.payloads.figures import Figures, content_hash, figures_of, stored_updates

UPDATES_PER_SECOND = 1.6
"""Each instrument's least rate; the broker's own at the busiest (FACTS §3.5)."""
SETTLE_SECONDS = 5.0
EDGE_SECONDS = 5.0


class Result(NamedTuple):
    """What a run showed.

    Attributes:
        instruments: subscribed in full mode all the time.
        updates: sent by the exchange, by its ledger.
        per_second: updates sent a second while it was measured.
        slowest: updates a second of the instrument with the fewest.
        stored: ticks in MongoDB.
        wrong: keys whose stored content is not what was sent.
        delivered: quotes that the client got.
        latency_ms: exchange's clock to client, sorted.
        feed_cpu: share of a core that the feed took.
        wanted: instruments that were to be followed.
    """

    instruments: int
    updates: int
    per_second: float
    slowest: float
    stored: int
    wrong: list[str]
    delivered: int
    latency_ms: list[float]
    feed_cpu: float
    wanted: int

    def percentile(self, share: int) -> float:
        """Return a percentile of the way to the client, ms."""
        return quantiles(self.latency_ms, n=100)[share - 1]


def run(*, seconds: float, instruments: int) -> list[Row]:
    """Measure and return the rows."""
    result = measure(seconds=seconds, instruments=instruments)
    if result.wrong:
        print(f"  not stored as it was sent: {', '.join(result.wrong[:5])}")
    return [
        Row("instruments followed in full mode all the time", result.instruments, "", at_least=0.9 * result.wanted),
        Row("updates a second", result.per_second, "updates/s"),
        Row("updates a second of the slowest instrument", result.slowest, "updates/s", at_least=UPDATES_PER_SECOND),
        Row("updates sent, by the exchange's ledger", result.updates, "updates"),
        Row("of these not in the store", abs(result.updates - result.stored), "updates", at_least=0, lower_is_better=True),
        Row("instruments stored other than sent", len(result.wrong), "", at_least=0, lower_is_better=True),
        Row("quotes delivered to one WebSocket client", result.delivered, "quotes", at_least=result.per_second),
        Row("exchange → feed → WebSocket client, p50", result.percentile(50), "ms", at_least=60, aim=40, lower_is_better=True),
        Row("exchange → feed → WebSocket client, p99", result.percentile(99), "ms"),
        Row("the feed's share of a core", 100 * result.feed_cpu, "%"),
    ]


def measure(*, seconds: float, instruments: int) -> Result:
    """Start everything, let it run for `seconds`, compare ledger and store."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = Path(folder) / "ledger"
        stack = Stack(
            Path(folder),
            *("--instruments", str(instruments), "--seed", "5", "--ledger", str(ledger)),
            TRADINGOK_LIMIT_FULL=str(instruments),
            TRADINGOK_STRIKES="500",
            TRADINGOK_WEEKLIES="5",
            TRADINGOK_MONTHLIES="3",
        )
        try:
            stack.wait_for(lambda: _feed(stack)["subscribed_full"] == instruments)
            time.sleep(SETTLE_SECONDS)
            before, at = stack.exchange.state(), time.time()
            cpu = _cpu_seconds(stack)
            keys = [entry.key for entry in quotes_read().values()]
            delivered, latency_ms = asyncio.run(_listen(stack, keys, seconds))
            elapsed = time.time() - at
            cpu = (_cpu_seconds(stack) - cpu) / elapsed
            sent = stack.exchange.state()["updates_sent_total"] - before["updates_sent_total"]
            stack.exchange.fault(kind="mute")
            total = stack.exchange.state()["updates_sent_total"]
            stack.wait_for(lambda: _feed(stack)["ticks_decoded_total"] >= total)
            assert stack.feed.stop() == 0, stack.feed.told()
            counts = _sent_between(ledger, at, at + elapsed)
            wrong, stored = _compare(ledger)
            slowest = min(counts.values()) / elapsed
            return Result(len(counts), total, sent / elapsed, slowest, stored, wrong, delivered, sorted(latency_ms), cpu, instruments)
        finally:
            stack.stop()


def _feed(stack: Stack) -> dict[str, Any]:
    """Return the counters of the feed as REST tells them."""
    counters: dict[str, Any] = stack.get("/api/broker-status")["shards"][0]["counters"]
    return counters


def _cpu_seconds(stack: Stack) -> float:
    """Return the processor time that the feed process has taken."""
    fields = Path(f"/proc/{stack.feed.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


async def _listen(stack: Stack, keys: list[str], seconds: float) -> tuple[int, list[float]]:
    """Follow everything on one WebSocket connection; return quotes received and their ages in ms."""
    ages: list[float] = []
    headers = {"Authorization": f"Bearer {stack.api_key}"}
    async with websockets.connect(stack.ws_url, additional_headers=headers, max_size=None) as socket:
        await socket.send(json.dumps({"id": 1, "op": "subscribe", "instruments": keys, "mode": "full"}))
        began = time.monotonic()
        while (left := began + seconds - time.monotonic()) > 0:
            try:
                message = json.loads(await asyncio.wait_for(socket.recv(), left))
            except TimeoutError:
                break
            now_ms = time.time() * 1000
            if message.get("event") == "market:tick" and time.monotonic() - began > 2:  # after the snapshot
                ages.extend(now_ms - quote["broker_ms"] for _, _, quote in message["ticks"])
    return len(ages), ages


def _sent_between(ledger: Path, start: float, end: float) -> dict[str, int]:
    """Return updates by key that the exchange sent in a stretch of time (seconds since 1970), of keys followed all the time.

    Prices move, and with them the strikes that the rules select: a key without an update in the first or the last
    EDGE_SECONDS came or went in between.
    """
    sent_at = {frame.number: frame.sent_ns / 1e9 for frame in LedgerReader(ledger).frames()}
    times: dict[str, list[float]] = defaultdict(list)
    for update in LedgerReader(ledger).updates():
        if start <= sent_at[update.frame] < end:
            times[update.key].append(sent_at[update.frame])
    return {key: len(at) for key, at in times.items() if at[0] < start + EDGE_SECONDS and at[-1] > end - EDGE_SECONDS}


def _compare(ledger: Path) -> tuple[list[str], int]:
    """Return the keys whose stored updates are not those of the ledger, and how many ticks are stored."""
    from upstox_client.feeder.proto import MarketDataFeedV3_pb2 as sdk

    sent: dict[str, list[Figures]] = defaultdict(list)
    for frame in LedgerReader(ledger).frames():
        for key, feed in MessageToDict(sdk.FeedResponse.FromString(frame.content)).get("feeds", {}).items():
            sent[key].append(figures_of(feed))
    ids = instrument_ids(sent)
    wrong = [key for key, updates in sent.items() if content_hash(updates) != content_hash(stored_updates(ids[key]))]
    return wrong, store.ticks_collection().count_documents({})
