"""The broker in the admin: signing in and out through a real exchange, and no token on any page."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import pytest
from django.contrib.auth.models import Permission
from django.test import Client, override_settings

from accounts.models import User
from broker.models import BrokerSession, FeedPosition
from broker.sessions import session_store, token_current
from tests.broker.test_sessions import allow
from tests.fakes.exchange import RunningExchange

pytestmark = pytest.mark.django_db

SESSIONS = "/admin/broker/brokersession/"
SECRET = "the-secret-access-token"


@pytest.fixture(scope="module")
def exchange() -> Iterator[RunningExchange]:
    running = RunningExchange("--instruments", "20", "--seed", "1")
    yield running
    running.stop()


@pytest.fixture
def staff() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("admin", "a@example.com", "a long password"))
    return client


def app_at(url: str) -> override_settings:
    return override_settings(
        EXCHANGE_URL=url, UPSTOX_API_URL=url, UPSTOX_CLIENT_ID="client", UPSTOX_CLIENT_SECRET="s3cret", UPSTOX_REDIRECT_URI=""
    )


def page(client: Client, path: str = SESSIONS) -> str:
    answer = client.get(path)
    assert answer.status_code == 200
    return answer.content.decode()


def test_signing_in_and_out_from_the_admin(staff: Client, exchange: RunningExchange) -> None:
    with app_at(exchange.url):
        assert "Sign in to the broker" in page(staff)
        dialog = staff.post(f"{SESSIONS}signin/")
        assert dialog.status_code == 302
        assert dialog["Location"].startswith(exchange.url)
        assert parse_qs(urlsplit(dialog["Location"]).query)["redirect_uri"] == [f"http://testserver{SESSIONS}callback/"]

        back = urlsplit(allow(dialog["Location"]))
        done = staff.get(f"{back.path}?{back.query}", follow=True)
        assert "Signed in as" in done.content.decode()
        token = token_current()
        assert token.source == "session"
        session = BrokerSession.objects.get()
        for shown in (done.content.decode(), page(staff), page(staff, f"{SESSIONS}{session.pk}/change/")):
            assert token.token not in shown
            assert bytes(session.token_encrypted).decode() not in shown
        assert "in use" in page(staff)

        again = staff.get(f"{back.path}?{back.query}", follow=True)  # the state worked once
        assert "does not belong" in again.content.decode()

        assert "Signed out." in staff.post(f"{SESSIONS}{session.pk}/signout/", follow=True).content.decode()
        assert token_current().source == "exchange"
        assert "signed out" in page(staff)


@pytest.mark.parametrize("query", ["", "code=c", "code=c&state=forged", "error=access_denied&state=forged"])
def test_a_callback_that_was_not_asked_for_signs_nobody_in(staff: Client, query: str) -> None:
    with app_at("http://127.0.0.1:9"):
        staff.post(f"{SESSIONS}signin/")
        assert "Not signed in" in staff.get(f"{SESSIONS}callback/?{query}", follow=True).content.decode()
    assert not BrokerSession.objects.exists()


def test_without_an_app_the_page_says_what_to_set(staff: Client) -> None:
    with override_settings(UPSTOX_CLIENT_ID="", UPSTOX_CLIENT_SECRET=""):
        assert "UPSTOX_CLIENT_ID, UPSTOX_CLIENT_SECRET" in staff.post(f"{SESSIONS}signin/", follow=True).content.decode()


def test_a_broker_that_is_away_is_a_sentence(staff: Client) -> None:
    with app_at("http://127.0.0.1:9"):
        state = parse_qs(urlsplit(staff.post(f"{SESSIONS}signin/")["Location"]).query)["state"][0]
        shown = staff.get(f"{SESSIONS}callback/?code=c&state={state}", follow=True).content.decode()
    assert "Not signed in: cannot connect to 127.0.0.1:9" in shown


def test_only_who_may_add_a_session_can_sign_in_or_out() -> None:
    session = session_store(SECRET)
    clerk = User.objects.create_user("clerk", password="a long password", is_staff=True)
    clerk.user_permissions.add(Permission.objects.get(codename="view_brokersession"))
    client = Client()
    client.force_login(clerk)
    assert "Sign in to the broker" not in page(client)
    assert client.post(f"{SESSIONS}signin/").status_code == 403
    assert client.get(f"{SESSIONS}callback/").status_code == 403
    assert client.post(f"{SESSIONS}{session.pk}/signout/").status_code == 403
    assert Client().post(f"{SESSIONS}signin/").status_code == 302  # to the admin's own login


@pytest.mark.parametrize("path", ["signin/", "123456789012345678901234/signout/"])
def test_what_changes_something_takes_a_post_with_a_csrf_token(staff: Client, path: str) -> None:
    assert staff.get(SESSIONS + path).status_code == 405
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = staff.cookies
    assert strict.post(SESSIONS + path).status_code == 403


@pytest.mark.parametrize("key", ["123456789012345678901234", "nonsense"])
def test_signing_out_what_is_not_there_is_not_found(staff: Client, key: str) -> None:
    assert staff.post(f"{SESSIONS}{key}/signout/").status_code == 404


def test_sessions_and_positions_are_read_only(staff: Client) -> None:
    session = session_store(SECRET, user_id="AB1234")
    FeedPosition.objects.create(shard=3, received_us=123456789, updated_at=datetime.now(UTC))
    assert "AB1234" in page(staff)
    assert "123456789" in page(staff, "/admin/broker/feedposition/")
    for path in (f"{SESSIONS}{session.pk}/change/", f"{SESSIONS}{session.pk}/delete/", "/admin/broker/feedposition/3/delete/"):
        assert staff.post(path, {"post": "yes"}).status_code == 403
    assert staff.get(f"{SESSIONS}add/").status_code == 403
    assert BrokerSession.objects.count() == 1
