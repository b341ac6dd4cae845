"""Credentials of programs on real requests."""

from __future__ import annotations

import logging

import pytest
from django.test import Client
from rest_framework.test import APIClient

from accounts.models import User
from accounts.services import api_key_create

pytestmark = pytest.mark.django_db


@pytest.fixture
def secret() -> str:
    return api_key_create(user=User.objects.create_user("asha"), name="test")


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER  "])
def test_a_key_comes_in(secret: str, scheme: str) -> None:
    assert APIClient(headers={"Authorization": scheme + secret}).get("/api/").status_code == 200


@pytest.mark.parametrize(
    "header", ["Bearer", "Bearer ", "Bearer tok_" + "a" * 43, "Bearer nonsense", "Basic dHJhZGVyOng=", "tok_" + "a" * 43, "Bearer \xff\xfe"]
)
def test_what_is_no_key_is_a_401_that_says_how(header: str) -> None:
    answer = APIClient(headers={"Authorization": header}).get("/api/")
    assert answer.status_code == 401
    assert answer["WWW-Authenticate"] == 'Bearer realm="tradingok"'
    assert answer["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == "not_authenticated"


def test_a_wrong_key_is_refused_even_with_a_session(secret: str) -> None:
    client = Client()
    client.force_login(User.objects.get())
    assert client.get("/api/").status_code == 200
    assert client.get("/api/", headers={"Authorization": "Bearer tok_" + "a" * 43}).status_code == 401


def test_a_key_in_the_address_does_not_come_in(secret: str) -> None:
    for name in ("token", "key", "api_key", "access_token", "Authorization"):
        assert APIClient().get("/api/", {name: secret}).status_code == 401


def test_no_log_line_holds_the_key(secret: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, logger="django.request"):
        APIClient(headers={"Authorization": f"Bearer {secret}"}).get("/api/nowhere")
        APIClient(headers={"Authorization": f"Bearer {secret}x"}).get("/api/")
    assert caplog.records
    assert secret not in caplog.text
