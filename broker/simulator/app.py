"""Composition of the exchange: one object that holds its parts, and the ASGI application with all its paths.

Rules live in the parts; here requests are parsed, one of them is called, and the answer is formatted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from broker.simulator import control, login_pages, master_file
from broker.simulator.clock import Clock
from broker.simulator.errors import ApiError, error_response, on_api_error, on_bug, on_unknown_path
from broker.simulator.faults import Faults, SpentCode
from broker.simulator.feed_server import FeedServer
from broker.simulator.ledger import Ledger
from broker.simulator.limits import RateLimits
from broker.simulator.login import Access
from broker.simulator.market_port import Market
from broker.simulator.rest_server import RestServer

FEED_PATH = "/market-data-feeder/v3/upstox-developer-api/feeds"
"""Path of an authorised socket. Source: FACTS §1."""
OPEN_APIS = ("/v3/historical-candle", "/v3/historical-candle/intraday", "/v2/market/holidays", "/v2/market/timings")
"""APIs that the official SDK calls without a token. Source: upstox-python-sdk 2.30.0, `auth_settings = []`, read 2026-11-22."""

log = logging.getLogger(__name__)


class Exchange:
    """All parts of one exchange."""

    def __init__(
        self,
        market: Market,
        access: Access,
        *,
        clock: Clock | None = None,
        ledger: Ledger | None = None,
        unpaced: bool = False,
        plus: bool = False,
    ) -> None:
        """Put an exchange together.

        Args:
            market: what it serves.
            access: who may talk to it.
            clock: of the market; None: the host's.
            ledger: where sent messages are written down.
            unpaced: a replay as fast as the clients read.
            plus: limits of the broker's Plus plan.
        """
        self.market, self.access, self.ledger = market, access, ledger
        self.faults = Faults()
        self.limits = RateLimits()
        self.requests: Counter[str] = Counter()
        self.feed = FeedServer(market, access, self.faults, clock=clock, ledger=ledger, unpaced=unpaced, plus=plus)
        self.rest = RestServer(market)
        self.feed.before_step = self.expire_tokens
        self.failure: BaseException | None = None
        self.on_failure: Callable[[], None] = lambda: None

    def user(self, request: Request | WebSocket, api: str) -> str:
        """The token of a request to this API, counted against the limits.

        Raises:
            ApiError: UDAPI100050 (401), UDAPI10005 (429).
        """
        self.requests[api] += 1
        now = time.time()
        token = self.access.bearer(request.headers.get("authorization"), now)
        self.limits.spend(token, api, now)
        return token

    def guest(self, request: Request, api: str) -> str:
        """The user of a request to an API that asks for no token: its address, where it has none. Raises as `user` does."""
        if "authorization" in request.headers:
            return self.user(request, api)
        self.requests[api] += 1
        user = request.client.host if request.client else ""
        self.limits.spend(user, api, time.time())
        return user

    def authorized_url(self, request: Request | WebSocket, token: str) -> str:
        """The address of one feed connection for this token, on the host that the client used."""
        code = self.access.issue_feed_code(token, time.time())
        scheme = "wss" if request.url.scheme in ("https", "wss") else "ws"
        return f"{scheme}://{request.url.netloc}{FEED_PATH}?requestId={code.partition('-')[0]}&code={code}"

    def expire_tokens(self) -> None:
        """End the tokens whose chosen time has come."""
        for fault in self.faults.expiries(time.time(), self.market.now_ms()):
            self.faults.happen(fault, self.access.revoke(fault.token))
            if fault.drop:
                self.feed.drop(token=fault.token)

    def _pump_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failure = error
            log.critical("the exchange's market failed", exc_info=error)
            self.on_failure()

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Run the pump while the server runs; close the ledger after it."""
        pump = asyncio.create_task(self.feed.pump())
        pump.add_done_callback(self._pump_ended)
        try:
            yield
        finally:
            pump.cancel()
            await asyncio.wait([pump])
            if self.ledger is not None:
                self.ledger.close()


Endpoint = Callable[[Request], Awaitable[Response]]


def create_app(exchange: Exchange) -> Starlette:
    """The ASGI application of an exchange."""
    routes: list[BaseRoute] = [
        *login_pages.routes(exchange.access, exchange.requests),
        Route("/v3/feed/market-data-feed/authorize", _authorize(exchange)),
        Route("/v3/feed/market-data-feed", _redirect(exchange)),
        WebSocketRoute("/v3/feed/market-data-feed", _redirect_socket(exchange)),
        WebSocketRoute(FEED_PATH, exchange.feed.serve),
        *(Route(path, _guarded(exchange, path, answer)) for path, answer in exchange.rest.paths().items()),
        *master_file.routes(exchange.market, exchange.requests),
        *control.routes(exchange),
    ]
    handlers: dict[Any, Any] = {ApiError: on_api_error, HTTPException: on_unknown_path, Exception: on_bug}
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=exchange.lifespan)


def _authorize(exchange: Exchange) -> Endpoint:
    async def authorize(request: Request) -> Response:
        token = exchange.user(request, "authorize")
        refusal = exchange.faults.refusal("authorize", time.time())
        if refusal is not None:
            return refusal
        url = exchange.authorized_url(request, token)
        if exchange.faults.take(SpentCode, time.time()) is not None:
            exchange.access.spend_feed_code(url.rpartition("code=")[2], time.time())
        return JSONResponse({"status": "success", "data": {"authorizedRedirectUri": url, "authorized_redirect_uri": url}})

    return authorize


def _redirect(exchange: Exchange) -> Endpoint:
    async def redirect(request: Request) -> Response:
        return RedirectResponse(exchange.authorized_url(request, exchange.user(request, "market-data-feed")), status_code=302)

    return redirect


def _redirect_socket(exchange: Exchange) -> Callable[[WebSocket], Awaitable[None]]:
    async def redirect_socket(websocket: WebSocket) -> None:
        try:
            token = exchange.user(websocket, "market-data-feed")
            response = exchange.faults.refusal("authorize", time.time())
        except ApiError as error:
            response = error_response(error)
        else:
            if response is None:
                response = RedirectResponse(exchange.authorized_url(websocket, token), status_code=302)
        await websocket.send_denial_response(response)

    return redirect_socket


def _guarded(exchange: Exchange, path: str, answer: Callable[[Request], Any]) -> Endpoint:
    api = path.split("/{")[0]
    admit = exchange.guest if api in OPEN_APIS else exchange.user

    async def endpoint(request: Request) -> Response:
        admit(request, api)
        return JSONResponse({"status": "success", "data": answer(request)})

    return endpoint
