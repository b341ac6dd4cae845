"""Rates and key limits as plain calls."""

from __future__ import annotations

import pytest

from broker.simulator.errors import ApiError
from broker.simulator.limits import RateLimits, key_limit


def spent(limits: RateLimits, times: list[float], user: str = "u", api: str = "a") -> int:
    """How many of the requests at these times are let through."""
    passed = 0
    for time in times:
        try:
            limits.spend(user, api, time)
        except ApiError:
            continue
        passed += 1
    return passed


def test_fifty_a_second_five_hundred_a_minute_two_thousand_in_half_an_hour() -> None:
    assert spent(RateLimits(), [100.0] * 60) == 50
    assert spent(RateLimits(), [100.0 + n * 0.05 for n in range(1000)]) == 500
    assert spent(RateLimits(), [100.0 + n * 0.2 for n in range(5000)]) == 2000


def test_what_is_too_much_is_told_as_429() -> None:
    limits = RateLimits(((1.0, 1),))
    limits.spend("u", "a", 100.0)
    with pytest.raises(ApiError) as caught:
        limits.spend("u", "a", 100.5)
    assert (caught.value.code, caught.value.status) == ("UDAPI10005", 429)


def test_windows_slide() -> None:
    limits = RateLimits()
    assert spent(limits, [100.0] * 50) == 50
    assert spent(limits, [100.99]) == 0
    assert spent(limits, [101.0]) == 1


def test_users_and_apis_are_counted_apart() -> None:
    limits = RateLimits()
    assert spent(limits, [100.0] * 50) == 50
    assert spent(limits, [100.0], api="b") == 1
    assert spent(limits, [100.0], user="v") == 1
    assert spent(limits, [100.0]) == 0


@pytest.mark.parametrize(
    ("mode", "used", "plus", "limit"),
    [
        ("ltpc", {"ltpc"}, False, 5000),
        ("ltpc", {"ltpc", "full"}, False, 2000),
        ("option_greeks", {"option_greeks"}, False, 3000),
        ("full", {"full"}, False, 2000),
        ("full", {"full", "ltpc"}, False, 1500),
        ("full_d30", {"full_d30"}, False, 0),
        ("full_d30", {"full_d30"}, True, 50),
    ],
)
def test_key_limits_are_the_broker_s(mode: str, used: set[str], plus: bool, limit: int) -> None:
    assert key_limit(mode, used, plus=plus) == limit
