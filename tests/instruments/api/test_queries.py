"""Every combination of the list's filters, judged by MongoDB's own profiler on the real master."""

from __future__ import annotations

import itertools
import time
from datetime import datetime
from typing import Any

import pytest
from django.core.cache import cache
from django.test import Client, RequestFactory, override_settings
from rest_framework.request import Request

from accounts.models import User
from accounts.services import api_key_create
from broker.upstox.master import parse_master, unpack_master
from instruments.api.queries import ListQuery, list_request
from instruments.domain.instrument import ms_of
from instruments.models import Instrument, SubscriptionRule
from instruments.services import instruments_refresh, rules_default_create, spots_record
from instruments.store import instruments_collection
from tests.instruments.explain import assert_by_index, profiled
from tests.instruments.rows import REAL_MASTER, needs_real_master, patience

pytestmark = [pytest.mark.django_db, pytest.mark.realdata, pytest.mark.slow, needs_real_master]
JULY = datetime.fromisoformat("2026-07-07T09:30:00+05:30")
LIMIT = 50
FILTERS: dict[str, list[dict[str, str]]] = {
    "segment": [{}, {"segment": "NSE_FO"}, {"segment": "NSE_EQ"}],
    "instrument_type": [{}, {"instrument_type": "CE"}, {"instrument_type": "N3"}],
    "underlying": [{}, {"underlying": "NIFTY"}, {"underlying": "NIFTY", "strike_min": "25000", "strike_max": "25200"}],
    "expiry": [{}, {"expiry": "2026-07-28"}],
    "subscribed": [{}, {"subscribed": "true"}, {"subscribed": "false"}],
}


def asked(parameters: dict[str, str]) -> dict[str, Any]:
    return ListQuery.read(Request(RequestFactory().get("/", parameters)))


def matching(wanted: dict[str, Any]) -> int:
    return instruments_collection().count_documents(wanted)


def test_every_combination_is_read_by_an_index_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    """One test, one load: no collection scan, no sort, at most 2 x limit documents, and the page really is the first by id."""
    instruments_refresh(rows=parse_master(unpack_master([REAL_MASTER.read_bytes()])), source="test")
    rules_default_create()
    spots_record(spots={"NSE_INDEX|Nifty 50": 25312.0}, at_ms=ms_of(JULY))
    cache.clear()
    middle = Instrument.objects.count() // 2
    worst: tuple[float, dict[str, str]] = (0.0, {})
    combinations = 0
    for chosen in itertools.product(*FILTERS.values()):
        parameters = {name: value for part in chosen for name, value in part.items()} | {"limit": str(LIMIT)}
        for after in ({}, {"after": str(middle)}):
            request = list_request(asked(parameters | after), lambda: JULY)
            with profiled(Instrument._meta.db_table) as entries:
                began = time.perf_counter()
                page = list(instruments_collection().find(request.wanted).sort("_id", 1).hint(request.hint).limit(LIMIT + 1))
                worst = max(worst, (time.perf_counter() - began, parameters | after), key=lambda pair: pair[0])
            assert_by_index(entries, at_most=2 * LIMIT)
            ids = [document["_id"] for document in page]
            assert ids == sorted(ids)
            combinations += 1
        assert len(page) == min(matching(request.wanted), LIMIT + 1)
    with capsys.disabled():
        print(f"\n{combinations} combinations; the slowest page took {worst[0] * 1000:.1f} ms: {worst[1]}")
    _requests_per_second(capsys)
    _the_rules_are_one_query_a_kind()


def _requests_per_second(capsys: pytest.CaptureFixture[str]) -> None:
    """Through Django with a key and the throttle on, in one thread, without a socket: the least that a web process must do."""
    secret = api_key_create(user=User.objects.create_user("asha"), name="test")
    client = Client(headers={"Authorization": f"Bearer {secret}"})
    pages = [
        {"segment": "NSE_FO", "instrument_type": "CE", "limit": "50"},
        {"underlying": "NIFTY", "expiry": "2026-07-28", "limit": "50"},
        {"segment": "NSE_EQ", "instrument_type": "EQ", "limit": "50", "after": "40000"},
    ]
    best = busy = 0.0
    with override_settings(API_REQUESTS_PER_SECOND=100_000, API_BURST=1_000_000):
        for _ in range(3):
            began, began_cpu = time.perf_counter(), time.process_time()
            for number in range(60):
                answer = client.get("/api/marketdata/instruments/", pages[number % len(pages)])
                assert answer.status_code == 200
                assert answer.content.count(b'"key":') == LIMIT
            best = max(best, 60 / (time.perf_counter() - began))
            busy = max(busy, 60 / (time.process_time() - began_cpu))
    with capsys.disabled():
        print(f"{best:.0f} filtered pages of 50 a second out of {Instrument.objects.count()}; {busy:.0f} by this process's CPU time")
    assert busy >= 50
    assert best >= 50 / patience()


def _the_rules_are_one_query_a_kind() -> None:
    cache.clear()
    secret = api_key_create(user=User.objects.get(username="asha"), name="second")
    with profiled(Instrument._meta.db_table) as entries:
        answer = Client(headers={"Authorization": f"Bearer {secret}"}).get("/api/subscriptions/")
    assert answer.status_code == 200
    assert len(answer.json()["results"]) == SubscriptionRule.objects.count()
    assert_by_index(entries, at_most=6000)
