"""Faults on demand: each is seen by a client as the real fault would be, and counted."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from broker.simulator.faults import Faults, Mute, Refuse
from tests.broker.simulator.feed_client import drain, has, open_feed, receive, receive_until, refused_status, request
from tests.fakes.exchange import RunningExchange

INDEX = "NSE_INDEX|Nifty 50"


@pytest.fixture(scope="module")
def shared() -> Iterator[RunningExchange]:
    running = RunningExchange("--seed", "5")
    yield running
    running.stop()


@pytest.fixture
def exchange(shared: RunningExchange) -> RunningExchange:
    """The module's exchange, without connections or faults left over."""
    shared.fault(kind="clear")
    shared.fault(kind="drop")
    shared.wait_for(lambda state: not state["connections"])
    return shared


def test_what_is_in_force_ends_by_time_or_by_count() -> None:
    faults = Faults()
    faults.mute(Mute(seconds=5), 100)
    assert (faults.is_muted(104.9), faults.is_muted(105)) == (True, False)
    faults.mute(Mute(), 100)
    assert faults.is_muted(1e12)
    faults.refuse(Refuse(status=503, seconds=5), 100)
    assert faults.refusal("upgrade", 101) is None
    assert faults.refusal("authorize", 104) is not None
    assert faults.refusal("authorize", 105) is None
    assert faults.refusal("authorize", 101) is None  # once over, over
    faults.refuse(Refuse(status=500, count=1), 100)
    refusals = [faults.refusal("authorize", 101) for _ in range(2)]
    assert [refusal and refusal.status_code for refusal in refusals] == [500, None]
    faults.clear()
    assert not faults.is_muted(101)
    assert faults.refused_total == 2


@pytest.fixture
def following(exchange: RunningExchange) -> Iterator[ClientConnection]:
    """A connection on which live frames come."""
    with open_feed(exchange) as connection:
        connection.send(request("sub", [INDEX], "ltpc"))
        receive_until(connection, lambda got: has(got, INDEX))
        yield connection


def test_drop_cuts_without_a_close_frame(exchange: RunningExchange, following: ClientConnection) -> None:
    exchange.fault(kind="drop")
    with pytest.raises(ConnectionClosed) as caught:
        receive_until(following, lambda got: False)
    assert caught.value.rcvd is None
    assert exchange.state()["faults"]["drop"] >= 1


def test_mute_sends_nothing_and_keeps_the_connection(exchange: RunningExchange, following: ClientConnection) -> None:
    exchange.fault(kind="mute")
    drain(following, 0.5)
    assert drain(following, 4) == []  # longer than market_info's period
    following.ping().wait(10)
    exchange.fault(kind="clear")
    receive_until(following, lambda got: has(got, INDEX))


def test_mute_ends_by_itself(exchange: RunningExchange, following: ClientConnection) -> None:
    exchange.fault(kind="mute", seconds=1)
    drain(following, 0.3)
    began = time.monotonic()
    receive_until(following, lambda got: has(got, INDEX))
    assert time.monotonic() - began > 0.3


def test_garbage_is_binary_and_no_frame(exchange: RunningExchange, following: ClientConnection) -> None:
    exchange.fault(kind="garbage", count=2, size=10)
    bad: list[bytes] = []
    deadline = time.monotonic() + 20
    while len(bad) < 2:
        assert time.monotonic() < deadline
        message = following.recv(timeout=20)
        assert isinstance(message, bytes)
        if message[:1] == b"\xff":
            bad.append(message)
    assert [len(message) for message in bad] == [10, 10]


def test_text_frame(exchange: RunningExchange, following: ClientConnection) -> None:
    exchange.fault(kind="text_frame", text='{"status":"failed"}')
    deadline = time.monotonic() + 20
    while not isinstance(message := following.recv(timeout=20), str):
        assert time.monotonic() < deadline
    assert message == '{"status":"failed"}'


def test_refuse_at_authorize_counts_down(exchange: RunningExchange) -> None:
    before = exchange.fault(kind="refuse", status=429, count=2)["refused_total"]
    answers = [exchange.get("/v3/feed/market-data-feed/authorize") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 429, 200]
    assert answers[0].json()["errors"][0]["error_code"] == "UDAPI10005"
    assert exchange.state()["refused_total"] == before + 2


def test_refuse_may_answer_html_as_the_broker_s_front_does(exchange: RunningExchange) -> None:
    exchange.fault(kind="refuse", status=503, body="html")
    answer = exchange.get("/v3/feed/market-data-feed/authorize")
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (503, "text/html")


def test_refuse_at_the_upgrade(exchange: RunningExchange) -> None:
    exchange.fault(kind="refuse", at="upgrade", status=503, count=1)
    assert refused_status(exchange.authorized_url()) == 503
    with open_feed(exchange) as connection:
        receive(connection)


def test_expire_token_ends_rest_and_the_feed(exchange: RunningExchange, following: ClientConnection) -> None:
    exchange.fault(kind="expire_token", drop=True)
    with pytest.raises(ConnectionClosed):
        receive_until(following, lambda got: False)
    assert exchange.get("/v3/feed/market-data-feed/authorize").status_code == 401
    exchange.fault(kind="clear")
    assert exchange.get("/v3/feed/market-data-feed/authorize").status_code == 200


NO_FAULTS = [b"", b"{", b'{"kind":"nonsense"}', b'{"kind":"drop","no_such_field":1}', b'{"kind":"refuse","status":"x"}']


@pytest.mark.parametrize("body", NO_FAULTS)
def test_a_fault_that_is_none_is_refused_status(exchange: RunningExchange, body: bytes) -> None:
    answer = httpx.post(f"{exchange.url}/simulator/faults", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_control_is_for_programs_of_this_machine(exchange: RunningExchange) -> None:
    page = {"Origin": "http://evil.example"}
    assert httpx.get(f"{exchange.url}/simulator/state", headers=page).status_code == 403
    assert httpx.post(f"{exchange.url}/simulator/faults", json={"kind": "drop"}, headers=page).status_code == 403
    assert httpx.post(f"{exchange.url}/simulator/faults", content=b" " * 100_000).status_code == 413


def test_state_lists_keys_where_asked(exchange: RunningExchange, following: ClientConnection) -> None:
    assert httpx.get(f"{exchange.url}/simulator/state?keys=1").json()["subscribed_keys"] == [INDEX]
    assert "subscribed_keys" not in exchange.state()
