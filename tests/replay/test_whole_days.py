"""Four real whole days (15 December 2025) through the exchange and `runfeed`, once: ticks, quotes, certificate, candles are the captures'.

One replay serves all tests of this file (they only read). What is expected comes out of the captures as their recorders wrote them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from django.test import override_settings
from pytest_django.plugin import DjangoDbBlocker

from broker.calendar import calendar_refresh
from instruments.selectors import instrument_ids
from marketdata.domain.candle import INTERVAL_MINUTES, STORED_INTERVALS
from marketdata.domain.continuity import FEED_HOPS, broken, continuity, continuity_text
from marketdata.domain.feed_status import FeedStatus
from marketdata.roll_up import candles_roll_up
from marketdata.selectors import candles_of
from tests.fakes.exchange import RunningExchange
from tests.fakes.feed import RunningFeed
from tests.fakes.stack import empty_namespace
from tests.payloads import real_data
from tests.payloads.bars import CAPTURES, HOLES, Bar, captured_bars, clock, folded
from tests.payloads.figures import Figures, figures_of
from tests.replay.candle_proof import MINUTE_MS, Updates, assert_confirmed, assert_gaps, silences, stored_bars, stored_candles, whole_days
from tests.replay.test_certificate import assert_clean
from tests.replay.test_real_data import LastQuotes, assert_store_equals, read_last_quotes, run_replay

pytestmark = [pytest.mark.django_db, pytest.mark.realdata, pytest.mark.slow]


class WholeDays(NamedTuple):
    """The captures, and the system after it has had them."""

    updates: Updates
    figures: dict[str, list[Figures]]
    ids: dict[str, int]
    quotes: LastQuotes
    feed: RunningFeed
    exit_code: int
    report: FeedStatus | None


@pytest.fixture(scope="module")
def days(django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeDays]:
    """Replay the four days as fast as they are taken, then stop the feed; its data stays until the file is done."""
    paths = [str(real_data(name)) for name in CAPTURES.values()]
    updates = whole_days()
    folder = tmp_path_factory.mktemp("days")
    feeds: list[RunningFeed] = []

    def start(url: str) -> RunningFeed:
        feeds.append(RunningFeed(url, folder))
        return feeds[-1]

    with django_db_blocker.unblock():
        exchange = RunningExchange("--replay", *paths, "--speed", "0")
        try:
            with override_settings(EXCHANGE_URL=exchange.url):  # as beat did long before: the days pass faster than the feed can ask
                calendar_refresh(exchange.state()["market_ms"], api_url=exchange.url)
            feed = run_replay(exchange, start, list(CAPTURES))
            quotes = read_last_quotes(list(CAPTURES), folder)
            code = feed.stop()
            report = feed.status()  # its last one, which is forgotten after a minute: the tests' certificate may come later
            figures = {key: [figures_of(update) for update in rows] for key, rows in updates.items()}
            yield WholeDays(updates, figures, instrument_ids(CAPTURES), quotes, feed, code, report)
        finally:
            for running in feeds:
                running.stop()
            exchange.stop()
            empty_namespace(drop=False)


@pytest.fixture
def _django_db_helper(days: WholeDays) -> None:
    """In place of conftest's: the tests of this file share one run's data, so nothing is emptied between them."""


def test_store_holds_every_update_once_as_it_was_sent(days: WholeDays) -> None:
    assert days.exit_code == 0, days.feed.log()
    assert sum(map(len, days.figures.values())) > 100_000
    assert_store_equals(days.figures, days.feed)


def test_rest_and_websocket_tell_the_last_update_of_each_instrument(days: WholeDays) -> None:
    last = {key: updates[-1] for key, updates in days.figures.items()}
    assert days.quotes.over_rest == last
    assert days.quotes.over_websocket == last


def test_the_certificate_is_clean(days: WholeDays, tmp_path: Path) -> None:
    certificate = assert_clean(days.feed.var, days.feed.journal, days.figures)
    assert certificate["counts"]["ticks_equal"] > 100_000


def test_the_feeds_last_counters_add_up(days: WholeDays) -> None:
    assert days.report is not None
    rows = continuity({"0": days.report.counters}, {})
    assert len(rows) == len(FEED_HOPS)
    assert continuity_text(broken(rows)) == []


def test_every_minute_whose_bar_was_in_the_stream_is_confirmed_and_equal(days: WholeDays) -> None:
    assert assert_confirmed(days.updates, days.ids) == 1421


def test_candles_lie_in_the_session_and_only_holes_lack_the_brokers_bar(days: WholeDays) -> None:
    for key in CAPTURES:
        times = {clock(at) for at in stored_candles(days.ids[key])}
        assert min(times) >= "09:15", key
        assert max(times) < "15:30", key  # the equity's last trades are of 15:44
        unconfirmed = times - {clock(at) for at in captured_bars(days.updates[key])}
        assert unconfirmed <= HOLES | {"09:32"}, key


def test_the_captures_holes_are_gaps_and_nothing_else_is(days: WholeDays) -> None:
    expected = silences(days.updates)
    assert [(clock(one), clock(other)) for one, other in expected] == [("10:57", "10:59"), ("11:02", "11:04"), ("15:26", "15:28")]
    gaps = assert_gaps(expected)
    inside = {clock(at) for start, end in gaps for at in range(start // MINUTE_MS * MINUTE_MS, end, MINUTE_MS)}
    assert inside >= HOLES


def test_every_interval_is_a_fold_of_the_minutes(days: WholeDays) -> None:
    candles_roll_up()
    for key in CAPTURES:
        minutes = stored_bars(days.ids[key])
        for interval in STORED_INTERVALS:
            assert stored_bars(days.ids[key], interval) == folded(minutes, interval), (key, interval)
        for interval in INTERVAL_MINUTES:
            read = candles_of(
                days.ids[key], interval, from_ms=0, to_ms=2**42, limit=1000, newest_first=False, segment=key.partition("|")[0]
            )
            got = {row.start_ms: Bar(row.open, row.high, row.low, row.close, row.volume) for row in read}
            assert got == folded(minutes, interval), (key, interval)
