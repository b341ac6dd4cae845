"""Rules, contracts and prices in; keys per mode out."""

from __future__ import annotations

from datetime import UTC, date, datetime, time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruments.domain.expiry import usual_end_ms
from instruments.domain.instrument import InstrumentRow, ist_date, ms_of
from instruments.domain.limits import Limits
from instruments.domain.strikes import at_the_money, check_strikes_word
from instruments.domain.universe import Contract, Rule, Universe, resolve
from tests.instruments.rows import DAY_1, MONTHLY, NEXT_WEEKLY, WEEKLY, index, market, option

NOW = ms_of(DAY_1)
LIMITS = {"ltpc": 5000, "option_greeks": 3000, "full": 2000, "full_d30": 0}
BROKERS = Limits(LIMITS, {**LIMITS, "ltpc": 2000, "option_greeks": 2000, "full": 1500})
SPOTS = {"NSE_INDEX|Nifty 50": 25012.0, "NSE_INDEX|Nifty Bank": 50190.0}


def contract(row: InstrumentRow) -> Contract:
    return Contract(
        row.instrument_key,
        row.segment,
        row.instrument_type,
        row.trading_symbol,
        row.underlying_key,
        row.underlying_symbol,
        row.expiry_ms,
        row.weekly,
        row.strike_price,
    )


CONTRACTS = [contract(row) for row in market()]
SYMBOLS = {each.key: each.symbol for each in CONTRACTS}


def rule(
    what: str,
    underlying: str = "NIFTY",
    *expiries: str,
    strikes: str = "all",
    mode: str = "full",
    priority: int = 100,
    keys: tuple[str, ...] = (),
) -> Rule:
    return Rule(f"{what} {underlying} {mode}", what, underlying, expiries, strikes, keys, mode, priority)


def resolved(*rules: Rule, spots: dict[str, float] = SPOTS, limits: dict[str, int] = LIMITS) -> Universe:
    return resolve(CONTRACTS, spots, rules, Limits(limits, limits), now_ms=NOW)


def symbols(universe: Universe, mode: str = "full") -> list[str]:
    return [SYMBOLS[key] for key in universe.by_mode.get(mode, [])]


def test_strikes_round_the_money_come_from_the_money_outwards() -> None:
    universe = resolved(rule("options", "NIFTY", "@w0", strikes="atm1"))
    around = [f"NIFTY {strike} {side} 17 NOV 26" for strike in (25000, 24950, 25050) for side in ("CE", "PE")]
    assert symbols(universe) == ["NIFTY", *around]  # what the money is measured by comes first
    assert universe.selections[0].at_the_money == {WEEKLY: 25000.0}
    assert universe.cut == []


def test_irregular_strike_lists_are_counted_not_computed() -> None:
    universe = resolved(rule("options", "BANKNIFTY", "@m0", strikes="atm1"))
    assert {symbol.split()[1] for symbol in symbols(universe)[1:]} == {"50100", "50200", "50500"}


def test_without_a_price_the_middle_of_the_list_stands_for_the_money() -> None:
    universe = resolved(rule("options", "NIFTY", "@w0", strikes="atm0"), spots={})
    assert symbols(universe) == ["NIFTY", "NIFTY 25000 CE 17 NOV 26", "NIFTY 25000 PE 17 NOV 26"]
    assert universe.selections[0].unpriced == [WEEKLY]
    moved = resolved(rule("options", "NIFTY", "@w0", strikes="atm0"), spots={"NSE_INDEX|Nifty 50": 24510.0})
    assert symbols(moved) == ["NIFTY", "NIFTY 24500 CE 17 NOV 26", "NIFTY 24500 PE 17 NOV 26"]
    assert moved.selections[0].unpriced == []


def test_a_spot_may_be_named_by_symbol() -> None:
    assert resolved(rule("options", "NIFTY", "@w0", strikes="atm0"), spots={"NIFTY": 24510.0}).selections[0].at_the_money == {
        WEEKLY: 24500.0
    }


def test_weeklies_and_the_monthly() -> None:
    universe = resolved(rule("options", "NIFTY", "@w0", "@w1", "@w2", "@m0", strikes="atm0"))
    assert universe.selections[0].expiries == [WEEKLY, MONTHLY, NEXT_WEEKLY]
    assert len(universe.by_mode["full"]) == 1 + 6


def test_indices_equities_futures_and_keys() -> None:
    universe = resolved(
        rule("index", "INDIA VIX", priority=1),
        rule("equity", "RELIANCE", priority=2),
        rule("futures", "NIFTY", "@m0", priority=3),
        rule("keys", "", keys=("NSE_FO|101", "NSE_FO|404"), priority=4),
    )
    assert symbols(universe) == ["INDIA VIX", "RELIANCE", "NIFTY FUT 23 NOV 26", "NIFTY FUT 29 DEC 26"]
    assert [(cut.reason, cut.keys) for cut in universe.cut] == [("no active instrument has this key", ["NSE_FO|404"])]


def test_no_underlying_means_all_indices() -> None:
    assert sorted(symbols(resolved(rule("index", "")))) == ["BANKNIFTY", "INDIA VIX", "NIFTY"]


def test_what_matches_nothing_is_said() -> None:
    universe = resolved(rule("options", "BANKNIFTY", "@w1"), rule("futures", "SENSEX", "@m0"))
    assert {cut.reason for cut in universe.cut} == {
        "BANKNIFTY has no living expiry @w1 in NSE_FO",
        "no active futures instrument of SENSEX",
    }


def test_a_limit_cuts_the_wings_of_the_last_rule_and_says_so() -> None:
    universe = resolved(
        rule("options", "NIFTY", "@w0", strikes="atm2", priority=2),
        rule("index", "", priority=1),
        limits={"full": 9},
    )
    kept = symbols(universe)
    assert kept[:3] == ["NIFTY", "BANKNIFTY", "INDIA VIX"]
    assert kept[3:] == [f"NIFTY {strike} {side} 17 NOV 26" for strike in (25000, 24950, 25050) for side in ("CE", "PE")]
    (cut,) = universe.cut
    assert cut.reason == "the broker's limit of 9 keys in full mode is reached"
    assert [SYMBOLS[key] for key in cut.keys] == [f"NIFTY {strike} {side} 17 NOV 26" for strike in (24900, 25100) for side in ("CE", "PE")]


def test_a_key_is_followed_once_in_its_strongest_mode() -> None:
    weak = rule("index", "NIFTY", mode="ltpc", priority=1)
    strong = rule("index", "NIFTY", mode="full", priority=2)
    assert resolved(weak, strong).by_mode == {"full": ["NSE_INDEX|Nifty 50"]}
    no_room = resolved(weak, strong, limits={"ltpc": 1, "full": 0})
    assert no_room.by_mode == {"ltpc": ["NSE_INDEX|Nifty 50"]}
    assert [cut.mode for cut in no_room.cut] == ["full"]


def test_dead_contracts_are_not_followed() -> None:
    after = ms_of(DAY_1.replace(month=12, day=30))
    universe = resolve(CONTRACTS, SPOTS, [rule("options", "NIFTY", "@w0")], BROKERS, now_ms=after)
    assert universe.by_mode == {}
    assert universe.cut[0].reason == "NIFTY has no living expiry @w0 in NSE_FO"


def test_a_key_whose_trading_has_ended_is_cut_with_the_reason() -> None:
    rules = [rule("keys", "", keys=("NSE_FO|1000", "NSE_FO|1042", "NSE_INDEX|India VIX"))]  # of the weekly, of the monthly, an index
    end_ms = ms_of(datetime(2026, 11, 17, 10, 10, tzinfo=UTC))  # 15:40 IST
    before = resolve(CONTRACTS, SPOTS, rules, BROKERS, now_ms=end_ms - 1)
    assert (before.by_mode["full"], before.cut) == (["NSE_FO|1000", "NSE_FO|1042", "NSE_INDEX|India VIX"], [])
    after = resolve(CONTRACTS, SPOTS, rules, BROKERS, now_ms=end_ms)
    assert after.by_mode["full"] == ["NSE_FO|1042", "NSE_INDEX|India VIX"]
    assert [(cut.reason, cut.keys) for cut in after.cut] == [("trading in this contract has ended", ["NSE_FO|1000"])]


@pytest.mark.parametrize(
    ("rules", "day"),
    [
        ([rule("index", "")], None),
        ([rule("options", "NIFTY", "@w0", strikes="atm0")], WEEKLY),
        ([rule("options", "NIFTY", "@w1", strikes="atm0")], WEEKLY),  # not followed itself, but @w1 moves on when it ends
        ([rule("options", "BANKNIFTY", "@m0")], MONTHLY),
        ([rule("keys", "", keys=("NSE_FO|1084", "NSE_FO|404"))], NEXT_WEEKLY),
        ([rule("futures", "NIFTY", "@m1"), rule("options", "BANKNIFTY", "@m0")], MONTHLY),
        ([rule("options", "NIFTY", "2026-12-29")], WEEKLY),
    ],
)
def test_the_next_end_is_that_of_the_nearest_expiry_that_the_rules_speak_of(rules: list[Rule], day: date | None) -> None:
    expected = None if day is None else ms_of(datetime.combine(day, time(10, 10), UTC))
    assert resolved(*rules).next_end_ms == expected


def test_the_calendar_decides_when_trading_ends() -> None:
    """A short session on the expiry day, as of a holiday: the words move on at its end, and what has ended is not followed."""
    close = datetime.combine(WEEKLY, time(8, 0), UTC)
    usual: list[date] = []

    def end_of(segment: str, day: date) -> int:
        usual.append(day)
        return ms_of(close) if day == WEEKLY else usual_end_ms(segment, day)

    rules = [rule("options", "NIFTY", "@w0", strikes="atm0"), rule("options", "NIFTY", "@w1", strikes="atm0", priority=101)]
    for moment, expiries, next_end in ((-1, [WEEKLY, MONTHLY], WEEKLY), (0, [MONTHLY, NEXT_WEEKLY], MONTHLY)):
        universe = resolve(CONTRACTS, SPOTS, rules, BROKERS, now_ms=ms_of(close) + moment, end_of=end_of)
        assert [day for selection in universe.selections for day in selection.expiries] == expiries
        assert universe.next_end_ms == (ms_of(close) if next_end == WEEKLY else usual_end_ms("NSE_FO", next_end))
    assert usual.count(WEEKLY) == 2  # asked once a resolution: it may be a look-up


MOMENTS = [ms_of(datetime.combine(day, time(10, 10), UTC)) + off for day in (WEEKLY, MONTHLY, NEXT_WEEKLY) for off in (-1, 0, 86_400_000)]


@given(
    st.sampled_from(MOMENTS),
    st.sampled_from(["all", "atm1", "atm20", "pct1", "delta25"]),
    st.lists(st.sampled_from(["@w0", "@w1", "@w2", "@m0", "@m1", "2026-11-17", "2026-12-01"]), min_size=1),
    st.floats(24_000, 26_000),
)
def test_nothing_whose_trading_has_ended_is_ever_selected(now_ms: int, strikes: str, expiries: list[str], spot: float) -> None:
    every = tuple(each.key for each in CONTRACTS)
    rules = [rule("options", "NIFTY", *expiries, strikes=strikes), rule("futures", "NIFTY", *expiries), rule("keys", "", keys=every)]
    universe = resolve(CONTRACTS, {"NSE_INDEX|Nifty 50": spot}, rules, BROKERS, now_ms=now_ms)
    by_key = {each.key: each for each in CONTRACTS}
    ends = [
        usual_end_ms(by_key[key].segment, ist_date(by_key[key].expiry_ms or 0)) for key in universe.by_mode["full"] if by_key[key].expiry_ms
    ]
    assert ends
    assert min(ends) > now_ms
    assert universe.next_end_ms == min(ends)


def test_every_mode_has_its_own_limit_and_greeks_may_be_asked_for() -> None:
    universe = resolved(
        rule("options", "NIFTY", "@w0", strikes="atm3", mode="option_greeks", priority=1),
        rule("options", "NIFTY", "@m0", strikes="atm3", mode="full_d30", priority=2),
        rule("index", "", mode="ltpc", priority=3),
        limits={"option_greeks": 5, "full_d30": 2, "ltpc": 1},
    )
    assert {mode: len(keys) for mode, keys in universe.by_mode.items()} == {"ltpc": 1, "option_greeks": 5, "full_d30": 2}
    assert universe.by_mode["full_d30"][0] == "NSE_INDEX|Nifty 50"  # moved up from greeks; the first that had no room there has its place
    assert [(cut.mode, len(cut.keys)) for cut in universe.cut] == [("option_greeks", 9), ("full_d30", 13), ("ltpc", 1)]


def test_an_underlying_that_is_not_listed_is_not_followed() -> None:
    alone = [each for each in CONTRACTS if each.underlying_symbol == "NIFTY"]
    universe = resolve(alone, SPOTS, [rule("options", "NIFTY", "@w0", strikes="atm0")], BROKERS, now_ms=NOW)
    assert symbols(universe) == ["NIFTY 25000 CE 17 NOV 26", "NIFTY 25000 PE 17 NOV 26"]


@pytest.mark.parametrize(("word", "lowest", "highest"), [("pct1", 24_800, 25_250), ("delta25", 24_650, 25_350), ("atm2", 24_900, 25_100)])
def test_windows_by_percent_and_delta(word: str, lowest: float, highest: float) -> None:
    """By hand: 1 % is 24,761.88 to 25,262.12; σ√T = 0.15 √(8/365) = 0.0222, and N⁻¹(0.25) = −0.6745, so 24,646 to 25,396."""
    universe = resolved(rule("options", "NIFTY", "@w0", strikes=word))
    strikes = [float(symbol.split()[1]) for symbol in symbols(universe)[1:]]
    assert (min(strikes), max(strikes)) == (lowest, highest)
    assert len(set(strikes)) * 2 == len(strikes) == 2 * ((highest - lowest) / 50 + 1)


def test_shares_have_wider_deltas_than_indices() -> None:
    shares = [each._replace(underlying_key="NSE_EQ|INE002A01018", underlying_symbol="RELIANCE") for each in CONTRACTS if each.strike_price]
    spots = {"NSE_EQ|INE002A01018": 25_012.0}
    found = resolve(shares, spots, [rule("options", "RELIANCE", "@w0", strikes="delta25")], BROKERS, now_ms=NOW)
    assert len(found.by_mode["full"]) > len(resolved(rule("options", "NIFTY", "@w0", strikes="delta25")).by_mode["full"])


@pytest.mark.parametrize("word", ["", "atm", "atm1000", "ATM5", "10", "all "])
def test_unknown_strikes_words_are_refused(word: str) -> None:
    with pytest.raises(ValueError, match="atm10"):
        check_strikes_word(word)
    with pytest.raises(ValueError, match="atm10"):
        resolved(rule("options", "NIFTY", "@w0", strikes=word))


@given(st.lists(st.integers(1, 10_000), min_size=1, unique=True).map(sorted), st.floats(-10, 20_000))
def test_the_money_is_the_nearest_strike(strikes: list[int], spot: float) -> None:
    place = at_the_money([float(strike) for strike in strikes], spot)
    if spot:
        assert abs(strikes[place] - spot) == min(abs(strike - spot) for strike in strikes)


@given(st.integers(0, 60), st.integers(0, 30), st.sampled_from(["all", "atm3", "atm10"]))
def test_no_limit_is_ever_passed_and_nothing_is_lost_without_a_word(full: int, ltpc: int, strikes: str) -> None:
    rules = [rule("options", "NIFTY", "@w0", "@m0", strikes=strikes), rule("options", "BANKNIFTY", "@m0", mode="ltpc"), rule("index", "")]
    universe = resolved(*rules, limits={"full": full, "ltpc": ltpc})
    assert len(universe.by_mode.get("full", [])) <= full
    assert len(universe.by_mode.get("ltpc", [])) <= ltpc
    kept = [key for keys in universe.by_mode.values() for key in keys]
    assert len(kept) == len(set(kept))
    wanted = {key for selection in universe.selections for key in selection.keys}
    assert wanted == {*kept, *(key for cut in universe.cut for key in cut.keys)}


def test_the_builders_of_these_tests_are_right() -> None:
    assert contract(index()).symbol == "NIFTY"
    assert contract(option(1)).expiry_ms is not None


def test_the_limit_is_that_of_each_connection() -> None:
    spread = [contract._replace(connection=int(contract.key.removeprefix("NSE_FO|")) % 2) for contract in CONTRACTS if "FO" in contract.key]
    wish = rule("options", "NIFTY", "@w0", strikes="atm2")
    universe = resolve(spread, SPOTS, [wish], Limits({"full": 3}, {}), now_ms=NOW)
    by_connection = {contract.key: contract.connection for contract in spread}
    assert [sum(by_connection[key] == number for key in universe.by_mode["full"]) for number in (0, 1)] == [3, 3]
    wanted = universe.selections[0].keys
    for number in (0, 1):  # the most important of each
        mine = [key for key in wanted if by_connection[key] == number]
        assert [key for key in universe.by_mode["full"] if by_connection[key] == number] == mine[:3]
    assert len(universe.cut[0].keys) == len(wanted) - 6
