"""Counting how minutes came to be: against an independent count in Python, repeated, killed half-way, with gaps and sessions."""

from __future__ import annotations

import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from marketdata import parity, store
from marketdata.calendar import calendar_forget, sessions_record
from marketdata.domain.candle import DAY_MS, MINUTE_MS, Candle, candle_id, day_start_ms
from marketdata.domain.session import Hours
from marketdata.models import CandleParity, Gap
from marketdata.parity import FIELDS, parity_day, parity_rows, parity_total, parity_update, percents
from tests.marketdata.api.fixtures import OPEN_MS, make_instrument
from tests.zones import host_zone  # noqa: F401

pytestmark = pytest.mark.django_db

DAY = day_start_ms(OPEN_MS)
CLOSE_MS = OPEN_MS + 375 * MINUTE_MS
Values = tuple[float, float, float, float, int]


@pytest.fixture(autouse=True)
def unknown_calendar() -> None:
    """What an earlier test recorded is not remembered."""
    calendar_forget()


def write(
    instrument: int, minute: int, values: Values, state: str = "confirmed", built: tuple[float, ...] | None = None, day: int = 0
) -> None:
    start = OPEN_MS + minute * MINUTE_MS + day * DAY_MS
    told = None if built is None else {candle_id(instrument, "1m", start): built}
    store.candles_write([Candle(instrument, "1m", start, *values, None, state)], told)


def row(instrument: int, day: int = DAY) -> dict[str, Any]:
    found = parity_rows(day, instrument=instrument, limit=2)
    assert len(found) == 1
    return found[0][0]


def known_session(exchange: str = "NSE", opens: int = OPEN_MS, closes: int = CLOSE_MS) -> None:
    sessions_record([Hours(exchange, DAY, opens, closes)])


def make_gap(first: float, last: float | None, **fields: Any) -> Gap:
    """Minutes after the open."""
    start = datetime.fromtimestamp(OPEN_MS / 1000, UTC)
    end = None if last is None else start + timedelta(minutes=last)
    found: Gap = Gap.objects.create(start=start + timedelta(minutes=first), end=end, cause="stopped", **fields)
    return found


FLAT: Values = (100.0, 100.0, 100.0, 100.0, 10)

# --- what is counted --------------------------------------------------------------------------------------------------


def test_every_count_equals_an_independent_one() -> None:
    dice = random.Random(4)
    wanted: dict[tuple[int, int], dict[str, int]] = {}
    for instrument in (1, 2, 8_000_000_000):
        for day in (0, -1, 3):
            counts = wanted.setdefault((instrument, DAY + day * DAY_MS), dict.fromkeys(parity.COUNTS, 0))
            for minute in dice.sample(range(375), 60):
                base = dice.randrange(10_000) / 20
                values = (base, base + 2, base - 1, base + 0.5, dice.choice([0, dice.randrange(1000)]))
                state = dice.choice(["confirmed", "confirmed", "closed", "backfilled"])
                built = None if dice.random() < 0.3 else tuple(value + dice.choice([0, 0, 0.05]) for value in values)
                write(instrument, minute, values, state, built, day)
                counts[state] += 1
                if state == "confirmed" and built is not None:
                    same = [abs(one - other) < 0.005 for one, other in zip(values, built, strict=True)]
                    counts["compared"] += 1
                    counts["volume_compared"] += values[4] > 0 or built[4] > 0
                    same[4] &= values[4] > 0 or built[4] > 0
                    for name, equal in zip(FIELDS, [*same, all(same[:4])], strict=True):
                        counts[f"{name}_equal"] += equal
    done = parity_update(market_ms=CLOSE_MS)
    assert done == parity.ParityUpdate(changed=540, counted=9, complete=True)
    assert {pair: row(*pair) for pair in wanted} == {pair: {"instrument": pair[0], **counts} for pair, counts in wanted.items()}
    assert CandleParity.objects.count() == 9


@pytest.mark.parametrize(("built", "equal"), [(100.0, 1), (100.0049, 1), (100.01, 0), (99.99, 0), (0.1 + 0.2 + 99.7, 1)])
def test_prices_are_equal_to_the_cent(built: float, equal: int) -> None:
    write(1, 0, FLAT, built=(built, 100.0, 100.0, 100.0, 10.0))
    parity_update(market_ms=CLOSE_MS)
    found = row(1)
    assert (found["open_equal"], found["prices_equal"], found["high_equal"], found["volume_equal"]) == (equal, equal, 1, 1)


def test_volume_that_differs_by_one_is_not_equal_and_is_no_price() -> None:
    write(1, 0, FLAT, built=(100.0, 100.0, 100.0, 100.0, 9.0))
    parity_update(market_ms=CLOSE_MS)
    found = row(1)
    assert (found["volume_equal"], found["prices_equal"]) == (0, 1)
    assert percents(found) == {"open": 100.0, "high": 100.0, "low": 100.0, "close": 100.0, "volume": 0.0, "prices": 100.0}


def test_an_index_has_no_volume_to_compare() -> None:
    write(1, 0, (100.0, 100.0, 100.0, 100.0, 0), built=(100.0, 100.0, 100.0, 100.0, 0.0))
    write(2, 0, FLAT, built=(100.0, 100.0, 100.0, 100.0, 9.0))
    parity_update(market_ms=CLOSE_MS)
    assert (row(1)["compared"], row(1)["volume_compared"], percents(row(1))["volume"]) == (1, 0, None)
    assert percents(parity_total(DAY))["volume"] == 0.0, "the index does not mend the share of all"


def test_a_finished_candle_that_got_other_values_is_counted_as_revised() -> None:
    write(1, 0, FLAT, "closed")
    write(1, 0, (100.0, 101.0, 100.0, 100.0, 12), built=FLAT)
    write(1, 1, FLAT, "closed")
    write(1, 1, FLAT)
    parity_update(market_ms=CLOSE_MS)
    found = row(1)
    assert (found["confirmed"], found["revised"], found["compared"], found["prices_equal"]) == (2, 1, 1, 0)


@pytest.mark.usefixtures("host_zone")
def test_a_day_is_the_indian_one_whatever_the_hosts_zone() -> None:
    for minute in (-9 * 60 - 15, -9 * 60 - 16, 14 * 60 + 44, 14 * 60 + 45):  # 00:00, 23:59 the day before, 23:59, 00:00 the day after
        write(1, minute, FLAT)
    parity_update(market_ms=CLOSE_MS)
    assert [row(1, DAY + day * DAY_MS)["confirmed"] for day in (-1, 0, 1)] == [1, 2, 1]


# --- when it is counted -----------------------------------------------------------------------------------------------


def age_writes(**ago: float) -> None:
    """Let everything that is written so far have been written long ago."""
    then = datetime.now(UTC) - timedelta(**ago)
    store.candles_collection().update_many({}, {"$set": {"u": then}})
    store.collection(parity.WATERMARKS).update_many({"_id": parity.WATERMARK}, {"$set": {"u": then}})


def test_only_pairs_that_were_touched_are_counted_again() -> None:
    for instrument in (1, 2, 3):
        write(instrument, 0, FLAT)
        write(instrument, 0, FLAT, day=-1)
    assert parity_update(market_ms=CLOSE_MS).counted == 6
    age_writes(hours=5)
    store.candles_collection().update_one({"_id": candle_id(3, "1m", OPEN_MS)}, {"$set": {"u": datetime.now(UTC)}})
    assert parity_update(market_ms=CLOSE_MS) == parity.ParityUpdate(changed=6, counted=6, complete=True)  # the overlap
    assert parity_update(market_ms=CLOSE_MS) == parity.ParityUpdate(changed=1, counted=1, complete=True)
    write(2, 1, FLAT, "backfilled", day=-1)
    assert parity_update(market_ms=CLOSE_MS).counted == 2
    assert row(2, DAY - DAY_MS)["backfilled"] == 1
    assert row(2)["backfilled"] == 0


def test_only_the_hours_that_were_touched_are_counted_again() -> None:
    store.candles_write(Candle(1, "1m", OPEN_MS + minute * MINUTE_MS, *FLAT, None, "confirmed") for minute in range(375))
    parity_update(market_ms=CLOSE_MS)
    table = store.collection(CandleParity._meta.db_table)
    store.candles_collection().delete_one({"_id": candle_id(1, "1m", OPEN_MS)})  # at 09:15, which nobody tells the counting of
    store.candles_collection().update_many({}, {"$set": {"u": datetime.now(UTC) - timedelta(hours=1)}})
    write(1, 374, (100.0, 200.0, 100.0, 100.0, 10))  # at 15:29
    parity_update(market_ms=CLOSE_MS)
    assert (row(1)["confirmed"], row(1)["revised"]) == (375, 1), "the other hours were not read"
    table.update_one({"instrument": 1}, {"$unset": {"hours": ""}})  # as rows were before there were hours
    write(1, 374, FLAT)
    parity_update(market_ms=CLOSE_MS)
    assert (row(1)["confirmed"], row(1)["revised"]) == (374, 1)


def test_counting_again_changes_nothing() -> None:
    for minute in range(5):
        write(1, minute, FLAT, built=FLAT)
    parity_update(market_ms=CLOSE_MS)
    first = row(1)
    store.collection(parity.WATERMARKS).delete_many({})
    for _ in range(3):
        parity_update(market_ms=CLOSE_MS)
    assert row(1) == first
    assert CandleParity.objects.count() == 1


def test_what_its_time_did_not_suffice_for_is_counted_by_the_next_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for minute in range(10):
        write(minute % 5, minute, FLAT)
        age = datetime.now(UTC) - timedelta(hours=10 - minute)
        store.candles_collection().update_one({"_id": candle_id(minute % 5, "1m", OPEN_MS + minute * MINUTE_MS)}, {"$set": {"u": age}})
    monkeypatch.setattr(parity, "CHUNK_MINUTES", 4)
    runs = [parity_update(market_ms=CLOSE_MS, seconds=-1.0) for _ in range(4)]  # each reads the last one before again
    assert [run.complete for run in runs] == [False, False, False, True]
    assert runs[0] == parity.ParityUpdate(changed=4, counted=4, complete=False)
    assert [row(instrument)["confirmed"] for instrument in range(5)] == [2] * 5


def test_a_clock_that_was_set_back_hides_nothing() -> None:
    write(1, 0, FLAT)
    parity_update(market_ms=CLOSE_MS)
    store.collection(parity.WATERMARKS).update_one({"_id": parity.WATERMARK}, {"$set": {"u": datetime.now(UTC) + timedelta(days=2)}})
    write(1, 1, FLAT)
    parity_update(market_ms=CLOSE_MS)
    assert row(1)["confirmed"] == 2


# --- what is missing --------------------------------------------------------------------------------------------------


@pytest.fixture
def two_traded() -> None:
    """Two instruments, of which 1 has every minute of the first 60 but 10–19, and 2 every one but 15–16."""
    known_session()
    for instrument, key, without in ((1, "NSE_EQ|A", range(10, 20)), (2, "NSE_EQ|B", range(15, 17))):
        make_instrument(instrument, key)
        start = [OPEN_MS + minute * MINUTE_MS for minute in range(60) if minute not in without]
        store.candles_write(Candle(instrument, "1m", at, *FLAT, None, "confirmed") for at in start)


def missing(*instruments: int) -> list[int]:
    return [row(instrument)["missing"] for instrument in instruments]


@pytest.mark.usefixtures("two_traded")
def test_minutes_without_a_candle_are_missing_only_where_a_gap_lies_over_them() -> None:
    parity_update(market_ms=CLOSE_MS)
    assert missing(1, 2) == [0, 0]
    gap = make_gap(9.5, 15.2)
    parity_update(market_ms=CLOSE_MS)
    assert missing(1, 2) == [6, 1]  # 10–15, and 15; 9 has its candle
    gap.heal_state = "healed"
    gap.save()
    parity_update(market_ms=CLOSE_MS)
    assert missing(1, 2) == [0, 0]  # nobody traded


@pytest.mark.usefixtures("two_traded")
def test_a_gap_that_cannot_be_healed_stays_missing_and_a_filled_one_does_not() -> None:
    make_gap(10, 20, heal_state="impossible")
    parity_update(market_ms=CLOSE_MS)
    assert missing(1, 2) == [10, 2]
    for minute in range(10, 16):
        write(1, minute, FLAT, "backfilled")
    parity_update(market_ms=CLOSE_MS)
    assert missing(1, 2) == [4, 2]
    assert row(1)["backfilled"] == 6


@pytest.mark.usefixtures("two_traded")
def test_what_is_missing_stays_missing_when_its_gap_gets_old() -> None:
    make_gap(10, 20, heal_state="impossible")
    for days in (0, parity.GAP_DAYS - 1, parity.GAP_DAYS, parity.GAP_DAYS + 1, parity.GAP_DAYS + 2):
        parity_update(market_ms=CLOSE_MS + days * DAY_MS)
        assert missing(1, 2) == [10, 2], days


@pytest.mark.usefixtures("two_traded")
def test_gaps_that_overlap_are_counted_once_and_one_of_named_instruments_only_of_them() -> None:
    make_gap(10, 14, instruments=[1])
    make_gap(12, 17, instruments=[1, 3])
    make_instrument(3, "NSE_EQ|C")
    parity_update(market_ms=CLOSE_MS)
    assert missing(1, 2, 3) == [7, 0, 5]  # 3 has nothing at all that day, and is told of all the same


@pytest.mark.usefixtures("two_traded")
def test_a_gap_of_a_shard_concerns_its_own_instruments(settings: Any) -> None:
    settings.FEED_SHARDS = 2
    make_gap(10, 20, shard=0)
    parity_update(market_ms=CLOSE_MS)
    assert missing(1, 2) == [0, 2]


@pytest.mark.usefixtures("two_traded")
def test_a_gap_that_lasts_is_missing_as_far_as_market_time_has_come() -> None:
    make_gap(70, None)
    for minutes in (70, 75, 75, 400):
        parity_update(market_ms=OPEN_MS + minutes * MINUTE_MS + 30_000)
        assert missing(1) == [min(minutes, 375) - 70]


@pytest.mark.usefixtures("two_traded")
def test_minutes_outside_of_the_session_are_never_missing() -> None:
    make_gap(-60, 5)
    make_gap(370, 500)
    store.candles_collection().delete_many({"i": 1, "_id": {"$lt": candle_id(1, "1m", OPEN_MS + 2 * MINUTE_MS)}})
    parity_update(market_ms=CLOSE_MS + DAY_MS)
    assert missing(1) == [2 + 5]


def test_where_the_session_is_not_known_nothing_is_called_missing() -> None:
    make_instrument(1, "NSE_EQ|A")
    write(1, 0, FLAT)
    make_gap(1, 20)
    parity_update(market_ms=CLOSE_MS)
    assert missing(1) == [0]


def test_each_segment_has_its_own_session() -> None:
    make_instrument(1, "NSE_EQ|A")
    make_instrument(2, "MCX_FO|B")
    known_session(closes=OPEN_MS + 5 * MINUTE_MS)
    known_session("MCX")
    for instrument in (1, 2):
        write(instrument, 0, FLAT)
    make_gap(1, 20)
    parity_update(market_ms=CLOSE_MS)
    assert missing(1, 2) == [4, 19]


def test_a_gap_over_days_is_missing_on_each() -> None:
    make_instrument(1, "NSE_EQ|A")
    sessions_record([Hours("NSE", DAY + day * DAY_MS, OPEN_MS + day * DAY_MS, CLOSE_MS + day * DAY_MS) for day in range(3)])
    for day in range(3):
        write(1, 0, FLAT, day=day)
    make_gap(365, 24 * 60 * 2 + 10)
    parity_update(market_ms=CLOSE_MS + 2 * DAY_MS)
    assert [row(1, DAY + day * DAY_MS)["missing"] for day in range(3)] == [10, 374, 9]


# --- reading ----------------------------------------------------------------------------------------------------------


def count_rows(shares: Iterable[tuple[int, int, int]]) -> None:
    """(compared, prices equal, missing) of instruments 1, 2, …"""
    for number, (compared, equal, lost) in enumerate(shares, 1):
        counts = dict.fromkeys(parity.COUNTS, 0) | {"compared": compared, "prices_equal": equal, "missing": lost}
        document = parity._row((number, DAY), {"9": [counts.get(name, 0) for name in parity._BY_HOUR]}, lost, datetime.now(UTC))
        store.collection(CandleParity._meta.db_table).insert_one(document)


@pytest.mark.parametrize(
    ("order", "wanted"), [("prices", [4, 2, 5, 1, 3, 6]), ("missing", [5, 2, 1, 3, 4, 6]), ("instrument", [1, 2, 3, 4, 5, 6])]
)
@pytest.mark.parametrize("limit", [1, 2, 10])
def test_pages_of_rows_are_the_whole_the_worst_first(order: str, wanted: list[int], limit: int) -> None:
    count_rows([(3, 2, 0), (3, 1, 4), (10, 7, 0), (5, 0, 0), (3, 1, 9), (0, 0, 0)])
    found: list[int] = []
    mark = None
    while page := parity_rows(DAY, order=order, after=mark, limit=limit):
        found += [one["instrument"] for one, _ in page]
        mark = page[-1][1]
    assert found == wanted


def test_the_total_of_a_day_adds_up_and_is_zero_where_there_is_nothing() -> None:
    count_rows([(3, 2, 0), (3, 1, 4)])
    total = parity_total(DAY)
    assert (total["instruments"], total["compared"], total["prices_equal"], total["missing"]) == (2, 6, 3, 4)
    assert set(parity_total(DAY - DAY_MS).values()) == {0}
    assert percents(parity_total(DAY - DAY_MS)) == dict.fromkeys(FIELDS)


def test_the_newest_day_of_all_or_of_one_up_to_market_time() -> None:
    for instrument, day in ((1, -3), (1, -1), (2, -2), (2, 5)):
        write(instrument, 0, FLAT, day=day)
    parity_update(market_ms=CLOSE_MS)
    assert parity_day(CLOSE_MS) == DAY - DAY_MS
    assert parity_day(CLOSE_MS, 2) == DAY - 2 * DAY_MS
    assert parity_day(CLOSE_MS + 9 * DAY_MS, 2) == DAY + 5 * DAY_MS
    assert parity_day(CLOSE_MS - 30 * DAY_MS) is None
    assert parity_day(CLOSE_MS, 3) is None


def test_reading_a_day_uses_the_index() -> None:
    count_rows([(3, 2, 0)])
    plan = store.collection(CandleParity._meta.db_table).find({"day": datetime.fromtimestamp(DAY / 1000, UTC)}).explain()
    assert "candle_parity_day" in str(plan["queryPlanner"]["winningPlan"])
