"""Query parameters: what is taken, and what is refused with the parameter's name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.request import Request
from rest_framework.test import APIRequestFactory

from accounts.api.problems import BadInput
from marketdata.api.parameters import EARLIEST_MS, LATEST_MS, Parameters

NAMES = ("n", "from", "to", "words", "choice")


def read(query: str) -> Parameters:
    return Parameters(Request(APIRequestFactory().get(f"/?{query}")), NAMES)


def refused(call: Callable[[], Any]) -> str | None:
    with pytest.raises(BadInput) as caught:
        call()
    assert caught.value.code == "bad_request"
    assert str(caught.value)
    return caught.value.field


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1795146300000", 1_795_146_300_000),
        ("2026-11-20T09:15:00%2B05:30", 1_795_146_300_000),
        ("2026-11-20T09:15:00+05:30", 1_795_146_300_000),  # a plus sign that was not encoded
        ("2026-11-20T09:15", 1_795_146_300_000),
        ("2026-11-20 09:15:00", 1_795_146_300_000),
        ("2026-11-20T03:45:00Z", 1_795_146_300_000),
        ("2026-11-20T03:45:00.250Z", 1_795_146_300_250),
        ("2026-11-20", 1_795_113_000_000),
    ],
)
def test_a_time_is_epoch_milliseconds_or_iso_8601_in_ist(text: str, ms: int) -> None:
    assert read(f"from={text}").instant("from", 0) == ms


@pytest.mark.parametrize(
    "text",
    ["now", "1795146300", "-5", "9" * 19, "9" * 400, "1e12", "nan", "2026-13-01", "2026-11-20T25:00", "1999-12-31", "2101-01-01",
     "0001-01-01T00:00:00%2B05:30", "9999-12-31T23:59:59-05:30", "%00", "१७९५", "2026-11-20T09:15:00+99:99"],
)  # fmt: skip
def test_what_is_no_time_is_refused(text: str) -> None:
    assert refused(lambda: read(f"from={text}").instant("from", 0)) == "from"


def test_a_span_has_an_order_and_defaults_to_all_of_time() -> None:
    assert read("").span() == (EARLIEST_MS, LATEST_MS)
    assert read("from=2026-11-20&to=2026-11-21").span() == (1_795_113_000_000, 1_795_199_400_000)
    assert refused(lambda: read("from=2026-11-21&to=2026-11-20").span()) == "from"
    assert refused(lambda: read("from=2026-11-21&to=2026-11-21").span()) == "from"


@pytest.mark.parametrize("text", ["0", "11", "-1", "1.5", "x", "", " ", "9" * 5000, "१", "0x5", "1_0"])
def test_a_number_outside_its_range_is_refused(text: str) -> None:
    if text == "":
        assert read("n=").integer("n", 5, low=1, high=10) == 5
    else:
        assert refused(lambda: read(f"n={text}").integer("n", 5, low=1, high=10)) == "n"


def test_lists_may_be_repeated_and_have_no_doubles() -> None:
    assert read("words=a,b,,a&words=c, b").words("words") == ["a", "b", "c"]
    assert read("").words("words") == []


def test_a_choice_is_one_of_its_words() -> None:
    assert read("").choice("choice", "a", ("a", "b")) == "a"
    assert read("choice=b").choice("choice", "a", ("a", "b")) == "b"
    assert refused(lambda: read("choice=B").choice("choice", "a", ("a", "b"))) == "choice"


def test_a_parameter_that_is_needed_or_misspelt_is_named() -> None:
    assert refused(lambda: read("").required("n", "a number")) == "n"
    assert refused(lambda: read("fromm=1")) == "fromm"
    assert read("format=csv").text("n") is None


@given(st.text(max_size=40))
def test_no_text_crashes_the_readers(text: str) -> None:
    parameters = Parameters(Request(APIRequestFactory().get("/", {"from": text, "n": text})), NAMES)
    with contextlib.suppress(BadInput):
        assert EARLIEST_MS <= parameters.instant("from", EARLIEST_MS) <= LATEST_MS
    with contextlib.suppress(BadInput):
        assert 0 <= parameters.integer("n", 0, low=0, high=9) <= 9
