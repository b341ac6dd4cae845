"""System checks of the settings, with ids: `manage.py check`, and every command before it does anything.

Each says what the setting is, what it takes, and never shows a secret. Nothing here connects to anything.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured

from tradingok import env

TAG = "tradingok"
# Longest database name, and what it may not hold. Source: MongoDB manual, "Naming Restrictions", read 2026-11-22.
NAMESPACE = re.compile(r"[A-Za-z0-9_-]{1,40}")


def check_settings(app_configs: Sequence[AppConfig] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Give an error for each value that was refused, and for values that contradict each other."""
    return [*_refused_values(), *_contradictions(), *_production(), *_broker()]


def _refused_values() -> Iterator[CheckMessage]:
    for problem in env.PROBLEMS:
        yield Error(f"{problem.name} is {problem.value!r}, which is not {problem.expected}.", hint=_hint(problem.name), id="tradingok.E001")


def _hint(name: str) -> str:
    setting = env.DECLARED.get(name)
    if setting is None:
        return f"Set {name} to what it takes, or unset it."
    default = f" Unset, it is {setting.default}." if setting.default else " It may be unset."
    return f"{setting.meaning} It takes: {setting.kind}.{default}"


def _contradictions() -> Iterator[CheckMessage]:
    if settings.STORE_BATCH_TICKS > settings.STORE_QUEUE_TICKS:
        yield Error(
            f"TRADINGOK_BATCH_TICKS ({settings.STORE_BATCH_TICKS}) is larger than TRADINGOK_QUEUE_TICKS ({settings.STORE_QUEUE_TICKS}).",
            hint="No batch could ever be full: make the queue at least as large as a batch.",
            id="tradingok.E003",
        )
    if settings.FEED_SHARD >= settings.FEED_SHARDS:
        yield Error(
            f"TRADINGOK_FEED_SHARD is {settings.FEED_SHARD}, but there are {settings.FEED_SHARDS} (TRADINGOK_FEED_SHARDS).",
            hint=f"Shards are numbered from 0 to {settings.FEED_SHARDS - 1}.",
            id="tradingok.E004",
        )
    if not NAMESPACE.fullmatch(settings.NAMESPACE):
        yield Error(
            f"TRADINGOK_NAMESPACE is {settings.NAMESPACE!r}, which cannot name a database.",
            hint="It takes 1 to 40 letters, digits, hyphens and underscores.",
            id="tradingok.E005",
        )
    if settings.API_BURST < settings.API_REQUESTS_PER_SECOND:
        yield Warning(
            f"TRADINGOK_API_BURST ({settings.API_BURST}) is smaller than TRADINGOK_API_RATE ({settings.API_REQUESTS_PER_SECOND}).",
            hint="Nobody can reach the rate: make the burst at least as large.",
            id="tradingok.W001",
        )
    if settings.FEED_SHARDS > settings.BROKER_CONNECTIONS and not settings.EXCHANGE_URL:
        yield Warning(
            f"There are {settings.FEED_SHARDS} feeds (TRADINGOK_FEED_SHARDS), and the broker allows {settings.BROKER_CONNECTIONS}.",
            hint="It would refuse the others. On the Plus plan, set TRADINGOK_CONNECTIONS=5.",
            id="tradingok.W004",
        )


def _production() -> Iterator[CheckMessage]:
    if not settings.PRODUCTION:
        if not _is_loopback(settings.HOST):
            yield Warning(
                f"The web server listens on {settings.HOST} for other machines, but TRADINGOK_PRODUCTION is off.",
                hint="Passwords and keys would go over the network unencrypted: put it behind HTTPS and set TRADINGOK_PRODUCTION=yes.",
                id="tradingok.W002",
            )
        return
    try:
        missing = not settings.SECRET_KEY
    except ImproperlyConfigured:
        missing = True
    if missing:
        yield Error(
            "SECRET_KEY is not set, and TRADINGOK_PRODUCTION is on.",
            hint="Make one and keep it: python -c 'import secrets; print(secrets.token_urlsafe(50))'",
            id="tradingok.E002",
        )
    if settings.DEBUG:
        yield Error(
            "TRADINGOK_DEBUG and TRADINGOK_PRODUCTION are both on.",
            hint="Debug pages show settings and source to everybody: unset TRADINGOK_DEBUG.",
            id="tradingok.E006",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _broker() -> Iterator[CheckMessage]:
    values = {name: bool(getattr(settings, name)) for name in ("UPSTOX_CLIENT_ID", "UPSTOX_CLIENT_SECRET", "UPSTOX_REDIRECT_URI")}
    if any(values.values()) and not all(values.values()):
        missing = ", ".join(name for name, present in values.items() if not present)
        yield Warning(
            f"Signing in to the broker needs {missing}, too.",
            hint="All three belong to your Upstox app; an access token alone (UPSTOX_ACCESS_TOKEN) needs none of them.",
            id="tradingok.W003",
        )
