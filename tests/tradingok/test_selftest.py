"""`selftest` against a scripted server that keeps, or breaks, the contract. The real server is tried in test_up."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from tests.tradingok.embedded_runs import until
from tradingok import ports
from tradingok.findings import Level, verdict
from tradingok.selftest import SelfTest

KEY = "NSE_INDEX|Nifty 50"
GOOD: dict[str, Any] = {
    "health/live": {"state": "live"},
    "health": {"state": "starting", "time": 1, "components": {"mongodb": {"state": "ok"}, "worker": {"state": "starting"}}},
    "broker-status": {"state": "live", "data_age_ms": 5, "detail": "", "shards": [{"ticks_per_second": 1600.0}]},
    "marketdata/instruments/": {"results": [{"key": KEY}]},
    f"marketdata/instruments/{KEY}/": {"key": KEY},
    "marketdata/instruments/search/": {"results": [{"key": "NSE_FO|1"}]},
    "marketdata/ticks/latest/": {"results": [{"key": KEY, "quote": {"last_price": 1.0}}]},
    "marketdata/ticks/": {"results": [{"last_price": 1.0}]},
}
HELLO = {"event": "hello"}
MOVING = [
    HELLO,
    {"event": "market:tick", "ticks": [[KEY, 1, {"last_price": 1.0}]]},
    {"event": "market:tick", "ticks": [[KEY, 2, {"last_price": 2.0}]]},
]


@contextmanager
def serving(answers: dict[str, Any], frames: list[Any]) -> Iterator[str]:
    """A server that gives `answers` by path (a number is a status), and `frames` to a WebSocket client. Gives its address."""

    async def answer(request: Request) -> Response:
        content = answers.get(request.path_params["path"], 404)
        if request.path_params["path"] == "health" and "authorization" not in request.headers:
            content = answers.get("without credentials", 401)
        return JSONResponse({}, status_code=content) if isinstance(content, int) else JSONResponse(content)

    async def push(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_json(frames[0])
        await websocket.receive_text()
        for frame in frames[1:]:
            await websocket.send_json(frame)
        with contextlib.suppress(WebSocketDisconnect):
            await websocket.receive_text()

    port = ports.choose()
    routes = [WebSocketRoute("/ws/market/", push), Route("/api/{path:path}", answer)]
    options: dict[str, Any] = {"port": port, "log_config": None, "lifespan": "off", "timeout_graceful_shutdown": 0}
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), **options))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started, "the scripted server runs")
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)


def tried(answers: dict[str, Any], frames: list[Any], wait: float = 1.0) -> dict[str, tuple[Level, str]]:
    """What selftest found, by what it looked at."""
    with serving(answers, frames) as url:
        findings = list(SelfTest(url=url, key="tok_x", wait_seconds=wait).run())
    return {finding.what: (finding.level, f"{finding.text} → {finding.way_out}") for finding in findings}


def test_a_server_that_keeps_the_contract_passes() -> None:
    found = tried(GOOD, MOVING)
    assert {level for level, _ in found.values()} == {Level.OK}
    assert "1.0 → 2.0" in found["websocket"][1]
    assert len(found) == 9


@pytest.mark.parametrize(
    ("path", "answer", "what", "words"),
    [
        ("health/live", 502, "server", "another program"),
        ("health", 401, "credentials", "apikey create"),
        ("without credentials", 200, "credentials", "without credentials"),
        ("health", {"components": 1}, "health", "contract does not know"),
        ("broker-status", 500, "broker", "500 for /api/broker-status"),
        ("broker-status", {"state": "token_expired", "data_age_ms": 1, "detail": "", "shards": []}, "broker", "sign in to the broker"),
        ("broker-status", {"state": "reconnecting", "data_age_ms": None, "detail": "No route.", "shards": []}, "broker", "No route."),
        ("marketdata/instruments/", {"results": []}, "instruments", "none is followed"),
        (f"marketdata/instruments/{KEY}/", {"key": "other"}, "instruments", "asked for"),
        ("marketdata/instruments/search/", {"results": []}, "search", "finds nothing"),
        ("marketdata/ticks/latest/", {"results": [{"key": KEY, "quote": {"last_price": None}}]}, "latest quotes", "no price"),
        ("marketdata/ticks/", {"results": []}, "tick history", "no tick"),
    ],
)
def test_each_broken_answer_is_a_finding_of_its_own(path: str, answer: Any, what: str, words: str) -> None:
    found = tried({**GOOD, path: answer}, MOVING)
    assert [name for name, (level, _) in found.items() if level == Level.FAIL] == [what]
    assert words in found[what][1]


STILL = {"event": "market:tick", "ticks": [[KEY, 1, {"last_price": 1.0}]]}


@pytest.mark.parametrize(
    ("frames", "state", "level", "words"),
    [
        ([HELLO, STILL, STILL], "live", Level.FAIL, "none moved"),
        ([HELLO, STILL, STILL], "closed", Level.WARN, "market is closed"),
        ([HELLO], "live", Level.FAIL, "no quote"),
        ([{"event": "error", "code": 406}], "live", Level.FAIL, "406"),
        ([HELLO, {"event": "error", "code": 405}], "live", Level.FAIL, "405"),
        ([HELLO, []], "live", Level.FAIL, "contract does not know"),
    ],
)
def test_a_stream_that_does_not_move_is_told_from_a_market_at_rest(frames: list[Any], state: str, level: Level, words: str) -> None:
    found = tried({**GOOD, "broker-status": {**GOOD["broker-status"], "state": state}}, frames)
    assert found["websocket"][0] == level
    assert words in found["websocket"][1]


def test_no_server_is_one_finding_that_says_how_to_start_it() -> None:
    findings = list(SelfTest(url=f"http://127.0.0.1:{ports.choose()}", key="x").run())
    assert [finding.level for finding in findings] == [Level.FAIL]
    assert "make run" in findings[0].way_out
    assert verdict(findings) == ("1 of 1 failed", 1)
