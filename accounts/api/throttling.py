"""How many REST requests a user may make: a token bucket in this process's memory.

Counted in Redis it cost two thirds of the server's requests (MEASURED), and REST must not fail when Redis does: so the
limit holds for each web process alone.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from django.conf import settings
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

if TYPE_CHECKING:
    from rest_framework.views import APIView  # which reads this class's name from settings while it is imported

BUCKETS = 10_000
"""Users remembered; past it the one seen longest ago is forgotten, and starts again with a full bucket."""


class TokenBuckets:
    """Tokens by name. Each bucket holds `burst` at the most and gains `rate` a second. Safe across threads."""

    def __init__(self, size: int = BUCKETS) -> None:
        self._size = size
        self._buckets: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def take(self, name: str, *, rate: float, burst: float, now: float) -> float:
        """Take one token.

        Args:
            name: whose bucket.
            rate: tokens a second.
            burst: tokens of a full bucket.
            now: seconds on a monotonic clock.

        Returns:
            0.0 when there was one, else seconds until there will be.
        """
        with self._lock:
            tokens, at = self._buckets.pop(name, (burst, now))
            tokens = min(burst, tokens + (now - at) * rate)
            wait = 0.0 if tokens >= 1 else (1 - tokens) / rate
            self._buckets[name] = (tokens if wait else tokens - 1, now)
            if len(self._buckets) > self._size:
                del self._buckets[next(iter(self._buckets))]
        return wait

    def clear(self) -> None:
        """Forget everybody."""
        with self._lock:
            self._buckets.clear()

    def __len__(self) -> int:
        return len(self._buckets)


buckets = TokenBuckets()


class UserThrottle(BaseThrottle):
    """Lets a signed-in user make API_REQUESTS_PER_SECOND requests, API_BURST at once. Others were refused before."""

    _wait = 0.0

    def allow_request(self, request: Request, view: APIView) -> bool:
        self._wait = buckets.take(
            str(request.user.pk), rate=settings.API_REQUESTS_PER_SECOND, burst=settings.API_BURST, now=time.monotonic()
        )
        return not self._wait

    def wait(self) -> float:
        return self._wait
