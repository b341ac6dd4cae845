"""Which pages may use a session. Who is admitted with which credential is tested on the real server in test_consumers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from marketdata.admission import origin_allowed


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1:8080", True),
        ("https://LOCALHOST", "localhost", True),
        ("http://[::1]:8080", "[::1]:8080", True),
        ("http://127.0.0.1:8081", "127.0.0.1:8080", False),
        ("http://localhost:8080", "127.0.0.1:8080", False),
        ("http://evil.example", "evil.example", False),
        ("ftp://127.0.0.1:8080", "127.0.0.1:8080", False),
        ("null", "127.0.0.1:8080", False),
        ("", "", False),
        ("http://[", "127.0.0.1:8080", False),
        ("http://127.0.0.1:8080", "[", False),
        ("https://trade.example", "127.0.0.1:8080", True),
        ("http://trade.example", "127.0.0.1:8080", False),
        ("https://trade.example:444", "127.0.0.1:8080", False),
        ("https://a.desk.example", "127.0.0.1:8080", True),
        ("https://desk.example.evil", "127.0.0.1:8080", False),
        ("https://evildesk.example", "127.0.0.1:8080", False),
    ],
)
def test_our_own_pages_and_trusted_ones_only(origin: str, host: str, allowed: bool, settings: Any) -> None:
    settings.CSRF_TRUSTED_ORIGINS = ["https://trade.example", "https://*.desk.example"]
    assert origin_allowed(origin, host) is allowed


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(), st.text())
def test_whatever_is_sent_is_answered(origin: str, host: str) -> None:
    assert origin_allowed(origin, host) in (True, False)
