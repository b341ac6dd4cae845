"""`dashboard/format.js`: what a trader reads. Run in the browser, because its words come from the browser's Intl."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import OpenPage
from tests.browser.test_client_module import ScriptedServer, server  # noqa: F401 - a fixture


@pytest.fixture
def page(open_page: OpenPage, server: ScriptedServer) -> Page:  # noqa: F811
    opened = open_page(f"http://{server.address}/")
    opened.evaluate("async () => { window.format = await import('/format.js'); }")
    return opened


def test_numbers_and_times_are_written_as_in_india(page: Page) -> None:
    expected = {
        "number(1234567.891)": "12,34,567.89",
        "number(-1234.5)": "−1,234.50",
        "number(83.2125, 4)": "83.2125",
        "number(0)": "0.00",
        "number(null)": "–",
        "number(undefined)": "–",
        "number(NaN)": "–",
        "whole(123456789)": "12,34,56,789",
        "signed(12.3)": "+12.30",
        "signed(-0.05)": "−0.05",
        "signed(0)": "0.00",
        "percent(0.108)": "10.80",
        "percent(null)": "–",
        "short(99999)": "99,999",
        "short(9876543)": "98.77 L",
        "short(-123456789)": "−12.35 Cr",
        "count(999999999)": "99,99,99,999",
        "count(12345678900)": "1,234.57 Cr",
        "count(null)": "–",
        "decimalsOf(0.05)": 2,
        "decimalsOf(0.0025)": 4,
        "decimalsOf(null)": 2,
        "clock(1795343787520)": "16:06:27",
        "clock(null)": "–",
        "clock(0)": "–",
        "day(1795343787520)": "22 Nov 2026",
        "age(340)": "0.3 s",
        "age(42000)": "42 s",
        "age(75000)": "1 min 15 s",
        "age(3_700_000)": "1 h 1 min",
    }
    assert {call: page.evaluate(f"format.{call}") for call in expected} == expected
