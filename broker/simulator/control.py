"""The simulator's own paths, which no broker has: /simulator/state (figures; `?keys` lists what is subscribed) and /simulator/faults."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from broker.simulator import faults as kinds
from broker.simulator.bodies import bounded_body
from broker.simulator.errors import ApiError

if TYPE_CHECKING:
    from broker.simulator.app import Exchange

BODY_BYTES = 65_536
FAULT = msgspec.json.Decoder(kinds.Fault)


def routes(exchange: Exchange) -> list[BaseRoute]:
    """The control paths of an exchange."""

    async def state(request: Request) -> Response:
        _check_local(request)
        if exchange.ledger is not None:
            exchange.ledger.flush()
        keys = {"subscribed_keys": sorted(exchange.feed.wanted())} if "keys" in request.query_params else {}
        return JSONResponse(figures(exchange) | keys)

    async def faults(request: Request) -> Response:
        _check_local(request)
        try:
            fault = FAULT.decode(await bounded_body(request, BODY_BYTES))
        except msgspec.DecodeError as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        inject(exchange, fault)
        return JSONResponse(figures(exchange))

    return [Route("/simulator/state", state), Route("/simulator/faults", faults, methods=["POST"])]


def _check_local(request: Request) -> None:
    """Programs of this machine only, and no web page (which sends an Origin). Raises ApiError 403."""
    host = request.client.host if request.client else ""
    if host not in ("127.0.0.1", "::1") or "origin" in request.headers:
        raise ApiError("UDAPI10000", status=403)


def figures(exchange: Exchange) -> dict[str, object]:
    """What the exchange has done so far; every figure counts from its start."""
    return exchange.feed.figures() | {
        "market_ms": exchange.market.now_ms(),
        "finished": exchange.market.finished() and exchange.feed.has_sent_all(),
        "requests": dict(sorted(exchange.requests.items())),
        "faults": dict(sorted(exchange.faults.happened.items())),
        "faults_injected": dict(sorted(exchange.faults.injected.items())),
    }


def inject(exchange: Exchange, fault: kinds.Fault) -> None:
    """Do one fault now, or bring it into force."""
    now = time.time()
    faults = exchange.faults
    match fault:
        case kinds.Lasting():
            faults.begin(fault, now)
        case kinds.Drop():
            faults.happen(fault, exchange.feed.drop(fault.connection))
        case kinds.Garbage():
            faults.happen(fault, exchange.feed.send_garbage(fault.count, fault.size))
        case kinds.TextFrame():
            faults.happen(fault, exchange.feed.send_text(fault.text))
        case kinds.ExpireToken():
            faults.expire_later(fault, now)
            exchange.expire_tokens()
        case kinds.Clear():
            faults.clear()
            exchange.access.restore()
    faults.injected[kinds.kind_of(fault)] += 1
