"""The broker's own minutes (`I1`) and days out of the whole-day captures, as their recorders wrote them: never by our decode."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from tests.payloads import real_data

CAPTURES = {
    "NSE_FO|51414": "banknifty_options_NSE_FO_51414_2025-12-15.json.gz",
    "NSE_FO|51420": "banknifty_options_NSE_FO_51420_2025-12-15.json.gz",
    "NSE_FO|51461": "banknifty_options_NSE_FO_51461_2025-12-15.json.gz",
    "NSE_EQ|INE118H01025": "equity_NSE_EQ_INE118H01025_2025-12-15.json.gz",
}
"""Key → its whole day, 15 December 2025."""
HOLES = {"10:57", "10:58", "11:02", "15:26"}
"""Minutes (IST) of which one capture or all lack the bar: the recorder was away. Measured 2026-11-22."""
IST = timedelta(hours=5, minutes=30)
Minutes = dict[int, "Bar"]
"""Start, ms UTC → the bar."""


class Bar(NamedTuple):
    """The five figures of a candle; INR, units."""

    open: float
    high: float
    low: float
    close: float
    volume: int


def captured_updates(name: str) -> list[dict[str, Any]]:
    """Return a whole-day capture: one instrument's updates in protobuf-JSON, in their order."""
    updates: list[dict[str, Any]] = json.loads(gzip.decompress(real_data(name).read_bytes()))
    return updates


def captured_bars(updates: Iterable[dict[str, Any]], interval: str = "I1") -> Minutes:
    """Return every bar of `interval` that the updates carry; of one that comes with other values later, the last."""
    return {
        int(bar["ts"]): Bar(bar["open"], bar["high"], bar["low"], bar["close"], int(bar.get("vol", 0)))
        for update in updates
        for bar in update["fullFeed"]["marketFF"].get("marketOHLC", {}).get("ohlc", [])
        if bar["interval"] == interval
    }


def clock(time_ms: int) -> str:
    """Return the Indian time of day as HH:MM."""
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC) + IST:%H:%M}"


def folded(minutes: Minutes, interval: str, anchor_minute: int = 9 * 60 + 15) -> Minutes:
    """Fold minutes into coarser bars from the day's open at `anchor_minute` (IST) on, by calendar arithmetic of its own."""
    groups: dict[datetime, list[Bar]] = {}
    for start_ms, bar in sorted(minutes.items()):
        local = datetime.fromtimestamp(start_ms / 1000, UTC) + IST
        groups.setdefault(_group(local, interval, anchor_minute), []).append(bar)
    return {
        round((local - IST).timestamp() * 1000): Bar(
            bars[0].open, max(bar.high for bar in bars), min(bar.low for bar in bars), bars[-1].close, sum(bar.volume for bar in bars)
        )
        for local, bars in groups.items()
    }


def _group(local: datetime, interval: str, anchor_minute: int) -> datetime:
    midnight = local.replace(hour=0, minute=0)
    if interval == "1d":
        return midnight
    if interval == "1w":
        return midnight - timedelta(days=midnight.weekday())
    if interval == "1M":
        return midnight.replace(day=1)
    length = timedelta(minutes=int(interval[:-1]) * (60 if interval[-1] == "h" else 1))
    opened = midnight + timedelta(minutes=anchor_minute)
    return opened + (local - opened) // length * length
