"""Frames made beforehand: 2,000 instruments in full mode, 50 in a frame; every update changes what real ones change. Seeded."""

from __future__ import annotations

import random
from collections.abc import Iterator

from broker.upstox import MarketDataFeedV3_pb2 as pb
from tests.payloads import option_feed

INSTRUMENTS = 2000
PER_FRAME = 50
ROUNDS_A_MINUTE = 20
"""Updates of an instrument in a minute of market time: fewer than in life (100), so that a short run pays for finished minutes, too."""
ROUND_MS = 60_000 // ROUNDS_A_MINUTE
"""Market time between two updates of an instrument."""
START_MS = 1_769_160_569_400


def keys() -> dict[str, int]:
    """Return key → instrument id."""
    return {f"NSE_FO|{50_000 + number}": number + 1 for number in range(INSTRUMENTS)}


def market(rounds: int, seed: int = 7) -> tuple[dict[str, int], list[bytes]]:
    """Return the keys and the frames of so many updates of each instrument."""
    return keys(), list(frames(rounds, seed))


def frames(rounds: int, seed: int = 7) -> Iterator[bytes]:
    """Yield the frames: in each round one update of every instrument."""
    source = random.Random(seed)
    responses = []
    names = list(keys())
    for start in range(0, INSTRUMENTS, PER_FRAME):
        response = pb.FeedResponse(type=pb.live_feed)
        for number in range(start, start + PER_FRAME):
            response.feeds[names[number]].CopyFrom(option_feed(last_price=100 + number / 20, volume=75 * (number + 1)))
        responses.append((response, [(response.feeds[name].fullFeed.marketFF, 100 + number / 20) for number, name in
                                     enumerate(names[start : start + PER_FRAME], start)]))  # fmt: skip
    for turn in range(rounds):
        for number, (response, feeds) in enumerate(responses):
            response.currentTs = START_MS + turn * ROUND_MS + number * ROUND_MS // len(responses)
            for feed, price in feeds:
                _move(feed, price, source.random(), response.currentTs, turn)
            yield response.SerializeToString()


def _move(feed: pb.MarketFullFeed, price: float, chance: float, now_ms: int, turn: int) -> None:
    """Let an option trade: price, volume, book, greeks, open interest, the day's bar; each ROUNDS_A_MINUTE its finished minute."""
    last = round(price * (0.95 + chance / 10), 2)
    volume = feed.vtt + 75
    feed.ltpc.ltp, feed.ltpc.ltt, feed.ltpc.ltq = last, now_ms - 40, 75 + 75 * (turn % 7)
    feed.vtt, feed.oi, feed.iv, feed.atp = volume, 12_000 + volume / 2, 0.1 + chance / 20, price + chance
    feed.tbq, feed.tsq = 5_000 + volume % 911, 6_000 + volume % 877
    best = feed.marketLevel.bidAskQuote[0]
    best.bidP, best.askP, best.bidQ, best.askQ = last - 0.05, last + 0.05, 75 + turn % 91 * 75, 150 + turn % 53 * 75
    deep = feed.marketLevel.bidAskQuote[turn % 4 + 1]
    deep.bidQ, deep.askQ = 150 + turn % 67 * 75, 150 + turn % 71 * 75
    greeks = feed.optionGreeks
    greeks.delta, greeks.theta, greeks.gamma, greeks.vega = 0.4 + chance / 5, -12 - chance, 0.0007 + chance / 1e4, 9 + chance
    day, minute = feed.marketOHLC.ohlc
    day.high, day.low, day.close, day.vol = max(day.high, last), min(day.low, last), last, volume
    if turn % ROUNDS_A_MINUTE == 0:
        minute.ts = now_ms // 60_000 * 60_000 - 60_000
        minute.open, minute.close, minute.high, minute.low, minute.vol = last, price, price * 1.05, price * 0.95, volume % 9_000
