"""Every combination of the list's filters, judged by MongoDB's own profiler on the real master."""

from __future__ import annotations

import itertools
import time
from datetime import datetime
from typing import Any

import msgspec
import pytest
from django.core.cache import cache
from django.test import Client, RequestFactory, override_settings
from rest_framework.request import Request

from accounts.models import User
from accounts.services import api_key_create
from broker.upstox.master import parse_master, unpack_master
from instruments.api.queries import ListQuery, ListRequest, list_request
from instruments.domain.instrument import InstrumentRow, ist_date, ms_of
from instruments.models import Instrument, InstrumentVersion, SubscriptionRule
from instruments.services import instruments_refresh, rules_default_create, spots_record
from instruments.store import instruments_collection
from tests.instruments.explain import assert_by_index, profiled
from tests.instruments.rows import REAL_MASTER, needs_real_master, patience

pytestmark = [pytest.mark.django_db, pytest.mark.realdata, pytest.mark.slow, needs_real_master]
JULY = datetime.fromisoformat("2026-07-07T09:30:00+05:30")
LIMIT = 50
PROFILED = 24
"""Pages that are read under one profile, whose collection holds 1 MB."""
FILTERS: dict[str, list[dict[str, str]]] = {
    "segment": [{}, {"segment": "NSE_FO"}, {"segment": "NSE_EQ"}],
    "instrument_type": [{}, {"instrument_type": "CE"}, {"instrument_type": "N3"}, {"lot": "65"}],
    "underlying": [{}, {"underlying": "NIFTY"}, {"underlying": "NIFTY", "strike_min": "25000", "strike_max": "25200"}],
    "expiry": [{}, {"expiry": "2026-07-28"}],
    "subscribed": [{}, {"subscribed": "true"}, {"subscribed": "false"}, {"as_of": "2026-07-06"}],
}
OLDER, NEWER = (datetime.fromisoformat(f"{day}T06:00:00+05:30") for day in ("2026-07-05", "2026-07-07"))


def older_master(rows: list[InstrumentRow]) -> list[InstrumentRow]:
    """A master of two days before: NIFTY had another lot, some contracts are not listed yet, others are of no master since."""
    changed = [
        msgspec.structs.replace(row, lot_size=75) if row.underlying_symbol == "NIFTY" and number % 3 else row
        for number, row in enumerate(rows)
        if number % 29
    ]
    gone = [
        msgspec.structs.replace(row, instrument_key=f"{row.instrument_key}X", strike_price=row.strike_price + 0.01)
        for row in rows[::31]
        if row.strike_price
    ]
    return changed + gone


def belongs(row: InstrumentRow, parameters: dict[str, str]) -> bool:
    """The filters, said another way."""
    return (
        parameters.get("segment", row.segment) == row.segment
        and parameters.get("instrument_type", row.instrument_type) == row.instrument_type
        and ("lot" not in parameters or int(parameters["lot"]) == row.lot_size)
        and ("underlying" not in parameters or parameters["underlying"] == row.underlying_symbol)
        and ("expiry" not in parameters or (row.expiry_ms is not None and parameters["expiry"] == ist_date(row.expiry_ms).isoformat()))
        and ("strike_min" not in parameters or 25000 <= (row.strike_price or 0) <= 25200)
    )


def asked(parameters: dict[str, str]) -> dict[str, Any]:
    return ListQuery.read(Request(RequestFactory().get("/", parameters)))


def expected(parameters: dict[str, str], request: ListRequest, before: list[InstrumentRow]) -> int:
    """How many instruments the page has, by counting otherwise: the present ones in MongoDB, the older ones in the master itself."""
    if request.as_of is None:
        return min(instruments_collection().count_documents({**request.wanted, "active": True, "_id": request.ids}), LIMIT + 1)
    return len(list(itertools.islice((row for row in before if belongs(row, parameters)), LIMIT + 1)))


@pytest.mark.parametrize("each", [pytest.param(1, marks=pytest.mark.long, id="every combination"), pytest.param(7, id="every seventh")])
def test_combinations_are_read_by_an_index_in_order(capsys: pytest.CaptureFixture[str], each: int) -> None:
    """One test, one load: no collection scan, no sort, at most 2 x limit documents, and the page really is the first by id."""
    rows = parse_master(unpack_master([REAL_MASTER.read_bytes()]))
    before = older_master(rows)
    instruments_refresh(rows=before, source="test", as_of=OLDER)
    instruments_refresh(rows=rows, source="test", as_of=NEWER)
    rules_default_create()
    spots_record(spots={"NSE_INDEX|Nifty 50": 25312.0}, at_ms=ms_of(JULY))
    cache.clear()
    middle = Instrument.objects.count() // 2
    worst: tuple[float, dict[str, str]] = (0.0, {})
    names = ({name: value for part in chosen for name, value in part.items()} for chosen in itertools.product(*FILTERS.values()))
    combinations = [chosen | {"limit": str(LIMIT)} | after for chosen in names for after in ({}, {"after": str(middle)})][::each]
    for first in range(0, len(combinations), PROFILED):
        requests = [(parameters, list_request(asked(parameters), lambda: JULY)) for parameters in combinations[first : first + PROFILED]]
        pages = []
        with profiled(Instrument._meta.db_table, InstrumentVersion._meta.db_table) as entries:
            for parameters, request in requests:
                began = time.perf_counter()
                pages.append(request.page())
                worst = max(worst, (time.perf_counter() - began, parameters), key=lambda pair: pair[0])
        assert len(entries) == sum(1 if request.as_of is None else 3 for _, request in requests)
        assert_by_index(entries, at_most=2 * LIMIT)
        for (parameters, request), page in zip(requests, pages, strict=True):
            ids = [document["_id"] for document in page]
            assert ids == sorted(set(ids))
            if request.as_of is None or "after" not in parameters:
                assert len(page) == expected(parameters, request, before), parameters
    with capsys.disabled():
        print(f"\n{len(combinations)} combinations; the slowest page took {worst[0] * 1000:.1f} ms: {worst[1]}")
    _a_lot_is_read_by_its_own_index()
    _requests_per_second(capsys)
    _the_rules_are_one_query_a_kind()


def _a_lot_is_read_by_its_own_index() -> None:
    """Nothing of other lots is walked through, however few have it: the page of a lot alone, and in its segment."""
    for filters in ({"lot": "65"}, {"lot": "65", "segment": "NSE_FO"}):
        with profiled(Instrument._meta.db_table) as entries:
            page = list_request(asked({**filters, "limit": str(LIMIT)}), lambda: JULY).page()
        assert len(page) == LIMIT + 1
        assert [entry["keysExamined"] <= 2 * LIMIT for entry in entries] == [True]


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
