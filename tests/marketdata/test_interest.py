"""What open interest is compared with: candles written by the store, bases written and read back, on the real MongoDB."""

from __future__ import annotations

import pytest

from marketdata import store
from marketdata.domain.candle import DAY_MS, MINUTE_MS, Candle, day_start_ms
from marketdata.domain.chain import InterestBase
from marketdata.interest import bases_read, bases_write, closes_stored, firsts_of
from marketdata.models import InterestBase as Stored
from tests.instruments.explain import profiled
from tests.marketdata.api.fixtures import OPEN_MS

pytestmark = pytest.mark.django_db

DAY = day_start_ms(OPEN_MS)


def minute(instrument: int, number: int, open_interest: float | None, day: int = 0) -> Candle:
    return Candle(instrument, "1m", OPEN_MS + day * DAY_MS + number * MINUTE_MS, 1.0, 1.0, 1.0, 1.0, 1, open_interest, "confirmed")


def daily(instrument: int, days_before: int, open_interest: float | None) -> Candle:
    return Candle(instrument, "1d", DAY - days_before * DAY_MS, 1.0, 1.0, 1.0, 1.0, 1, open_interest, "confirmed")


def test_the_first_candle_of_a_day_and_the_first_that_tells_open_interest() -> None:
    store.candles_write(
        [minute(1, 4, 900.0), minute(1, 2, 750.0), minute(1, 1, None), minute(1, 0, 600.0, day=-1), minute(1, 0, 99.0, day=1)]
    )
    assert firsts_of([1, 2], DAY) == {1: (OPEN_MS + 2 * MINUTE_MS, 750.0)}
    assert firsts_of([1, 2], DAY, telling=False) == {1: (OPEN_MS + MINUTE_MS, None)}
    assert bases_read([1, 2], DAY) == {}, "whether it is the day's start, the task says"


def test_the_firsts_of_a_whole_chain_are_read_by_one_query_and_each_by_its_key() -> None:
    store.candles_write([minute(each, number, 100.0 * each + number) for each in range(1, 61) for number in range(1, 9)])
    with profiled("$cmd.aggregate", store.candles_collection().name) as entries:
        found = firsts_of(range(1, 61), DAY)
    assert found == {each: (OPEN_MS + MINUTE_MS, 100.0 * each + 1) for each in range(1, 61)}
    assert len(entries) == 1
    assert sum(entry["docsExamined"] for entry in entries) <= 60


def test_what_a_whole_chain_is_compared_with_is_read_by_two_queries() -> None:
    bases_write({each: InterestBase(10.0 * each, None) for each in range(1, 61)}, DAY)
    store.candles_write([daily(each, 1, 5.0 * each) for each in range(1, 61)])
    with profiled(store.candles_collection().name, Stored._meta.db_table) as entries:
        found = bases_read(range(1, 61), DAY)
    assert found == {each: InterestBase(10.0 * each, 5.0 * each) for each in range(1, 61)}
    assert len(entries) == 2


def test_the_previous_close_is_the_brokers_where_it_told_one_else_that_of_the_last_daily_candle() -> None:
    store.candles_write([daily(1, 3, 500.0), daily(2, 3, 600.0), daily(2, 4, 1.0)])
    bases_write({1: InterestBase(None, 555.0)}, DAY)
    assert bases_read([1, 2], DAY) == {1: InterestBase(None, 555.0), 2: InterestBase(None, 600.0)}
    assert closes_stored([1, 2], DAY) == {1}


def test_a_daily_candle_older_than_the_chains_last_day_of_trading_is_no_previous_close() -> None:
    store.candles_write([daily(1, 1, 500.0), daily(2, 2, 600.0), daily(3, 1, None)])
    assert bases_read([1, 2, 3], DAY) == {1: InterestBase(None, 500.0)}


def test_writing_leaves_what_it_does_not_know_and_repeats_without_a_change() -> None:
    assert bases_write({1: InterestBase(10.0, None), 2: InterestBase()}, DAY) == 1
    assert bases_write({1: InterestBase(None, 0.0)}, DAY) == 1
    assert bases_write({1: InterestBase(10.0, 0.0)}, DAY) == 0
    assert bases_read([1, 2], DAY) == {1: InterestBase(10.0, 0.0)}
    assert bases_read([1], DAY + DAY_MS) == {}


def test_a_base_has_its_model_in_the_admins_words() -> None:
    bases_write({7: InterestBase(10.0, None)}, DAY)
    row = Stored.objects.get()
    assert (row.instrument, store.time_ms(row.day), row.day_start, row.previous_close) == (7, DAY, 10.0, None)
