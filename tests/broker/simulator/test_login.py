"""The login: the code flow with its failures, the end of tokens, feed codes; as plain calls and over HTTP."""

from __future__ import annotations

from datetime import datetime
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

import httpx
import pytest

from broker.simulator.errors import ApiError
from broker.simulator.login import PENDING_MAX, Access, token_end
from tests.fakes.exchange import RunningExchange, StartExchange, start_exchange  # noqa: F401

NOW = 1_795_000_000.0
ASKED = {"response_type": "code", "client_id": "key", "redirect_uri": "http://localhost:8080/back", "state": "s&1"}


def code_of(address: str) -> str:
    return parse_qs(urlsplit(address).query)["code"][0]


def form(code: str, **changed: str) -> dict[str, str]:
    fields = {"code": code, "client_id": "key", "client_secret": "secret", "redirect_uri": ASKED["redirect_uri"]}
    return fields | {"grant_type": "authorization_code"} | changed


def test_dialog_returns_code_and_the_same_state() -> None:
    address = Access("t").dialog(ASKED, NOW)
    assert address.startswith("http://localhost:8080/back?")
    assert parse_qs(urlsplit(address).query)["state"] == ["s&1"]
    assert len(code_of(address)) >= 6


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"client_id": ""}, "UDAPI100068"),
        ({"redirect_uri": ""}, "UDAPI100068"),
        ({"redirect_uri": "javascript:alert(1)"}, "UDAPI100068"),
        ({"redirect_uri": "http://[broken"}, "UDAPI100068"),
        ({"response_type": "token"}, "UDAPI100036"),
    ],
)
def test_dialog_refuses(changed: dict[str, str], code: str) -> None:
    with pytest.raises(ApiError) as caught:
        Access("t").dialog(ASKED | changed, NOW)
    assert caught.value.code == code


def test_dialog_knows_its_client_where_one_is_set() -> None:
    access = Access("t", client_id="other", client_secret="s")
    with pytest.raises(ApiError, match="UDAPI100068"):
        access.dialog(ASKED, NOW)


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"client_id": "other"}, "UDAPI100069"),
        ({"client_secret": ""}, "UDAPI100069"),
        ({"redirect_uri": "http://localhost:8080/other"}, "UDAPI100070"),
        ({"grant_type": "password"}, "UDAPI100036"),
    ],
)
def test_a_failed_exchange_spends_the_code(changed: dict[str, str], code: str) -> None:
    access = Access("t")
    issued = code_of(access.dialog(ASKED, NOW))
    with pytest.raises(ApiError) as caught:
        access.exchange(form(issued, **changed), NOW)
    assert caught.value.code == code
    with pytest.raises(ApiError, match="UDAPI100057"):
        access.exchange(form(issued), NOW)


def test_a_code_ends_by_itself() -> None:
    access = Access("t")
    issued = code_of(access.dialog(ASKED, NOW))
    with pytest.raises(ApiError, match="UDAPI100057"):
        access.exchange(form(issued), NOW + 3600)


@pytest.mark.parametrize(
    ("issued", "end"),
    [("2026-11-24 20:00", "2026-11-25 03:30"), ("2026-11-25 02:30", "2026-11-25 03:30"), ("2026-11-25 03:30", "2026-11-26 03:30")],
)
def test_tokens_end_at_the_next_half_past_three(issued: str, end: str) -> None:
    def seconds(text: str) -> float:
        return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("Asia/Kolkata")).timestamp()

    assert token_end(seconds(issued)) == seconds(end)
    access = Access("t")
    token = access.issue_token(seconds(issued))
    assert access.is_valid(token, seconds(end) - 1)
    assert not access.is_valid(token, seconds(end))


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer wrong", "Basic t", "t"])
def test_bearer_refuses(header: str | None) -> None:
    with pytest.raises(ApiError, match="UDAPI100050"):
        Access("t").bearer(header, NOW)


def test_a_feed_code_opens_once_within_a_minute_and_only_while_its_token_lives() -> None:
    access = Access("t")
    code = access.issue_feed_code("t", NOW)
    assert access.spend_feed_code(code, NOW + 59) == "t"
    assert access.spend_feed_code(code, NOW + 59) is None
    assert access.spend_feed_code(access.issue_feed_code("t", NOW), NOW + 61) is None
    late = access.issue_feed_code("t", NOW)
    access.revoke("t")
    assert access.spend_feed_code(late, NOW) is None


def test_codes_that_nobody_spends_do_not_pile_up() -> None:
    access = Access("t")
    first = access.issue_feed_code("t", NOW)
    for _ in range(PENDING_MAX):
        access.issue_feed_code("t", NOW)
    assert access.spend_feed_code(first, NOW) is None


# --- over HTTP ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exchange() -> object:
    running = RunningExchange("--seed", "1", "--client-id", "key", "--client-secret", "secret")
    yield running
    running.stop()


def test_sign_in_use_and_sign_out(exchange: RunningExchange) -> None:
    dialog = f"{exchange.url}/v2/login/authorization/dialog"
    page = httpx.get(dialog, params=ASKED)
    assert page.status_code == 200
    assert "text/html" in page.headers["content-type"]
    allowed = httpx.get(dialog, params=ASKED | {"allow": "yes"})
    assert allowed.status_code == 302
    code = code_of(allowed.headers["location"])
    answer = httpx.post(f"{exchange.url}/v2/login/authorization/token", data=form(code))
    assert answer.status_code == 200
    body = answer.json()
    assert "status" not in body  # flat, without the envelope
    assert body["broker"] == "UPSTOX"
    headers = {"Authorization": f"Bearer {body['access_token']}"}
    status = f"{exchange.url}/v2/market/status/NSE"
    assert httpx.get(status, headers=headers).status_code == 200
    out = httpx.delete(f"{exchange.url}/v2/logout", headers=headers)
    assert out.json() == {"status": "success", "data": True}
    assert httpx.get(status, headers=headers).status_code == 401
    again = httpx.post(f"{exchange.url}/v2/login/authorization/token", data=form(code))
    assert (again.status_code, again.json()["errors"][0]["error_code"]) == (401, "UDAPI100057")


def test_page_escapes_what_it_shows(exchange: RunningExchange, start_exchange: StartExchange) -> None:  # noqa: F811
    other = start_exchange("--instruments", "1")
    evil = ASKED | {"client_id": "<script>alert(1)</script>", "state": '"><script>'}
    page = httpx.get(f"{other.url}/v2/login/authorization/dialog", params=evil)
    assert page.status_code == 200
    assert "<script>" not in page.text


def test_token_takes_forms_only(exchange: RunningExchange) -> None:
    address = f"{exchange.url}/v2/login/authorization/token"
    for answer in (
        httpx.post(address, json=form("x")),
        httpx.post(address, content=b"\xff\xfe", headers={"Content-Type": "application/x-www-form-urlencoded"}),
        httpx.post(address, data={"code": "x" * 100_000}),
    ):
        assert answer.status_code in (400, 413)
        assert answer.json()["errors"][0]["error_code"] == "UDAPI100036"
