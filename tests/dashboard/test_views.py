"""The page's document: who gets it, and what its policy allows."""

from __future__ import annotations

import re

import pytest
from django.contrib.staticfiles import finders
from django.http import HttpRequest
from django.test import Client, RequestFactory

from dashboard.views import content_security_policy
from marketdata.domain.candle import INTERVAL_MINUTES
from marketdata.domain.chain_rows import check_window

pytestmark = pytest.mark.django_db


@pytest.fixture
def signed_in(client: Client, django_user_model: type) -> Client:
    client.force_login(django_user_model.objects.create_user(username="trader"))  # type: ignore[attr-defined]
    return client


def test_the_page_sends_strangers_to_the_sign_in_form(client: Client) -> None:
    response = client.get("/")
    assert response.status_code == 302
    assert response["Location"] == "/signin/?next=/"


def test_the_page_has_a_policy_without_inline_code_and_is_not_kept(signed_in: Client) -> None:
    response = signed_in.get("/")
    assert response.status_code == 200
    policy = dict(part.split(" ", 1) for part in response["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["connect-src"] == "'self' ws://testserver"
    assert "no-store" in response["Cache-Control"]


def test_the_page_loads_nothing_inline_and_nothing_from_elsewhere(signed_in: Client) -> None:
    text = signed_in.get("/").content.decode()
    assert re.search(r"<script(?![^>]*\ssrc=)", text) is None
    assert re.search(r"<style|\sstyle=|\son[a-z]+=", text) is None
    loaded = re.findall(r"""(?:src|<link[^>]*href)="([^"]+)""", text)
    assert loaded
    assert all(address.startswith("/static/") for address in loaded)
    assert all(finders.find(address.removeprefix("/static/")) for address in loaded)


def test_every_module_that_a_module_imports_is_served() -> None:
    seen: set[str] = set()
    todo = ["page.js"]
    while todo:
        name = todo.pop()
        seen.add(name)
        path = finders.find(f"dashboard/{name}")
        assert path is not None, name
        with open(path, encoding="utf-8") as source:
            todo += [module for module in re.findall(r'from "\./([^"]+)"', source.read()) if module not in seen]
    assert {"tradingok.js", "watchlist.js", "chart.js", "candles.js", "legend.js", "parity.js"} <= seen


def test_the_client_module_stays_short_enough_to_be_read() -> None:
    path = finders.find("dashboard/tradingok.js")
    assert path is not None
    with open(path, encoding="utf-8") as source:
        assert len(source.readlines()) <= 52


def test_the_chart_offers_every_interval_and_knows_its_length(signed_in: Client) -> None:
    offered = re.findall(r'name="interval" value="([^"]+)"', signed_in.get("/").content.decode())
    assert offered == list(INTERVAL_MINUTES)
    path = finders.find("dashboard/candles.js")
    assert path is not None
    with open(path, encoding="utf-8") as source:
        lengths = source.read().partition("LENGTH_MS = {")[2].partition("}")[0]
    assert re.findall(r'"(\w+)":', lengths) == offered


def test_the_chain_offers_windows_that_there_are(signed_in: Client) -> None:
    offered = re.findall(r'name="chain-strikes" value="([^"]+)"', signed_in.get("/").content.decode())
    assert offered == ["atm5", "atm10", "atm20", "all"]
    for word in offered:
        check_window(word)


def test_posting_to_the_page_is_refused(signed_in: Client) -> None:
    assert signed_in.post("/").status_code == 405


@pytest.mark.parametrize(("secure", "scheme"), [(False, "ws"), (True, "wss")])
def test_the_policy_names_the_web_socket_of_its_own_host(rf: RequestFactory, secure: bool, scheme: str) -> None:
    request: HttpRequest = rf.get("/", secure=secure)
    assert f"connect-src 'self' {scheme}://testserver;" in content_security_policy(request)
