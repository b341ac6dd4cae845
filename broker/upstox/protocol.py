"""The broker's REST and feed protocol as plain data: paths, request frames, envelopes, errors, the life of a token. Pure.

No socket, no clock, no setting in here: bytes and numbers come in, values and errors go out. A token is never part of a message.

    BrokerError(message, permanent)      permanent: trying the same again cannot help
    ├── AuthExpired                      the token is not, or no longer, accepted; resumes with another token
    ├── RateLimited(retry_after)         slow down for `retry_after` seconds
    ├── FeedRefused                      the broker said no: a wrong request (permanent), or a limit or block (not)
    ├── FeedUnavailable                  nobody answered, or a server's own failure
    └── ProtocolViolation                an answer that the protocol does not know
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from marketdata.domain.candle import day_start_ms

AUTHORIZE_PATH = "/v3/feed/market-data-feed/authorize"
DIALOG_PATH = "/v2/login/authorization/dialog"
TOKEN_PATH = "/v2/login/authorization/token"  # noqa: S105 - a path
LOGOUT_PATH = "/v2/logout"
METHODS = ("sub", "change_mode", "unsub")
MODES = ("ltpc", "option_greeks", "full", "full_d30")
TOKEN_DEATH_MS = (3 * 60 + 30) * 60_000
"""Offset in the IST day at which access tokens die: 03:30 · Source: Upstox documentation, get-token, June 2026."""
DAY_MS = 86_400_000
LONGEST_TOKEN_MS = 400 * DAY_MS
"""An analytics token lives a year; an `exp` later than this is not believed."""
RETRY_AFTER_SECONDS = 60.0
"""Pause after a 429 that names none (the broker documents none). The binding limit is 2,000 calls in 30 minutes."""
LONGEST_RETRY_SECONDS = 1800.0

AUTH_CODES = frozenset({"UDAPI100050", "UDAPI100016", "UDAPI100067", "UDAPI100073"})
"""Invalid token, invalid credentials, extended token not allowed, client inactive · Source: FACTS §2.3."""
RATE_CODES = frozenset({"UDAPI10005"})
SERVER_CODES = frozenset({"UDAPI100500"})


class BrokerError(Exception):
    """What went wrong between the broker and us.

    Attributes:
        message: for a person; no token in it.
        permanent: trying the same request again cannot help.
        code: the broker's code (`UDAPI100050`), or "".
        status: the HTTP status, 0 where there was none.
    """

    def __init__(self, message: str, permanent: bool, *, code: str = "", status: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.permanent = permanent
        self.code = code
        self.status = status

    def __str__(self) -> str:
        marks = " ".join(mark for mark in (f"HTTP {self.status}" if self.status else "", self.code) if mark)
        return f"{self.message} ({marks})" if marks else self.message


class AuthExpired(BrokerError):
    """The token is not accepted. Permanent: another token is needed."""

    def __init__(self, message: str, permanent: bool = True, *, code: str = "", status: int = 0) -> None:
        super().__init__(message, permanent, code=code, status=status)


class RateLimited(BrokerError):
    """Too many requests. `retry_after`: seconds to wait, 1–1800."""

    def __init__(
        self, message: str, permanent: bool = False, *, retry_after: float = RETRY_AFTER_SECONDS, code: str = "", status: int = 0
    ) -> None:
        super().__init__(message, permanent, code=code, status=status)
        self.retry_after = retry_after


class FeedRefused(BrokerError):
    """The broker understood and said no."""


class FeedUnavailable(BrokerError):
    """Nobody answered, or the server failed. Worth a retry."""

    def __init__(self, message: str, permanent: bool = False, *, code: str = "", status: int = 0) -> None:
        super().__init__(message, permanent, code=code, status=status)


class ProtocolViolation(BrokerError):
    """An answer that is not what the protocol says."""

    def __init__(self, message: str, permanent: bool = False, *, code: str = "", status: int = 0) -> None:
        super().__init__(message, permanent, code=code, status=status)


class SegmentReport(NamedTuple):
    """The state of one exchange as REST tells it.

    Attributes:
        exchange: "NSE", "NFO", "MCX"…
        status: "NORMAL_OPEN", "NORMAL_CLOSE", …
        updated_ms: broker's time of the last change, ms UTC.
    """

    exchange: str
    status: str
    updated_ms: int


class Bar(NamedTuple):
    """One candle of the broker's REST.

    Attributes:
        start_ms: ms UTC.
        open, high, low, close: INR.
        volume: units.
        open_interest: units; 0 for what has none.
    """

    start_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: int
    open_interest: float


class Bars(NamedTuple):
    """The candles of one answer, oldest first; `odd`: rows that were none (a negative volume, no number, no time)."""

    bars: list[Bar]
    odd: int


class Login(NamedTuple):
    """The answer to a code: `user_id` is the broker's client code, `token` the access token (a secret)."""

    user_id: str
    token: str

    def __repr__(self) -> str:
        return f"Login(user_id={self.user_id!r}, token=…)"


# --- requests ---------------------------------------------------------------------------------------------------------


def subscribe_frame(guid: str, method: str, mode: str, keys: Sequence[str]) -> bytes:
    """Return a feed request. Send it as a BINARY frame: a text frame is silently ignored by the broker.

    Args:
        guid: unique within the connection; the broker never echoes it.
        method: one of METHODS.
        mode: one of MODES; left out for "unsub".
        keys: instrument keys.

    Raises:
        ValueError: an unknown method or mode. `full_d5` is a response's word and is silently refused by the broker.
    """
    if method not in METHODS:
        raise ValueError(f"{method!r} is not one of {METHODS}")
    content: dict[str, Any] = {"instrumentKeys": list(keys)}
    if method != "unsub":
        if mode not in MODES:
            raise ValueError(f"{mode!r} is not one of {MODES}")
        content = {"mode": mode, **content}
    return json.dumps({"guid": guid, "method": method, "data": content}, separators=(",", ":")).encode()


def login_dialog_url(base_url: str, *, client_id: str, redirect_uri: str, state: str) -> str:
    """Return the address at which a person signs in. `state` comes back with the code and must be compared."""
    query = {"response_type": "code", "client_id": client_id, "redirect_uri": redirect_uri, "state": state}
    return f"{base_url.rstrip('/')}{DIALOG_PATH}?{urlencode(query)}"


def token_form(*, code: str, client_id: str, client_secret: str, redirect_uri: str) -> dict[str, str]:
    """Return the form that changes a single-use `code` into a token."""
    return {
        "code": code,
        "client_id": client_id,
        "client_secret": client_secret,
        "redirect_uri": redirect_uri,
        "grant_type": "authorization_code",
    }


def market_status_path(exchange: str) -> str:
    """Return the path of one exchange's state: NSE, NFO, BSE, MCX…"""
    return f"/v2/market/status/{quote(exchange, safe='')}"


def holidays_path(day: date | None = None) -> str:
    """Return the path of the current year's holidays, or of one day's."""
    return f"/v2/market/holidays/{day.isoformat()}" if day else "/v2/market/holidays"


def timings_path(day: date) -> str:
    """Return the path of a day's sessions."""
    return f"/v2/market/timings/{day.isoformat()}"


def historical_path(key: str, unit: str, interval: int, *, first: date, last: date) -> str:
    """Return the path of finished candles, both days included; the broker puts the last day first."""
    return f"/v3/historical-candle/{quote(key, safe='')}/{unit}/{interval}/{last.isoformat()}/{first.isoformat()}"


def intraday_path(key: str, unit: str, interval: int) -> str:
    """Return the path of today's candles; the newest is still forming."""
    return f"/v3/historical-candle/intraday/{quote(key, safe='')}/{unit}/{interval}"


# --- answers ----------------------------------------------------------------------------------------------------------


def parse_envelope(status: int, body: bytes, retry_after: str | None = None) -> Any:
    """Return the `data` of a successful answer.

    Args:
        status: HTTP status.
        body: as received; may be HTML (the broker's CDN answers so).
        retry_after: the header of that name.

    Raises:
        BrokerError: one of its kinds, by code and status.
    """
    content = _json_object(body)
    if not 200 <= status < 300 or (content is not None and content.get("status") == "error"):
        raise error_of(status, body, retry_after)
    if content is None or "data" not in content:
        raise ProtocolViolation("the broker's answer is not its envelope", status=status)
    return content["data"]


def error_of(status: int, body: bytes, retry_after: str | None = None) -> BrokerError:
    """Return the error that an answer means: of REST, or of a refused WebSocket upgrade. Never raises."""
    code, text = _first_error(_json_object(body))
    if not text:
        text = "the broker answered with a page instead of JSON" if body.lstrip()[:1] == b"<" else f"the broker answered {status}"
    if status == 429 or code in RATE_CODES:
        return RateLimited(text, retry_after=_retry_seconds(retry_after), code=code, status=status)
    if status == 401 or code in AUTH_CODES:
        return AuthExpired(text, code=code, status=status)
    if status >= 500 or status == 423 or code in SERVER_CODES:
        return FeedUnavailable(text, code=code, status=status)
    if status == 403:
        return FeedRefused(text, False, code=code, status=status)
    if 400 <= status < 500 or code:
        return FeedRefused(text, True, code=code, status=status)
    return ProtocolViolation(text, code=code, status=status)


def parse_feed_text(text: str) -> BrokerError | None:
    """Return what a TEXT frame of the feed complains about, None when it does not complain.

    The broker documents no text frame; `{"status":"failed","method":…,"error":…}` has been seen in the field.
    """
    content = _json_object(text.encode())
    if content is None or content.get("status") not in ("failed", "error"):
        return None
    code, message = _first_error(content)
    detail = message or _clean(content.get("error")) or "no reason given"
    return FeedRefused(f"the feed refused {_clean(content.get('method')) or 'a request'}: {detail}", False, code=code)


def parse_authorized_url(content: Any) -> str:
    """Return the single-use WebSocket address in an authorise answer's `data`.

    Raises:
        ProtocolViolation: there is none.
    """
    if isinstance(content, dict):
        for name in ("authorized_redirect_uri", "authorizedRedirectUri"):
            value = content.get(name)
            with contextlib.suppress(ValueError):
                if isinstance(value, str) and urlsplit(value).scheme in ("ws", "wss"):
                    return value
    raise ProtocolViolation("the authorise answer has no WebSocket address")


def parse_market_status(content: Any) -> SegmentReport:
    """Return an exchange's state.

    Raises:
        ProtocolViolation: it is not one.
    """
    try:
        return SegmentReport(str(content["exchange"]), str(content["status"]), int(content["last_updated"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolViolation("the market status answer lacks exchange, status or last_updated") from error


def parse_bars(content: Any) -> Bars:
    """Return candles, oldest first (the broker sends newest first); rows with a negative volume or no number are left out and counted.

    Raises:
        ProtocolViolation: `data.candles` is not a list.
    """
    rows = content.get("candles") if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise ProtocolViolation("the candle answer has no list of candles")
    bars = [bar for bar in map(_bar, rows) if bar is not None]
    return Bars(sorted(bars), len(rows) - len(bars))


def parse_login(status: int, body: bytes, retry_after: str | None = None) -> Login:
    """Return the login of a token answer, which is flat: it has no envelope.

    Raises:
        BrokerError: the code was refused (permanent: it is spent even so), or the answer has no token.
    """
    content = _json_object(body)
    if not 200 <= status < 300 or content is None or content.get("status") == "error":
        raise error_of(status, body, retry_after)
    token = content.get("access_token")
    if not isinstance(token, str) or not token:
        raise ProtocolViolation("the token answer has no access_token", status=status)
    return Login(user_id=str(content.get("user_id") or ""), token=token)


# --- the life of a token ----------------------------------------------------------------------------------------------


def token_expires_ms(issued_ms: int, token: str = "") -> int:
    """Return when a token dies at the latest, ms UTC: the `exp` that it carries, else the next 03:30 IST strictly after its issue.

    An upper bound: logout, a new login or a kill switch end it earlier.

    Args:
        issued_ms: when it was issued, ms UTC; for a token of unknown age, now.
        token: the token itself; a JWT's `exp` counts (an analytics token lives a year).
    """
    carried = _jwt_expires_ms(token)
    if carried is not None and issued_ms - LONGEST_TOKEN_MS < carried < issued_ms + LONGEST_TOKEN_MS:
        return carried
    death = day_start_ms(issued_ms) + TOKEN_DEATH_MS
    return death if death > issued_ms else death + DAY_MS


def _jwt_expires_ms(token: str) -> int | None:
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return None
    seconds = claims.get("exp") if isinstance(claims, dict) else None
    return int(seconds * 1000) if isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 < seconds < 1e11 else None


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _first_error(content: dict[str, Any] | None) -> tuple[str, str]:
    """Return code and message of the first error, snake_case before camelCase; "" for what is absent."""
    errors: Iterable[Any] = content.get("errors") or () if content else ()
    for error in errors if isinstance(errors, list) else ():
        if isinstance(error, dict):
            return _clean(error.get("error_code") or error.get("errorCode")), _clean(error.get("message"))
    return "", ""


def _clean(text: Any) -> str:
    """Return foreign text as one printable line of at most 200 characters; "" for what is not text."""
    return "".join(sign for sign in text if sign.isprintable())[:200] if isinstance(text, str) else ""


def _retry_seconds(header: str | None) -> float:
    try:
        seconds = float(header or "")
    except ValueError:
        return RETRY_AFTER_SECONDS
    return min(max(seconds, 1.0), LONGEST_RETRY_SECONDS) if seconds == seconds else RETRY_AFTER_SECONDS


def _bar(row: Any) -> Bar | None:
    try:
        start = datetime.fromisoformat(row[0])
        opened, high, low, close = (float(value) for value in row[1:5])
        volume, interest = int(row[5]), float(row[6]) if len(row) > 6 and row[6] is not None else 0.0
    except (IndexError, KeyError, TypeError, ValueError, OverflowError):
        return None
    if volume < 0 or start.tzinfo is None or not all(0 <= price < 1e12 for price in (opened, high, low, close)):
        return None
    return Bar(round(start.timestamp() * 1000), opened, high, low, close, volume, interest)
