"""Real minutes through the exchange and `runfeed` while market time passes: candles close and are confirmed as on the day, gaps too."""

from __future__ import annotations

from pathlib import Path

import pytest

from instruments.selectors import instrument_ids
from tests.fakes.exchange import StartExchange, start_exchange  # noqa: F401 - a fixture
from tests.fakes.feed import StartFeed, start_feed  # noqa: F401 - a fixture
from tests.payloads.bars import captured_bars, clock
from tests.replay.candle_proof import assert_confirmed, assert_gaps, excerpt, silences, stored_candles, whole_days
from tests.replay.test_real_data import run_replay

pytestmark = [pytest.mark.django_db, pytest.mark.realdata, pytest.mark.slow, pytest.mark.usefixtures("valkey")]


@pytest.mark.long
def test_minutes_at_a_hundred_times_speed_end_as_those_at_full_speed_do(
    start_exchange: StartExchange,  # noqa: F811
    start_feed: StartFeed,  # noqa: F811
    tmp_path: Path,
) -> None:
    updates, paths = excerpt(whole_days(), "10:52", "11:09", tmp_path)
    exchange = start_exchange("--replay", *paths, "--speed", "100")
    feed = run_replay(exchange, start_feed, list(updates))
    assert feed.stop() == 0, feed.log()
    ids = instrument_ids(updates)
    assert assert_confirmed(updates, ids) == sum(len(captured_bars(rows)) for rows in updates.values()) > 40
    assert_gaps(silences(updates))
    for key, rows in updates.items():
        unconfirmed = {at for at, row in stored_candles(ids[key]).items() if row["s"] != "confirmed"}
        assert {clock(at) for at in unconfirmed} <= {"10:57", "11:02", "11:08"}, key
        assert unconfirmed.isdisjoint(captured_bars(rows))
