"""Makes, checks and ends credentials: API keys, sign-in links, WebSocket tickets.

Every secret is 32 random bytes, given out once and stored as its SHA-256 only: an unsalted digest is enough for what
nobody could guess. No secret is ever logged.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
import time
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.conf import settings
from django.db.models import Q, QuerySet
from django.utils import timezone

from accounts.models import ApiKey, OneTimeToken, User

SECRET_BYTES = 32
KEY_SHAPE = re.compile(r"tok_[A-Za-z0-9_-]{43}")
HINT_LENGTH = 8
OWNER = "trader"
"""User name of the local owner: the one whom `make run` signs in."""
SIGN_IN_SECONDS = 300
TICKET_SECONDS = 30
CACHE_SECONDS = 30.0
"""How long a key's user is remembered in this process: the longest time a revoked key still works."""
CACHE_ENTRIES = 10_000
LAST_USED_STEP = timedelta(minutes=1)
"""`last_used_at` is written at most once in so long."""


class Credential(NamedTuple):
    """What let somebody in for longer than one request.

    Attributes:
        user: id of the user.
        api_key: digest of the API key, "" where it was something else.
    """

    user: Any
    api_key: str = ""


class _Known(NamedTuple):
    user: User
    until: float


_known: dict[str, _Known] = {}
_known_lock = threading.Lock()


def digest_of(secret: str) -> str:
    """Return the form in which `secret` is stored: SHA-256 as 64 hex digits."""
    return hashlib.sha256(secret.encode()).hexdigest()


def owner_user() -> User:
    """Return the local owner, made when missing. In development the owner may use the admin."""
    local = not settings.PRODUCTION
    user, created = User.objects.get_or_create(username=OWNER, defaults={"is_staff": local, "is_superuser": local})
    if created:
        user.set_unusable_password()
        user.save(update_fields=["password"])
    return user


def api_key_create(*, user: User, name: str) -> str:
    """Make an API key.

    Returns:
        The secret, "tok_" and 43 URL-safe characters. It cannot be had again.
    """
    secret = f"tok_{secrets.token_urlsafe(SECRET_BYTES)}"
    ApiKey.objects.create(digest=digest_of(secret), name=name, user=user, hint=secret[:HINT_LENGTH])
    return secret


def api_key_revoke(*, keys: QuerySet[ApiKey]) -> int:
    """End those of `keys` that work: at once in this process, within CACHE_SECONDS in others. Returns how many."""
    digests = [key.pk for key in keys.filter(revoked_at=None)]
    ApiKey.objects.filter(pk__in=digests).update(revoked_at=timezone.now())
    with _known_lock:
        for digest in digests:
            _known.pop(digest, None)
    return len(digests)


def api_keys_forget() -> None:
    """Empty this process's memory of keys, so that the next request asks the database."""
    with _known_lock:
        _known.clear()


def api_key_user(secret: str) -> User | None:
    """Return whose key `secret` is, or None when it is malformed, unknown or revoked, or its user is not active.

    The answer is remembered for CACHE_SECONDS; refusals are not, so that guesses cannot push real keys out.
    """
    if not KEY_SHAPE.fullmatch(secret):
        return None
    digest = digest_of(secret)
    now = time.monotonic()
    known = _known.get(digest)
    if known and known.until > now:
        return known.user
    user = _api_key_read(digest)
    with _known_lock:
        _known.pop(digest, None)
        if user:
            if len(_known) >= CACHE_ENTRIES:
                _known.pop(next(iter(_known)))  # the oldest; it is only asked for again
            _known[digest] = _Known(user, now + CACHE_SECONDS)
    return user


def credentials_working(credentials: Collection[Credential]) -> set[Credential]:
    """Return those whose user is active and whose key is not revoked. Asks the database: nothing is remembered."""
    users = set(User.objects.filter(pk__in={each.user for each in credentials}, is_active=True).values_list("pk", flat=True))
    digests = {each.api_key for each in credentials if each.api_key}
    keys = set(ApiKey.objects.filter(pk__in=digests, revoked_at=None).values_list("pk", flat=True)) | {""}
    return {each for each in credentials if each.user in users and each.api_key in keys}


def _api_key_read(digest: str) -> User | None:
    key = ApiKey.objects.filter(pk=digest, revoked_at=None).select_related("user").first()
    if key is None or not key.user.is_active:
        return None
    _last_used_write(digest, timezone.now())
    return key.user


def _last_used_write(digest: str, now: datetime) -> None:
    due = Q(last_used_at=None) | Q(last_used_at__lt=now - LAST_USED_STEP)
    ApiKey.objects.filter(due, pk=digest).update(last_used_at=now)


def sign_in_link_create(*, base_url: str, user: User | None = None) -> str:
    """Make a link that signs its bearer in once, within SIGN_IN_SECONDS. For the terminal only.

    Args:
        base_url: the web server's address, as in "http://127.0.0.1:8080".
        user: who is signed in; None: the local owner.
    """
    secret = _one_time_create(OneTimeToken.Kind.SIGN_IN, user or owner_user(), SIGN_IN_SECONDS)
    return f"{base_url.rstrip('/')}/signin/{secret}/"


def sign_in_link_use(secret: str) -> User | None:
    """Return whom the link's secret signs in, and end it; None when it was used, is too old or unknown."""
    return _one_time_use(OneTimeToken.Kind.SIGN_IN, secret)


def ticket_create(*, user: User) -> str:
    """Return a secret that opens one WebSocket within TICKET_SECONDS."""
    return _one_time_create(OneTimeToken.Kind.TICKET, user, TICKET_SECONDS)


def ticket_use(secret: str) -> User | None:
    """Return whose WebSocket ticket this is, and end it; None when it was used, is too old or unknown."""
    return _one_time_use(OneTimeToken.Kind.TICKET, secret)


def _one_time_create(kind: OneTimeToken.Kind, user: User, seconds: int) -> str:
    now = timezone.now()
    OneTimeToken.objects.filter(expires_at__lte=now).delete()
    secret = secrets.token_urlsafe(SECRET_BYTES)
    OneTimeToken.objects.create(digest=digest_of(secret), kind=kind, user=user, expires_at=now + timedelta(seconds=seconds))
    return secret


def _one_time_use(kind: OneTimeToken.Kind, secret: str) -> User | None:
    tokens = OneTimeToken.objects.filter(pk=digest_of(secret), kind=kind, expires_at__gt=timezone.now())
    token = tokens.select_related("user").first()
    if token is None:
        return None
    deleted, _ = tokens.delete()
    won = deleted == 1  # else another caller was faster
    return token.user if won and token.user.is_active else None
