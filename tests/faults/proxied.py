"""A system whose feed reaches the exchange through the proxy only, and what the scenarios of the broker's faults look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.fakes.proxy import TcpProxy
from tests.faults.system import System
from tradingok import ports


class ProxiedSystem(System):
    """As System.

    Attributes:
        proxy: between feed and exchange, REST and WebSocket both.
    """

    def __init__(self, var: Path, *exchange_arguments: str, **environment: str) -> None:
        port = ports.choose()
        self.proxy = TcpProxy(f"http://127.0.0.1:{port}")
        super().__init__(var, "--port", str(port), *exchange_arguments, TRADINGOK_EXCHANGE_URL=self.proxy.url, **environment)

    def stop(self) -> None:
        super().stop()
        self.proxy.stop()

    # --- the exchange's own figures ---------------------------------------------------------------------------------------

    def happened(self, kind: str) -> int:
        """How often a fault has happened, by the exchange's own counter."""
        return int(self.exchange.state()["faults"].get(kind, 0))

    def inject(self, kind: str, times: int = 0, **options: Any) -> int:
        """Inject a fault and wait until it has happened `times` more; returns how often that was."""
        before = self.happened(kind)
        self.exchange.fault(kind=kind, **options)
        self.wait_for(lambda: self.happened(kind) >= before + times)
        return self.happened(kind) - before

    def opened(self) -> int:
        """Feed connections that the exchange has opened in all."""
        return int(self.exchange.state()["counts"].get("connections_opened_total", 0))

    def authorised(self) -> int:
        """Authorise calls that reached the exchange, refused ones included."""
        return int(self.exchange.state()["requests"].get("authorize", 0))

    def is_reconnected(self, opened: int) -> bool:
        """Whether there were more connections than these, and the feed is live on the newest."""
        return self.opened() > opened and self.is_live() and bool(self.exchange.state()["connections"])

    def begin_authorise_windows(self) -> None:
        """Start the feed anew without its record of authorise calls, so that a scenario need not wait for what others have used."""
        self.feed.stop()
        for file in self.var.rglob("authorize.json"):
            file.unlink()
        self.feed.start()
        self.wait_for(self.is_live)
