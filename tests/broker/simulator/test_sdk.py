"""The official SDK (PyPI upstox-python-sdk 2.30.0) works against the exchange; only addresses are replaced.

Its feeder writes its URL down in the code, so the test replaces that one argument of `websocket.WebSocketApp`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import upstox_client
import websocket
from upstox_client.rest import ApiException

from tests.fakes.exchange import RunningExchange, StartExchange, start_exchange  # noqa: F401

INDEX, BANK = "NSE_INDEX|Nifty 50", "NSE_INDEX|Nifty Bank"
BROKER_FEED = "wss://api.upstox.com/v3/feed/market-data-feed"


def configured(exchange: RunningExchange) -> upstox_client.ApiClient:
    """The SDK's client, pointed at the exchange."""
    configuration = upstox_client.Configuration()
    configuration.host = exchange.url
    configuration.access_token = exchange.token
    return upstox_client.ApiClient(configuration)


@pytest.fixture
def exchange(start_exchange: StartExchange) -> RunningExchange:  # noqa: F811
    return start_exchange("--seed", "5")


class Streamed:
    """A running MarketDataStreamerV3 and what it told."""

    def __init__(self, streamer: Any) -> None:
        self.streamer = streamer
        self.messages: list[dict[str, Any]] = []
        self.opened = threading.Event()
        self.closed = threading.Event()
        self.errors: list[object] = []
        streamer.on("open", self.opened.set)
        streamer.on("message", self.messages.append)
        streamer.on("error", self.errors.append)
        streamer.on("close", lambda *_: self.closed.set())

    def wait_for(self, holds: Callable[[dict[str, Any]], bool], since: int = 0, seconds: float = 60) -> dict[str, Any]:
        """The first message from number `since` on that `holds`. Raises AssertionError."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for message in self.messages[since:]:
                if holds(message):
                    return message
            time.sleep(0.02)
        raise AssertionError(f"not among {len(self.messages)} messages; errors: {self.errors}")


@pytest.fixture(scope="module")
def ending() -> Iterator[list[Streamed]]:
    """Streamers that were asked to end: all are waited for together, since the SDK looks every ten seconds whether it is to end."""
    asked: list[Streamed] = []
    yield asked
    for streamed in asked:
        assert streamed.closed.wait(60)


@pytest.fixture
def stream(exchange: RunningExchange, monkeypatch: pytest.MonkeyPatch, ending: list[Streamed]) -> Iterator[Callable[..., Streamed]]:
    real, running = websocket.WebSocketApp, []

    def redirected(url: str, *arguments: Any, **options: Any) -> Any:
        assert url == BROKER_FEED
        return real(exchange.url.replace("http", "ws", 1) + "/v3/feed/market-data-feed", *arguments, **options)

    monkeypatch.setattr(websocket, "WebSocketApp", redirected)

    def start(keys: list[str], mode: str, client: upstox_client.ApiClient | None = None) -> Streamed:
        streamed = Streamed(upstox_client.MarketDataStreamerV3(client or configured(exchange), keys, mode))
        running.append(streamed)
        streamed.streamer.connect()
        return streamed

    yield start
    for streamed in running:
        streamed.streamer.auto_reconnect(False)
        if streamed.streamer.feeder.ws.sock:
            streamed.streamer.disconnect()
            ending.append(streamed)


def feed_of(message: dict[str, Any], key: str) -> dict[str, Any]:
    found: dict[str, Any] = message.get("feeds", {}).get(key, {})
    return found


def test_streamer_receives_snapshot_and_live_frames_in_full_mode(exchange: RunningExchange, stream: Callable[..., Streamed]) -> None:
    contracts = exchange.get("/v2/option/contract", instrument_key=INDEX).json()["data"]
    expiry = sorted({each["expiry"] for each in contracts})[1]  # not the nearest, nor far from the money: none of its greeks is 0
    (spot,) = exchange.get("/v3/market-quote/ltp", instrument_key=INDEX).json()["data"].values()
    chain = [each for each in contracts if each["expiry"] == expiry]
    option = min(chain, key=lambda each: abs(each["strike_price"] - spot["last_price"]))["instrument_key"]
    streamed = stream([INDEX, option], "full")
    assert streamed.opened.wait(60)
    snapshot = streamed.wait_for(lambda message: {INDEX, option} <= message.get("feeds", {}).keys())
    assert streamed.messages[0]["type"] == "market_info"
    assert streamed.messages[0]["marketInfo"]["segmentStatus"]["NSE_FO"] == "NORMAL_OPEN"
    assert "type" not in snapshot  # initial_feed is 0 and vanishes, as with the broker
    market = feed_of(snapshot, option)["fullFeed"]["marketFF"]
    assert len(market["marketLevel"]["bidAskQuote"]) == 5
    assert market["optionGreeks"].keys() >= {"delta", "theta", "gamma", "vega"}
    assert {candle["interval"] for candle in market["marketOHLC"]["ohlc"]} == {"1d", "I1"}
    assert 0 < market["iv"] < 5
    live = streamed.wait_for(lambda message: message.get("type") == "live_feed" and bool(feed_of(message, INDEX)))
    assert feed_of(live, INDEX)["requestMode"] == "full_d5"
    assert feed_of(live, INDEX)["fullFeed"]["indexFF"]["ltpc"]["ltp"] > 0
    assert int(live["currentTs"]) >= int(feed_of(live, INDEX)["fullFeed"]["indexFF"]["ltpc"]["ltt"])


def test_streamer_changes_mode_and_unsubscribes(exchange: RunningExchange, stream: Callable[..., Streamed]) -> None:
    streamed = stream([INDEX], "full")
    streamed.wait_for(lambda message: "fullFeed" in feed_of(message, INDEX))
    mark = len(streamed.messages)
    streamed.streamer.change_mode([INDEX], "ltpc")
    changed = streamed.wait_for(lambda message: "ltpc" in feed_of(message, INDEX), since=mark)
    assert "requestMode" not in feed_of(changed, INDEX)  # ltpc is 0
    streamed.streamer.subscribe([BANK], "option_greeks")
    streamed.wait_for(lambda message: bool(feed_of(message, BANK)), since=mark)
    streamed.streamer.unsubscribe([INDEX])
    exchange.wait_for(lambda state: state["subscribed"] == 1)
    mark = len(streamed.messages)
    streamed.wait_for(lambda message: bool(feed_of(message, BANK)), since=mark)
    assert not any(feed_of(message, INDEX) for message in streamed.messages[mark:])


def test_streamer_does_not_reconnect_on_a_refused_token(exchange: RunningExchange, stream: Callable[..., Streamed]) -> None:
    client = configured(exchange)
    client.configuration.access_token = "wrong"
    streamed = stream([INDEX], "full", client)
    deadline = time.monotonic() + 20
    while not streamed.errors and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "401 Unauthorized" in str(streamed.errors[0])
    assert streamed.streamer.disconnect_valid is True


def test_sdk_reads_rest(exchange: RunningExchange) -> None:
    client = configured(exchange)
    quotes = upstox_client.MarketQuoteV3Api(client)
    last = quotes.get_ltp(instrument_key=f"{INDEX},{BANK}").data
    assert last["NSE_INDEX:Nifty 50"].instrument_token == INDEX
    assert last["NSE_INDEX:Nifty 50"].last_price > 0
    bars = quotes.get_market_quote_ohlc("1d", instrument_key=INDEX).data["NSE_INDEX:Nifty 50"]
    assert bars.live_ohlc.low <= bars.live_ohlc.close <= bars.live_ohlc.high
    contracts = upstox_client.OptionsApi(client).get_option_contracts(INDEX).data
    expiry = min(contract.expiry for contract in contracts)
    chain = upstox_client.OptionsApi(client).get_put_call_option_chain(INDEX, f"{expiry:%Y-%m-%d}").data
    assert len({line.strike_price for line in chain}) == len(chain) > 10
    assert 1 < chain[len(chain) // 2].call_options.option_greeks.iv < 300  # percent
    today = upstox_client.HistoryV3Api(client).get_intra_day_candle_data(INDEX, "minutes", "1").data.candles
    assert [row[0] for row in today] == sorted((row[0] for row in today), reverse=True)
    assert upstox_client.MarketHolidaysAndTimingsApi(client).get_market_status("NSE").data.status == "NORMAL_OPEN"
    uri = upstox_client.WebsocketApi(client).get_market_data_feed_authorize_v3().data.authorized_redirect_uri
    assert uri.startswith("ws://127.0.0.1:")


def test_sdk_reads_an_error_envelope(exchange: RunningExchange) -> None:
    with pytest.raises(ApiException) as caught:
        upstox_client.MarketQuoteV3Api(configured(exchange)).get_ltp(instrument_key="NSE_FO|none")
    assert caught.value.status == 400
    assert b"UDAPI1087" in caught.value.body
