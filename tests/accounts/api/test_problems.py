"""Errors of the API: one shape, whatever went wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.db import DatabaseError, IntegrityError
from django.http import Http404
from django.test import RequestFactory
from pymongo.errors import ServerSelectionTimeoutError
from rest_framework import exceptions
from rest_framework.request import Request
from rest_framework.test import APIClient

from accounts.api.problems import STATUS, BadInput, exception_handler, server_error
from accounts.api.rendering import FastJSONRenderer
from accounts.models import User
from accounts.services import api_key_create
from instruments.selectors import UnknownInstrument

FIELDS = {"type", "title", "status", "detail", "code", "field", "request_id"}


def handled(exc: Exception) -> tuple[int, dict[str, Any]]:
    request = Request(RequestFactory().get("/api/x"))
    request.accepted_renderer = FastJSONRenderer()
    response = exception_handler(exc, {"request": request, "view": None})
    body = json.loads(response.content)
    assert set(body) == FIELDS
    assert body["status"] == response.status_code
    assert response["Content-Type"] == "application/problem+json"
    return response.status_code, body


def down() -> DatabaseError:
    error = DatabaseError("wrapped")
    error.__cause__ = ServerSelectionTimeoutError("10.0.0.1 is away")
    return error


@pytest.mark.parametrize(
    ("exc", "status", "code", "field"),
    [
        (BadInput("limit", "Takes a number."), 400, "bad_request", "limit"),
        (BadInput("instruments", "Too many.", code="symbol_limit"), 422, "symbol_limit", "instruments"),
        (UnknownInstrument("no such"), 404, "unknown_instrument", None),
        (exceptions.ValidationError({"name": ["This field is required."]}), 400, "bad_request", "name"),
        (exceptions.ValidationError({"a": {"b": [{}, {"c": ["Wrong."]}]}}), 400, "bad_request", "a.b.c"),
        (exceptions.ValidationError(["Wrong."]), 400, "bad_request", None),
        (exceptions.ValidationError({"non_field_errors": ["Wrong."]}), 400, "bad_request", None),
        (exceptions.ParseError("JSON parse error"), 400, "bad_request", None),
        (exceptions.NotAuthenticated(), 401, "not_authenticated", None),
        (exceptions.AuthenticationFailed(), 401, "not_authenticated", None),
        (exceptions.PermissionDenied(), 403, "forbidden", None),
        (PermissionDenied(), 403, "forbidden", None),
        (Http404("secret detail"), 404, "not_found", None),
        (exceptions.MethodNotAllowed("PUT"), 405, "method_not_allowed", None),
        (exceptions.NotAcceptable(), 406, "not_acceptable", None),
        (exceptions.UnsupportedMediaType("x/y"), 415, "unsupported_media_type", None),
        (exceptions.Throttled(wait=1.2), 429, "rate_limited", None),
        (RequestDataTooBig(), 413, "too_large", None),
        (ServerSelectionTimeoutError("10.0.0.1 is away"), 503, "store_down", None),
        (down(), 503, "store_down", None),
        (IntegrityError("E11000"), 500, "internal", None),
        (ZeroDivisionError("secret detail"), 500, "internal", None),
    ],
)
def test_each_error_has_its_word_and_status(exc: Exception, status: int, code: str, field: str | None) -> None:
    number, body = handled(exc)
    assert (number, body["code"], body["field"]) == (status, code, field)
    assert body["detail"]
    assert "secret" not in body["detail"]
    assert "10.0.0.1" not in body["detail"]
    assert STATUS[code] == number


def test_what_is_not_known_goes_to_the_log_with_the_request_id(caplog: pytest.LogCaptureFixture) -> None:
    handled(ZeroDivisionError("what happened"))
    assert "what happened" in caplog.text


def test_a_crash_outside_rest_views_is_a_problem_under_api_only() -> None:
    assert json.loads(server_error(RequestFactory().get("/api/x")).content)["code"] == "internal"
    assert server_error(RequestFactory().get("/x"))["Content-Type"].startswith("text/html")


@pytest.fixture
def client() -> APIClient:
    secret = api_key_create(user=User.objects.create_user("asha"), name="test")
    return APIClient(headers={"Authorization": f"Bearer {secret}"})


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/api/nowhere", "/api/marketdata/", "/api/marketdata/ticks/latest/more/"])
def test_an_address_that_is_not_there_is_a_problem(client: APIClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == "not_found"
    assert answer.json()["request_id"] == answer["X-Request-Id"]


@pytest.mark.django_db
def test_outside_the_api_an_address_that_is_not_there_is_a_page(client: APIClient) -> None:
    answer = client.get("/nowhere")
    assert (answer.status_code, answer["Content-Type"]) == (404, "text/html; charset=utf-8")


@pytest.mark.django_db
@pytest.mark.parametrize("method", ["put", "delete", "patch", "post"])
def test_a_method_that_is_not_there_is_a_problem(client: APIClient, method: str) -> None:
    assert getattr(client, method)("/api/broker-status").json()["code"] == "method_not_allowed"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b'{"name": ', "application/json", 403, "forbidden"),  # a key may not make keys, whatever it sends
        (b"name=x", "text/plain", 403, "forbidden"),
    ],
)
def test_permission_comes_before_the_body_is_read(client: APIClient, body: bytes, content_type: str, status: int, code: str) -> None:
    answer = client.post("/api/keys/", body, content_type=content_type)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b'{"name": ', "application/json", 400, "bad_request"),
        (b"\xff\xfe\x00", "application/json", 400, "bad_request"),
        (b"[]", "application/json", 400, "bad_request"),
        (b'"text"', "application/json", 400, "bad_request"),
        (b"null", "application/json", 400, "bad_request"),
        (b"[" * 100_000, "application/json", 400, "bad_request"),
        (b'{"name": {"a": 1}}', "application/json", 400, "bad_request"),
        (b'{"name": null}', "application/json", 400, "bad_request"),
        (b'{"name": ""}', "application/json", 400, "bad_request"),
        (b'{"name": "a\\u0000b"}', "application/json", 400, "bad_request"),
        (b'{"name": "' + b"x" * 101 + b'"}', "application/json", 400, "bad_request"),
        (b"<x/>", "application/xml", 415, "unsupported_media_type"),
        (b"", "application/json", 400, "bad_request"),
    ],
)
def test_a_bad_body_is_a_clear_error(body: bytes, content_type: str, status: int, code: str) -> None:
    client = APIClient()
    client.force_login(User.objects.create_user("asha"))
    answer = client.post("/api/keys/", body, content_type=content_type)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.content
    assert answer["Content-Type"] == "application/problem+json"


@pytest.mark.django_db
def test_a_browser_sees_the_error_as_a_page() -> None:
    answer = APIClient().get("/api/", headers={"Accept": "text/html,*/*;q=0.8"})
    assert answer.status_code == 401
    assert answer["Content-Type"].startswith("text/html")
    assert "not_authenticated" in answer.content.decode()
    assert "/signin/" in answer.content.decode()
