"""Four real whole days (15 December 2025) through the exchange and `runfeed`, once: ticks, quotes, certificate, candles are the captures'.

One replay serves all tests of this file (they only read). What is expected comes out of the captures as their recorders wrote them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pytest_django.plugin import DjangoDbBlocker

from instruments.selectors import instrument_ids
from marketdata import store
from marketdata.domain.candle import INTERVAL_MINUTES
from marketdata.models import Gap
from marketdata.services import candles_roll_up
from tests.fakes.exchange import RunningExchange
from tests.fakes.feed import RunningFeed
from tests.fakes.stack import empty_namespace
from tests.payloads import real_data
from tests.payloads.bars import CAPTURES, HOLES, Bar, Minutes, bar_of, captured_bars, captured_updates, clock, folded, stored_candles
from tests.payloads.figures import Figures, figures_of
from tests.replay.test_certificate import assert_clean
from tests.replay.test_real_data import LastQuotes, assert_store_equals, read_last_quotes, run_replay

pytestmark = [pytest.mark.django_db, pytest.mark.realdata, pytest.mark.slow]
MINUTE_MS = 60_000
SILENCE_MS = 60_000
"""The captures' holes are longer than this; the four together are never silent for so long otherwise."""


class WholeDays(NamedTuple):
    """The captures, and the system after it has had them."""

    updates: dict[str, list[dict[str, Any]]]
    figures: dict[str, list[Figures]]
    ids: dict[str, int]
    quotes: LastQuotes
    feed: RunningFeed
    exit_code: int

    def bars(self, key: str) -> Minutes:
        return captured_bars(self.updates[key])


@pytest.fixture(scope="module")
def days(django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeDays]:
    """Replay the four days as fast as they are taken, then stop the feed; its data stays until the file is done."""
    paths = [str(real_data(name)) for name in CAPTURES.values()]
    updates = {key: captured_updates(name) for key, name in CAPTURES.items()}
    folder = tmp_path_factory.mktemp("days")
    feeds: list[RunningFeed] = []

    def start(url: str) -> RunningFeed:
        feeds.append(RunningFeed(url, folder))
        return feeds[-1]

    with django_db_blocker.unblock():
        exchange = RunningExchange("--replay", *paths, "--speed", "0")
        try:
            feed = run_replay(exchange, start, list(CAPTURES))
            quotes = read_last_quotes(list(CAPTURES), folder)
            code = feed.stop()
            figures = {key: [figures_of(update) for update in rows] for key, rows in updates.items()}
            yield WholeDays(updates, figures, instrument_ids(CAPTURES), quotes, feed, code)
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


def test_every_minute_whose_bar_was_in_the_stream_is_confirmed_and_equal(days: WholeDays) -> None:
    total = 0
    for key in CAPTURES:
        bars, stored = days.bars(key), stored_candles(days.ids[key])
        assert bars.keys() <= stored.keys(), key
        assert {clock(at): bar_of(stored[at]) for at in bars} == {clock(at): bar for at, bar in bars.items()}, key
        assert {clock(at): stored[at]["s"] for at in bars if stored[at]["s"] != "confirmed"} == {}, key
        print(f"{key}: {len(bars)} of {len(bars)} minutes confirmed and equal in all five fields")
        total += len(bars)
    assert total == 1421


def test_candles_lie_in_the_session_and_only_holes_lack_the_brokers_bar(days: WholeDays) -> None:
    for key in CAPTURES:
        times = {clock(at) for at in stored_candles(days.ids[key])}
        assert min(times) >= "09:15", key
        assert max(times) < "15:30", key  # the equity's last trades are of 15:44
        unconfirmed = times - {clock(at) for at in days.bars(key)}
        assert unconfirmed <= HOLES | {"09:32"}, key


def silences(days: WholeDays) -> list[tuple[int, int]]:
    """The stretches of the day in which none of the captures has a trade, up to the close."""
    times = sorted(int(ltpc["ltt"]) for rows in days.updates.values() for row in rows if (ltpc := row["fullFeed"]["marketFF"].get("ltpc")))
    times = [at for at in times if clock(at) < "15:30"]
    return [(one, other) for one, other in pairwise(times) if other - one > SILENCE_MS]


def test_the_captures_holes_are_gaps_and_nothing_else_is(days: WholeDays) -> None:
    expected = silences(days)
    assert [(clock(one), clock(other)) for one, other in expected] == [("10:57", "10:59"), ("11:02", "11:04"), ("15:26", "15:28")]
    gaps = [(store.time_ms(gap.start), store.time_ms(gap.end)) for gap in Gap.objects.order_by("start") if gap.end]
    assert [(clock(one), clock(other)) for one, other in gaps] == [(clock(one), clock(other)) for one, other in expected]
    for (start, end), (silent, loud) in zip(gaps, expected, strict=True):
        assert abs(start - silent) < 2000
        assert abs(end - loud) < 2000
    inside = {clock(at) for start, end in gaps for at in range(start // MINUTE_MS * MINUTE_MS, end, MINUTE_MS)}
    assert inside >= HOLES


def test_every_interval_is_a_fold_of_the_minutes(days: WholeDays) -> None:
    candles_roll_up()
    for key in CAPTURES:
        minutes: Minutes = {at: bar_of(row) for at, row in stored_candles(days.ids[key]).items()}
        for interval in INTERVAL_MINUTES:
            read = store.candles_read(days.ids[key], interval, from_ms=0, to_ms=2**42, limit=1000)
            got = {row.start_ms: Bar(row.open, row.high, row.low, row.close, row.volume) for row in read}
            assert got == folded(minutes, interval), (key, interval)
