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
from rest_framework.test import APIClient

from accounts.models import User
from accounts.services import api_key_create, api_keys_forget, sign_in_link_create
from instruments.models import Instrument
from marketdata.api.key_memory import key_memory
from marketdata.models import Gap, MarketStatus
from tests.marketdata.api.fixtures import OPEN_MS, make_instrument, publish_latest, status_of, store_minutes, store_ticks
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
        assert not row.get("hasSortStage"), told
        assert row.get("docsExamined", 0) <= max(2 * limit, SMALL), told


@pytest.fixture
def user() -> User:
    """One of many, in the middle of much of everything."""
    users = [User(username=f"user{number}") for number in range(50)]
    User.objects.bulk_create(users)
    for one in users:
        api_key_create(user=one, name="laptop")
        Client().force_login(one)
    for number in range(ROWS):
        segment = ("NSE_EQ", "NSE_FO")[number % 2]
        make_instrument(number + 1, f"{segment}|{number + 1}", segment=segment)
        start = datetime.fromtimestamp(OPEN_MS / 1000, UTC) + timedelta(minutes=number)
        Gap.objects.create(start=start, end=start, cause="stale")
        MarketStatus.objects.create(segment=segment, status=f"S{number}", since=start)
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


@pytest.mark.parametrize("path", REQUESTS)
@pytest.mark.parametrize("credentials", ["key", "session"])
def test_a_request_reads_by_index_and_little_more_than_it_gives(user: User, path: str, credentials: str) -> None:
    client = APIClient()
    if credentials == "key":
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {api_key_create(user=user, name='new')}")
    else:
        client.force_login(user)
    limit = 100 if "stats" in path else LIMIT  # as many candles as there are quotes
    with profiled() as operations:
        assert client.get(path).status_code == 200
    assert operations or path == "/api/broker-status"
    examine(operations, limit)


@pytest.mark.parametrize("after", ["oldest", "newest"])
def test_the_next_page_reads_no_more_than_the_first(user: User, after: str) -> None:
    client = APIClient()
    client.force_login(user)
    address = f"/api/marketdata/ticks/?instrument=id:3&limit={LIMIT}&order={after}"
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
