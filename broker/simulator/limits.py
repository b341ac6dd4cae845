"""What the broker allows: requests a second per API and user, keys and connections of the feed. Pure; time is an argument."""

from __future__ import annotations

from collections import deque

from broker.simulator.errors import ApiError

RATES = ((1.0, 50), (60.0, 500), (1800.0, 2000))
"""Seconds and requests within them, per API and user. Source: FACTS §2.4, standard APIs."""
CLIENTS_MAX = 10_000
"""Pairs of user and API that are remembered; past it the oldest is forgotten."""
SINGLE = {"ltpc": 5000, "option_greeks": 3000, "full": 2000, "full_d30": 0}
"""Keys of a connection that uses this mode only. Source: FACTS §3.2, normal plan."""
COMBINED = {"ltpc": 2000, "option_greeks": 2000, "full": 1500, "full_d30": 0}
"""Keys per mode of a connection that mixes modes. Source: FACTS §3.2, normal plan."""
PLUS_SINGLE = SINGLE | {"full_d30": 50}
PLUS_COMBINED = COMBINED | {"full_d30": 1500}
CONNECTIONS, PLUS_CONNECTIONS = 2, 5
"""Feed connections of one user. Source: FACTS §3.2."""


class RateLimits:
    """Sliding windows of requests per user and API."""

    def __init__(self, rates: tuple[tuple[float, int], ...] = RATES) -> None:
        self._rates = rates
        self._longest = max(count for _, count in rates)
        self._times: dict[tuple[str, str], deque[float]] = {}

    def spend(self, user: str, api: str, now: float) -> None:
        """Count one request.

        Raises:
            ApiError: UDAPI10005 (HTTP 429) when a window is full; the request is not counted then.
        """
        times = self._times.get((user, api))
        if times is None:
            if len(self._times) >= CLIENTS_MAX:
                del self._times[next(iter(self._times))]
            times = self._times.setdefault((user, api), deque(maxlen=self._longest))
        for seconds, count in self._rates:
            if len(times) >= count and times[-count] > now - seconds:
                raise ApiError("UDAPI10005")
        times.append(now)


def key_limit(mode: str, used: set[str], *, plus: bool) -> int:
    """Keys that a connection may have in `mode` when it uses the modes `used` (this one included)."""
    if len(used) > 1:
        return (PLUS_COMBINED if plus else COMBINED)[mode]
    return (PLUS_SINGLE if plus else SINGLE)[mode]
