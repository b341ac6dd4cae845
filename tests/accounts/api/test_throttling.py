"""The token bucket, by a clock of its own; and the throttle over real requests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.test import APIClient

from accounts.api.throttling import TokenBuckets, buckets
from accounts.models import User
from accounts.services import api_key_create


def test_a_full_bucket_gives_its_burst_and_then_says_how_long_to_wait() -> None:
    tokens = TokenBuckets()
    assert [tokens.take("a", rate=2, burst=3, now=100) for _ in range(3)] == [0, 0, 0]
    assert tokens.take("a", rate=2, burst=3, now=100) == 0.5
    assert tokens.take("b", rate=2, burst=3, now=100) == 0  # another's bucket
    assert tokens.take("a", rate=2, burst=3, now=100.5) == 0


@given(st.lists(st.floats(0, 5), min_size=1, max_size=200), st.integers(1, 20), st.integers(1, 20))
def test_never_more_than_burst_plus_rate_times_time(pauses: list[float], rate: int, burst: int) -> None:
    tokens = TokenBuckets()
    now, given_out = 0.0, 0
    for pause in pauses:
        now += pause
        given_out += not tokens.take("a", rate=rate, burst=burst, now=now)
    assert given_out <= burst + rate * (now - pauses[0]) + 1e-6


def test_a_refusal_takes_no_token() -> None:
    tokens = TokenBuckets()
    tokens.take("a", rate=1, burst=1, now=0)
    for moment in (0.1, 0.2, 0.9):
        assert tokens.take("a", rate=1, burst=1, now=moment) > 0
    assert tokens.take("a", rate=1, burst=1, now=1.001) == 0


def test_the_user_seen_longest_ago_is_forgotten() -> None:
    tokens = TokenBuckets(size=2)
    for name in ("a", "b", "a", "c"):
        tokens.take(name, rate=0.001, burst=1, now=0)
    assert len(tokens) == 2
    assert tokens.take("a", rate=0.001, burst=1, now=0) > 0  # remembered
    assert tokens.take("b", rate=0.001, burst=1, now=0) == 0  # forgotten


@pytest.fixture
def _few_requests(settings: object) -> Iterator[None]:
    settings.API_REQUESTS_PER_SECOND, settings.API_BURST = 1, 3  # type: ignore[attr-defined]
    buckets.clear()
    yield
    buckets.clear()


@pytest.mark.django_db
@pytest.mark.usefixtures("_few_requests")
def test_a_user_is_told_when_to_come_back_and_others_are_not_held_up() -> None:
    clients = []
    for name in ("asha", "ravi"):
        secret = api_key_create(user=User.objects.create_user(name), name="test")
        clients.append(APIClient(headers={"Authorization": f"Bearer {secret}"}))

    answers = [clients[0].get("/api/") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[3]["Retry-After"] == "1"
    assert answers[3].json()["code"] == "rate_limited"
    assert clients[1].get("/api/").status_code == 200


@pytest.mark.django_db
@pytest.mark.usefixtures("_few_requests")
def test_health_checks_are_not_counted() -> None:
    assert {APIClient().get("/api/health/live").status_code for _ in range(10)} == {200}
