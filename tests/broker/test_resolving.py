"""When rules are resolved anew, and what has changed: what was seen against what is."""

from __future__ import annotations

import pytest

from broker.resolving import AGAIN_SECONDS, Followed, Left, Seen, causes_of, change_of
from instruments.domain.succession import Held
from tests.zones import ist

END = ist("2026-11-17 15:40:00")
WAS = Seen(100.0, END - 1000, "load 1", 7, {"N": 25000.0}, END)


@pytest.mark.parametrize(
    ("now", "causes"),
    [
        (WAS, []),
        (WAS._replace(at=100.0 + AGAIN_SECONDS - 0.1), []),
        (WAS._replace(at=100.0 + AGAIN_SECONDS), ["time"]),
        (WAS._replace(master="load 2"), ["master"]),
        (WAS._replace(rules=8), ["rules"]),
        (WAS._replace(anchors={"N": 25050.0}), ["spot"]),
        (WAS._replace(anchors={"N": 25000.0, "B": 58000.0}), ["spot"]),
        (WAS._replace(market_ms=END - 1), []),
        (WAS._replace(market_ms=END), ["expiry"]),
        (WAS._replace(market_ms=ist("2026-11-18 00:00:00")), ["expiry", "day"]),
        (WAS._replace(market_ms=ist("2026-11-16 12:00:00")), ["day"]),  # a replay begins anew
        (Seen(900.0, END, "load 2", 8, {}, None), ["master", "rules", "expiry", "spot"]),
    ],
)
def test_each_cause_is_seen_by_itself_and_with_others(now: Seen, causes: list[str]) -> None:
    assert causes_of(WAS, now) == causes


def test_an_expiry_is_a_cause_once_and_the_first_look_is_the_start() -> None:
    assert causes_of(None, WAS) == ["start"]
    assert causes_of(WAS._replace(market_ms=END, next_end_ms=END), WAS._replace(market_ms=END + 1)) == []
    assert causes_of(WAS._replace(next_end_ms=None), WAS._replace(market_ms=END)) == []


def option(number: int, expiry_ms: int = END, strike: float = 25000.0) -> Held:
    return Held(number, f"K{number}", True, None, "NSE_FO", f"S{number}", "N", "CE", strike, expiry_ms, expiry_ms)


def universe(*contracts: Held, mode: str = "full", ruled: bool = True) -> dict[str, Followed]:
    return {each.key: Followed(each, mode, ruled) for each in contracts}


LATER = END + 7 * 86_400_000
A, B, NEXT_A, OTHER = option(1), option(2, strike=25050.0), option(3, LATER), option(4, LATER, 26000.0)


def test_what_entered_left_and_moved_is_told_with_reasons() -> None:
    was = universe(A, B, OTHER)
    now = universe(NEXT_A) | universe(OTHER, mode="ltpc")
    change = change_of(was, now, at_ms=END, causes=["expiry"], short=(), known={})
    assert change is not None
    assert change.entered == {"K3": "full"}
    assert change.left == {"K1": Left(1, "expired", "K3"), "K2": Left(2, "expired", "")}
    assert change.moved == {"K4": "ltpc"}
    assert (change.at_ms, change.causes, change.by_mode) == (END, ["expiry"], {"full": 1, "ltpc": 1})


def test_the_same_is_no_change() -> None:
    assert change_of(universe(A), universe(A), at_ms=0, causes=["time"], short=(), known={}) is None
    assert change_of(universe(A), universe(A, ruled=False), at_ms=0, causes=["rules"], short=(), known={}) is None


def test_demand_and_limit_are_told_apart_from_rules() -> None:
    demanded, ruled = universe(OTHER, ruled=False), universe(NEXT_A)
    entered = change_of(ruled, ruled | demanded, at_ms=0, causes=["spot"], short=(), known={})
    assert entered is not None
    assert entered.causes == ["demand"], "the rules have no part in it"
    left = change_of(ruled | demanded, ruled, at_ms=0, causes=[], short=(), known={})
    assert left is not None
    assert (left.left, left.causes) == ({"K4": Left(4, "demand", "")}, ["demand"])
    stronger = change_of(universe(A, mode="ltpc"), universe(A), at_ms=0, causes=[], short=(), known={})
    assert stronger is not None
    assert (stronger.moved, stronger.causes) == ({"K1": "full"}, ["demand"])
    taken = change_of(demanded, ruled, at_ms=0, causes=["rules"], short={"K4"}, known={})
    assert taken is not None
    assert (taken.left, taken.causes) == ({"K4": Left(4, "limit", "")}, ["rules", "demand", "limit"])
    dropped = change_of(ruled, {}, at_ms=0, causes=["rules"], short=(), known={})
    assert dropped is not None
    assert (dropped.left, dropped.causes, dropped.by_mode) == ({"K3": Left(3, "rules", "")}, ["rules"], {})


def test_a_key_that_passed_to_another_contract_has_left_and_entered() -> None:
    other = option(9, LATER)._replace(key="K1")
    change = change_of(universe(A), universe(other), at_ms=0, causes=["master"], short=(), known={})
    assert change is not None
    assert change.left == {"K1": Left(1, "expired", "K1")}
    assert change.entered == {"K1": "full"}


def test_what_expires_or_is_listed_no_more_is_told_as_expired_though_no_rule_was_resolved() -> None:
    change = change_of(universe(A, ruled=False), {}, at_ms=END, causes=[], short=(), known={})
    assert change is not None
    assert (change.left, change.causes) == ({"K1": Left(1, "expired", "")}, ["expiry", "demand"])
    retired = change_of(universe(NEXT_A, ruled=False), {}, at_ms=0, causes=["master"], short=(), known={3: NEXT_A._replace(active=False)})
    assert retired is not None
    assert (retired.left, retired.causes) == ({"K3": Left(3, "expired", "")}, ["expiry", "demand"])


def test_a_living_contract_that_has_another_key_is_told_to_go_on_under_that() -> None:
    """A key is not what it is: A moves to K7, and its own goes to another contract, to nobody, or to one that moves as well."""
    moved, swapped = A._replace(key="K7"), OTHER._replace(key="K1")
    for now in (universe(moved), universe(moved, option(9, LATER)._replace(key="K1"))):
        change = change_of(universe(A), now, at_ms=0, causes=["master"], short=(), known={1: moved})
        assert change is not None
        assert (change.left, set(change.entered), change.causes) == ({"K1": Left(1, "key", "K7")}, set(now), ["master"])
    unfollowed = change_of(universe(A), {}, at_ms=0, causes=["master"], short={"K1"}, known={1: moved})
    assert unfollowed is not None
    assert unfollowed.left == {"K1": Left(1, "key", "K7")}, "it lives, though nobody wants it there"
    swap = change_of(universe(A, OTHER), universe(A._replace(key="K4"), swapped), at_ms=0, causes=["master"], short=(), known={})
    assert swap is not None
    assert swap.left == {"K1": Left(1, "key", "K4"), "K4": Left(4, "key", "K1")}
    ended = change_of(universe(A), {}, at_ms=END, causes=["master"], short=(), known={1: moved})
    assert ended is not None
    assert ended.left == {"K1": Left(1, "expired", "")}


def test_what_takes_the_place_of_an_expired_contract_may_be_on_another_connection() -> None:
    later, over = option(7, LATER + 1), option(8, END)
    for elsewhere, follows in (([NEXT_A, later], "K3"), ([later, over], "K7"), ([OTHER], ""), ([NEXT_A._replace(active=False)], "")):
        change = change_of(universe(A), {}, at_ms=END, causes=["expiry"], short=(), known={}, elsewhere=elsewhere)
        assert change is not None
        assert change.left == {"K1": Left(1, "expired", follows)}
