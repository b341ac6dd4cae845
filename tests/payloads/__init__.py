"""Recorded and hand-made frames for tests.

The recorded ones are other people's captures and stay outside the repository (`../shared/upstox/data`, see its README for
when and how they were recorded); a test that needs them is marked `realdata` and skips where that folder is absent.
"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from broker.upstox import MarketDataFeedV3_pb2 as pb

REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "upstox" / "data"


def real_data(name: str) -> Path:
    """Return a captured file, or skip the test where the folder is absent."""
    path = REAL_DATA / name
    if not path.exists():
        pytest.skip(f"the captured data is not here: {path.parent}")
    return path


def recorded_frames() -> list[bytes]:
    """Return the 100 real frames of 2026-01-23, oldest first."""
    content = real_data("nifty_banknifty_100frames_2026-01-23.frames.bin").read_bytes()
    frames, offset = [], 0
    while offset < len(content):
        (length,) = struct.unpack_from(">I", content, offset)
        frames.append(content[offset + 4 : offset + 4 + length])
        offset += 4 + length
    return frames


def option_feed(
    *, last_price: float = 101.5, volume: int = 750, last_trade_ms: int = 1_769_160_569_162, bid_price: float = 101.4
) -> pb.Feed:
    """Return a whole full-mode update of an option; every figure can be told from every other."""
    feed = pb.Feed(requestMode=pb.full_d5)
    full = feed.fullFeed.marketFF
    full.ltpc.ltp, full.ltpc.ltt, full.ltpc.ltq, full.ltpc.cp = last_price, last_trade_ms, 75, 99.25
    for step in range(5):
        full.marketLevel.bidAskQuote.add(bidQ=75 + step, bidP=bid_price - step / 20, askQ=150 + step, askP=bid_price + 0.2 + step / 20)
    greeks = full.optionGreeks
    greeks.delta, greeks.theta, greeks.gamma, greeks.vega, greeks.rho = 0.51, -12.5, 0.0007, 9.25, 1.5
    full.marketOHLC.ohlc.add(interval="1d", open=98, high=110, low=95.5, close=last_price, vol=volume, ts=1_769_106_600_000)
    full.marketOHLC.ohlc.add(interval="I1", open=100, high=102, low=99.5, close=101, vol=300, ts=1_769_160_480_000)
    full.atp, full.vtt, full.oi, full.iv, full.tbq, full.tsq = 100.75, volume, 12_000, 0.125, 5_000, 6_000
    return feed


def frame(feeds: dict[str, pb.Feed], *, kind: int = pb.live_feed, broker_ms: int = 1_769_160_569_400) -> bytes:
    """Return a feed frame of these updates."""
    response = pb.FeedResponse(type=kind, currentTs=broker_ms)  # type: ignore[arg-type]  # an enum's value
    for key, feed in feeds.items():
        response.feeds[key].CopyFrom(feed)
    return response.SerializeToString()
