"""The feed keeps the hours of its own market's day: a recorded closing auction, through the exchange and the feed, into the store."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from broker.upstox import MarketDataFeedV3_pb2 as pb
from instruments.models import Instrument, SubscriptionRule
from instruments.selectors import instrument_ids
from marketdata.models import OHLC, MarketSession, MarketStatus
from marketdata.store import time_ms
from tests.fakes.exchange import StartExchange, start_exchange  # noqa: F401 - a fixture
from tests.fakes.feed import StartFeed, start_feed  # noqa: F401 - a fixture
from tests.zones import IST, ist

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("valkey")]

AUCTIONED, OTHER, FUTURE = "NSE_EQ|INE002A01018", "NSE_EQ|INE000000000", "NSE_FO|70001"


def _recording() -> bytes:
    """A trade of each in every 20 s from 15:13 to 15:42 IST of a day since the closing auction session, as no exchange would have it."""
    frames = []
    for number in range(29 * 3):
        now_ms = ist("2026-11-23 15:13:05") + number * 20_000
        response = pb.FeedResponse(type=pb.live_feed, currentTs=now_ms)
        for key in (AUCTIONED, OTHER, FUTURE):
            market = response.feeds[key].fullFeed.marketFF
            market.ltpc.CopyFrom(pb.LTPC(ltp=100 + number, ltt=now_ms - 40, ltq=1, cp=99))
            market.vtt = number + 1
        frames.append(response.SerializeToString())
    return b"".join(struct.pack(">I", len(frame)) + frame for frame in frames)


def _row(key: str, kind: str, **more: object) -> dict[str, Any]:
    segment, token = key.split("|")
    return {
        "instrument_key": key, "segment": segment, "exchange": "NSE", "instrument_type": kind, "trading_symbol": token, "name": token,
        "lot_size": 1, "tick_size": 5.0, **more,
    }  # fmt: skip


@pytest.mark.long
def test_each_stops_when_its_own_trading_does(
    start_exchange: StartExchange,  # noqa: F811
    start_feed: StartFeed,  # noqa: F811
    tmp_path: Path,
) -> None:
    (tmp_path / "frames.bin").write_bytes(_recording())
    future = {"expiry": ist("2026-12-29 23:59:59"), "underlying_symbol": "RELIANCE", "underlying_key": AUCTIONED, "strike_price": 0.0}
    rows = [_row(AUCTIONED, "EQ", cas_eligible=True), _row(OTHER, "EQ"), _row(FUTURE, "FUT", **future)]
    (tmp_path / "master.json").write_text(json.dumps(rows))
    exchange = start_exchange("--replay", str(tmp_path / "frames.bin"), "--master", str(tmp_path / "master.json"), "--speed", "60")
    call_command("refresh_instruments", source=f"{exchange.url}/market-quote/instruments/exchange/NSE.json.gz", verbosity=0)
    assert Instrument.objects.get(cas_eligible=True).instrument_key == AUCTIONED
    SubscriptionRule.objects.create(name="all", what="keys", keys=[AUCTIONED, OTHER, FUTURE])
    ids = instrument_ids([AUCTIONED, OTHER, FUTURE])
    feed = start_feed(exchange.url)
    exchange.wait_for(lambda state: bool(state["finished"]), seconds=120)
    last = {AUCTIONED: "15:14", OTHER: "15:29", FUTURE: "15:39"}
    deadline = time.monotonic() + 60
    while _last_minute(ids[FUTURE]) != last[FUTURE]:
        assert time.monotonic() < deadline, f"{_last_minute(ids[FUTURE])}\n{feed.log()}"
        time.sleep(0.1)
    assert feed.stop() == 0
    assert {key: _last_minute(instrument) for key, instrument in ids.items()} == last
    session = MarketSession.objects.get(id="NFO:2026-11-23")
    assert session.closes is not None
    assert time_ms(session.closes) == ist("2026-11-23 15:40")
    auctions = MarketStatus.objects.filter(segment="NSE_EQ:CAS").order_by("since")
    assert [(row.status, time_ms(row.since)) for row in auctions][:1] == [("CTS_CLOSE", ist("2026-11-23 15:15"))]
    assert auctions.last().status == "CAS_STOP"  # type: ignore[union-attr]


def _last_minute(instrument: int) -> str:
    last = OHLC.objects.filter(instrument=instrument, interval="1m").order_by("-start").first()
    return "" if last is None else f"{last.start.astimezone(IST):%H:%M}"
