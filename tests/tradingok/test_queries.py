"""What the database does for each request of the API, as its own profiler saw it: an index each, no blocking sort, few documents."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from accounts.models import ApiKey, Session, User
from accounts.services import api_key_create, api_keys_forget, sign_in_link_create
from instruments.models import Instrument
from marketdata.api.key_memory import key_memory
from marketdata.models import Gap, MarketStatus
from tests.marketdata.api.fixtures import OPEN_MS, instrument_of, publish_latest, status_of, store_minutes, store_ticks
from tests.marketdata.way_out import entry_of

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]

ROWS = 400
"""Of everything, so that a scan reads far more than a page."""
LIMIT = 20
SMALL = 10
"""Documents that any query may read: a look-up by key, the last status of each segment."""


@contextmanager
def profiled() -> Iterator[list[dict[str, Any]]]:
    """Give a list that holds, when the block ends, every operation that the database has done for it."""
    database = connection.get_database()  # type: ignore[attr-defined]  # the MongoDB backend's
    database.command("profile", 0)
    database.drop_collection("system.profile")
    database.command("profile", 2)
    operations: list[dict[str, Any]] = []
    try:
        yield operations
    finally:
        database.command("profile", 0)
        operations += [row for row in database["system.profile"].find() if "profile" not in row["ns"] and row["op"] != "insert"]
        database.drop_collection("system.profile")


def examine(operations: list[dict[str, Any]], limit: int) -> None:
    """Assert of each operation that it was cheap."""
    for row in operations:
        told = {name: row.get(name) for name in ("ns", "command", "planSummary", "docsExamined", "keysExamined", "nreturned")}
        assert "COLLSCAN" not in row.get("planSummary", ""), told
        assert not row.get("hasSortStage") or row["docsExamined"] <= 1, told  # `.first()` sorts the one that it has found
        assert row.get("docsExamined", 0) <= max(2 * limit, SMALL), told


@pytest.fixture
def user() -> User:
    """One of many, in the middle of much of everything."""
    users = [User(username=f"user{number}") for number in range(50)]
    User.objects.bulk_create(users)
    ApiKey.objects.bulk_create(ApiKey(digest=f"{number:064}", name="laptop", user=one, hint="tok_") for number, one in enumerate(users))
    Session.objects.bulk_create(Session(session_key=f"key{number}", session_data="", expire_date=timezone.now()) for number in range(50))
    start = datetime.fromtimestamp(OPEN_MS / 1000, UTC)
    times = [start + timedelta(minutes=number) for number in range(ROWS)]
    segments = ("NSE_EQ", "NSE_FO")
    Instrument.objects.bulk_create(
        instrument_of(number + 1, f"{segments[number % 2]}|{number + 1}", segment=segments[number % 2]) for number in range(ROWS)
    )
    healed = [Gap.Heal.IMPOSSIBLE, *[Gap.Heal.HEALED] * 19]
    Gap.objects.bulk_create(Gap(start=at, end=at, cause="stale", heal_state=healed[number % 20]) for number, at in enumerate(times))
    MarketStatus.objects.bulk_create(
        MarketStatus(segment=segments[number % 2], status=f"S{number}", since=times[number]) for number in range(ROWS)
    )
    for number in range(1, 6):
        store_ticks(number, [OPEN_MS + 7 * n + number for n in range(ROWS)])
        store_minutes(number, ROWS)
        store_minutes(number, ROWS, interval="5m")
    publish_latest([entry_of(n, n, 100.0, key=f"NSE_EQ|{n}") for n in range(1, 101)], status_of(now_ms=time.time_ns() // 1_000_000))
    api_keys_forget()
    key_memory.forget()
    return User.objects.get(username="user25")


MIDDLE = f"from={OPEN_MS + 700}&to={OPEN_MS + 2100}"
REQUESTS = [
    "/api/health",
    "/api/broker-status",
    "/api/keys/",
    "/api/marketdata/status/",
    "/api/marketdata/stats/?window=5m",
    "/api/marketdata/ticks/latest/?instruments=" + ",".join(f"id:{n}" for n in range(90, 110)),
    "/api/marketdata/ticks/latest/?instruments=" + ",".join(f"{('NSE_FO', 'NSE_EQ')[n % 2]}%7C{n}" for n in range(90, 110)),
    f"/api/marketdata/ticks/?instrument=NSE_EQ%7C3&limit={LIMIT}",
    f"/api/marketdata/ticks/?instrument=id:3&limit={LIMIT}&{MIDDLE}",
    f"/api/marketdata/ticks/?instrument=id:3&limit={LIMIT}&{MIDDLE}&order=newest",
    f"/api/marketdata/ohlc/?instrument=id:3&limit={LIMIT}",
    f"/api/marketdata/ohlc/?instrument=id:3&limit={LIMIT}&order=oldest&from={OPEN_MS + 6_000_000}",
    f"/api/marketdata/ohlc/?instrument=id:3&limit={LIMIT}&interval=5m&order=oldest",
    f"/api/marketdata/gaps/?limit={LIMIT}",
    f"/api/marketdata/gaps/?limit={LIMIT}&to={OPEN_MS + 6_000_000}",
]


def test_each_request_reads_by_index_and_little_more_than_it_gives(user: User) -> None:
    program = APIClient(headers={"Authorization": f"Bearer {api_key_create(user=user, name='new')}"})
    browser = APIClient()
    browser.force_login(user)
    for client in (program, browser):
        for path in REQUESTS:
            api_keys_forget()
            key_memory.forget()
            with profiled() as operations:
                assert client.get(path).status_code == 200, path
            assert operations, path  # the credentials, at least
            examine(operations, 100 if "stats" in path else LIMIT)  # stats: as many candles as there are quotes


def test_the_next_page_reads_no_more_than_the_first(user: User) -> None:
    client = APIClient()
    client.force_login(user)
    for order in ("oldest", "newest"):
        address = f"/api/marketdata/ticks/?instrument=id:3&limit={LIMIT}&order={order}"
        for _ in range(3):
            with profiled() as operations:
                address = client.get(address).json()["next"]
            assert address
            examine(operations, LIMIT)


def test_signing_in_reads_by_index(user: User) -> None:
    user.set_password("a long password")
    user.save()
    link = sign_in_link_create(base_url="http://x", user=user).removeprefix("http://x")
    with profiled() as operations:
        assert Client().post("/signin/", {"username": user.username, "password": "a long password"}).status_code == 302
        assert Client().get(link)["Location"] == "/"
    assert operations
    examine(operations, 1)


def test_a_folded_interval_reads_its_parts_by_index(user: User) -> None:
    client = APIClient()
    client.force_login(user)
    with profiled() as operations:
        answer = client.get(f"/api/marketdata/ohlc/?instrument=id:3&interval=10m&limit={LIMIT}")
    assert len(answer.json()["results"]) == LIMIT
    examine(operations, 2 * LIMIT)  # two candles of 5m each
    assert Instrument.objects.count() == ROWS
