"""What the store must hold of an update, read from protobuf-JSON by the meanings of FACTS §3.4 and §3.6: never by our decode."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from mcap.exceptions import EndOfFile
from mcap.reader import NonSeekingReader

from marketdata import store

EPOCH_2020_NS = 1_577_836_800_000_000_000
Figures = dict[str, float]


def figures_of(feed: dict[str, Any]) -> Figures:
    """Read one captured Feed (protobuf-JSON) as a tick's stored figures; a zero that protobuf-JSON leaves out is put back."""
    full = feed["fullFeed"]
    body = full.get("marketFF")
    figures: dict[str, float | None]
    if body is None:
        price = full["indexFF"]["ltpc"]
        figures = {"p": price.get("ltp"), "c": price.get("cp"), "lt": int(price["ltt"])}
        return {name: value for name, value in figures.items() if value is not None}
    price = body.get("ltpc", {})
    levels = body.get("marketLevel", {}).get("bidAskQuote")
    best = levels[0] if levels else {}
    greeks = body.get("optionGreeks") or {}
    figures = {
        "lt": int(price["ltt"]) if "ltt" in price else None,
        "p": price.get("ltp"),
        "q": int(price.get("ltq", 0)) if price else None,
        "c": price.get("cp"),
        "v": int(body.get("vtt", 0)) if price else None,
        "a": body.get("atp"),
        "oi": body.get("oi"),
        "iv": body.get("iv"),
        "bp": best.get("bidP"),
        "bq": int(best["bidQ"]) if "bidQ" in best else None,
        "ap": best.get("askP"),
        "aq": int(best["askQ"]) if "askQ" in best else None,
        "tb": body.get("tbq", 0.0 if levels is not None else None),
        "ts": body.get("tsq", 0.0 if levels is not None else None),
    }
    if any(greeks.values()):  # nothing but zeroes, a negative one among them, is no greeks
        figures |= {
            short: greeks.get(long, 0.0) for short, long in {"d": "delta", "th": "theta", "g": "gamma", "ve": "vega", "rh": "rho"}.items()
        }
    return {name: value for name, value in figures.items() if value is not None}


def content_hash(updates: list[Figures]) -> str:
    """Return a hash of an instrument's updates in their order."""
    text = json.dumps([{name: float(value) for name, value in sorted(update.items())} for update in updates])
    return hashlib.sha256(text.encode()).hexdigest()


def stored_updates(instrument: int) -> list[Figures]:
    """Return what the store holds of an instrument, in order of id."""
    rows = store.ticks_collection().find({"i": instrument}).sort("_id", 1)
    return [
        {
            name: float(store.time_ms(value)) if name == "lt" else value
            for name, value in row.items()
            if name not in ("_id", "i", "t", "r", "k")
        }
        for row in rows
    ]


def expected_ids(journal: Path) -> Counter[int]:
    """Return the tick ids that the journalled frames must have given: arrival by MCAP's own reader, keys by the official SDK's module.

    A segment whose writer was killed has no end; all its whole chunks count.
    """
    from upstox_client.feeder.proto import MarketDataFeedV3_pb2 as sdk

    ids: Counter[int] = Counter()
    for path in sorted(journal.glob("*.mcap")):
        with path.open("rb") as stream, contextlib.suppress(EndOfFile):
            reader = NonSeekingReader(stream, validate_crcs=True)
            for _, _, message in reader.iter_messages(topics=["frames"], log_time_order=False):
                keys = sorted(sdk.FeedResponse.FromString(message.data).feeds, key=str.encode)
                stamp = (message.log_time - EPOCH_2020_NS) // 1000
                ids.update((stamp << 13) + rank for rank in range(len(keys)))
    return ids
