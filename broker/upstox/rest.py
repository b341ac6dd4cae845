"""The broker's REST API over HTTP: what the feed and the tasks fetch. It reads no setting and keeps no state but its connection.

Never in here: a token in a log line, an error or a representation; a redirect followed (the token would follow); TLS left unverified.
Failures are the errors of `broker.upstox.protocol`, and nothing else.
"""

from __future__ import annotations

import asyncio
import time
from datetime import date
from email.utils import parsedate_to_datetime
from functools import cached_property
from types import TracebackType
from typing import Any, NamedTuple, Self

import httpx

from broker.upstox import option_chain, protocol
from broker.upstox.protocol import AuthExpired, Bars, BrokerError, FeedRefused, FeedUnavailable, Login, ProtocolViolation, SegmentReport

CONNECT_SECONDS = 5.0
READ_SECONDS = 10.0
TOTAL_SECONDS = 30.0
"""One whole request and answer; a server that drips bytes is cut here."""
MAX_BODY_BYTES = 16 * 1024 * 1024
"""Largest answer read; a month of 1-minute candles is about 0.6 MB."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Answer(NamedTuple):
    """An HTTP answer, read whole."""

    status: int
    body: bytes
    retry_after: str | None


class UpstoxRest:
    """A client of one account. Use it as a context manager, or `close()` it, after synchronous calls.

    Args:
        base_url: scheme and host, without a path.
        token: access or analytics token; "" for the calls that need none (login).
    """

    def __init__(self, base_url: str, token: str = "") -> None:
        self._base_url = base_url.rstrip("/")
        self._token = token
        self.answered_ms = 0
        """The broker's clock when it last answered a synchronous call, ms UTC, whole seconds; 0 where it did not say."""

    def __repr__(self) -> str:
        return f"UpstoxRest({self._base_url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. May be called twice; a later call opens a new one."""
        client = self.__dict__.pop("_client", None)
        if client is not None:
            client.close()

    # --- the feed -----------------------------------------------------------------------------------------------------

    async def aauthorize(self) -> str:
        """Return a WebSocket address that works once, for about a minute. Ask before every connect.

        Raises:
            AuthExpired: the token is not accepted; do not retry with it.
            RateLimited: wait `retry_after` seconds.
            FeedRefused, FeedUnavailable, ProtocolViolation: retry unless `permanent`.
        """
        content = self._content(await self._aget(protocol.AUTHORIZE_PATH))
        return protocol.parse_authorized_url(content)

    # --- login --------------------------------------------------------------------------------------------------------

    def login(self, *, code: str, client_id: str, client_secret: str, redirect_uri: str) -> Login:
        """Change the code of a sign-in into a token. The code is spent even when this fails: start again at the dialog.

        Raises:
            BrokerError: refused or unreachable.
        """
        form = protocol.token_form(code=code, client_id=client_id, client_secret=client_secret, redirect_uri=redirect_uri)
        answer = self._send("POST", protocol.TOKEN_PATH, form=form, with_token=False)
        return protocol.parse_login(answer.status, answer.body, answer.retry_after)

    def logout(self) -> None:
        """End the token's life at the broker.

        Raises:
            BrokerError: refused or unreachable; AuthExpired when it was dead already.
        """
        self._content(self._send("DELETE", protocol.LOGOUT_PATH))

    # --- the market ---------------------------------------------------------------------------------------------------

    def market_status(self, exchange: str) -> SegmentReport:
        """Return one exchange's state ("NSE", "NFO", "BSE", "MCX"…)."""
        return protocol.parse_market_status(self._get(protocol.market_status_path(exchange)))

    def holidays(self, day: date | None = None) -> list[dict[str, Any]]:
        """Return the current year's holidays, or what `day` is; empty for an ordinary day."""
        return _objects(self._get(protocol.holidays_path(day)))

    def timings(self, day: date) -> list[dict[str, Any]]:
        """Return the sessions of `day`: exchange, start_time and end_time in ms UTC; empty on a holiday."""
        return _objects(self._get(protocol.timings_path(day)))

    def historical_bars(self, key: str, unit: str, interval: int, *, first: date, last: date) -> Bars:
        """Return finished candles of past days, oldest first. At most a month of minutes a call; today's come from `intraday_bars`."""
        return protocol.parse_bars(self._get(protocol.historical_path(key, unit, interval, first=first, last=last)))

    def intraday_bars(self, key: str, unit: str, interval: int) -> Bars:
        """Return today's candles, oldest first; the last one is still forming."""
        return protocol.parse_bars(self._get(protocol.intraday_path(key, unit, interval)))

    def previous_interest(self, underlying_key: str, expiry: date) -> dict[str, float]:
        """Return key → open interest at the end of the trading day before, units, of all options of one expiry."""
        return option_chain.parse_previous_interest(self._get(option_chain.option_chain_path(underlying_key, expiry)))

    # --- HTTP ---------------------------------------------------------------------------------------------------------

    @property
    def _options(self) -> dict[str, Any]:
        """A proxy of the environment is for the outside world: never for loopback."""
        return {
            "base_url": self._base_url,
            "timeout": httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
            "follow_redirects": False,
            "trust_env": httpx.URL(self._base_url).host not in LOOPBACK,
            "headers": {"Accept": "application/json", "User-Agent": "TradingOK"},
        }

    @cached_property
    def _client(self) -> httpx.Client:
        return httpx.Client(**self._options)

    def _headers(self) -> dict[str, str]:
        if not self._token or not self._token.isascii() or not self._token.isprintable() or " " in self._token:
            raise AuthExpired("there is no usable token")
        return {"Authorization": f"Bearer {self._token}"}

    def _get(self, path: str) -> Any:
        return self._content(self._send("GET", path))

    @staticmethod
    def _content(answer: Answer) -> Any:
        return protocol.parse_envelope(answer.status, answer.body, answer.retry_after)

    def _send(self, method: str, path: str, *, form: dict[str, str] | None = None, with_token: bool = True) -> Answer:
        headers = self._headers() if with_token else {}
        deadline = time.monotonic() + TOTAL_SECONDS
        try:
            with self._client.stream(method, path, data=form, headers=headers) as response:
                body = bytearray()
                for part in response.iter_bytes():
                    body += part
                    _check_size(len(body))
                    if time.monotonic() > deadline:
                        raise FeedUnavailable(f"the broker took more than {TOTAL_SECONDS:.0f} s to answer")
                self.answered_ms = _date_ms(response.headers.get("Date", ""))
                return Answer(response.status_code, bytes(body), response.headers.get("Retry-After"))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from None

    async def _aget(self, path: str) -> Answer:
        headers = self._headers()
        try:
            async with (
                asyncio.timeout(TOTAL_SECONDS),
                httpx.AsyncClient(**self._options) as client,
                client.stream("GET", path, headers=headers) as response,
            ):
                body = bytearray()
                async for part in response.aiter_bytes():
                    body += part
                    _check_size(len(body))
                return Answer(response.status_code, bytes(body), response.headers.get("Retry-After"))
        except TimeoutError:
            raise FeedUnavailable(f"the broker took more than {TOTAL_SECONDS:.0f} s to answer") from None
        except (httpx.HTTPError, httpx.InvalidURL, AttributeError) as error:  # AttributeError: anyio, of a socket reset on connect (uvloop)
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> BrokerError:
        """Say what failed. The error's own text is used for connections only: others can quote a header."""
        if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
            return FeedRefused(f"{self._base_url!r} is not an address that can be asked", True)
        host = httpx.URL(self._base_url).netloc.decode()
        if isinstance(error, httpx.ConnectError):
            return FeedUnavailable(f"cannot connect to {host}: {error}")
        if isinstance(error, httpx.TimeoutException):
            return FeedUnavailable(f"{host} did not answer in time")
        return FeedUnavailable(f"the connection to {host} failed ({type(error).__name__})")


def _date_ms(header: str) -> int:
    try:
        return round(parsedate_to_datetime(header).timestamp() * 1000)
    except (ValueError, TypeError, OverflowError):
        return 0


def _check_size(size: int) -> None:
    if size > MAX_BODY_BYTES:
        raise ProtocolViolation(f"the broker's answer is larger than {MAX_BODY_BYTES} bytes")


def _objects(content: Any) -> list[dict[str, Any]]:
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise ProtocolViolation("the broker's answer is not a list of objects")
    return content
