"""`dashboard/tradingok.js` in a real browser against a server that follows a script."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from queue import Queue
from socket import SHUT_RDWR
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.contrib.staticfiles import finders
from playwright.sync_api import Page
from websockets.http11 import Request, Response
from websockets.sync.server import Server, ServerConnection, serve

import dashboard
from marketdata.leases import CONNECTION_SECONDS
from tests.browser.conftest import OpenPage

MODULES = Path(dashboard.__file__).parent / "static/dashboard"
PAGE = "<!doctype html><title>client</title><link rel=icon href='data:,'>"

HELLO = {"event": "hello", "protocol": 1, "epoch": 7, "feed": {}, "market": {}, "time": 0}
SECONDS = 60.0
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html; charset=utf-8"}


def _response(connection: ServerConnection, text: str, kind: str, status: HTTPStatus = HTTPStatus.OK) -> Response:
    response = connection.respond(status, text)
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = kind
    return response


class ScriptedServer:
    """Greets each connection and keeps it; the test says what is sent and reads what came.

    Attributes:
        address: host and port, for the page and the WebSocket.
        opened: connections, in order.
        commands: what clients asked, in order.
        page: what every other path answers.
        answers: JSON by path, as REST gives it; what has none is not found under `/api/`.
    """

    def __init__(self) -> None:
        self.opened: Queue[ServerConnection] = Queue()
        self.commands: Queue[dict[str, Any]] = Queue()
        self.page = PAGE
        self.answers: dict[str, Any] = {}
        self._server: Server = serve(self._talk, "127.0.0.1", 0, process_request=self._answer, ping_interval=None)
        self.address = f"127.0.0.1:{self._server.socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer what is no WebSocket: the page's files, REST, and the page itself."""
        path = urlsplit(request.path).path
        if path == "/ws/market/":
            return None
        if path.startswith("/api/"):
            found = path in self.answers
            text = json.dumps(self.answers.get(path, {"detail": "not scripted"}))
            return _response(connection, text, "application/json", HTTPStatus.OK if found else HTTPStatus.NOT_FOUND)
        if path.startswith("/static/") or path.endswith(".js"):
            file = Path(str(finders.find(path.removeprefix("/static/")))) if path.startswith("/static/") else MODULES / path[1:]
            return _response(connection, file.read_text(), TYPES[file.suffix])
        return _response(connection, self.page, TYPES[".html"])

    def _talk(self, connection: ServerConnection) -> None:
        connection.send(json.dumps(HELLO))
        self.opened.put(connection)
        for text in connection:
            self.commands.put(json.loads(text))

    def connection(self) -> ServerConnection:
        """Wait for the next connection."""
        return self.opened.get(timeout=SECONDS)

    def command(self) -> dict[str, Any]:
        """Wait for the next command."""
        return self.commands.get(timeout=SECONDS)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(SECONDS)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    scripted = ScriptedServer()
    yield scripted
    scripted.close()


START = """async () => {
    const { connect } = await import("/tradingok.js");
    window.seen = [];
    window.feed = connect();
    const events = ["connection", "hello", "market:tick", "market:ohlc", "gap", "feed:status", "subscribe", "list", "bye", "error"];
    for (const event of events)
      feed.on(event, (value) => seen.push([event, value]));
}"""


@pytest.fixture
def page(open_page: OpenPage, server: ScriptedServer) -> Page:
    """A page with nothing but the module: `feed`, and all that it emitted in `seen`."""
    opened = open_page(f"http://{server.address}/")
    opened.evaluate(START)
    return opened


def seen(page: Page, event: str) -> list[Any]:
    found: list[Any] = page.evaluate("(event) => seen.filter(([name]) => name === event).map(([, value]) => value)", event)
    return found


def wait_seen(page: Page, event: str, count: int) -> list[Any]:
    page.wait_for_function("([event, count]) => seen.filter(([name]) => name === event).length >= count", arg=[event, count])
    return seen(page, event)


def ticks(*entries: list[Any]) -> str:
    return json.dumps({"event": "market:tick", "n": 1, "ticks": list(entries)})


def test_subscribing_before_the_greeting_asks_once_it_has_come(page: Page, server: ScriptedServer) -> None:
    page.evaluate("feed.subscribe(['A|1', 'id:5']).subscribe(['B|2'], 'ltpc')")
    server.connection()
    asked = [server.command(), server.command()]
    assert {(command["op"], command["mode"], *command["instruments"]) for command in asked} == {
        ("subscribe", "full", "A|1", "id:5"),
        ("subscribe", "ltpc", "B|2"),
    }
    assert all(isinstance(command["id"], int) for command in asked)


def test_a_quote_keeps_the_levels_that_did_not_change(page: Page, server: ScriptedServer) -> None:
    connection = server.connection()
    connection.send(ticks(["A|1", 1, {"last_price": 10.5, "depth": [[10, 1, 11, 2]]}]))
    connection.send(ticks(["A|1", 2, {"last_price": 10.75}]))
    assert wait_seen(page, "market:tick", 2)[1] == ["A|1", 2, {"last_price": 10.75, "depth": [[10, 1, 11, 2]]}]


def test_after_a_lost_connection_it_comes_back_and_subscribes_again(page: Page, server: ScriptedServer) -> None:
    page.evaluate("feed.subscribe(['A|1', 'A|2'])")
    first = server.connection()
    assert server.command()["instruments"] == ["A|1", "A|2"]
    page.evaluate("feed.unsubscribe(['A|2'])")
    assert server.command()["op"] == "unsubscribe"
    first.socket.shutdown(SHUT_RDWR)
    server.connection()
    assert server.command() == {"id": 3, "op": "subscribe", "instruments": ["A|1"], "mode": "full"}
    assert [value["state"] for value in seen(page, "connection")][-2:] == ["waiting", "connecting"]


def test_levels_from_before_a_reconnect_are_forgotten(page: Page, server: ScriptedServer) -> None:
    first = server.connection()
    first.send(ticks(["A|1", 9, {"last_price": 1, "depth": [[1, 1, 1, 1]]}]))
    wait_seen(page, "market:tick", 1)
    first.close(4001)
    server.connection().send(ticks(["A|1", 1, {"last_price": 2}]))
    assert wait_seen(page, "market:tick", 2)[1] == ["A|1", 1, {"last_price": 2}]


@pytest.mark.parametrize("code", [4101, 4103, 4105])
def test_a_refusal_is_final(page: Page, server: ScriptedServer, code: int) -> None:
    server.connection().close(code)
    page.wait_for_function("seen.some(([event, value]) => event === 'connection' && value.state === 'closed')")
    assert seen(page, "connection")[-1]["code"] == code
    page.wait_for_timeout(1500)  # longer than the first wait
    assert server.opened.empty()


def test_a_user_with_too_many_connections_is_tried_again_when_those_of_a_dead_server_are_forgotten(
    open_page: OpenPage, server: ScriptedServer
) -> None:
    opened = open_page(f"http://{server.address}/")
    opened.clock.install()
    opened.evaluate(START)
    connection = server.connection()
    connection.send(json.dumps({"event": "error", "id": None, "code": 406, "retry": True}))
    connection.close(4104)
    opened.wait_for_function("seen.some(([event, value]) => event === 'connection' && value.state === 'waiting')")
    told = seen(opened, "connection")[-1]
    assert told["code"] == 4104
    assert CONNECTION_SECONDS * 1000 <= told["wait"] <= CONNECTION_SECONDS * 1500
    assert server.opened.empty()
    opened.clock.fast_forward(round(told["wait"]))
    server.connection()


def test_a_bye_says_whether_to_come_back(page: Page, server: ScriptedServer) -> None:
    connection = server.connection()
    connection.send(json.dumps({"event": "bye", "code": 4000, "reconnect": False, "after_ms": None}))
    connection.close(4000)
    page.wait_for_function("seen.some(([event, value]) => event === 'connection' && value.state === 'closed')")


def test_a_bye_says_after_how_long_to_come_back(page: Page, server: ScriptedServer) -> None:
    connection = server.connection()
    connection.send(json.dumps({"event": "bye", "code": 4001, "reconnect": True, "after_ms": 2000}))
    connection.close(4001)
    page.wait_for_function("seen.some(([event, value]) => event === 'connection' && value.state === 'waiting')")
    assert 2000 <= seen(page, "connection")[-1]["wait"] <= 3000
    server.connection()


def test_waits_grow_until_data_comes_and_never_exceed_their_bound(page: Page, server: ScriptedServer) -> None:
    waits = []
    for number in range(3):
        server.connection().close(4000)  # a greeting, but no data
        page.wait_for_function(
            "(count) => seen.filter(([event, value]) => event === 'connection' && value.state === 'waiting').length > count", arg=number
        )
        waits.append(seen(page, "connection")[-1]["wait"])
    assert [low <= wait <= low * 1.5 for wait, low in zip(waits, (500, 1000, 2000), strict=True)] == [True] * 3
    connection = server.connection()
    connection.send(ticks(["A|1", 1, {"last_price": 1}]))
    wait_seen(page, "market:tick", 1)
    connection.close(4000)
    page.wait_for_function("seen.filter(([event, value]) => event === 'connection' && value.state === 'waiting').length === 4")
    assert 500 <= seen(page, "connection")[-1]["wait"] <= 750


def test_long_lists_are_asked_for_in_pieces(page: Page, server: ScriptedServer) -> None:
    server.connection()
    page.evaluate("feed.subscribe(Array.from({length: 1200}, (_, number) => `id:${number}`))")
    assert [len(server.command()["instruments"]) for _ in range(3)] == [500, 500, 200]


def test_channels_are_asked_for_and_again_after_a_reconnect_until_they_are_given_up(page: Page, server: ScriptedServer) -> None:
    page.evaluate("feed.subscribeChannels(['ohlc:1m:id:5', 'ohlc:1d:id:5'], 300)")
    first = server.connection()
    assert server.command() == {"id": 1, "op": "subscribe", "channels": ["ohlc:1m:id:5", "ohlc:1d:id:5"], "candles": 300}
    page.evaluate("feed.unsubscribeChannels(['ohlc:1d:id:5'])")
    assert server.command() == {"id": 2, "op": "unsubscribe", "channels": ["ohlc:1d:id:5"]}
    first.socket.shutdown(SHUT_RDWR)
    second = server.connection()
    assert server.command() == {"id": 3, "op": "subscribe", "channels": ["ohlc:1m:id:5"], "candles": 300}
    second.send(json.dumps({"event": "market:ohlc", "key": "A|1", "interval": "1m", "snapshot": True, "candles": []}))
    second.send(json.dumps({"event": "gap", "gap": "g1"}))
    wait_seen(page, "gap", 1)
    assert seen(page, "market:ohlc")[0]["snapshot"] is True


def test_closing_ends_it_for_good(page: Page, server: ScriptedServer) -> None:
    server.connection()
    page.evaluate("feed.close()")
    page.wait_for_function("seen.some(([event, value]) => event === 'connection' && value.state === 'closed')")


def test_pushes_and_replies_come_under_their_own_names(page: Page, server: ScriptedServer) -> None:
    page.evaluate("feed.list()")  # not connected: there is nobody to ask
    connection = server.connection()
    page.wait_for_function("seen.some(([event]) => event === 'hello')")
    page.evaluate("feed.list()")
    assert server.command() == {"id": 1, "op": "list"}
    connection.send(json.dumps({"event": "feed:status", "state": "stale"}))
    connection.send(json.dumps({"id": 1, "op": "list", "instruments": [], "channels": []}))
    connection.send(json.dumps({"event": "error", "id": 3, "code": 411}))
    wait_seen(page, "error", 1)
    assert seen(page, "feed:status")[0]["state"] == "stale"
    assert seen(page, "list")[0]["id"] == 1
