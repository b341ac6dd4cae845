"""Which token is used, how it is kept, signing in and out."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from broker import sessions
from broker.models import BrokerSession
from broker.sessions import SignInRefused, Token, token_current
from broker.upstox.protocol import AuthExpired, FeedRefused
from tests.broker.scripted_http import Reply, ScriptedServer, scripted_server
from tests.broker.test_protocol import jwt
from tests.fakes.exchange import RunningExchange

pytestmark = pytest.mark.django_db

SECRET = "the-secret-access-token"
NOW_MS = round(datetime.now(UTC).timestamp() * 1000)
REAL = override_settings(EXCHANGE_URL="", UPSTOX_ACCESS_TOKEN="")
SIMULATED = override_settings(EXCHANGE_URL="http://127.0.0.1:9", UPSTOX_ACCESS_TOKEN="")


@pytest.fixture(scope="module")
def exchange() -> Iterator[RunningExchange]:
    running = RunningExchange("--instruments", "20", "--seed", "1")
    yield running
    running.stop()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as running:
        yield running


def app_settings(url: str, **more: Any) -> override_settings:
    return override_settings(
        EXCHANGE_URL=url, UPSTOX_API_URL=url, UPSTOX_CLIENT_ID="client", UPSTOX_CLIENT_SECRET="s3cret",
        UPSTOX_REDIRECT_URI="http://127.0.0.1:1/back", **more,
    )  # fmt: skip


# --- which token ------------------------------------------------------------------------------------------------------


@REAL
def test_without_any_token_the_error_says_what_to_do() -> None:
    with pytest.raises(AuthExpired, match="brokerlogin"):
        token_current()


@override_settings(EXCHANGE_URL="", UPSTOX_ACCESS_TOKEN="opaque")
def test_the_environment_comes_first_and_an_opaque_token_has_no_known_end() -> None:
    sessions.session_store(SECRET)
    assert token_current() == ("opaque", "environment", 0)


def test_a_token_of_the_environment_says_its_own_end() -> None:
    expires = NOW_MS // 1000 + 300 * 86_400
    with override_settings(EXCHANGE_URL="", UPSTOX_ACCESS_TOKEN=jwt(exp=expires)):
        assert token_current().expires_ms == expires * 1000
    with (
        override_settings(EXCHANGE_URL="", UPSTOX_ACCESS_TOKEN=jwt(exp=NOW_MS // 1000 - 10)),
        pytest.raises(AuthExpired, match="UPSTOX_ACCESS_TOKEN"),
    ):
        token_current()


@REAL
def test_the_newest_session_is_used_until_it_expires() -> None:
    sessions.session_store("older", issued_ms=NOW_MS - 1000)
    session = sessions.session_store(SECRET, user_id="AB1234")
    found = token_current()
    assert (found.token, found.source) == (SECRET, "session")
    assert found.expires_ms == round(session.expires_at.timestamp() * 1000)
    with pytest.raises(AuthExpired):
        token_current(found.expires_ms)


@SIMULATED
def test_with_the_exchange_its_public_token_is_the_default() -> None:
    assert token_current() == ("simulated-token", "exchange", 0)


def test_the_exchange_and_the_broker_never_get_each_other_s_tokens() -> None:
    with REAL:
        sessions.session_store("of-the-broker")
    with SIMULATED:
        assert token_current().token == "simulated-token"
        sessions.session_store("of-the-exchange")
        assert token_current().token == "of-the-exchange"
    with override_settings(EXCHANGE_URL="http://127.0.0.1:9", UPSTOX_ACCESS_TOKEN="real"):
        assert token_current().token == "of-the-exchange"
    with REAL:
        assert token_current().token == "of-the-broker"


# --- how it is kept ---------------------------------------------------------------------------------------------------


@REAL
def test_a_token_is_encrypted_at_rest_and_an_older_one_is_erased() -> None:
    older = sessions.session_store("older-token")
    assert b"older-token" not in bytes(BrokerSession.objects.get(pk=older.pk).token_encrypted)
    sessions.session_store(SECRET)
    assert bytes(BrokerSession.objects.get(pk=older.pk).token_encrypted) == b""
    assert BrokerSession.objects.count() == 2


@REAL
def test_another_secret_key_makes_stored_tokens_useless_not_fatal(caplog: pytest.LogCaptureFixture) -> None:
    sessions.session_store(SECRET)
    with override_settings(SECRET_KEY="another key"), pytest.raises(AuthExpired):
        token_current()
    assert "SECRET_KEY has changed" in caplog.text
    assert token_current().token == SECRET


@REAL
def test_the_token_is_in_no_representation_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    session = sessions.session_store(SECRET, user_id="AB1234")
    assert "AB1234" in caplog.text
    assert SECRET not in caplog.text + repr(token_current()) + str(token_current()) + str(session) + repr(session)
    assert "source='session'" in repr(Token(SECRET, "session", 1))


# --- signing in and out -----------------------------------------------------------------------------------------------


def allow(dialog: str) -> str:
    """Press the dialog's only button; return the address that the browser is sent to."""
    return httpx.get(f"{dialog}&allow=yes", follow_redirects=False, timeout=30).headers["Location"]


def test_a_sign_in_at_the_exchange_gives_a_session_that_it_accepts(exchange: RunningExchange) -> None:
    with app_settings(exchange.url):
        dialog, state = sessions.sign_in_begin()
        code, returned = sessions.parse_callback(allow(dialog))
        session = sessions.sign_in_finish(code=code, state=returned, expected_state=state)
        token = token_current()
        answer = httpx.get(f"{exchange.url}/v2/market/status/NSE", headers={"Authorization": f"Bearer {token.token}"}, timeout=30)
        assert (token.source, answer.status_code) == ("session", 200)
        assert session.expires_at - session.issued_at <= timedelta(days=1)

        with pytest.raises((FeedRefused, AuthExpired)):  # a code works once
            sessions.sign_in_finish(code=code, state=state, expected_state=state)

        assert sessions.session_end(session) == ""
        assert token_current().source == "exchange"
        answer = httpx.get(f"{exchange.url}/v2/market/status/NSE", headers={"Authorization": f"Bearer {token.token}"}, timeout=30)
        assert answer.status_code == 401


@pytest.mark.parametrize(("state", "expected"), [("", ""), ("a", ""), ("", "a"), ("a", "b"), ("ü", "b")])
def test_an_answer_with_another_state_is_refused_before_the_broker_is_asked(server: ScriptedServer, state: str, expected: str) -> None:
    with app_settings(server.url), pytest.raises(SignInRefused, match="does not belong"):
        sessions.sign_in_finish(code="c", state=state, expected_state=expected)
    assert not server.requests


def test_states_differ_and_missing_settings_are_named() -> None:
    with app_settings("http://127.0.0.1:9"):
        (first, one), (_, other) = sessions.sign_in_begin(), sessions.sign_in_begin()
        assert one != other
        assert parse_qs(urlsplit(first).query)["state"] == [one]
    with override_settings(UPSTOX_CLIENT_ID="", UPSTOX_CLIENT_SECRET="", UPSTOX_REDIRECT_URI=""), pytest.raises(SignInRefused) as caught:
        sessions.sign_in_begin()
    assert "UPSTOX_CLIENT_ID, UPSTOX_CLIENT_SECRET, UPSTOX_REDIRECT_URI" in str(caught.value)


def test_a_session_ends_here_even_when_the_broker_is_away(server: ScriptedServer) -> None:
    with app_settings(server.url):
        session = sessions.session_store(SECRET)
        server.will(Reply(500, b"<html>"))
        assert "page instead of JSON" in sessions.session_end(session)
        session.refresh_from_db()
    assert session.revoked_at is not None
    assert bytes(session.token_encrypted) == b""


@pytest.mark.parametrize(("address", "found"), [
    ("http://x/?code=c&state=s", ("c", "s")), ("  http://x/?state=s ", ("", "s")), ("", ("", "")), ("http://[", ("", "")),
])  # fmt: skip
def test_a_callback_address_is_read(address: str, found: tuple[str, str]) -> None:
    assert sessions.parse_callback(address) == found


# --- manage.py brokerlogin --------------------------------------------------------------------------------------------


class Browser(io.StringIO):
    """Standard input of somebody who opens the address that was printed, and pastes where it led."""

    def __init__(self, printed: io.StringIO) -> None:
        super().__init__()
        self._printed = printed

    def readline(self, *_: Any) -> str:  # type: ignore[override]
        dialog = next(line.strip() for line in self._printed.getvalue().splitlines() if "/authorization/dialog" in line)
        return f"{allow(dialog)}\n"


def test_brokerlogin_signs_in_and_never_prints_the_token(exchange: RunningExchange, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.StringIO()
    monkeypatch.setattr(sys, "stdin", Browser(printed))
    with app_settings(exchange.url):
        call_command("brokerlogin", stdout=printed)
        token = token_current()
    assert "valid until" in printed.getvalue()
    assert token.source == "session"
    assert token.token not in printed.getvalue()


@pytest.mark.parametrize(("pasted", "complaint"), [("", "no address"), ("http://x/?code=c&state=other\n", "does not belong")])
def test_brokerlogin_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch, pasted: str, complaint: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(pasted))
    with app_settings("http://127.0.0.1:9"), pytest.raises(CommandError, match=complaint):
        call_command("brokerlogin", stdout=io.StringIO())
