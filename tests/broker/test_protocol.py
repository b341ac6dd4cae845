"""The broker's protocol as plain data."""

from __future__ import annotations

import base64
import json
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.upstox import protocol
from broker.upstox.protocol import AuthExpired, BrokerError, FeedRefused, FeedUnavailable, ProtocolViolation, RateLimited

IST = ZoneInfo("Asia/Kolkata")


def ist_ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=IST).timestamp() * 1000)


def jwt(**claims: Any) -> str:
    def part(content: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")

    return f"{part({'alg': 'HS256'})}.{part(claims)}.c2ln"


# --- frames and paths -------------------------------------------------------------------------------------------------


def test_subscribe_frame_is_the_documented_json_as_bytes() -> None:
    frame = protocol.subscribe_frame("g1", "sub", "full", ["NSE_INDEX|Nifty 50", "NSE_FO|1"])
    assert isinstance(frame, bytes)
    assert json.loads(frame) == {
        "guid": "g1",
        "method": "sub",
        "data": {"mode": "full", "instrumentKeys": ["NSE_INDEX|Nifty 50", "NSE_FO|1"]},
    }


def test_an_unsub_frame_carries_no_mode() -> None:
    assert json.loads(protocol.subscribe_frame("g", "unsub", "full", ["K"]))["data"] == {"instrumentKeys": ["K"]}


@pytest.mark.parametrize(("method", "mode"), [("subscribe", "full"), ("sub", "full_d5"), ("change_mode", "")])
def test_words_that_the_broker_silently_ignores_are_refused(method: str, mode: str) -> None:
    with pytest.raises(ValueError, match="is not one of"):
        protocol.subscribe_frame("g", method, mode, ["K"])


def test_keys_are_quoted_in_paths_and_the_last_day_comes_first() -> None:
    path = protocol.historical_path("NSE_INDEX|Nifty 50", "minutes", 1, first=date(2026, 11, 1), last=date(2026, 11, 20))
    assert path == "/v3/historical-candle/NSE_INDEX%7CNifty%2050/minutes/1/2026-11-20/2026-11-01"
    assert protocol.intraday_path("A|B/C", "days", 1) == "/v3/historical-candle/intraday/A%7CB%2FC/days/1"
    assert protocol.market_status_path("NSE") == "/v2/market/status/NSE"
    assert protocol.timings_path(date(2026, 11, 24)) == "/v2/market/timings/2026-11-24"
    assert protocol.holidays_path() == "/v2/market/holidays"
    assert protocol.holidays_path(date(2026, 11, 24)) == "/v2/market/holidays/2026-11-24"


def test_the_dialog_address_carries_the_state() -> None:
    address = protocol.login_dialog_url("https://api.upstox.com/", client_id="a b", redirect_uri="http://x/?y=1", state="s&t")
    assert address.startswith("https://api.upstox.com/v2/login/authorization/dialog?response_type=code&client_id=a+b&")
    assert address.endswith("redirect_uri=http%3A%2F%2Fx%2F%3Fy%3D1&state=s%26t")


# --- errors -----------------------------------------------------------------------------------------------------------


def body(code: str = "", message: str = "no", *, camel: bool = False) -> bytes:
    error = {"errorCode" if camel else "error_code": code, "message": message}
    return json.dumps({"status": "error", "errors": [error]}).encode()


@pytest.mark.parametrize(
    ("status", "content", "kind", "permanent"),
    [
        (401, body("UDAPI100050"), AuthExpired, True),
        (401, b"", AuthExpired, True),
        (400, body("UDAPI100067"), AuthExpired, True),
        (400, body("UDAPI100016", camel=True), AuthExpired, True),
        (200, body("UDAPI100050"), AuthExpired, True),
        (429, body("UDAPI10005"), RateLimited, False),
        (429, b"<html>slow down</html>", RateLimited, False),
        (400, body("UDAPI10005", camel=True), RateLimited, False),
        (403, b"<html>Sorry, you have been blocked</html>", FeedRefused, False),
        (400, body("UDAPI100011"), FeedRefused, True),
        (404, b"not found", FeedRefused, True),
        (423, body("UDAPI100074"), FeedUnavailable, False),
        (500, body("UDAPI100500"), FeedUnavailable, False),
        (503, b"<html></html>", FeedUnavailable, False),
        (302, b"", ProtocolViolation, False),
    ],
)
def test_an_answer_becomes_the_error_that_it_means(status: int, content: bytes, kind: type[BrokerError], permanent: bool) -> None:
    with pytest.raises(BrokerError) as caught:
        protocol.parse_envelope(status, content)
    assert type(caught.value) is kind
    assert caught.value.permanent is permanent
    assert caught.value.status == status


def test_snake_case_wins_over_camel_case() -> None:
    content = {"status": "error", "errors": [{"errorCode": "OLD", "error_code": "UDAPI100050", "message": "Invalid token"}]}
    error = protocol.error_of(401, json.dumps(content).encode())
    assert (error.code, str(error)) == ("UDAPI100050", "Invalid token (HTTP 401 UDAPI100050)")


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("0", 1.0), ("99999", 1800.0), (None, 60.0), ("soon", 60.0), ("nan", 60.0)])
def test_retry_after_is_kept_within_sense(header: str | None, seconds: float) -> None:
    error = protocol.error_of(429, b"", header)
    assert isinstance(error, RateLimited)
    assert error.retry_after == seconds


def test_foreign_text_becomes_one_short_printable_line() -> None:
    error = protocol.error_of(400, body("X", "a\r\nSet-Cookie: b\x1b[2J" + "z" * 5000))
    assert error.message.startswith("aSet-Cookie: b[2Jzzz")
    assert len(error.message) == 200


json_values = st.recursive(
    st.none() | st.text() | st.integers(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["status", "errors", "message", "error_code", "data"]), inner),
)
answers = st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode())


@given(status=st.integers(0, 599), content=answers)
def test_any_answer_is_data_or_a_broker_error(status: int, content: bytes) -> None:
    assert isinstance(protocol.error_of(status, content), BrokerError)
    try:
        data = protocol.parse_envelope(status, content)
    except BrokerError as error:
        data = error
    assert isinstance(data, BrokerError) or 200 <= status < 300


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{}", b"<html>", b'{"status":"success"}', b"[" * 100_000])
def test_a_success_without_an_envelope_is_a_violation(content: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        protocol.parse_envelope(200, content)


def test_a_text_frame_that_complains_is_an_error_and_another_is_not() -> None:
    error = protocol.parse_feed_text('{"status":"failed","method":"sub","error":"too many keys"}')
    assert isinstance(error, FeedRefused)
    assert error.message == "the feed refused sub: too many keys"
    assert protocol.parse_feed_text('{"status":"success"}') is None
    assert protocol.parse_feed_text("not JSON") is None


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["authorized_redirect_uri", "authorizedRedirectUri"])
def test_the_authorised_address_is_read_in_both_spellings(name: str) -> None:
    assert protocol.parse_authorized_url({name: "wss://host/feed?code=1"}) == "wss://host/feed?code=1"


@pytest.mark.parametrize(
    "content",
    [None, {}, [], *({"authorized_redirect_uri": uri} for uri in (7, "https://host", "ws://[::1/feed", "wss://host\u2100/feed"))],
)
def test_an_authorise_answer_without_a_socket_is_a_violation(content: Any) -> None:
    with pytest.raises(ProtocolViolation):
        protocol.parse_authorized_url(content)


def test_bars_come_oldest_first_and_bad_rows_are_left_out() -> None:
    rows = [
        ["2026-11-20T15:29:00+05:30", 3, 4, 2, 3.5, 30, 7],
        ["2026-11-20T15:28:00+05:30", 1, 2, 1, 1.5, -2147483648, 0],
        ["2026-11-20T15:27:00+05:30", 1, 2, 1, 1.5, 10],
        ["2026-11-20T15:26:00", 1, 2, 1, 1.5, 10, 0],
        ["nonsense"],
        ["2026-11-20T15:25:00+05:30", None, 2, 1, 1.5, 10, 0],
        None,
    ]
    bars, odd = protocol.parse_bars({"candles": rows})
    assert [(bar.start_ms, bar.close, bar.volume, bar.open_interest) for bar in bars] == [
        (ist_ms("2026-11-20T15:27:00"), 1.5, 10, 0.0),
        (ist_ms("2026-11-20T15:29:00"), 3.5, 30, 7.0),
    ]
    assert odd == 5


@pytest.mark.parametrize("content", [None, {}, {"candles": None}, []])
def test_no_list_of_candles_is_a_violation(content: Any) -> None:
    with pytest.raises(ProtocolViolation):
        protocol.parse_bars(content)


def test_market_status_is_read_or_refused() -> None:
    assert protocol.parse_market_status({"exchange": "NSE", "status": "NORMAL_OPEN", "last_updated": 5}) == ("NSE", "NORMAL_OPEN", 5)
    with pytest.raises(ProtocolViolation):
        protocol.parse_market_status({"exchange": "NSE"})


def test_a_login_never_shows_its_token() -> None:
    login = protocol.parse_login(200, b'{"user_id":"AB1","access_token":"very-secret"}')
    assert (login.user_id, login.token) == ("AB1", "very-secret")
    assert "very-secret" not in repr(login)


@pytest.mark.parametrize(("status", "content", "kind"), [
    (400, body("UDAPI100057"), FeedRefused),
    (200, b'{"user_id":"x"}', ProtocolViolation),
    (200, b"<html>", ProtocolViolation),
    (401, body("UDAPI100069"), AuthExpired),
])  # fmt: skip
def test_a_login_that_failed_is_an_error(status: int, content: bytes, kind: type[BrokerError]) -> None:
    with pytest.raises(kind):
        protocol.parse_login(status, content)


# --- the life of a token ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("issued", "expires"), [
    ("2026-11-24T20:00:00", "2026-11-25T03:30:00"),
    ("2026-11-25T02:30:00", "2026-11-25T03:30:00"),
    ("2026-11-25T03:29:59.999", "2026-11-25T03:30:00"),
    ("2026-11-25T03:30:00", "2026-11-26T03:30:00"),
    ("2026-11-25T00:00:00", "2026-11-25T03:30:00"),
])  # fmt: skip
def test_a_token_dies_at_the_next_half_past_three(issued: str, expires: str) -> None:
    assert protocol.token_expires_ms(ist_ms(issued)) == ist_ms(expires)


@given(st.integers(1_577_836_800_000, 2_000_000_000_000))
def test_a_token_lives_at_most_a_day_and_dies_after_its_issue(issued_ms: int) -> None:
    expires = protocol.token_expires_ms(issued_ms)
    assert issued_ms < expires <= issued_ms + 86_400_000
    assert datetime.fromtimestamp(expires / 1000, IST).strftime("%H:%M:%S.%f") == "03:30:00.000000"


def test_an_analytics_token_lives_until_its_exp() -> None:
    issued = ist_ms("2026-11-22T12:00:00")
    assert protocol.token_expires_ms(issued, jwt(exp=issued // 1000 + 365 * 86_400)) == issued + 365 * 86_400_000


@pytest.mark.parametrize(
    "token", ["", "abc", "a.b.c", "a.e30.c", jwt(exp="soon"), jwt(exp=True), jwt(exp=1e300), jwt(exp=5), jwt(sub=1), "a.W10.c"]
)
def test_a_token_without_a_believable_exp_dies_at_half_past_three(token: str) -> None:
    issued = ist_ms("2026-11-22T12:00:00")
    assert protocol.token_expires_ms(issued, token) == ist_ms("2026-11-23T03:30:00")
