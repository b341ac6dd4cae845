"""The broker's REST client: against the simulated exchange, and against a scripted server for what a broker rarely does."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Iterator
from datetime import date, datetime
from zoneinfo import ZoneInfo

import pytest
import uvloop

from broker.upstox import rest as rest_module
from broker.upstox.protocol import AuthExpired, BrokerError, FeedRefused, FeedUnavailable, ProtocolViolation, RateLimited
from broker.upstox.rest import UpstoxRest
from tests.broker.scripted_http import Reply, ScriptedServer, scripted_server
from tests.fakes.exchange import RunningExchange
from tests.fakes.proxy import StartProxy, start_proxy  # noqa: F401 - a fixture

TOKEN = "secret-token-of-a-test"
IST = ZoneInfo("Asia/Kolkata")


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as running:
        yield running


@pytest.fixture(scope="module")
def exchange() -> Iterator[RunningExchange]:
    running = RunningExchange("--instruments", "20", "--seed", "1")
    yield running
    running.stop()


# --- with the exchange ------------------------------------------------------------------------------------------------


async def test_authorise_gives_another_single_use_address_each_time(exchange: RunningExchange) -> None:
    client = UpstoxRest(exchange.url, exchange.token)
    first, second = await client.aauthorize(), await client.aauthorize()
    assert first.startswith("ws://127.0.0.1:")
    assert first != second


async def test_the_exchange_refuses_another_token(exchange: RunningExchange) -> None:
    with pytest.raises(AuthExpired) as caught:
        await UpstoxRest(exchange.url, "another-token").aauthorize()
    assert (caught.value.code, caught.value.status) == ("UDAPI100050", 401)


def test_market_status_timings_and_holidays_of_the_exchange(exchange: RunningExchange) -> None:
    with UpstoxRest(exchange.url, exchange.token) as client:
        report = client.market_status("NSE")
        assert report.exchange == "NSE"
        assert report.status == "NORMAL_OPEN"
        assert report.updated_ms > 1_700_000_000_000
        timings = client.timings(datetime.now(IST).date())
        assert all({"exchange", "start_time", "end_time"} <= set(row) for row in timings)
        assert isinstance(client.holidays(), list)
        with pytest.raises(FeedRefused):
            client.market_status("NOWHERE")


def test_candles_of_the_exchange_come_oldest_first(exchange: RunningExchange) -> None:
    with UpstoxRest(exchange.url, exchange.token) as client:
        bars, odd = client.intraday_bars("NSE_INDEX|Nifty 50", "minutes", 1)
        assert bars
        assert odd == 0
        assert [bar.start_ms for bar in bars] == sorted({bar.start_ms for bar in bars})
        assert all(bar.low <= bar.open <= bar.high and bar.low <= bar.close <= bar.high for bar in bars)
        with pytest.raises(FeedRefused):
            client.intraday_bars("NSE_INDEX|No such index", "minutes", 1)


# --- with a server that follows a script ------------------------------------------------------------------------------


async def test_the_request_carries_the_token_in_its_header_only(server: ScriptedServer) -> None:
    server.will(Reply(body=json.dumps({"status": "success", "data": {"authorizedRedirectUri": "wss://host/feed"}}).encode()))
    assert await UpstoxRest(server.url + "/", TOKEN).aauthorize() == "wss://host/feed"
    (request,) = server.requests
    assert request.path == "/v3/feed/market-data-feed/authorize"
    assert request.headers["Authorization"] == f"Bearer {TOKEN}"
    assert request.headers["Accept"] == "application/json"


@pytest.mark.parametrize(("reply", "kind"), [
    (Reply(401, b'{"status":"error","errors":[{"errorCode":"UDAPI100050","message":"Invalid token used to access API"}]}'), AuthExpired),
    (Reply(429, b"{}", (("Retry-After", "12"),)), RateLimited),
    (Reply(403, b"<html>Sorry, you have been blocked</html>"), FeedRefused),
    (Reply(503, b"<html></html>"), FeedUnavailable),
    (Reply(200, b"<html>maintenance</html>"), ProtocolViolation),
    (Reply(200, b'{"status":"success","data":{}}'), ProtocolViolation),
    (Reply(302, b"", (("Location", "http://127.0.0.1:1/elsewhere"),)), ProtocolViolation),
    (Reply(200, b'{"status":"success","data":{}}', close_after=5), FeedUnavailable),
])  # fmt: skip
async def test_each_bad_answer_is_its_error_in_both_ways_of_asking(server: ScriptedServer, reply: Reply, kind: type[BrokerError]) -> None:
    server.will(reply, reply)
    with pytest.raises(BrokerError) as asynchronous:
        await UpstoxRest(server.url, TOKEN).aauthorize()
    with UpstoxRest(server.url, TOKEN) as client, pytest.raises(BrokerError) as synchronous:
        client.market_status("NSE")
    for caught in (asynchronous, synchronous):
        assert type(caught.value) is kind
        assert TOKEN not in repr(caught.value) + str(caught.value)
    assert len(server.requests) == 2  # a redirect was not followed
    if isinstance(asynchronous.value, RateLimited):
        assert asynchronous.value.retry_after == 12.0


async def test_nobody_listening_is_unavailable_and_says_where() -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    with pytest.raises(FeedUnavailable, match=f"cannot connect to 127.0.0.1:{port}"):
        await UpstoxRest(f"http://127.0.0.1:{port}", TOKEN).aauthorize()
    with UpstoxRest(f"http://127.0.0.1:{port}", TOKEN) as client, pytest.raises(FeedUnavailable):
        client.logout()


async def test_a_server_that_stays_silent_or_drips_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_module, "READ_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(FeedUnavailable, match="did not answer in time"):
            await UpstoxRest(address, TOKEN).aauthorize()
        with UpstoxRest(address, TOKEN) as client, pytest.raises(FeedUnavailable, match="did not answer in time"):
            client.market_status("NSE")


async def test_a_server_that_drips_bytes_for_ever_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_module, "TOTAL_SECONDS", 0.5)
    stopped = threading.Event()

    def drip(listener: socket.socket) -> None:
        for _ in range(2):
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                try:
                    while not stopped.wait(0.05):
                        connection.sendall(b" ")
                except OSError:
                    continue  # it hung up

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,), daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(FeedUnavailable, match="took more than"):
            await UpstoxRest(address, TOKEN).aauthorize()
        with UpstoxRest(address, TOKEN) as client, pytest.raises(FeedUnavailable, match="took more than"):
            client.market_status("NSE")
        stopped.set()
        thread.join(10)


def test_an_answer_without_end_is_refused(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_module, "MAX_BODY_BYTES", 1000)
    server.will(Reply(body=b" " * 200_000))
    with UpstoxRest(server.url, TOKEN) as client, pytest.raises(ProtocolViolation, match="larger than 1000 bytes"):
        client.holidays()


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "ünïcode"])
async def test_a_token_that_cannot_be_one_is_not_sent_and_not_shown(server: ScriptedServer, token: str) -> None:
    with pytest.raises(AuthExpired) as caught:
        await UpstoxRest(server.url, token).aauthorize()
    assert not server.requests
    assert str(caught.value) == "there is no usable token"


@pytest.mark.parametrize("address", ["http://[::1", "no-address", "ftp://host", "http://host:notaport"])
async def test_an_address_that_is_none_is_a_permanent_refusal(address: str) -> None:
    with pytest.raises(BrokerError) as caught:
        await UpstoxRest(address, TOKEN).aauthorize()
    assert caught.value.permanent
    with UpstoxRest(address, TOKEN) as client, pytest.raises(BrokerError) as caught:
        client.market_status("NSE")
    assert caught.value.permanent


def test_the_login_sends_the_form_without_a_token_and_reads_the_flat_answer(server: ScriptedServer) -> None:
    server.will(Reply(body=b'{"user_id":"AB1234","access_token":"fresh"}'))
    with UpstoxRest(server.url) as client:
        login = client.login(code="c1", client_id="id", client_secret="s3cret", redirect_uri="http://x/y")
    assert (login.user_id, login.token) == ("AB1234", "fresh")
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/v2/login/authorization/token")
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert request.body == b"code=c1&client_id=id&client_secret=s3cret&redirect_uri=http%3A%2F%2Fx%2Fy&grant_type=authorization_code"
    assert "Authorization" not in request.headers


def test_historical_bars_ask_for_the_days_and_come_sorted(server: ScriptedServer) -> None:
    rows = [["2026-11-20T09:16:00+05:30", 2, 2, 2, 2, 1, 0], ["2026-11-20T09:15:00+05:30", 1, 1, 1, 1, 1, 0]]
    server.will(Reply(body=json.dumps({"status": "success", "data": {"candles": rows}}).encode()))
    with UpstoxRest(server.url, TOKEN) as client:
        bars, odd = client.historical_bars("NSE_FO|1", "minutes", 1, first=date(2026, 11, 19), last=date(2026, 11, 20))
    assert ([bar.open for bar in bars], odd) == ([1, 2], 0)
    assert server.requests[0].path == "/v3/historical-candle/NSE_FO%7C1/minutes/1/2026-11-20/2026-11-19"


async def test_nothing_that_is_logged_holds_a_secret(server: ScriptedServer, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("httpx", "httpcore"):
        caplog.set_level(logging.DEBUG, logger=name)
    server.will(Reply(401, b"{}"), Reply(body=b'{"access_token":"fresh-token"}'))
    with pytest.raises(AuthExpired):
        await UpstoxRest(server.url, TOKEN).aauthorize()
    with UpstoxRest(server.url, TOKEN) as client:
        client.login(code="the-code", client_id="id", client_secret="app-secret", redirect_uri="http://x")
        assert TOKEN not in repr(client)
    logged = caplog.text + "".join(str(record.args) for record in caplog.records)
    assert "127.0.0.1" in logged
    for secret in (TOKEN, "fresh-token", "the-code", "app-secret"):
        assert secret not in logged


def test_a_connection_reset_at_once_is_worth_a_retry_in_the_feeds_loop(server: ScriptedServer, start_proxy: StartProxy) -> None:  # noqa: F811
    proxy = start_proxy(server.url)
    proxy.refuse()

    async def ask() -> None:
        for _ in range(50):
            with pytest.raises(FeedUnavailable):
                await UpstoxRest(proxy.url, TOKEN).aauthorize()

    uvloop.run(ask())
    assert proxy.counts["refused"] >= 50
