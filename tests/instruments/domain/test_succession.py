"""What a followed contract is succeeded by, and when it is over."""

from __future__ import annotations

import pytest

from instruments.domain.succession import Held, successor
from tests.zones import ist

WEEK, NEXT, LAST = ist("2026-11-17 15:40:00"), ist("2026-12-01 15:40:00"), ist("2026-12-29 15:40:00")


def contract(key: str, expiry_ms: int | None, strike: float | None = 25000.0, kind: str = "CE", underlying: str | None = "N") -> Held:
    return Held(1, key, True, None, "NSE_FO", f"SYMBOL {key}", underlying, kind, strike, expiry_ms, expiry_ms)


def test_the_same_contract_of_the_nearest_later_expiry_that_is_followed_takes_its_place() -> None:
    expired = contract("gone", WEEK)
    others = [
        contract("put", NEXT, kind="PE"),
        contract("strike", NEXT, 25050.0),
        contract("underlying", NEXT, underlying="B"),
        contract("last", LAST),
        expired,
        contract("earlier", WEEK - 1),
    ]
    assert successor(expired, others) == "last"
    assert successor(expired, [contract("next", NEXT), *others]) == "next"
    assert successor(expired, []) == ""
    assert successor(contract("future", WEEK, None, "FUT"), [contract("next", NEXT, 0.0, "FUT")]) == "next"
    assert successor(contract("share", None, None, "EQ", None), [contract("other", NEXT, None, "EQ", None)]) == ""


@pytest.mark.parametrize(
    ("held", "ending"),
    [
        (contract("A", WEEK), "SYMBOL A has expired: trading in it ended on 2026-11-17."),
        (contract("A", NEXT), None),
        (contract("A", NEXT)._replace(active=False, until_ms=WEEK), "SYMBOL A is listed no more since 2026-11-17."),
        (contract("A", None)._replace(active=False), "SYMBOL A is listed no more."),
        (contract("A", None), None),
    ],
)
def test_an_ending_is_told_with_its_day(held: Held, ending: str | None) -> None:
    assert held.ending(WEEK) == ending
    assert held.is_over(WEEK) is (held.expiry_ms == WEEK)
    assert not held.is_over(WEEK - 1)
