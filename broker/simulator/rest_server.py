from __future__ import annotations
from collections.abc import Callable
from typing import Any
from starlette.requests import Request
from broker.simulator.market_port import Market


class RestServer:
    def __init__(self, market: Market) -> None:
        self._market = market

    def paths(self) -> dict[str, Callable[[Request], Any]]:
        return {}
