"""What instruments were, judged by the masters themselves: whatever `as_of` shows must be the rows that were loaded then."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from itertools import pairwise

import pytest

from instruments.domain.instrument import InstrumentRow, identity_of
from instruments.history import holdings_of, is_past, is_present, state_of_id, state_of_key, states_as_of, states_of
from instruments.models import Instrument, InstrumentVersion
from instruments.selectors import instrument_history, instrument_state, underlying_expiries
from instruments.services import instrument_placeholder_create, instruments_refresh
from instruments.store import Document, row_fields
from tests.instruments.explain import assert_by_index, profiled
from tests.instruments.rows import DAY_1, DAY_2, DAY_3, MONTHLY, NEXT_WEEKLY, WEEKLY, equity, index, option

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)
INSTANT = timedelta(milliseconds=1)
STEPS = ("retired", "keys passed on", "changed", "returned", "created")


class Stopped(BaseException):
    """As a signal would: nothing of the code catches it."""


def load(rows: list[InstrumentRow], as_of: datetime, stop_after: str = "") -> None:
    def progress(what: str, done: int, total: int) -> None:
        if what == stop_after:
            raise Stopped

    instruments_refresh(rows=rows, source="test", as_of=as_of, force=True, progress=progress)


def view(moment: datetime) -> dict[str, Document]:
    """The master's fields of all that was in force, by key."""
    states = list(states_as_of({}, moment, hint="instrument_active"))
    assert [state["_id"] for state in states] == sorted({state["_id"] for state in states})
    return {state["instrument_key"]: {name: state[name] for name in row_fields(index())} for state in states}


def master(rows: list[InstrumentRow]) -> dict[str, Document]:
    return {row.instrument_key: row_fields(row) for row in rows}


def spans(instrument: int) -> list[tuple[datetime, datetime]]:
    """The times of an instrument's states, oldest first."""
    end = datetime.max.replace(tzinfo=DAY_1.tzinfo)
    return [(state["active_from"], state["active_to"] or end) for state in reversed(states_of(instrument))]


def assert_nothing_overlaps() -> None:
    for instrument in Instrument.objects.values_list("id", flat=True):
        times = spans(instrument)
        assert all(begin < end for begin, end in times)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(times))


def masters(seed: int, count: int) -> Iterator[list[InstrumentRow]]:
    """Masters of a wild market: contracts come, go and return, lots change, keys go round."""
    chance = random.Random(seed)
    rows: list[InstrumentRow] = []
    for _ in range(count):
        strikes = chance.sample(range(1, 9), chance.randint(3, 7))
        tokens = chance.sample(range(1, 11), len(strikes))
        kept = {row.strike_price: row for row in rows if chance.random() < 0.6}
        taken = {row.instrument_key for row in kept.values()}
        drawn = [option(token, 100.0 * strike, lot=chance.choice([65, 75])) for token, strike in zip(tokens, strikes, strict=True)]
        rows = [*kept.values(), *(row for row in drawn if row.strike_price not in kept and row.instrument_key not in taken)]
        yield [index(), *rows]


@pytest.mark.parametrize("seed", range(3))
def test_each_older_master_is_shown_as_it_was(seed: int) -> None:
    loaded = []
    for number, rows in enumerate(masters(seed, 14)):
        as_of = DAY_1 + number * HOUR
        load(rows, as_of)
        loaded.append((as_of, rows))
    assert InstrumentVersion.objects.count() > 10
    for as_of, rows in loaded:
        assert view(as_of) == view(as_of + HOUR - INSTANT) == master(rows)
        for row in rows:
            held = state_of_key(row.instrument_key, as_of)
            assert held is not None
            assert Instrument.objects.get(pk=held["_id"]).identity == identity_of(row)
            assert state_of_id(held["_id"], as_of) == held
            assert (held["active_to"] is None) == (held["active"] is True)
    assert view(DAY_1 - INSTANT) == {}
    assert_nothing_overlaps()


@pytest.mark.parametrize("step", STEPS)
def test_a_refresh_stopped_at_any_step_leaves_one_state_at_a_time_and_the_next_goes_on(step: str) -> None:
    """Stopped, then run with a master that has changed again: the last transaction is whole, nothing is kept twice."""
    first = [index(), *(option(token, 100.0 * token) for token in range(1, 8))]
    load(first, DAY_1)
    load([*first[:7]], DAY_1 + HOUR)  # the seventh is gone
    second = [index(), option(2, 100.0), option(1, 200.0), option(3, 300.0, lot=75), option(5, 500.0), option(7, 700.0), option(8, 800.0)]
    with pytest.raises(Stopped):
        load(second, DAY_2, stop_after=step)
    assert_nothing_overlaps()
    assert view(DAY_1) == master(first)

    third = [index(), option(1, 100.0), option(3, 300.0, lot=65), option(5, 500.0, lot=75), option(7, 700.0), option(8, 800.0)]
    load(third, DAY_3)
    assert_nothing_overlaps()
    assert view(DAY_1) == master(first)
    assert view(DAY_2 - INSTANT) == master(first[:7])
    assert view(DAY_3) == master(third)
    load(third, DAY_3 + HOUR)
    versions = list(InstrumentVersion.objects.values_list("instrument", "active_from"))
    assert len(versions) == len(set(versions))


def test_the_same_refresh_run_again_after_it_was_stopped_keeps_one_version() -> None:
    load([index(), option(1, lot=75)], DAY_1)
    with pytest.raises(Stopped):
        load([index(), option(1, lot=65)], DAY_2, stop_after="changed")
    load([index(), option(1, lot=65)], DAY_2)
    (version,) = InstrumentVersion.objects.all()
    assert (version.lot_size, version.active_from, version.active_to) == (75, DAY_1, DAY_2)


def test_nothing_older_than_a_stopped_refresh_is_loaded() -> None:
    load([index(), option(1, lot=75)], DAY_1)
    with pytest.raises(Stopped):
        load([index(), option(1, lot=65)], DAY_3, stop_after="changed")
    with pytest.raises(Exception, match="older than the last load, 2026-11-12"):
        load([index(), option(1, lot=25)], DAY_2)
    assert view(DAY_3) == master([index(), option(1, lot=65)])


def test_a_contract_that_is_gone_was_not_listed_between() -> None:
    both, one = [index(), option(1), option(2, side="PE")], [index(), option(1)]
    for rows, as_of in ((both, DAY_1), (one, DAY_2), (both, DAY_3)):
        load(rows, as_of)
    held = [state_of_key("NSE_FO|2", moment) for moment in (DAY_2 - INSTANT, DAY_2, DAY_3)]
    assert [state and state["trading_symbol"] for state in held] == ["NIFTY 25000 PE 17 NOV 26", None, "NIFTY 25000 PE 17 NOV 26"]
    assert spans(instrument_history("NSE_FO|2").instrument) == [(DAY_1, DAY_2), (DAY_3, datetime.max.replace(tzinfo=DAY_1.tzinfo))]


def test_an_upgrade_that_changes_only_the_hash_keeps_no_version() -> None:
    load([index(), option(1), equity()], DAY_1)
    Instrument.objects.update(fingerprint=7)
    load([index(), option(1), equity()], DAY_2)
    assert not InstrumentVersion.objects.exists()
    assert not Instrument.objects.filter(fingerprint=7).exists()
    assert set(Instrument.objects.values_list("active_from", flat=True)) == {DAY_1}


def test_a_key_tells_all_its_holders_and_an_instrument_all_its_states() -> None:
    held = instrument_placeholder_create(keys=["NSE_FO|7"], at=DAY_1)["NSE_FO|7"]
    for rows, as_of in (
        ([option(7, 100.0, lot=75)], DAY_1 + HOUR),
        ([option(7, 100.0, lot=65)], DAY_2),
        ([option(7, 200.0), option(9, 100.0, lot=65)], DAY_3),
    ):
        load([index(), *rows], as_of)
    told = instrument_history("NSE_FO|7")
    assert [(each.state["strike_price"], each.state["lot_size"], each.since, each.until) for each in told.holdings] == [
        (200.0, 65, DAY_3, None),
        (100.0, 65, DAY_1 + HOUR, DAY_3),
        (None, None, DAY_1, DAY_1 + HOUR),
    ]
    assert told.holdings[2].state["_id"] == held
    first = told.holdings[1].state["_id"]
    assert [state["trading_symbol"] for state in told.states] == ["NIFTY 200 CE 17 NOV 26"]
    states = [(state["instrument_key"], state["lot_size"], state["active_from"]) for state in instrument_history(f"id:{first}").states]
    assert states == [("NSE_FO|9", 65, DAY_3), ("NSE_FO|7", 65, DAY_2), ("NSE_FO|7", 75, DAY_1 + HOUR)]
    assert instrument_history(f"id:{first}").key == "NSE_FO|9"


def test_the_lot_of_a_day_is_found_under_the_key_and_under_the_id() -> None:
    load([index(), option(1, lot=75)], DAY_1)
    load([index(), option(1, lot=65)], DAY_2)
    number = instrument_state("NSE_FO|1")["_id"]
    for name in ("NSE_FO|1", f"id:{number}"):
        assert [instrument_state(name, as_of=moment)["lot_size"] for moment in (DAY_1, DAY_2 - INSTANT, DAY_2, DAY_3)] == [75, 75, 65, 65]


def test_expiries_are_those_that_the_master_of_the_day_listed() -> None:
    """NSE moved the November monthly from the 24th, a holiday, to the 23rd: the older master did not know."""
    moved = MONTHLY + timedelta(days=1)
    load([index(), option(1), option(2, day=moved, weekly=False), option(3, day=NEXT_WEEKLY)], DAY_1)
    load([index(), option(1), option(2, day=MONTHLY), option(3, day=NEXT_WEEKLY)], DAY_2)

    def listed(at: datetime, as_of: datetime | None) -> list[tuple[object, list[str]]]:
        return [(each.expiry.date, each.words) for each in underlying_expiries("NIFTY", at, as_of=as_of)]

    assert listed(DAY_1, DAY_1) == [(WEEKLY, ["@w0"]), (moved, ["@w1", "@m0"]), (NEXT_WEEKLY, ["@w2"])]
    assert listed(DAY_2, None) == listed(DAY_2, DAY_2) == [(WEEKLY, ["@w0"]), (MONTHLY, ["@w1", "@m0"]), (NEXT_WEEKLY, ["@w2"])]
    load([index()], DAY_3)
    assert listed(DAY_2, DAY_2) == [(WEEKLY, ["@w0"]), (MONTHLY, ["@w1", "@m0"]), (NEXT_WEEKLY, ["@w2"])]
    assert listed(DAY_3, None) == []


def test_the_past_begins_with_the_first_load_and_ends_with_the_last() -> None:
    assert is_present(DAY_1)
    assert not is_past(DAY_1)
    load([index()], DAY_1)
    load([index()], DAY_3)
    moments = (DAY_1 - INSTANT, DAY_1, DAY_2, DAY_3, DAY_3 + HOUR)
    assert [is_past(moment) for moment in moments] == [False, True, True, False, False]
    assert [is_present(moment) for moment in moments] == [False, False, False, True, True]


@pytest.mark.parametrize(
    ("read", "documents"),
    [
        (lambda: state_of_key("NSE_FO|5", DAY_1), 2),
        (lambda: state_of_id(5, DAY_1), 2),
        (lambda: states_of(5), 2),
        (lambda: holdings_of("NSE_FO|5"), 2),
        (lambda: underlying_expiries("NIFTY", DAY_1, as_of=DAY_1), 300),
    ],
    ids=["key", "id", "states", "holdings", "expiries"],
)
def test_what_was_is_found_by_indexes(read: Callable[[], object], documents: int) -> None:
    rows = [option(token, float(token)) for token in range(1, 301)]
    load(rows, DAY_1)
    load([option(token, float(token), lot=75) for token in range(1, 301)], DAY_2)
    assert InstrumentVersion.objects.count() == 300
    with profiled(Instrument._meta.db_table, InstrumentVersion._meta.db_table) as entries:
        assert read()
    assert_by_index([entry for entry in entries if entry.get("planSummary") != "IDHACK"], at_most=documents)
    assert sum(entry.get("docsExamined", 0) for entry in entries) <= documents
