"""Every path of the project: nothing but what must be open answers without credentials; OpenAPI, CORS, the page to read it."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.admindocs.views import simplify_regex
from django.core.management import call_command
from django.test import Client
from django.urls import Resolver404, URLPattern, URLResolver, get_resolver, resolve
from rest_framework.test import APIClient

from accounts.models import User
from accounts.services import api_key_create

pytestmark = pytest.mark.django_db

OPEN = {"/api/health/live", "/api/health/ready"}
"""Answer anybody."""
SIGNING_IN = {"/signin/", "/signin/1/", "/signout/", "/admin/login/", "/admin/logout/"}
"""Lead to the form, or are it."""
WORDS = ("1", "NSE_FO|1", "NIFTY", "a" * 64, "a" * 24, "accounts", "user")


def patterns(resolver: URLResolver, prefix: str = "") -> Iterator[str]:
    """Give every path below a resolver, with example values for its arguments."""
    for pattern in resolver.url_patterns:
        path = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from patterns(pattern, path)
        elif isinstance(pattern, URLPattern):
            yield example(simplify_regex(path))


def example(path: str) -> str:
    """Fill in the arguments of a path so that it is found."""
    for word in WORDS:
        filled = re.sub(r"<[^>]+>", word, path)
        try:
            resolve(filled)
        except Resolver404:
            continue
        return filled
    raise AssertionError(f"no example for {path}")


PATHS = sorted(set(patterns(get_resolver())))


def test_the_walk_sees_the_whole_project() -> None:
    assert {
        "/",
        "/api/",
        "/api/health",
        "/api/keys/",
        "/api/marketdata/instruments/",
        "/api/marketdata/ticks/",
        "/admin/",
        "/metrics",
        "/udf/history",
        "/signin/",
    } <= set(PATHS)
    assert len([path for path in PATHS if path.startswith("/api/")]) >= 18


@pytest.mark.parametrize("method", ["get", "post", "put", "delete", "options", "head"])
def test_without_credentials_nothing_answers_but_what_must(method: str) -> None:
    client = Client(enforce_csrf_checks=True)
    for path in PATHS:
        answer = getattr(client, method)(path)
        told = (path, answer.status_code)
        assert "_auth_user_id" not in client.session, told
        if path in OPEN:
            assert answer.status_code == (200 if method in ("get", "head") else 405), told
        elif path in SIGNING_IN:
            assert answer.status_code in (200, 302, 403, 405), told
        elif path.startswith(("/api/", "/udf/")) or path == "/metrics":
            assert answer.status_code == 401, told
            assert answer["WWW-Authenticate"].startswith("Bearer"), told
            assert method == "head" or answer.json()["code"] == "not_authenticated", told
        elif answer.status_code == 302:
            assert answer["Location"].startswith(("/signin/", "/admin/login/")), (*told, answer["Location"])
        else:
            assert answer.status_code in (403, 404, 405), told


def test_open_paths_tell_no_detail() -> None:
    for path in OPEN:
        assert set(Client().get(path).json()) == {"state"}


@pytest.fixture
def program() -> APIClient:
    return APIClient(headers={"Authorization": f"Bearer {api_key_create(user=User.objects.create_user('asha'), name='test')}"})


def test_the_openapi_document_is_made_without_a_warning() -> None:
    out = io.StringIO()
    call_command("spectacular", "--validate", "--fail-on-warn", stdout=out)
    assert out.getvalue().startswith("openapi:")


def test_the_openapi_document_names_every_path_of_the_api(program: APIClient) -> None:
    document: dict[str, Any] = program.get("/api/schema/?format=json").json()
    described = {re.sub(r"\{[^}]+\}", "*", path) for path in document["paths"]}
    undescribed = {"/api/", "/api/docs/", "/api/schema/", *OPEN}
    served = {path for path in PATHS if path.startswith("/api/") and path not in undescribed and "<" not in path}
    for path in served:
        assert any(re.fullmatch(re.escape(one).replace(r"\*", "[^/]+"), path) for one in described), path
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["description"], path


def test_the_page_to_read_it_asks_nothing_of_another_site(program: APIClient) -> None:
    page = program.get("/api/docs/")
    assert page.status_code == 200
    text = page.content.decode()
    assert "swagger-ui" in text
    assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", text)


def test_the_root_lists_what_there_is_and_every_entry_answers(program: APIClient) -> None:
    entries = program.get("/api/", SERVER_NAME="127.0.0.1").json()
    assert len(entries) >= 15
    for name, address in entries.items():
        status = program.get(address.removeprefix("http://127.0.0.1")).status_code
        assert status in (200, 404, 405), name  # nothing is stored here: an example may be unknown; tickets are for POST
    assert program.get(entries["latest ticks"].removeprefix("http://127.0.0.1")).status_code == 200


def test_a_browser_reads_the_root_as_a_page() -> None:
    client = Client()
    client.force_login(User.objects.create_user("asha"))
    page = client.get("/api/", headers={"Accept": "text/html"})
    assert page["Content-Type"].startswith("text/html")
    assert "/api/marketdata/ticks/latest/" in page.content.decode()
    assert "/signout/" in page.content.decode()


def test_cors_answers_the_allowed_origins_only_and_the_api_only(settings: Any, program: APIClient) -> None:
    settings.CORS_ALLOWED_ORIGINS = ["https://front.example"]
    allowed = program.get("/api/", headers={"Origin": "https://front.example"})
    assert allowed["Access-Control-Allow-Origin"] == "https://front.example"
    assert "Retry-After" in allowed["Access-Control-Expose-Headers"]
    assert "Access-Control-Allow-Credentials" not in allowed
    for origin in ("https://evil.example", "null", "https://front.example.evil.example", "http://front.example"):
        assert "Access-Control-Allow-Origin" not in program.get("/api/", headers={"Origin": origin})
    assert "Access-Control-Allow-Origin" not in Client().get("/signin/", headers={"Origin": "https://front.example"})

    assert program.get("/udf/config", headers={"Origin": "https://front.example"})["Access-Control-Allow-Origin"]

    preflight = {
        "Origin": "https://front.example",
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "authorization",
    }
    answer = APIClient().options("/api/marketdata/ticks/", headers=preflight)
    assert answer.status_code == 200
    assert "authorization" in answer["Access-Control-Allow-Headers"]
