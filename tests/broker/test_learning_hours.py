"""A feed learns when the market trades. A whole day's hours are tested in test_feed_hours."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from broker.candles import ShardCandles
from broker.hours import TradingHours
from broker.learning_hours import HoursLearner
from broker.pipeline import Pipeline
from broker.report import Report
from marketdata.models import MarketStatus
from tests.broker.test_sessions import app_settings
from tests.zones import ist

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("valkey")]


async def test_a_feed_that_starts_within_a_closing_auction_knows_when_it_began() -> None:
    for status, moment in (("CTS_CLOSE", "2026-11-23 15:15"), ("CAS_LM_START", "2026-11-23 15:20")):
        since = datetime.fromtimestamp(ist(moment) / 1000, UTC)
        await MarketStatus.objects.acreate(segment="NSE_EQ:CAS", status=status, since=since)
    hours = TradingHours()
    candles = ShardCandles(hours, grace_ms=1500)
    with app_settings("http://127.0.0.1:9"):
        await HoursLearner(hours, candles, Pipeline(), Report(shard=0), api_url="http://127.0.0.1:9").learn()
    hours.observe_auctions({"NSE_EQ:CAS": ("CAS_LM_START", ist("2026-11-23 15:20"))})
    assert hours.trades("NSE_EQ", ist("2026-11-23 15:14"), cas=True)
    assert not hours.trades("NSE_EQ", ist("2026-11-23 15:15"), cas=True)
