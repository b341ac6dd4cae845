"""Who gets the room that the broker's limits leave: any rules, any limits, any number of connections."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruments.domain.limits import MODES, Limits
from instruments.domain.universe import Contract, Rule, Universe, resolve

BROKERS = Limits({"ltpc": 5000, "option_greeks": 3000, "full": 2000, "full_d30": 0}, {"ltpc": 2000, "option_greeks": 2000, "full": 1500})
KEYS = [f"NSE_EQ|K{number}" for number in range(10)]

amounts = st.fixed_dictionaries({mode: st.integers(0, 6) for mode in MODES})
limits = st.builds(Limits, amounts, amounts)
rules = st.lists(
    st.builds(
        Rule,
        st.uuids().map(str),
        st.just("keys"),
        st.just(""),
        st.just(()),
        st.just("all"),
        st.lists(st.sampled_from(KEYS), min_size=1, max_size=8).map(tuple),
        st.sampled_from(MODES),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=5,
)
quickly = settings(max_examples=40, deadline=None)


def resolved(wishes: list[Rule], given_limits: Limits, connections: int = 2) -> Universe:
    contracts = [Contract(key, "NSE_EQ", "EQ", key, None, None, None, None, None, number % connections) for number, key in enumerate(KEYS)]
    return resolve(contracts, {}, wishes, given_limits, now_ms=0)


def modes_of(universe: Universe) -> dict[str, str]:
    return {key: mode for mode, keys in universe.by_mode.items() for key in keys}


def may_be(modes: dict[str, str], given_limits: Limits, connections: int) -> bool:
    """The broker's law, written down a second time: the smaller limits as soon as a connection mixes modes."""
    for connection in range(connections):
        mine = [mode for key, mode in modes.items() if KEYS.index(key) % connections == connection]
        for mode in mine:
            most = given_limits.alone[mode] if len(set(mine)) == 1 else min(given_limits.alone[mode], given_limits.mixed[mode])
            if mine.count(mode) > most:
                return False
    return True


@quickly
@given(rules, limits, st.integers(1, 3))
def test_no_limit_is_passed_on_any_connection_and_no_place_is_wasted(wishes: list[Rule], given_limits: Limits, connections: int) -> None:
    universe = resolved(wishes, given_limits, connections)
    followed = modes_of(universe)
    assert sum(map(len, universe.by_mode.values())) == len(followed), "each key in one mode"
    assert may_be(followed, given_limits, connections)
    for key, mode in followed.items():
        assert any(key in rule.keys and mode == rule.mode for rule in wishes), "what nobody wants is not followed, nor more of it"
    used = {connection: Counter(dict(counts)) for connection, counts in universe.used.items()}
    assert sum(used.values(), Counter()) == Counter(followed.values())
    cut = {(cut.rule, key): cut.mode for cut in universe.cut for key in cut.keys}
    for rule in wishes:
        for key in rule.keys:
            served = key in followed and MODES.index(followed[key]) >= MODES.index(rule.mode)
            assert ((rule.name, key) in cut) is not served, "what is not followed as wanted is said, and nothing else"
    for (_, key), mode in cut.items():
        assert not may_be({**followed, key: mode}, given_limits, connections), "there was no room"


@quickly
@given(rules, rules, limits)
def test_what_a_rule_gets_no_later_rule_takes_away(wishes: list[Rule], later: list[Rule], given_limits: Limits) -> None:
    before = modes_of(resolved(wishes, given_limits))
    later = [rule._replace(priority=rule.priority + 10) for rule in later]
    after = modes_of(resolved([*later, *wishes], given_limits))
    for key, mode in before.items():
        assert key in after
        assert MODES.index(after[key]) >= MODES.index(mode)


@quickly
@given(rules, limits, st.data())
def test_what_another_rule_still_wants_stays_when_a_rule_goes_and_the_order_of_reading_is_nothing(
    wishes: list[Rule], given_limits: Limits, data: st.DataObject
) -> None:
    universe = resolved(wishes, given_limits)
    assert resolved(data.draw(st.permutations(wishes)), given_limits) == universe
    gone = data.draw(st.sampled_from(wishes))
    stay = [rule for rule in wishes if rule is not gone]
    wide = Limits(dict.fromkeys(MODES, 100), dict.fromkeys(MODES, 100))
    with_room = modes_of(resolved(stay, wide))
    assert with_room.keys() == {key for rule in stay for key in rule.keys}
    for key, mode in with_room.items():
        assert mode == max((rule.mode for rule in stay if key in rule.keys), key=MODES.index), "the strongest that is wanted"


def test_a_place_that_is_given_up_goes_to_who_was_cut_first() -> None:
    one = Limits({"ltpc": 1, "full": 1}, {"ltpc": 1, "full": 1})
    wishes = [rule_of("first", KEYS[0:2], "ltpc", 1), rule_of("stronger", KEYS[0:1], "full", 2), rule_of("last", KEYS[2:3], "ltpc", 3)]
    universe = resolved(wishes, one, connections=1)
    assert universe.by_mode == {"ltpc": [KEYS[1]], "full": [KEYS[0]]}
    assert [(cut.rule, cut.keys) for cut in universe.cut] == [("last", [KEYS[2]])]


def rule_of(name: str, keys: list[str], mode: str, priority: int) -> Rule:
    return Rule(name, "keys", "", (), "all", tuple(keys), mode, priority)


@pytest.mark.parametrize(("full", "priority"), [(4, 1), (4, 3), (5, 1), (5, 3)])
def test_a_second_mode_lowers_the_limits_only_where_it_is_really_followed(full: int, priority: int) -> None:
    """Full mode: five keys alone, four beside others."""
    narrow = Limits({"ltpc": 9, "full": 5}, {"ltpc": 2, "full": 4})
    everything = rule_of("everything", KEYS[:full], "full", 2)
    prices = rule_of("prices", KEYS[6:8], "ltpc", priority)
    got = {mode: len(keys) for mode, keys in resolved([everything, prices], narrow, connections=1).by_mode.items()}
    assert got == ({"full": 5} if (full, priority) == (5, 3) else {"full": 4, "ltpc": 2})
    idle = [prices._replace(name="nothing", keys=("NSE_EQ|NOBODY",)), prices._replace(name="the same", keys=everything.keys, priority=3)]
    universe = resolved([everything, *idle], narrow, connections=1)
    assert universe.by_mode == {"full": KEYS[:full]}, "rules in another mode that follow nothing in it"


@pytest.mark.parametrize(
    ("counts", "mode", "reason"),
    [
        ({"full": 2000}, "full", "the broker's limit of 2000 keys in full mode is reached"),
        ({"full": 1500, "ltpc": 1}, "full", "the broker's limit of 1500 keys in full mode is reached"),
        ({"full": 1600}, "ltpc", "no room in ltpc mode: beside it the broker's limit is 1500 keys in full mode, and there are 1600"),
        ({}, "full_d30", "the broker's limit of 0 keys in full_d30 mode is reached"),
    ],
)
def test_a_refusal_names_the_limit_that_is_in_the_way(counts: dict[str, int], mode: str, reason: str) -> None:
    assert BROKERS.refusal(counts, mode) == reason
