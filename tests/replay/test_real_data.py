"""The captured real data, served by the exchange, through `runfeed` into MongoDB: nothing lost, nothing doubled, nothing changed.

What is expected is read from the captures themselves (JSON as their recorders decoded it, or the official SDK's module) by
the meanings of FACTS §3.4 and §3.6, never by our decode; the frames' arrival is read from the journal by MCAP's own reader.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter, defaultdict
from pathlib import Path

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
from tests.payloads.figures import Figures, content_hash, figures_of, stored_updates

pytestmark = [pytest.mark.django_db, pytest.mark.realdata]
EPOCH_2020_NS = 1_577_836_800_000_000_000
CAPTURES = {
    "NSE_FO|51414": "banknifty_options_NSE_FO_51414_2025-12-15.json.gz",
    "NSE_FO|51420": "banknifty_options_NSE_FO_51420_2025-12-15.json.gz",
    "NSE_FO|51461": "banknifty_options_NSE_FO_51461_2025-12-15.json.gz",
    "NSE_EQ|INE118H01025": "equity_NSE_EQ_INE118H01025_2025-12-15.json.gz",
}


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
