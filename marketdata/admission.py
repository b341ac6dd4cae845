"""Who may open `/ws/market/`: the bearer of an API key, of a single-use ticket, or of a signed-in session from our own page.

A key is never taken from the URL. The Origin is checked for sessions only: programs have none.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, cast
from urllib.parse import urlsplit

from channels.auth import get_user
from channels.db import database_sync_to_async
from django.conf import settings
from django.db import DatabaseError
from django.http import parse_cookie
from django.http.request import validate_host
from django.utils.http import is_same_domain
from pymongo.errors import PyMongoError

from accounts.models import User
from accounts.services import Credential, api_key_user, digest_of, ticket_use
from marketdata.client_errors import ClientError

TICKET_PREFIX = "ticket."

Scope = dict[str, Any]


class WrongOrigin(Exception):
    """A page of another site tried to use a session: refused before the handshake, as HTTP 403."""


async def admit(scope: Scope) -> Credential:
    """Return who connects, and by which key.

    Raises:
        WrongOrigin: with a session only; not worth a retry.
        ClientError: 401 for bad or missing credentials; 500 when they could not be checked, which is worth a retry.
    """
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    ticket = next((word[len(TICKET_PREFIX) :] for word in scope.get("subprotocols", []) if word.startswith(TICKET_PREFIX)), None)
    api_key = ""
    try:
        if "authorization" in headers:
            secret = _bearer_secret(headers["authorization"])
            user, api_key = await _in_thread(api_key_user, secret), digest_of(secret)
        elif ticket is not None:
            user = await _in_thread(ticket_use, ticket)
        else:
            user = await _session_user(scope, headers)
    except (PyMongoError, DatabaseError) as error:
        raise ClientError(500, "Credentials cannot be checked now; try again.") from error
    if user is None or not user.is_active:
        raise ClientError(401, "Send an API key as 'Authorization: Bearer …', a fresh ticket as a sub-protocol, or sign in.")
    return Credential(user.pk, api_key)


async def _in_thread(call: Callable[[str], User | None], secret: str) -> User | None:
    # Not in the one thread that all sync code shares: a slow database must not line up every connection behind one.
    return await database_sync_to_async(call, thread_sensitive=False)(secret)


def _bearer_secret(header: str) -> str:
    """Return what a header of the scheme "Bearer" carries; "" for another scheme, which is nobody's key."""
    kind, _, secret = header.partition(" ")
    return secret.strip() if kind.lower() == "bearer" else ""


async def _session_user(scope: Scope, headers: dict[str, str]) -> User | None:
    session_key = parse_cookie(headers.get("cookie", "")).get(settings.SESSION_COOKIE_NAME)
    origin = headers.get("origin")
    if origin is None:
        if session_key:
            raise WrongOrigin
        return None
    if not origin_allowed(origin, headers.get("host", "")):
        raise WrongOrigin
    if not session_key:
        return None
    # Not Channels' SessionMiddleware: it stays in the way of every frame, a tenth of the fan-out's time.
    session = import_module(settings.SESSION_ENGINE).SessionStore(session_key)
    user = await get_user(cast("Any", {"session": session}))
    return user if isinstance(user, User) else None


def origin_allowed(origin: str, host: str) -> bool:
    """Whether a page of `origin` may use sessions of the server called `host`: its own pages, and CSRF_TRUSTED_ORIGINS.

    Args:
        origin: scheme://host[:port], as the browser sends it.
        host: host[:port] of the request; one of ALLOWED_HOSTS.
    """
    try:
        asked = urlsplit(origin)
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if asked.scheme in ("http", "https") and asked.netloc.lower() == host.lower():
        return validate_host(f"[{name}]" if ":" in name else name, settings.ALLOWED_HOSTS)
    trusted = (urlsplit(entry) for entry in settings.CSRF_TRUSTED_ORIGINS)
    return any(asked.scheme == entry.scheme and is_same_domain(asked.netloc, entry.netloc.removeprefix("*")) for entry in trusted)
