"""The OpenAPI document says of each answer what the answer is."""

from __future__ import annotations

import time
from typing import Any

import pytest
from rest_framework.serializers import BaseSerializer, DictField, ListSerializer
from rest_framework.test import APIClient

from instruments.models import Instrument
from marketdata.api import serializers
from marketdata.calendar import sessions_record
from marketdata.domain.candle import DAY_MS, day_start_ms
from marketdata.domain.chain import InterestBase
from marketdata.domain.session import Hours
from marketdata.interest import bases_write
from marketdata.models import Gap
from marketdata.store import market_status_write
from tests.marketdata.api.fixtures import OPEN_MS, publish_latest, status_of, store_minutes, store_ticks
from tests.marketdata.api.test_status import make_gaps
from tests.marketdata.way_out import traded_entry


def check(documented: Any, value: Any, path: str) -> None:
    """Compare names with names, through lists and dictionaries; a field that may be missing may."""
    if value is None:
        assert documented.allow_null, path
    elif isinstance(documented, ListSerializer):
        assert value, f"{path} has nothing to compare"
        for item in value:
            check(documented.child, item, f"{path}[]")
    elif isinstance(documented, DictField) and isinstance(documented.child, BaseSerializer):
        for name, item in value.items():
            check(documented.child, item, f"{path}.{name}")
    elif isinstance(documented, BaseSerializer):
        fields = documented.fields  # type: ignore[attr-defined]
        assert set(value) <= set(fields), path
        assert {name for name, field in fields.items() if field.required} <= set(value), path
        for name, item in value.items():
            check(fields[name], item, f"{path}.{name}")
    else:
        documented.run_validation(value)


@pytest.mark.usefixtures("valkey")
@pytest.mark.parametrize(
    ("path", "serializer"),
    [
        ("/api/marketdata/ticks/latest/?instruments=id:7,id:99", serializers.LatestSerializer),
        ("/api/marketdata/ticks/?instrument=id:7", serializers.TickPageSerializer),
        ("/api/marketdata/ohlc/?instrument=id:7&limit=2", serializers.CandlePageSerializer),
        ("/api/marketdata/stats/", serializers.StatsSerializer),
        ("/api/marketdata/status/", serializers.MarketStatusSerializer),
        ("/api/marketdata/gaps/", serializers.GapPageSerializer),
        ("/api/broker-status", serializers.BrokerStatusSerializer),
        ("/api/marketdata/continuity/", serializers.ContinuitySerializer),
    ],
)
def test_each_answer_is_as_documented(client: APIClient, reliance: Instrument, path: str, serializer: type[BaseSerializer[Any]]) -> None:
    entries = [
        traded_entry(number, price, key=f"NSE_EQ|{number}", average=100.0, interest=750.0) for number, price in ((7, 101.5), (8, 99.5))
    ]
    bases_write({7: InterestBase(None, 600.0), 8: InterestBase(None, 900.0)}, day_start_ms(entries[0].broker_ms))
    status = status_of(now_ms=time.time_ns() // 1_000_000)
    publish_latest(entries, status)
    today, morning = day_start_ms(status.data_ms), day_start_ms(status.data_ms) + DAY_MS
    sessions_record([Hours("NSE", today, 0, 0, "Holiday"), Hours("NSE", morning, morning + 1, morning + 2)])
    store_ticks(7, [OPEN_MS, OPEN_MS + 1])
    store_minutes(7, 3)
    market_status_write("NSE_EQ", "NORMAL_OPEN", OPEN_MS)
    make_gaps(0, 1)
    assert Gap.objects.count() == 2
    check(serializer(), client.get(path).json(), path)
