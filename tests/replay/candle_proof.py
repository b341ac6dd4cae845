"""What the stored candles and gaps must be, given the updates that were replayed; used by every replay that makes candles."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from marketdata import store
from marketdata.models import Gap
from tests.payloads.bars import CAPTURES, Bar, Minutes, captured_bars, captured_updates, clock

MINUTE_MS = 60_000
SILENCE_MS = 60_000
"""The captures' holes are longer than this; the four together are never silent for so long otherwise."""
EDGE_MS = 2000
"""A gap begins with the last frame before it and ends with the first one behind it; a frame holds 150 ms of trades."""
Updates = dict[str, list[dict[str, Any]]]
"""Key → its updates in protobuf-JSON, in their order."""


def whole_days() -> Updates:
    """Return all that the four captures hold. Skips the test where they are absent."""
    return {key: captured_updates(name) for key, name in CAPTURES.items()}


def traded_ms(update: dict[str, Any]) -> int:
    """Return the time of the update's last trade, ms UTC; 0 where it tells none."""
    return int(update["fullFeed"]["marketFF"].get("ltpc", {}).get("ltt", 0))


def excerpt(updates: Updates, first: str, last: str, folder: Path) -> tuple[Updates, list[str]]:
    """Cut the updates down to those of trades from `first` to `last` (HH:MM, IST, exclusive), and write them as captures.

    Returns:
        The updates that are left, and the paths of the files.
    """
    cut = {key: [row for row in rows if first <= clock(traded_ms(row)) < last] for key, rows in updates.items()}
    paths = []
    for number, rows in enumerate(cut.values()):
        path = folder / f"excerpt{number}.json"
        path.write_text(json.dumps(rows))
        paths.append(str(path))
    return cut, paths


def silences(updates: Updates) -> list[tuple[int, int]]:
    """Return the stretches of the session, ms UTC, in which no instrument had a trade."""
    times = sorted(at for rows in updates.values() for row in rows if (at := traded_ms(row)) and clock(at) < "15:30")
    return [(one, other) for one, other in pairwise(times) if other - one > SILENCE_MS]


def assert_confirmed(updates: Updates, ids: dict[str, int]) -> int:
    """Every minute whose bar was among the updates is stored as confirmed, with the bar's five figures. Return their number."""
    total = 0
    for key, rows in updates.items():
        bars, stored = captured_bars(rows), stored_candles(ids[key])
        assert bars.keys() <= stored.keys(), (key, [clock(at) for at in bars if at not in stored])
        assert {clock(at): bar_of(stored[at]) for at in bars} == {clock(at): bar for at, bar in bars.items()}, key
        assert {clock(at): stored[at]["s"] for at in bars if stored[at]["s"] != "confirmed"} == {}, key
        print(f"  {key}: {len(bars)} of {len(bars)} minutes confirmed and equal in all five fields")
        total += len(bars)
    return total


def assert_gaps(expected: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ended gaps of the store are these stretches of market time, and no others. Return them, oldest first."""
    gaps = [(store.time_ms(gap.start), store.time_ms(gap.end)) for gap in Gap.objects.order_by("start") if gap.end]
    assert [(clock(one), clock(other)) for one, other in gaps] == [(clock(one), clock(other)) for one, other in expected]
    for (start, end), (silent, loud) in zip(gaps, expected, strict=True):
        assert abs(start - silent) < EDGE_MS, (start, silent)
        assert abs(end - loud) < EDGE_MS, (end, loud)
    return gaps


def stored_candles(instrument: int, interval: str = "1m") -> dict[int, dict[str, Any]]:
    """Return the stored candles of an instrument as MongoDB has them: start, ms UTC → document."""
    rows = store.candles_collection().find({"i": instrument, "n": interval}).sort("t", 1)
    return {store.time_ms(row["t"]): row for row in rows}


def bar_of(document: dict[str, Any]) -> Bar:
    """Return the five figures of a stored candle."""
    return Bar(document["o"], document["h"], document["l"], document["c"], document["v"])


def stored_bars(instrument: int, interval: str = "1m") -> Minutes:
    """Return the five figures of an instrument's stored candles: start, ms UTC → bar."""
    return {at: bar_of(row) for at, row in stored_candles(instrument, interval).items()}
