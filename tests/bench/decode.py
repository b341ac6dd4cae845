"""Decoding a full-mode frame to domain ticks, greeks and bars included, against the official SDK's `MessageToDict`, on the same bytes."""

from __future__ import annotations

import time
from collections.abc import Callable

from google.protobuf.json_format import MessageToDict

from broker.upstox.decode import decode
from tests.payloads import frame, option_feed

INSTRUMENTS = 50
SECONDS = 1.5
AT_LEAST = 5.0
"""Times the SDK's rate."""


def run() -> list[str]:
    """Print both rates and the ratio; return what fell short."""
    from upstox_client.feeder.proto import MarketDataFeedV3_pb2 as sdk

    keys = {f"NSE_FO|{50_000 + number}": number for number in range(INSTRUMENTS)}
    frames = [
        frame({key: option_feed(last_price=100 + turn / 20, volume=75 * (turn + 1)) for key in keys}, broker_ms=1_769_160_569_400 + turn)
        for turn in range(40)
    ]
    ours = _rate(lambda data: len(decode(data, keys).ticks), frames)
    theirs = _rate(lambda data: len(MessageToDict(sdk.FeedResponse.FromString(data))["feeds"]), frames)
    print(f"  {'decode to domain ticks':<45}{ours:>16,.0f} updates/s")
    print(f"  {'official SDK, MessageToDict':<45}{theirs:>16,.0f} updates/s")
    print(f"  {'ratio':<45}{ours / theirs:>16.1f}")
    return [] if ours / theirs >= AT_LEAST else [f"{ours / theirs:.1f} times the SDK's rate, at least {AT_LEAST:.0f}"]


def _rate(work: Callable[[bytes], int], frames: list[bytes]) -> float:
    """Return updates a second over SECONDS, another frame each time."""
    done, turn, began = 0, 0, time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        done += work(frames[turn % len(frames)])
        turn += 1
    return done / (time.perf_counter() - began)
