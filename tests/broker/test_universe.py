"""Wanted against actual: the requests lead from one to the other, touch nothing that stays, and never pass a limit on the way."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.universe import Request, fit, reconcile
from broker.upstox.feed import KEYS_PER_REQUEST
from instruments.domain.limits import Limits

WIDE = Limits({"ltpc": 100, "full": 100}, {"ltpc": 100, "full": 100})
NARROW = Limits({"ltpc": 6, "full": 4}, {"ltpc": 3, "full": 2})
BROKERS = Limits({"ltpc": 5000, "full": 2000}, {"ltpc": 2000, "full": 1500})

maps = st.dictionaries(st.sampled_from([f"K{number}" for number in range(12)]), st.sampled_from(["full", "ltpc"]))
allowed = maps.filter(lambda wanted: NARROW.hold(Counter(wanted.values())))


def keys(start: int, end: int, mode: str = "full") -> dict[str, str]:
    return {f"K{number:04}": mode for number in range(start, end)}


def play(actual: dict[str, str], requests: list[Request], limits: Limits) -> tuple[dict[str, str], Counter[str]]:
    """Do what the requests say, key by key as a broker may, within the limits; return the result, and how often each key was named."""
    state, named = dict(actual), Counter[str]()
    for request in requests:
        for start in range(0, len(request.keys), KEYS_PER_REQUEST):
            for key in request.keys[start : start + KEYS_PER_REQUEST]:
                named[key] += 1
                assert (key in state) is (request.method != "sub")
                if request.method == "unsub":
                    del state[key]
                else:
                    assert state.get(key) != request.mode
                    state[key] = request.mode
                assert limits.hold(Counter(state.values())), (request.method, Counter(state.values()))
    return state, named


@given(maps, maps)
def test_with_room_each_key_that_differs_is_named_once_and_no_other(actual: dict[str, str], wanted: dict[str, str]) -> None:
    state, named = play(actual, reconcile(actual, wanted, WIDE), WIDE)
    assert state == wanted
    assert named == Counter({key: 1 for key in actual.keys() | wanted if actual.get(key) != wanted.get(key)})


@given(allowed, allowed)
def test_the_limits_hold_after_every_single_key(actual: dict[str, str], wanted: dict[str, str]) -> None:
    requests = reconcile(actual, wanted, NARROW)
    state, named = play(actual, requests, NARROW)
    assert state == wanted
    assert not [key for key in named if actual.get(key) == wanted.get(key)], "what stays is not touched"
    assert len({(request.method, request.mode) for request in requests}) == len(requests)


def test_nothing_is_asked_when_nothing_differs() -> None:
    assert reconcile({"A": "full"}, {"A": "full"}, WIDE) == []


def test_leaving_comes_before_entering() -> None:
    assert reconcile({"A": "full", "B": "ltpc"}, {"B": "full", "C": "full"}, WIDE) == [
        Request("unsub", "", ["A"]),
        Request("change_mode", "full", ["B"]),
        Request("sub", "full", ["C"]),
    ]


def test_the_first_key_of_a_second_mode_waits_until_the_first_mode_is_within_the_mixed_limit() -> None:
    actual = keys(0, 2000)
    wanted = actual | keys(1400, 2000, "ltpc")
    requests = reconcile(actual, wanted, BROKERS)
    assert [(request.method, request.mode, len(request.keys)) for request in requests] == [
        ("unsub", "", 499), ("change_mode", "ltpc", 101), ("sub", "ltpc", 499),
    ]  # fmt: skip
    assert play(actual, requests, BROKERS)[0] == wanted


def test_what_is_more_than_one_request_may_hold_stays_within_the_limits_too() -> None:
    actual = keys(0, 5000, "ltpc")
    wanted = keys(2500, 4500)
    assert play(actual, reconcile(actual, wanted, BROKERS), BROKERS)[0] == wanted


def test_demand_fills_up_to_the_limit_and_rules_keep_at_least_their_mode() -> None:
    limits = Limits({"full": 9, "ltpc": 9}, {"full": 3, "ltpc": 1})
    rules = {"A": "full", "B": "full", "R": "ltpc"}
    fitted = fit(rules, {"A": "ltpc", "C": "full", "D": "full", "E": "ltpc"}, limits)
    assert fitted.wanted == {"A": "full", "B": "full", "R": "ltpc", "C": "full"}
    assert fitted.refused == {
        "D": "The broker's limit of 3 keys in full mode is reached.",
        "E": "The broker's limit of 1 keys in ltpc mode is reached.",
    }
    assert fit({"R": "ltpc"}, {"R": "full"}, limits).wanted == {"R": "full"}, "what a client asks for beyond the rule's mode"


@given(allowed, maps, maps)
def test_demand_takes_nothing_from_rules_and_who_comes_later_nothing_from_who_came_first(
    rules: dict[str, str], demanded: dict[str, str], later: dict[str, str]
) -> None:
    fitted = fit(rules, demanded, NARROW)
    assert NARROW.hold(Counter(fitted.wanted.values()))
    assert fitted.wanted.keys() | fitted.refused.keys() == rules.keys() | demanded.keys()
    assert not fitted.wanted.keys() & fitted.refused.keys()
    assert all(fitted.wanted[key] in (mode, "full") for key, mode in rules.items())
    more = fit(rules, demanded | {key: mode for key, mode in later.items() if key not in demanded}, NARROW).wanted
    assert all(more[key] in (mode, "full") for key, mode in fitted.wanted.items())


@pytest.mark.parametrize(
    ("rules", "mode", "room"),
    [
        (1500, "ltpc", 2000),  # side by side
        (1501, "ltpc", 499),  # a first ltpc key would lower the limit of full to 1,500: in full mode then, as far as that has room
        (2000, "ltpc", 0),
        (1501, "full", 499),
        (0, "ltpc", 5000),
        (0, "full", 2000),
    ],
)
def test_a_mode_that_is_demanded_beside_another_changes_the_limits(rules: int, mode: str, room: int) -> None:
    fitted = fit(keys(0, rules), keys(3000, 9000, mode), BROKERS)
    assert len(fitted.wanted) == rules + room
    assert len(fitted.refused) == 6000 - room
    assert BROKERS.hold(Counter(fitted.wanted.values()))
    assert fitted.wanted.items() >= keys(0, rules).items()
    assert list(fitted.wanted)[rules:] == list(keys(3000, 3000 + room)), "who came first"
