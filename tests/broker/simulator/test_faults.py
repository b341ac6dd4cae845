"""Faults on demand: each is seen by a client as the real fault would be, and counted."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import get_args
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from google.protobuf.message import DecodeError
from upstox_client.feeder.proto import MarketDataFeedV3_pb2 as sdk
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from broker.simulator import faults
from broker.simulator.faults import Duplicate, ExpireToken, Fault, Faults, Mute, Refuse, kind_of
from broker.upstox import MarketDataFeedV3_pb2 as pb
from tests.broker.simulator.feed_client import drain, has, open_feed, receive, receive_until, refused_status, request
from tests.fakes.exchange import RunningExchange

INDEX = "NSE_INDEX|Nifty 50"
OPERATIONS = Path(__file__).resolve().parents[3] / "docs" / "operations.md"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningExchange]:
    running = RunningExchange("--seed", "5", ledger=tmp_path_factory.mktemp("ledger"))
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
    faults.begin(Mute(seconds=5), 100)
    assert [faults.in_force(Mute, now) is not None for now in (104.9, 105, 101)] == [True, False, False]  # once over, over
    faults.begin(Mute(), 100)
    assert faults.in_force(Mute, 1e12) is not None
    faults.begin(Refuse(status=503, seconds=5), 100)
    assert faults.refusal("upgrade", 101) is None
    assert faults.refusal("authorize", 104) is not None
    assert faults.refusal("authorize", 105) is None
    faults.begin(Refuse(status=500, count=1), 100)
    refusals = [faults.refusal("authorize", 101) for _ in range(2)]
    assert [refusal and refusal.status_code for refusal in refusals] == [500, None]
    faults.clear()
    assert faults.in_force(Mute, 101) is None
    assert faults.happened == {"refuse": 2}


def test_an_altering_fault_stays_due_until_it_has_happened() -> None:
    faults = Faults()
    fault = Duplicate(every=3, count=1)
    faults.begin(fault, 0)
    assert [faults.is_due(fault) for _ in range(5)] == [False, False, True, True, True]
    faults.happen(fault)
    assert faults.in_force(Duplicate, 0) is None


def test_tokens_end_when_both_clocks_have_come_so_far() -> None:
    faults = Faults()
    faults.expire_later(ExpireToken(after_seconds=10), 100)
    faults.expire_later(ExpireToken(token="t", at_market_ms=5_000), 100)
    assert faults.expiries(109, 4_999) == []
    assert [fault.token for fault in faults.expiries(109, 5_000)] == ["t"]
    assert [fault.token for fault in faults.expiries(110, 5_000)] == [None]
    assert faults.expiries(1e9, 10**15) == []


@pytest.fixture
def following(exchange: RunningExchange) -> Iterator[ClientConnection]:
    """A connection on which live frames come."""
    with open_feed(exchange) as connection:
        connection.send(request("sub", [INDEX], "full"))
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


def test_a_paused_market_stands_still_and_goes_on_where_it_stood(exchange: RunningExchange, following: ClientConnection) -> None:
    exchange.fault(kind="pause")
    stood = exchange.wait_for(lambda state: state["faults"].get("pause", 0) > 0)
    chain = {"instrument_key": INDEX, "expiry_date": exchange.get("/v2/option/contract", instrument_key=INDEX).json()["data"][0]["expiry"]}
    first = exchange.get("/v2/option/chain", **chain).json()
    drain(following, 0.5)
    frames = drain(following, 4)
    assert {frame.type for frame in frames} == {pb.market_info}
    assert {frame.currentTs for frame in frames} == {stood["market_ms"]}
    following.send(request("change_mode", [INDEX], "ltpc"))
    (snapshot,) = (frame for frame in receive_until(following, lambda got: has(got, INDEX, pb.initial_feed)) if frame.feeds)
    assert snapshot.currentTs == stood["market_ms"]
    assert exchange.get("/v2/option/chain", **chain).json() == first
    exchange.fault(kind="clear")
    gone_on = receive_until(following, lambda got: has(got, INDEX))[-1]
    assert stood["market_ms"] < gone_on.currentTs <= time.time() * 1000 - 4_000  # behind by as long as it stood


def test_a_market_may_be_paused_at_a_time_of_its_own(exchange: RunningExchange, following: ClientConnection) -> None:
    at_ms = exchange.state()["market_ms"] + 3_000
    assert exchange.fault(kind="pause", at_market_ms=at_ms)["market_ms"] < at_ms
    exchange.wait_for(lambda state: state["market_ms"] >= at_ms)
    drain(following, 0.5)
    assert {frame.type for frame in drain(following, 1)} <= {pb.market_info}
    assert exchange.state()["market_ms"] == exchange.state()["market_ms"] >= at_ms


def test_mute_ends_by_itself(exchange: RunningExchange, following: ClientConnection) -> None:
    muted_ms = exchange.fault(kind="mute", seconds=1)["market_ms"]
    frames = receive_until(following, lambda got: has(got, INDEX) and got[-1].currentTs > muted_ms + 200)
    assert frames[-1].currentTs >= muted_ms + 900


def test_garbage_is_binary_and_no_frame(exchange: RunningExchange, following: ClientConnection) -> None:
    exchange.fault(kind="garbage", count=2, size=10)
    bad: list[bytes] = []
    deadline = time.monotonic() + 60
    while len(bad) < 2:
        assert time.monotonic() < deadline
        message = following.recv(timeout=60)
        assert isinstance(message, bytes)
        if message[:1] == b"\xff":
            bad.append(message)
    assert [len(message) for message in bad] == [10, 10]


def test_text_frame(exchange: RunningExchange, following: ClientConnection) -> None:
    exchange.fault(kind="text_frame", text='{"status":"failed"}')
    deadline = time.monotonic() + 60
    while not isinstance(message := following.recv(timeout=60), str):
        assert time.monotonic() < deadline
    assert message == '{"status":"failed"}'


def test_refuse_at_authorize_counts_down(exchange: RunningExchange) -> None:
    before = exchange.fault(kind="refuse", status=429, count=2)["faults"].get("refuse", 0)
    answers = [exchange.get("/v3/feed/market-data-feed/authorize") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 429, 200]
    assert answers[0].json()["errors"][0]["error_code"] == "UDAPI10005"
    assert exchange.state()["faults"]["refuse"] == before + 2


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


def test_a_token_dies_at_a_chosen_time_until_a_new_login(exchange: RunningExchange, following: ClientConnection) -> None:
    before = exchange.state()
    ended = before["faults"].get("expire_token", 0)
    exchange.fault(kind="expire_token", drop=True, at_market_ms=before["market_ms"] + 2_000)
    assert exchange.get("/v3/feed/market-data-feed/authorize").status_code == 200
    with pytest.raises(ConnectionClosed):
        receive_until(following, lambda got: False)
    state = exchange.state()
    assert state["market_ms"] >= before["market_ms"] + 2_000
    assert state["faults"]["expire_token"] == ended + 1
    assert [exchange.get("/v3/feed/market-data-feed/authorize").status_code for _ in range(2)] == [401, 401]
    app = {"client_id": "key", "redirect_uri": "http://127.0.0.1:1/callback", "response_type": "code"}
    allowed = httpx.get(f"{exchange.url}/v2/login/authorization/dialog", params=app | {"allow": "yes"})
    code = parse_qs(urlsplit(allowed.headers["location"]).query)["code"][0]
    form = app | {"client_secret": "secret", "code": code, "grant_type": "authorization_code"}
    token = httpx.post(f"{exchange.url}/v2/login/authorization/token", data=form).json()["access_token"]
    authorised = httpx.get(f"{exchange.url}/v3/feed/market-data-feed/authorize", headers={"Authorization": f"Bearer {token}"})
    assert authorised.status_code == 200


def test_refuse_may_say_when_to_come_again(exchange: RunningExchange) -> None:
    exchange.fault(kind="refuse", status=429, retry_after=7, count=1)
    assert exchange.get("/v3/feed/market-data-feed/authorize").headers["retry-after"] == "7"
    exchange.fault(kind="refuse", at="upgrade", status=429, body="html", retry_after=3, count=1)
    with pytest.raises(InvalidStatus) as caught:
        connect(exchange.authorized_url(), proxy=None)
    assert caught.value.response.status_code == 429
    assert caught.value.response.headers["retry-after"] == "3"
    assert b"<h1>" in bytes(caught.value.response.body or b"")


def test_a_spent_code_is_refused_at_the_upgrade(exchange: RunningExchange) -> None:
    before = exchange.state()["faults"].get("spent_code", 0)
    exchange.fault(kind="spent_code", count=1)
    assert refused_status(exchange.authorized_url()) == 403
    assert exchange.state()["faults"]["spent_code"] == before + 1
    url = exchange.authorized_url()
    with connect(url, ping_interval=None, proxy=None):
        assert refused_status(url) == 403  # used twice


def test_a_connection_limit_refuses_what_is_past_it(exchange: RunningExchange, following: ClientConnection) -> None:
    exchange.fault(kind="connection_limit", limit=1)
    assert refused_status(exchange.authorized_url()) == 403
    assert exchange.state()["faults"]["connection_limit"] == 1
    exchange.fault(kind="clear")
    with open_feed(exchange) as connection:
        receive(connection)


def test_a_holiday_closes_every_segment_and_then_nothing_comes(exchange: RunningExchange, following: ClientConnection) -> None:
    exchange.fault(kind="holiday")
    told = receive_until(following, lambda got: bool(got) and got[-1].type == pb.market_info)[-1]
    assert set(told.marketInfo.segmentStatus.values()) == {pb.NORMAL_CLOSE}
    assert drain(following, 4) == []  # longer than market_info's period
    exchange.fault(kind="clear")
    told = receive_until(following, lambda got: bool(got) and got[-1].type == pb.market_info)[-1]
    assert pb.NORMAL_OPEN in told.marketInfo.segmentStatus.values()
    receive_until(following, lambda got: has(got, INDEX))
    assert exchange.state()["faults"]["holiday"] == 1


@pytest.mark.parametrize("kind", ["truncated", "oversized", "duplicate", "reorder", "unknown_keys", "newer_schema", "partial"])
def test_altered_frames_are_in_the_ledger_as_they_were_sent(exchange: RunningExchange, following: ClientConnection, kind: str) -> None:
    before = exchange.state()["faults"].get(kind, 0)
    exchange.fault(kind=kind, every=1, count=2, **({"size": 9 << 20} if kind == "oversized" else {}))
    exchange.wait_for(lambda state: state["faults"].get(kind, 0) >= before + 2)
    received = [bytes(following.recv(timeout=60, decode=False)) for _ in range(8)]
    exchange.state()  # flushes the ledger
    frames = list(exchange.ledger.frames())
    sent = [frame.content for frame in frames if frame.connection == frames[-1].connection]
    start = sent.index(received[0])
    assert received == sent[start : start + 8]
    carrying = Counter(update.frame for update in exchange.ledger.updates())
    for frame in frames:
        try:
            decoded = sdk.FeedResponse.FromString(frame.content)
        except DecodeError:
            assert carrying[frame.number] == 0
        else:
            assert carrying[frame.number] == len(decoded.feeds)


NO_FAULTS = [b"", b"{", b'{"kind":"nonsense"}', b'{"kind":"drop","no_such_field":1}', b'{"kind":"refuse","status":"x"}']
WRONG_FIELDS = [
    ({"kind": "refuse", "status": 200}, "status"),
    ({"kind": "drop", "no_such_field": 1}, "no_such_field"),
    ({"kind": "truncated", "every": 0}, "every"),
    ({"kind": "oversized", "size": 1 << 40}, "size"),
    ({"kind": "partial", "keep": "nothing"}, "keep"),
    ({"kind": "mute", "seconds": -1}, "seconds"),
]


@pytest.mark.parametrize("body", NO_FAULTS)
def test_a_fault_that_is_none_is_refused_status(exchange: RunningExchange, body: bytes) -> None:
    answer = httpx.post(f"{exchange.url}/simulator/faults", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_every_kind_is_documented() -> None:
    told = re.findall(r"^\| `(\w+)` \|", OPERATIONS.read_text().partition("## Faults on demand")[2].partition("\n## ")[0], re.MULTILINE)
    assert told == [kind_of(kind) for kind in get_args(Fault)]
    assert re.findall(r"^\| (\w+) \|", faults.__doc__ or "", re.MULTILINE)[1:] == told


@pytest.mark.parametrize(("fault", "field"), WRONG_FIELDS)
def test_a_wrong_field_is_named(exchange: RunningExchange, fault: dict[str, object], field: str) -> None:
    answer = httpx.post(f"{exchange.url}/simulator/faults", json=fault)
    assert answer.status_code == 400
    assert field in answer.json()["error"]


def test_control_is_for_programs_of_this_machine(exchange: RunningExchange) -> None:
    page = {"Origin": "http://evil.example"}
    assert httpx.get(f"{exchange.url}/simulator/state", headers=page).status_code == 403
    assert httpx.post(f"{exchange.url}/simulator/faults", json={"kind": "drop"}, headers=page).status_code == 403
    assert httpx.post(f"{exchange.url}/simulator/faults", content=b" " * 100_000).status_code == 413


def test_state_lists_keys_where_asked(exchange: RunningExchange, following: ClientConnection) -> None:
    assert httpx.get(f"{exchange.url}/simulator/state?keys=1").json()["subscribed_keys"] == [INDEX]
    assert "subscribed_keys" not in exchange.state()
