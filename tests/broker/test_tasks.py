"""The broker's scheduled tasks, against the simulated exchange and against a broker that misbehaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import pytest
from django.test import override_settings

from broker import tasks
from instruments.models import Instrument, MasterLoad
from marketdata import live_state
from marketdata.models import Gap, MarketStatus
from tests.broker.scripted_http import Reply, ScriptedServer, scripted_server
from tests.fakes.exchange import RunningExchange

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]

IST = timezone(timedelta(hours=5, minutes=30))
GONE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def exchange() -> Iterator[RunningExchange]:
    running = RunningExchange("--instruments", "20", "--seed", "1")
    yield running
    running.stop()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as running:
        yield running


def at(url: str) -> override_settings:
    master = f"{url}/market-quote/instruments/exchange/NSE.json.gz"
    return override_settings(EXCHANGE_URL=url, UPSTOX_API_URL=url, INSTRUMENT_MASTER_URL=master)


def test_refresh_loads_the_exchange_s_master_and_a_repeat_changes_nothing(exchange: RunningExchange) -> None:
    with at(exchange.url):
        first = tasks.refresh_instruments()
        created = Instrument.objects.count()
        assert created > 0
        assert first.endswith(f"rows: {created} created, 0 changed, 0 retired")
        assert tasks.refresh_instruments().endswith("rows: 0 created, 0 changed, 0 retired")
    assert Instrument.objects.count() == created
    assert live_state.task_runs_read()["refresh_instruments"]["ok"]


def test_a_refresh_that_fails_changes_nothing_and_says_why(server: ScriptedServer) -> None:
    server.will(Reply(200, b"<html>maintenance</html>"))
    with at(server.url):
        detail = tasks.refresh_instruments()
    run = live_state.task_runs_read()["refresh_instruments"]
    assert (run["ok"], run["detail"]) == (False, detail)
    assert detail
    assert not MasterLoad.objects.exists()
    with at(GONE):
        assert tasks.refresh_instruments() != detail
    assert not live_state.task_runs_read()["refresh_instruments"]["ok"]


def test_the_status_poll_records_each_segment_once(exchange: RunningExchange) -> None:
    with at(exchange.url):
        assert tasks.poll_market_status() == "3 segments changed"
        assert tasks.poll_market_status() == "0 segments changed"
    assert set(MarketStatus.objects.values_list("segment", "status")) == {
        ("NSE_EQ", "NORMAL_OPEN"), ("NSE_INDEX", "NORMAL_OPEN"), ("NSE_FO", "NORMAL_OPEN"),
    }  # fmt: skip


OPEN = b'{"status":"success","data":{"exchange":"NSE","status":"NORMAL_OPEN","last_updated":1795000000000}}'


@pytest.mark.parametrize("replies", [
    [Reply(401, b'{"status":"error","errors":[{"errorCode":"UDAPI100050","message":"Invalid token"}]}')],
    [Reply(429, b"<html>"), Reply(429, b"<html>")],
    [Reply(body=OPEN), Reply(503, b"")],
])  # fmt: skip
def test_a_poll_that_fails_records_nothing(server: ScriptedServer, replies: list[Reply]) -> None:
    server.will(*replies)
    with at(server.url):
        detail = tasks.poll_market_status()
    assert f"HTTP {replies[-1].status}" in detail
    assert not live_state.task_runs_read()["poll_market_status"]["ok"]
    assert not MarketStatus.objects.exists()


def test_without_any_token_the_poll_says_what_to_do() -> None:
    with override_settings(EXCHANGE_URL="", UPSTOX_ACCESS_TOKEN="", UPSTOX_API_URL=GONE):
        assert "brokerlogin" in tasks.poll_market_status()


BAD_TOKEN = Reply(401, b'{"status":"error","errors":[{"errorCode":"UDAPI100050","message":"Invalid token"}]}')


def clock(moment: datetime) -> Reply:
    """The exchange's own clock, as its status carries it."""
    status = {"exchange": "NSE", "status": "NORMAL_OPEN", "last_updated": round(moment.timestamp() * 1000)}
    return Reply(body=json.dumps({"status": "success", "data": status}).encode())


def test_healing_without_a_valid_token_is_noted_and_the_gap_stays_open(server: ScriptedServer) -> None:
    start = datetime(2026, 11, 20, 10, tzinfo=IST)
    values = {"segment": "NSE_FO", "exchange": "NSE", "instrument_type": "CE", "trading_symbol": "X", "name": "X", "active_from": start}
    Instrument.objects.create(pk=1, identity="NSE_FO|1", instrument_key="NSE_FO|1", **values)
    gap = Gap.objects.create(start=start, end=start + timedelta(minutes=2), cause="disconnected", instruments=[1])
    server.will(clock(start + timedelta(hours=1)), BAD_TOKEN)
    with at(server.url):
        assert tasks.heal_gaps() == "Invalid token (HTTP 401 UDAPI100050)"
    assert not live_state.task_runs_read()["heal_gaps"]["ok"]
    gap.refresh_from_db()
    assert (gap.heal_state, gap.heal_attempts) == ("open", 0)
    rows = [["2026-11-20T10:01:00+05:30", 2, 3, 1, 2, 5, 0], ["2026-11-20T10:00:00+05:30", 1, 2, 1, 2, 5, 0]]
    server.will(clock(start + timedelta(hours=1)), Reply(body=json.dumps({"status": "success", "data": {"candles": rows}}).encode()))
    with at(server.url):
        assert tasks.heal_gaps() == "1 calls, 2 candles, gaps: 1 healed, 0 impossible, 0 waiting"
    assert live_state.task_runs_read()["heal_gaps"]["ok"]


def test_daily_candles_are_left_until_the_broker_has_them(server: ScriptedServer) -> None:
    server.will(clock(datetime(2026, 11, 20, 7, 0, tzinfo=IST)))
    with at(server.url):
        assert tasks.confirm_daily() == "0 calls, 0 candles, gaps: 0 healed, 0 impossible, 0 waiting"
    assert len(server.requests) == 1


@pytest.mark.parametrize("seconds", [-5.0, 0.0, 1e12])
def test_any_number_of_seconds_is_taken(server: ScriptedServer, seconds: float) -> None:
    server.will(clock(datetime(2026, 11, 20, 7, 0, tzinfo=IST)), clock(datetime(2026, 11, 20, 7, 0, tzinfo=IST)))
    with at(server.url):
        assert "0 calls" in tasks.heal_gaps(seconds)
        assert "0 calls" in tasks.confirm_daily(seconds)
