"""API keys and tickets over REST."""

from __future__ import annotations

import time

import pytest
from rest_framework.test import APIClient

from accounts.models import ApiKey, User
from accounts.services import api_key_create, api_key_user, ticket_use

pytestmark = pytest.mark.django_db


@pytest.fixture
def user() -> User:
    return User.objects.create_user("asha")


@pytest.fixture
def session(user: User) -> APIClient:
    client = APIClient(enforce_csrf_checks=False)
    client.force_login(user)
    return client


@pytest.fixture
def program(user: User) -> APIClient:
    return APIClient(headers={"Authorization": f"Bearer {api_key_create(user=user, name='program')}"})


def test_a_keys_secret_is_shown_once(session: APIClient, user: User) -> None:
    made = session.post("/api/keys/", {"name": "laptop"}, format="json")
    assert made.status_code == 201
    assert made["Cache-Control"] == "no-store"
    secret = made.json()["secret"]
    assert abs(made.json()["created_ms"] - time.time() * 1000) < 60_000
    assert made.json()["last_used_ms"] is made.json()["revoked_ms"] is None
    assert api_key_user(secret) == user

    listed = session.get("/api/keys/").json()
    assert [key["name"] for key in listed] == ["laptop"]
    assert listed[0]["secret"] is None
    assert listed[0]["last_used_ms"] >= listed[0]["created_ms"]
    assert listed[0]["id"] == made.json()["id"]
    assert secret not in session.get("/api/keys/").content.decode()


def test_deleting_a_key_revokes_it(session: APIClient) -> None:
    made = session.post("/api/keys/", {"name": "laptop"}, format="json").json()
    assert api_key_user(made["secret"])
    assert session.delete(f"/api/keys/{made['id']}/").status_code == 204
    assert api_key_user(made["secret"]) is None
    assert ApiKey.objects.get().revoked_at
    assert session.delete(f"/api/keys/{made['id']}/").status_code == 204


def test_nobody_sees_or_ends_anothers_keys(session: APIClient) -> None:
    other = User.objects.create_user("ravi")
    secret = api_key_create(user=other, name="his")
    assert session.get("/api/keys/").json() == []
    assert session.delete(f"/api/keys/{ApiKey.objects.get(user=other).pk}/").status_code == 404
    assert api_key_user(secret) == other


def test_a_key_can_neither_make_nor_end_keys(program: APIClient) -> None:
    assert program.get("/api/keys/").status_code == 200
    assert program.post("/api/keys/", {"name": "more"}, format="json").status_code == 403
    assert program.delete(f"/api/keys/{ApiKey.objects.get().pk}/").status_code == 403
    assert ApiKey.objects.filter(revoked_at=None).count() == 1


def test_a_session_needs_the_csrf_token(user: User) -> None:
    client = APIClient(enforce_csrf_checks=True)
    client.force_login(user)
    assert client.get("/api/keys/").status_code == 200
    refused = client.post("/api/keys/", {"name": "laptop"}, format="json")
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")


def test_a_ticket_is_for_one_websocket(program: APIClient, user: User) -> None:
    answer = program.post("/api/ws-tickets")
    assert answer.status_code == 201
    assert answer["Cache-Control"] == "no-store"
    assert answer.json()["expires_in"] == 30
    ticket = answer.json()["ticket"]
    assert ticket_use(ticket) == user
    assert ticket_use(ticket) is None


def test_tickets_are_not_given_to_a_get(program: APIClient) -> None:
    assert program.get("/api/ws-tickets").status_code == 405
