"""The plan of a refresh, checked by carrying it out on a model of the store."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from instruments.domain.change import Known, Plan, plan_changes
from instruments.domain.instrument import InstrumentRow, fingerprint_of, identity_of, placeholder_identity
from tests.instruments.rows import equity, index, option


def known(rows: list[InstrumentRow]) -> list[Known]:
    return [
        Known(number, identity_of(row), row.instrument_key, row.exchange, fingerprint_of(row), False) for number, row in enumerate(rows, 1)
    ]


def carry_out(plan: Plan, before: list[Known]) -> dict[str, str]:
    """Apply a plan to {key: identity}, asserting at each step that a key has one holder."""
    by_id = {instrument.id: instrument for instrument in before}
    held = {instrument.instrument_key: instrument.identity for instrument in before}
    for number in plan.gone:
        del held[by_id[number].instrument_key]
    for group in plan.passing:
        for number in group.leaving:
            del held[by_id[number].instrument_key]
        for change in group.taking:
            if (
                change.id is not None
                and by_id[change.id].instrument_key in held
                and held[by_id[change.id].instrument_key] == change.identity
            ):
                del held[by_id[change.id].instrument_key]
            assert change.row.instrument_key not in held
            held[change.row.instrument_key] = change.identity
    for change in plan.changed:
        assert change.id is not None
        del held[by_id[change.id].instrument_key]
        assert change.row.instrument_key not in held
        held[change.row.instrument_key] = change.identity
    for change in plan.entering:
        assert change.row.instrument_key not in held
        held[change.row.instrument_key] = change.identity
    return held


def test_an_equal_master_changes_nothing() -> None:
    rows = [index(), equity(), option(1), option(2, side="PE")]
    assert plan_changes(known(rows), rows).size == 0


def test_a_recycled_key_passes_to_the_new_contract_in_one_group() -> None:
    plan = plan_changes(known([option(7, 24000.0)]), [option(7, 26000.0)])
    assert [(group.leaving, [change.identity for change in group.taking]) for group in plan.passing] == [
        ([1], ["NSE_FO:NIFTY:2026-11-17:26000:CE"])
    ]
    assert (plan.gone, plan.changed, plan.entering) == ([], [], [])


def test_a_lot_size_is_changed_under_the_same_id() -> None:
    plan = plan_changes(known([option(7, lot=75)]), [option(7, lot=65)])
    assert [(change.id, change.moved, change.row.lot_size) for change in plan.changed] == [(1, False, 65)]
    assert plan.size == 1


def test_a_ring_of_keys_is_one_group() -> None:
    before = known([option(1, 100.0), option(2, 200.0), option(3, 300.0)])
    plan = plan_changes(before, [option(2, 100.0), option(3, 200.0), option(1, 300.0)])
    assert len(plan.passing) == 1
    assert sorted(plan.passing[0].leaving) == [1, 2, 3]
    assert sorted(change.id or 0 for change in plan.passing[0].taking) == [1, 2, 3]


def test_a_chain_ends_with_the_mover_to_a_free_key() -> None:
    before = known([option(1, 100.0), option(2, 200.0)])
    rows = [option(2, 100.0), option(9, 200.0), option(1, 300.0)]
    plan = plan_changes(before, rows)
    assert len(plan.passing) == 1
    assert not plan.changed
    assert carry_out(plan, before) == {row.instrument_key: identity_of(row) for row in rows}


def test_a_placeholder_loses_its_key_but_is_never_gone() -> None:
    held = Known(5, placeholder_identity("NSE_FO|7", 5), "NSE_FO|7", "NSE", 0, True)
    other = Known(6, placeholder_identity("NSE_FO|8", 6), "NSE_FO|8", "NSE", 0, True)
    plan = plan_changes([held, other], [option(7)])
    assert [group.leaving for group in plan.passing] == [[5]]
    assert plan.passing[0].taking[0].id is None
    assert plan.gone == []


def test_only_exchanges_that_the_master_covers_lose_instruments() -> None:
    elsewhere = Known(9, "BSE_EQ:INE002A01018", "BSE_EQ|INE002A01018", "BSE", 0, False)
    plan = plan_changes([*known([option(1), option(2, side="PE")]), elsewhere], [option(1)])
    assert plan.gone == [2]


def test_rows_of_one_identity_are_told_apart_by_their_keys() -> None:
    rows = [option(1), option(2)]
    plan = plan_changes([], rows)
    assert len({change.identity for change in plan.entering}) == 2


CONTRACTS = st.dictionaries(st.integers(1, 8), st.integers(1, 8), max_size=8).map(
    lambda by_token: [option(token, 100.0 * strike) for token, strike in by_token.items() if list(by_token.values()).count(strike) == 1]
)


@settings(max_examples=400)
@given(CONTRACTS, CONTRACTS)
def test_any_plan_leads_to_the_master_and_no_key_ever_has_two_holders(before: list[InstrumentRow], after: list[InstrumentRow]) -> None:
    stored = known(before)
    plan = plan_changes(stored, after)
    held = carry_out(plan, stored)
    wanted = {row.instrument_key: identity_of(row) for row in after}
    assert held == (wanted if after else {row.instrument_key: identity_of(row) for row in before})
    losing = [number for group in plan.passing for number in group.leaving]
    assert len(losing) == len(set(losing))
