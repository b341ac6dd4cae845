"""The captured real data, served by the exchange, through `runfeed` into MongoDB: nothing lost, nothing doubled, nothing changed.

What is expected is read from the captures themselves (JSON as their recorders decoded it, or the official SDK's module) by
the meanings of FACTS §3.4 and §3.6, never by our decode; the frames' arrival is read from the journal by MCAP's own reader.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from google.protobuf.json_format import MessageToDict
from mcap.reader import make_reader

from instruments.models import SubscriptionRule
from instruments.selectors import instrument_ids
from marketdata import store
from tests.fakes.exchange import RunningExchange, StartExchange, start_exchange  # noqa: F401 - a fixture
from tests.fakes.feed import RunningFeed, StartFeed, start_feed  # noqa: F401 - a fixture
from tests.payloads import real_data, recorded_frames

pytestmark = [pytest.mark.django_db, pytest.mark.realdata]
EPOCH_2020_NS = 1_577_836_800_000_000_000
CAPTURES = {
    "NSE_FO|51414": "banknifty_options_NSE_FO_51414_2025-12-15.json.gz",
    "NSE_FO|51420": "banknifty_options_NSE_FO_51420_2025-12-15.json.gz",
    "NSE_FO|51461": "banknifty_options_NSE_FO_51461_2025-12-15.json.gz",
    "NSE_EQ|INE118H01025": "equity_NSE_EQ_INE118H01025_2025-12-15.json.gz",
}

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
    if greeks:
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
    """Return the tick ids that the journalled frames must have given: arrival by MCAP's reader, keys by the SDK's module."""
    from upstox_client.feeder.proto import MarketDataFeedV3_pb2 as sdk

    ids: Counter[int] = Counter()
    for path in sorted(journal.glob("*.mcap")):
        with path.open("rb") as stream:
            for _, _, message in make_reader(stream, validate_crcs=True).iter_messages(topics=["frames"]):
                keys = sorted(sdk.FeedResponse.FromString(message.data).feeds, key=str.encode)
                stamp = (message.log_time - EPOCH_2020_NS) // 1000
                ids.update((stamp << 13) + rank for rank in range(len(keys)))
    return ids


def run_replay(exchange: RunningExchange, feed_starter: StartFeed, keys: list[str]) -> RunningFeed:
    """Load the exchange's master, follow `keys`, run the feed until the recording has been sent and stored."""
    call_command("refresh_instruments", source=f"{exchange.url}/market-quote/instruments/exchange/complete.json.gz")
    SubscriptionRule.objects.create(name="recorded", what="keys", keys=keys)
    feed = feed_starter(exchange.url)
    exchange.wait_for(lambda state: bool(state["finished"]), seconds=240)
    sent = exchange.state()["updates_sent_total"]
    feed.wait_for(lambda status: status.counters["ticks_decoded_total"] >= sent, seconds=120)
    assert feed.stop() == 0, feed.log()
    return feed


def assert_store_equals(source: dict[str, list[Figures]], feed: RunningFeed) -> None:
    """The ids are exactly those expected, and each instrument's content is the source's."""
    stored = [row["_id"] for row in store.ticks_collection().find({}, {"_id": 1})]
    expected = expected_ids(feed.journal)
    assert Counter(stored) == expected
    assert max(expected.values()) == 1
    ids = instrument_ids(source)
    assert set(ids) == set(source)
    for key, updates in source.items():
        got = stored_updates(ids[key])
        assert len(got) == len(updates), key
        assert content_hash(got) == content_hash(updates), (
            key,
            [pair for pair in zip(updates, got, strict=True) if pair[0] != pair[1]][:2],
        )


@pytest.mark.usefixtures("valkey")
def test_the_hundred_real_frames_reach_the_store_as_they_were_sent(
    start_exchange: StartExchange,  # noqa: F811
    start_feed: StartFeed,  # noqa: F811
) -> None:
    from upstox_client.feeder.proto import MarketDataFeedV3_pb2 as sdk

    source: dict[str, list[Figures]] = defaultdict(list)
    for data in recorded_frames():
        for key, feed in MessageToDict(sdk.FeedResponse.FromString(data))["feeds"].items():
            source[key].append(figures_of(feed))
    path = real_data("nifty_banknifty_100frames_2026-01-23.frames.bin")
    exchange = start_exchange("--replay", str(path), "--speed", "0")
    feed = run_replay(exchange, start_feed, list(source))
    assert sum(map(len, source.values())) == 859
    assert_store_equals(source, feed)


@pytest.mark.slow
@pytest.mark.usefixtures("valkey")
def test_four_real_whole_days_reach_the_store_as_they_were_sent(
    start_exchange: StartExchange,  # noqa: F811
    start_feed: StartFeed,  # noqa: F811
) -> None:
    source = {
        key: [figures_of(feed) for feed in json.loads(gzip.decompress(real_data(name).read_bytes()))] for key, name in CAPTURES.items()
    }
    exchange = start_exchange("--replay", *(str(real_data(name)) for name in CAPTURES.values()), "--speed", "0")
    feed = run_replay(exchange, start_feed, list(source))
    assert sum(map(len, source.values())) > 100_000
    assert_store_equals(source, feed)
