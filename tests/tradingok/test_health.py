"""Health: each part, and the two words for supervisors."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from django.test import Client
from rest_framework.test import APIClient

from accounts.models import User
from accounts.services import api_key_create
from marketdata import live_state
from marketdata.store import market_status_write
from tests.marketdata.api.fixtures import OPEN_MS, publish_latest, status_of
from tradingok import health

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    health.readiness.forget()
    yield
    health.readiness.forget()


@pytest.fixture
def program() -> APIClient:
    return APIClient(headers={"Authorization": f"Bearer {api_key_create(user=User.objects.create_user('asha'), name='test')}"})


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def test_when_all_is_well_it_says_so_of_each_part(program: APIClient) -> None:
    publish_latest([], status_of("live", now_ms=now_ms()))
    live_state.task_run_write("poll_market_status", ok=True, detail="open", seconds=0.2)
    body = program.get("/api/health").json()
    assert body["state"] == "ok"
    assert {name: part["state"] for name, part in body["components"].items()} == dict.fromkeys(("mongodb", "redis", "feed", "worker"), "ok")
    assert body["components"]["mongodb"]["latency_ms"] > 0
    assert body["components"]["redis"]["latency_ms"] > 0
    assert body["tasks"]["poll_market_status"]["detail"] == "open"


@pytest.mark.parametrize("state", ["stale", "reconnecting", "token_expired"])
def test_a_feed_that_is_not_well_is_named(program: APIClient, state: str) -> None:
    publish_latest([], status_of(state, now_ms=now_ms()))
    body = program.get("/api/health").json()
    assert body["state"] == "degraded"
    assert body["components"]["feed"]["state"] == state


@pytest.mark.parametrize("state", ["live", "quiet", "closed"])
def test_a_quiet_or_closed_market_is_well(program: APIClient, state: str) -> None:
    publish_latest([], status_of(state, now_ms=now_ms()))
    assert program.get("/api/health").json()["components"]["feed"]["state"] == "ok"


def test_a_fresh_start_is_no_alarm_until_its_first_tasks_are_overdue(program: APIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_latest([], status_of("live", now_ms=now_ms()))
    monkeypatch.setattr(health, "_BEGAN_MS", now_ms())
    body = program.get("/api/health").json()
    assert (body["state"], body["components"]["worker"]["state"]) == ("starting", "starting")
    publish_latest([], status_of("stale", now_ms=now_ms()))
    assert program.get("/api/health").json()["state"] == "degraded", "a start hides no other trouble"
    monkeypatch.setattr(health, "_BEGAN_MS", now_ms() - health.STARTING_MS)
    assert program.get("/api/health").json()["components"]["worker"]["state"] == "unknown"


def test_a_task_that_failed_or_none_for_long_is_named(program: APIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_BEGAN_MS", now_ms() - health.STARTING_MS)
    assert program.get("/api/health").json()["components"]["worker"]["state"] == "unknown"
    live_state.task_run_write("roll_up", ok=False, detail="the database was away", seconds=1)
    assert program.get("/api/health").json()["components"]["worker"] == {"state": "failing", "detail": "Failed last: roll_up."}
    live_state.task_run_write("roll_up", ok=True, detail="", seconds=1)
    monkeypatch.setattr(health, "WORKER_SILENT_MS", -1)
    assert program.get("/api/health").json()["components"]["worker"]["state"] == "silent"


def test_live_touches_nothing() -> None:
    answer = Client().get("/api/health/live")
    assert (answer.status_code, answer.json()) == (200, {"state": "live"})


@pytest.mark.parametrize(
    ("state", "segment", "status"),
    [
        ("live", "NORMAL_OPEN", 200),
        ("quiet", "NORMAL_OPEN", 200),
        ("closed", "NORMAL_CLOSE", 200),
        ("stale", "NORMAL_OPEN", 503),
        ("reconnecting", "NORMAL_OPEN", 503),
        ("token_expired", "NORMAL_OPEN", 503),
        ("stale", "NORMAL_CLOSE", 200),
        ("token_expired", "CLOSING_END", 200),
    ],
)
def test_ready_asks_for_fresh_data_in_market_hours(state: str, segment: str, status: int) -> None:
    publish_latest([], status_of(state, now_ms=now_ms(), segments={"NSE_EQ": segment}))
    assert Client().get("/api/health/ready").status_code == status


def test_without_a_feed_the_last_known_market_decides() -> None:
    assert Client().get("/api/health/ready").status_code == 200
    market_status_write("NSE_EQ", "NORMAL_OPEN", OPEN_MS)
    health.readiness.forget()
    assert Client().get("/api/health/ready").status_code == 503


@pytest.mark.parametrize(("states", "status"), [(("live", "stale"), 200), (("stale", "stale"), 503)])
def test_one_feed_of_two_in_trouble_takes_no_web_process_out_of_service(states: tuple[str, str], status: int) -> None:
    for shard, state in enumerate(states):
        publish_latest([], status_of(state, now_ms=now_ms(), shard=shard, segments={"NSE_FO": "NORMAL_OPEN"}, feed_shards=2.0))
    assert Client().get("/api/health/ready").status_code == status


def test_ready_asks_the_parts_once_a_second_whoever_asks() -> None:
    publish_latest([], status_of("live", now_ms=now_ms()))
    assert Client().get("/api/health/ready").status_code == 200
    publish_latest([], status_of("stale", now_ms=now_ms()))
    assert health.readiness.read(time.monotonic())
    assert not health.readiness.read(time.monotonic() + health.READY_SECONDS)
