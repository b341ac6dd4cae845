"""The broker's calendar into the store: shapes of FACTS §5, from a scripted broker and from the simulated exchange."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import override_settings

from broker import calendar as module
from broker import tasks
from broker.calendar import calendar_ensure, calendar_refresh
from broker.upstox.protocol import ProtocolViolation
from marketdata import live_state
from marketdata.calendar import calendar_read
from marketdata.domain.feed_status import FeedStatus
from marketdata.domain.session import Calendar, Hours
from marketdata.models import MarketSession
from tests.broker.scripted_http import Reply, ScriptedServer, scripted_server
from tests.fakes.exchange import RunningExchange, StartExchange, start_exchange  # noqa: F401
from tests.zones import host_zone, ist  # noqa: F401

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]
DAYS = 22


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has fetched nothing yet."""
    monkeypatch.setattr(module, "_fetched", module._Fetched())


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as running, at(running.url):
        yield running


@pytest.fixture(scope="module")
def exchange() -> Iterator[RunningExchange]:
    running = RunningExchange("--instruments", "20", "--seed", "1", "--hours", "real")
    yield running
    running.stop()


def at(url: str) -> override_settings:
    return override_settings(EXCHANGE_URL=url, UPSTOX_API_URL=url)


def ensure(market_ms: int) -> tuple[Calendar, Exception | None]:
    """Ask with patience: the paced calls take three seconds."""
    return calendar_ensure(market_ms, seconds=60)


def answer(data: object) -> Reply:
    return Reply(200, json.dumps({"status": "success", "data": data}).encode())


def session(exchange: str, opens: str, closes: str) -> dict[str, object]:
    return {"exchange": exchange, "start_time": ist(opens), "end_time": ist(closes)}


HOLIDAYS: list[dict[str, Any]] = [
    {
        "date": "2026-11-08",
        "description": "Muhurat Trading",
        "holiday_type": "SPECIAL_TIMING",
        "closed_exchanges": [],
        "open_exchanges": [session("NSE", "2026-11-08 18:00", "2026-11-08 19:15")],
    },
    {
        "date": "2026-11-24",
        "description": "Guru Nanak Jayanti",
        "holiday_type": "TRADING_HOLIDAY",
        "closed_exchanges": ["NSE", "NFO", "CDS", "BSE", "BFO", "BCD"],
        "open_exchanges": [session("MCX", "2026-11-24 17:00", "2026-11-24 23:55")],
    },
    {
        "date": "2026-12-25",
        "description": "Christmas",
        "holiday_type": "TRADING_HOLIDAY",
        "closed_exchanges": ["NSE", "NFO"],
        "open_exchanges": [],
    },
    {
        "date": "2026-12-30",
        "description": "Banks are closed",
        "holiday_type": "SETTLEMENT_HOLIDAY",
        "closed_exchanges": ["NSE"],
        "open_exchanges": [],
    },
]
MONDAY = [session("NSE", "2026-11-23 09:15", "2026-11-23 15:30"), session("NFO", "2026-11-23 09:15", "2026-11-23 15:40")]
TUESDAY = [session("MCX", "2026-11-24 17:00", "2026-11-24 23:55")]
UNTOLD = 9
"""Working days from 25 November to 7 December of which the scripted broker has no timings."""


@pytest.mark.usefixtures("host_zone")
def test_timings_and_holidays_become_sessions(server: ScriptedServer) -> None:
    server.will(answer(HOLIDAYS), answer(MONDAY), answer(TUESDAY), *[answer([])] * (DAYS - 2))
    assert calendar_refresh(ist("2026-11-23 11:00")) == (DAYS - UNTOLD) * 8 + 3
    asked = [request.path for request in server.requests]
    assert asked[:4] == ["/v2/market/holidays", *(f"/v2/market/timings/2026-11-{day}" for day in (23, 24, 25))]
    assert asked[15:17] == ["/v2/market/timings/2026-12-07", "/v2/market/timings/2026-11-22"], "ahead, then back"
    assert asked[-1] == "/v2/market/timings/2026-11-16"
    known = calendar_read()
    assert known.hours("NSE_EQ", ist("2026-11-23 12:00")) == Hours(
        "NSE", ist("2026-11-23 00:00"), ist("2026-11-23 09:15"), ist("2026-11-23 15:30")
    )
    futures = known.hours("NSE_FO", ist("2026-11-23 12:00"))
    assert futures is not None
    assert futures.close_ms == ist("2026-11-23 15:40")
    assert known.hours("NSE_EQ", ist("2026-11-24 12:00")) == Hours("NSE", ist("2026-11-24 00:00"), 0, 0, "Guru Nanak Jayanti")
    metals = known.hours("MCX_FO", ist("2026-11-24 12:00"))
    assert metals is not None
    assert (metals.open_ms, metals.close_ms) == (ist("2026-11-24 17:00"), ist("2026-11-24 23:55"))
    christmas = known.hours("NSE_FO", ist("2026-12-25 12:00"))
    assert christmas is not None
    assert (christmas.trades, christmas.description) == (False, "Christmas"), "of a day that lies further ahead"
    assert known.hours("NSE_EQ", ist("2026-11-08 12:00")) == Hours(
        "NSE", ist("2026-11-08 00:00"), ist("2026-11-08 18:00"), ist("2026-11-08 19:15"), "Muhurat Trading"
    )
    assert known.hours("NSE_EQ", ist("2026-12-30 12:00")) is None, "trading goes on"
    assert known.hours("BSE_EQ", ist("2026-12-25 12:00")) is None
    assert known.hours("NSE_EQ", ist("2026-11-25 12:00")) is None, "a working day of which the broker says nothing yet is not closed"


@pytest.mark.parametrize(
    "rows",
    [
        [{"exchange": "NSE", "start_time": 1, "end_time": 2}],
        [session("NSE", "2026-11-23 15:30", "2026-11-23 09:15")],
        [{"exchange": "NSE"}],
        [{"exchange": "NSE", "start_time": "x", "end_time": None}],
    ],
)
def test_timings_that_are_none_are_refused_and_nothing_of_them_is_kept(server: ScriptedServer, rows: list[dict[str, object]]) -> None:
    server.will(answer([]), answer(rows))
    with pytest.raises(ProtocolViolation, match="timings of 2026-11-23"):
        calendar_refresh(ist("2026-11-23 11:00"))
    assert not MarketSession.objects.exists()


@pytest.mark.parametrize("row", [{}, {**HOLIDAYS[2], "date": "soon"}, {**HOLIDAYS[2], "closed_exchanges": None}])
def test_holidays_that_are_none_are_refused(server: ScriptedServer, row: dict[str, object]) -> None:
    server.will(answer([row]))
    with pytest.raises(ProtocolViolation, match="holidays"):
        calendar_refresh(ist("2026-11-23 11:00"))


def test_a_day_is_ensured_once_and_days_that_were_fetched_with_it(server: ScriptedServer) -> None:
    server.will(answer(HOLIDAYS), answer(MONDAY), answer(TUESDAY), *[answer([])] * (DAYS - 2))
    known, failure = ensure(ist("2026-11-23 11:00"))
    assert failure is None
    assert known.hours("NSE_EQ", ist("2026-11-23 12:00")) is not None
    asked = len(server.requests)
    assert asked == DAYS + 1
    for moment in ("2026-11-23 11:01", "2026-11-20 09:00", "2026-11-16 10:00"):
        assert ensure(ist(moment))[1] is None
    assert len(server.requests) == asked
    ensure(ist("2026-11-24 10:00"))  # of a new day more may be known
    assert len(server.requests) > asked


def test_a_broker_that_fails_is_asked_again_later_and_what_is_known_stays(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.will(answer(HOLIDAYS), answer(MONDAY), Reply(503, b""))
    known, failure = ensure(ist("2026-11-23 11:00"))
    assert failure is not None
    assert known.hours("NSE_EQ", ist("2026-11-23 11:00")) is not None, "today was fetched before it failed"
    asked = len(server.requests)
    assert ensure(ist("2026-11-23 11:00"))[1] is failure
    assert len(server.requests) == asked, "not at once"
    monkeypatch.setattr(module._fetched, "ask_again_at", 0.0)
    server.will(Reply(503, b""))
    ensure(ist("2026-11-23 11:00"))
    asked += 1
    assert len(server.requests) == asked
    assert module._fetched.ask_again_at > time.monotonic() + module.RETRY_SECONDS, "longer with each failure"
    monkeypatch.setattr(module._fetched, "ask_again_at", 0.0)
    server.will(answer(HOLIDAYS), *[answer([])] * DAYS)
    known, failure = ensure(ist("2026-11-23 11:01"))
    assert failure is None
    assert len(server.requests) == asked + 1 + DAYS


def test_two_sessions_on_one_day_are_one_from_the_first_s_open_to_the_last_s_close(server: ScriptedServer) -> None:
    drill = [session("NSE", "2026-11-23 11:30", "2026-11-23 12:30"), session("NSE", "2026-11-23 09:15", "2026-11-23 10:00")]
    server.will(answer([]), answer(drill), *[answer([])] * (DAYS - 1))
    known, _ = ensure(ist("2026-11-23 11:00"))
    hours = known.hours("NSE_EQ", ist("2026-11-23 11:00"))
    assert hours is not None
    assert (hours.open_ms, hours.close_ms) == (ist("2026-11-23 09:15"), ist("2026-11-23 12:30"))


def test_a_day_ahead_that_the_broker_refuses_costs_no_other(server: ScriptedServer) -> None:
    server.will(answer(HOLIDAYS), answer(MONDAY), Reply(400, b""), *[answer([])] * (DAYS - 2))
    known, failure = ensure(ist("2026-11-23 11:00"))
    assert failure is None
    assert len(server.requests) == DAYS + 1
    assert known.hours("MCX_FO", ist("2026-11-24 11:00")) is None, "refused, and no holiday of that exchange"
    assert known.hours("MCX_FO", ist("2026-11-28 11:00")) is not None


def test_a_day_of_another_year_gets_its_name_too(server: ScriptedServer) -> None:
    christmas = {**HOLIDAYS[2], "date": "2025-12-25"}
    server.will(answer(HOLIDAYS), answer([]), answer([christmas]), Reply(503, b""))
    ensure(ist("2025-12-25 11:00"))
    assert server.requests[2].path == "/v2/market/holidays/2025-12-25"
    hours = calendar_read().hours("NSE_EQ", ist("2025-12-25 11:00"))
    assert hours is not None
    assert (hours.trades, hours.description) == (False, "Christmas")


def test_who_does_not_wait_gets_what_is_known(server: ScriptedServer) -> None:
    server.will(answer(HOLIDAYS), answer(MONDAY), answer(TUESDAY), *[answer([])] * (DAYS - 2))
    first, failure = calendar_ensure(ist("2026-11-23 11:00"), seconds=0)
    assert failure is None
    assert first.hours("NSE_EQ", ist("2026-12-05 11:00")) is None
    whole, _ = ensure(ist("2026-11-23 11:00"))
    assert whole.hours("NSE_EQ", ist("2026-12-05 11:00")) is not None
    assert len(server.requests) == DAYS + 1, "fetched once"


def test_a_feed_asks_the_broker_of_its_own_configuration(server: ScriptedServer) -> None:
    server.will(answer(HOLIDAYS), *[answer([])] * DAYS)
    with override_settings(UPSTOX_API_URL="http://127.0.0.1:9"):
        _, failure = calendar_ensure(ist("2026-11-23 11:00"), api_url=server.url, seconds=60)
    assert failure is None
    assert len(server.requests) == DAYS + 1


def test_nothing_is_asked_before_there_is_a_market_time(server: ScriptedServer) -> None:
    known, failure = calendar_ensure(0)
    assert (known.between(0, ist("2030-01-01 00:00")), failure, server.requests) == ([], None, [])


def test_the_task_takes_the_markets_own_day(exchange: RunningExchange) -> None:
    status = FeedStatus(0, 1, 1, "live", 1, ist("2026-11-23 10:00"), ist("2027-03-01 10:00"), {}, {})
    asyncio.run(live_state.astatus_write(status))
    with at(exchange.url):
        first = tasks.refresh_calendar()
        assert first.endswith("sessions changed")
        assert int(first.split()[0]) >= DAYS * 8
        assert tasks.refresh_calendar() == "0 sessions changed"
    known = calendar_read()
    assert [
        (hours.exchange, hours.open_ms - hours.day_ms, hours.close_ms - hours.day_ms)
        for hours in known.between(ist("2026-11-23 00:00"), ist("2026-11-24 00:00"))
    ] == [
        ("BCD", 9 * 3_600_000, 17 * 3_600_000),
        ("BFO", 33_300_000, 56_400_000),  # 09:15 to 15:40
        ("BSE", 33_300_000, 55_800_000),  # 15:30
        ("CDS", 9 * 3_600_000, 17 * 3_600_000),
        ("MCX", 9 * 3_600_000, 84_600_000),  # 23:30
        ("NFO", 33_300_000, 56_400_000),
        ("NSCOM", 9 * 3_600_000, 84_600_000),
        ("NSE", 33_300_000, 55_800_000),
    ]
    assert {hours.description for hours in known.between(ist("2026-11-24 00:00"), ist("2026-11-25 00:00"))} == {"Guru Nanak Jayanti"}
    run = live_state.task_runs_read()["refresh_calendar"]
    assert run["ok"]


def test_the_task_without_a_broker_says_so() -> None:
    with at("http://127.0.0.1:9"):
        assert "cannot connect" in tasks.refresh_calendar()
