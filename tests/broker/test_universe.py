"""Wanted against actual: the requests lead from one to the other and never pass a limit on the way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.universe import Request, reconcile, within_limits

maps = st.dictionaries(st.sampled_from([f"K{number}" for number in range(12)]), st.sampled_from(["full", "ltpc"]))


@given(maps, maps)
def test_the_requests_turn_actual_into_wanted(actual: dict[str, str], wanted: dict[str, str]) -> None:
    state = dict(actual)
    asked: list[str] = []
    for request in reconcile(actual, wanted):
        for key in request.keys:
            asked.append(key)
            if request.method == "unsub":
                del state[key]
            elif request.method == "sub":
                assert key not in state
                state[key] = request.mode
            else:
                assert state[key] != request.mode
                state[key] = request.mode
        assert len(state) <= max(len(actual), len(wanted))
    assert state == wanted
    assert len(asked) == len(set(asked)), "a key that stays is asked for at most once"


def test_nothing_is_asked_when_nothing_differs() -> None:
    assert reconcile({"A": "full"}, {"A": "full"}) == []


def test_leaving_comes_before_entering() -> None:
    assert reconcile({"A": "full", "B": "ltpc"}, {"B": "full", "C": "full"}) == [
        Request("unsub", "", ["A"]),
        Request("change_mode", "full", ["B"]),
        Request("sub", "full", ["C"]),
    ]


def test_demand_fills_up_to_the_limit_and_rules_keep_their_mode() -> None:
    rules = {"A": "full", "B": "full"}
    demanded = {"A": "ltpc", "C": "full", "D": "full", "E": "ltpc"}
    assert within_limits(rules, demanded, {"full": 3, "ltpc": 1}) == {"A": "full", "B": "full", "C": "full", "E": "ltpc"}
