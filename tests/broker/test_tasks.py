"""The broker's scheduled tasks, against the simulated exchange and against a broker that misbehaves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.test import override_settings

from broker import tasks
from instruments.models import Instrument, MasterLoad
from marketdata import live_state
from marketdata.models import MarketStatus
from tests.broker.scripted_http import Reply, ScriptedServer, scripted_server
from tests.fakes.exchange import RunningExchange

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]

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
