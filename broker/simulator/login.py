"""Who may talk to the exchange: the OAuth2 code flow, access tokens that die at 03:30 IST, single-use feed codes.

Codes and tokens live in memory only. Time is an argument of every method, in seconds UTC.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta
from typing import NamedTuple, TypeVar
from urllib.parse import urlencode, urlsplit
from zoneinfo import ZoneInfo

from broker.simulator.errors import ApiError

IST = ZoneInfo("Asia/Kolkata")
TOKEN_END = time(3, 30)
"""Access tokens die at this time, IST. Source: FACTS §2.2."""
AUTH_CODE_SECONDS = 600
FEED_CODE_SECONDS = 60
"""Life of the code in an authorised feed URL. Source: FACTS §3.1."""
PENDING_MAX = 10_000
"""Codes that are kept unspent; past it the oldest are forgotten."""


_T = TypeVar("_T")


class _AuthCode(NamedTuple):
    client_id: str
    redirect_uri: str
    end: float


class Access:
    """Issues and checks auth codes, access tokens and feed codes."""

    def __init__(self, token: str, *, client_id: str = "", client_secret: str = "") -> None:
        """Begin with one token that never ends by itself.

        Args:
            token: accepted from the start (`--token`).
            client_id, client_secret: the only ones that are accepted; empty: any that is not empty.
        """
        self._permanent = token
        self._client_id, self._client_secret = client_id, client_secret
        self._auth_codes: dict[str, _AuthCode] = {}
        self._feed_codes: dict[str, tuple[str, float]] = {}
        self._tokens: dict[str, float] = {token: float("inf")}

    # --- login ------------------------------------------------------------------------------------------------------------

    def dialog(self, query: Mapping[str, str], now: float) -> str:
        """Check the dialog's parameters and return the address that the user is sent back to, with `code` and `state`.

        Raises:
            ApiError: UDAPI100068 for a wrong client_id or redirect_uri, UDAPI100036 for another response_type.
        """
        client_id, redirect_uri = query.get("client_id", ""), query.get("redirect_uri", "")
        if query.get("response_type", "code") != "code":
            raise ApiError("UDAPI100036", field="response_type", value=query["response_type"])
        if not self._is_client(client_id):
            raise ApiError("UDAPI100068", field="client_id", value=client_id)
        try:
            parts = urlsplit(redirect_uri)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ApiError("UDAPI100068", field="redirect_uri", value=redirect_uri)
        code = secrets.token_urlsafe(6)
        _keep(self._auth_codes, code, _AuthCode(client_id, redirect_uri, now + AUTH_CODE_SECONDS))
        answer = {"code": code} | ({"state": query["state"]} if "state" in query else {})
        return f"{redirect_uri}{'&' if parts.query else '?'}{urlencode(answer)}"

    def exchange(self, form: Mapping[str, str], now: float) -> dict[str, object]:
        """Turn a code into a token. The code is spent even when this fails.

        Returns:
            the flat body of the broker's answer (FACTS §2.1).

        Raises:
            ApiError: UDAPI100057 bad or spent code, 100069 client_id or secret, 100070 redirect_uri, 100036 grant_type.
        """
        code = self._auth_codes.pop(form.get("code", ""), None)
        if form.get("grant_type") != "authorization_code":
            raise ApiError("UDAPI100036", field="grant_type", value=form.get("grant_type"), status=400)
        if code is None or code.end < now:
            raise ApiError("UDAPI100057")
        if form.get("client_id") != code.client_id or not self._is_secret(form.get("client_secret", "")):
            raise ApiError("UDAPI100069")
        if form.get("redirect_uri") != code.redirect_uri:
            raise ApiError("UDAPI100070", field="redirect_uri", value=form.get("redirect_uri"))
        return _token_body(self.issue_token(now))

    def issue_token(self, now: float) -> str:
        """A new access token, good until the next 03:30 IST strictly after `now`."""
        end = token_end(now)
        claims = {"sub": "SIM001", "jti": secrets.token_hex(12), "isMultiClient": False, "iat": int(now), "exp": int(end)}
        header = {"typ": "JWT", "kid": "simulated", "alg": "HS256"}
        parts = [*(json.dumps(part).encode() for part in (header, claims)), secrets.token_bytes(32)]
        token = ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
        _keep(self._tokens, token, end)
        return token

    def _is_client(self, client_id: str) -> bool:
        return bool(client_id) and client_id == (self._client_id or client_id)

    def _is_secret(self, client_secret: str) -> bool:
        return bool(client_secret) and client_secret == (self._client_secret or client_secret)

    # --- tokens -----------------------------------------------------------------------------------------------------------

    def bearer(self, authorization: str | None, now: float) -> str:
        """The token of an Authorization header.

        Raises:
            ApiError: UDAPI100050 (HTTP 401) when there is none, or it is unknown or past its end.
        """
        scheme, _, token = (authorization or "").strip().partition(" ")
        if scheme.lower() != "bearer" or not self.is_valid(token.strip(), now):
            raise ApiError("UDAPI100050")
        return token.strip()

    def is_valid(self, token: str, now: float) -> bool:
        """Whether the token is known and not past its end."""
        return self._tokens.get(token, 0.0) > now

    def revoke(self, token: str | None = None) -> int:
        """End a token now (logout, fault); None: all of them. Returns how many there were."""
        ended = [known for known in ([token] if token else list(self._tokens)) if known in self._tokens]
        for known in ended:
            del self._tokens[known]
        return len(ended)

    def restore(self) -> None:
        """Accept the first token again, after a fault revoked it."""
        self._tokens[self._permanent] = float("inf")

    # --- feed codes -------------------------------------------------------------------------------------------------------

    def issue_feed_code(self, token: str, now: float) -> str:
        """A code that opens one feed connection for this token within FEED_CODE_SECONDS."""
        code = f"{secrets.token_hex(4)}-{secrets.token_urlsafe(12)}"
        _keep(self._feed_codes, code, (token, now + FEED_CODE_SECONDS))
        return code

    def spend_feed_code(self, code: str, now: float) -> str | None:
        """The token the code was issued for; None when the code is unknown, spent or too old, or its token has ended."""
        token, end = self._feed_codes.pop(code, ("", 0.0))
        return token if end > now and self.is_valid(token, now) else None


def token_end(now: float) -> float:
    """The next 03:30 IST strictly after `now`; both in seconds UTC."""
    local = datetime.fromtimestamp(now, UTC).astimezone(IST)
    end = local.replace(hour=TOKEN_END.hour, minute=TOKEN_END.minute, second=0, microsecond=0)
    return (end if end > local else end + timedelta(days=1)).timestamp()


def _keep(pending: dict[str, _T], key: str, value: _T) -> None:
    if len(pending) >= PENDING_MAX:
        del pending[next(iter(pending))]
    pending[key] = value


def _token_body(token: str) -> dict[str, object]:
    return {
        "email": "trader@example.com",
        "exchanges": ["NSE", "NFO", "CDS", "BSE", "BFO", "BCD", "MCX", "NSCOM"],
        "products": ["I", "D", "CO", "MTF"],
        "broker": "UPSTOX",
        "user_id": "SIM001",
        "user_name": "SIMULATED TRADER",
        "order_types": ["MARKET", "LIMIT", "SL", "SL-M"],
        "user_type": "individual",
        "poa": False,
        "ddpi": True,
        "is_active": True,
        "access_token": token,
        "extended_token": "",
    }
