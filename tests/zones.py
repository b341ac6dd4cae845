"""The host's time zone as a test's condition: what is told in Indian time must not depend on it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import pytest

IST = timezone(timedelta(hours=5, minutes=30))
HOST_ZONES = {"UTC": 0, "Asia/Kolkata": 19_800, "America/New_York": -18_000}
"""Zone → its seconds east of UTC in winter."""


def ist(text: str) -> int:
    """Return the ms UTC of a wall clock in India, as in "2026-11-23 09:15" or with seconds; by the standard library."""
    return round(datetime.fromisoformat(text).replace(tzinfo=IST).timestamp() * 1000)


@pytest.fixture(params=HOST_ZONES)
def host_zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run the test once in each zone."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    assert time.localtime(1_768_435_200).tm_gmtoff == HOST_ZONES[request.param], "this host knows the zone"
    yield request.param
    monkeypatch.undo()
    time.tzset()
