"""Tries a running server end to end, as a client would: health, broker status, REST, a WebSocket subscription that delivers.

It knows the public contract (docs/client-protocol.md) and nothing of the server's inside.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from tradingok.findings import Finding, fail, ok, warn

WAIT_SECONDS = 20.0  # for a quote that moves
KEYS = ("NSE_INDEX|Nifty 50", "NSE_INDEX|Nifty Bank")  # followed by the default rules
MOVING_STATES = {"live"}
AT_REST_STATES = {"quiet", "closed"}
LOGS = "look into var/log/, and run `manage.py doctor`"


class Unexpected(Exception):
    """The server did not do what the contract says; the text says what it did."""


class SelfTest:
    """One run against one server.

    Args:
        url: the server's address, as in "http://127.0.0.1:8080".
        key: an API key.
        wait_seconds: how long a quote may take to move.
    """

    def __init__(self, *, url: str, key: str, wait_seconds: float = WAIT_SECONDS) -> None:
        self.url = url.rstrip("/")
        self.wait_seconds = wait_seconds
        self.headers = {"Authorization": f"Bearer {key}"}
        self.client = httpx.Client(base_url=self.url, headers=self.headers, timeout=10)
        self.feed_state = "unknown"
        self.keys = list(KEYS)

    def run(self) -> Iterator[Finding]:
        """Try everything. Stops early where nothing could follow. Gives each finding as soon as it is known."""
        steps: list[tuple[str, Callable[[], Finding]]] = [
            ("server", self._server),
            ("credentials", self._credentials),
            ("health", self._health),
            ("broker", self._broker),
            ("instruments", self._instruments),
            ("search", self._search),
            ("latest quotes", self._latest),
            ("tick history", self._history),
            ("websocket", self._websocket),
        ]
        with self.client:
            for what, step in steps:
                finding = self._try(what, step)
                yield finding
                if finding.level == "fail" and what in {"server", "credentials"}:
                    return

    def _try(self, what: str, step: Callable[[], Finding]) -> Finding:
        try:
            return step()
        except httpx.HTTPError as error:
            return fail(what, f"no answer from {self.url}: {error or type(error).__name__}", "is it running? `make run` starts it")
        except (OSError, WebSocketException, TimeoutError) as error:
            return fail(what, f"the connection failed: {error or type(error).__name__}", LOGS)
        except Unexpected as error:
            return fail(what, str(error), LOGS)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            return fail(what, f"an answer that the contract does not know: {type(error).__name__} {error}", LOGS)

    def _get(self, path: str, **parameters: Any) -> Any:
        response = self.client.get(f"/api/{path}", params=parameters)
        if response.status_code != 200:
            raise Unexpected(f"{response.status_code} for /api/{path}: {response.text[:200]}")
        return response.json()

    def _server(self) -> Finding:
        begun = time.monotonic()
        status = self.client.get("/api/health/live").status_code
        if status != 200:
            return fail("server", f"/api/health/live answers {status}", "is another program listening on this port?")
        return ok("server", f"{self.url} answers in {(time.monotonic() - begun) * 1000:.0f} ms")

    def _credentials(self) -> Finding:
        status = self.client.get("/api/health").status_code
        if status in {401, 403}:
            return fail(
                "credentials", f"the API key is refused ({status})", "make one: `manage.py apikey create NAME`, and give it with --key"
            )
        without = httpx.get(f"{self.url}/api/health", timeout=10).status_code
        if without not in {401, 403}:
            return fail("credentials", f"/api/health answers {without} without credentials", "is this TradingOK?")
        return ok("credentials", "the API key is accepted, its absence refused")

    def _health(self) -> Finding:
        health = self._get("health")
        parts = ", ".join(f"{name} {part['state']}" for name, part in health["components"].items())
        failed = [name for name, part in health["components"].items() if part["state"] not in {"ok", "unknown", "starting"}]
        return warn("health", parts, f"see `manage.py doctor` about {', '.join(failed)}") if failed else ok("health", parts)

    def _broker(self) -> Finding:
        status = self._get("broker-status")
        self.feed_state = status["state"]
        ticks = sum(shard["ticks_per_second"] for shard in status["shards"])
        text = f"feed {self.feed_state}, {ticks:.0f} ticks/s, data {status['data_age_ms']} ms old"
        if self.feed_state in MOVING_STATES | AT_REST_STATES:
            return ok("broker", text)
        way_out = "sign in to the broker: /admin/, or `manage.py brokerlogin`" if self.feed_state == "token_expired" else LOGS
        return fail("broker", f"{text}. {status['detail']}", way_out)

    def _instruments(self) -> Finding:
        followed = self._get("marketdata/instruments/", subscribed="true", limit=50)["results"]
        if not followed:
            return fail("instruments", "none is followed", "run `manage.py refresh_instruments`; see the subscription rules in /admin/")
        detail = self._get(f"marketdata/instruments/{followed[0]['key']}/")
        if detail["key"] != followed[0]["key"]:
            raise Unexpected(f"asked for {followed[0]['key']}, got {detail['key']}")
        self.keys = list(dict.fromkeys([*KEYS, *(row["key"] for row in followed)]))[:50]
        return ok("instruments", f"{followed[0]['key']} and more are followed")

    def _search(self) -> Finding:
        found = self._get("marketdata/instruments/search/", q="nifty fut")["results"]
        return ok("search", f"'nifty fut' finds {len(found)}") if found else fail("search", "'nifty fut' finds nothing", LOGS)

    def _latest(self) -> Finding:
        rows = self._get("marketdata/ticks/latest/", instruments=",".join(self.keys))["results"]
        priced = [row for row in rows if row["quote"]["last_price"]]
        if not priced:
            return fail("latest quotes", f"no price for any of {len(self.keys)} instruments", LOGS)
        first = priced[0]
        self.keys = [row["key"] for row in priced]
        return ok("latest quotes", f"{len(priced)} have a price: {first['key']} {first['quote']['last_price']}")

    def _history(self) -> Finding:
        rows = self._get("marketdata/ticks/", instrument=self.keys[0], limit=5)["results"]
        if not rows:
            return fail("tick history", f"no tick of {self.keys[0]} is stored", LOGS)
        return ok("tick history", f"{self.keys[0]} {rows[0]['last_price']} is stored")

    def _websocket(self) -> Finding:
        parts = urlsplit(self.url)
        address = f"{'wss' if parts.scheme == 'https' else 'ws'}://{parts.netloc}/ws/market/"
        with connect(address, additional_headers=self.headers, open_timeout=10, close_timeout=2, ping_interval=None) as socket:
            hello = json.loads(socket.recv(timeout=10))
            if hello.get("event") != "hello":
                raise Unexpected(f"the first frame is {hello}")
            socket.send(json.dumps({"op": "subscribe", "id": 1, "instruments": self.keys, "mode": "ltpc"}))
            return self._watch(socket)

    def _watch(self, socket: ClientConnection) -> Finding:
        """Wait for an instrument whose price comes twice and differs."""
        begun = time.monotonic()
        first: dict[str, float | None] = {}
        while (left := begun + self.wait_seconds - time.monotonic()) > 0:
            try:
                message = json.loads(socket.recv(timeout=left))
            except TimeoutError:
                break
            if message.get("event") == "error":
                raise Unexpected(str(message))
            for key, _seq, quote in message.get("ticks", ()):
                price = quote["last_price"]
                if (before := first.setdefault(key, price)) != price:
                    return ok("websocket", f"{key} moves: {before} → {price} within {time.monotonic() - begun:.1f} s")
        if not first:
            return fail("websocket", f"no quote of {len(self.keys)} instruments in {self.wait_seconds:.0f} s", LOGS)
        if self.feed_state in AT_REST_STATES:
            return warn("websocket", f"quotes come, but none moves: the market is {self.feed_state}", "try again in market hours")
        return fail("websocket", f"quotes of {len(first)} instruments came, but none moved in {self.wait_seconds:.0f} s", LOGS)
