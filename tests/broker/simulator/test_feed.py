"""The V3 feed over a real socket: what is sent in which mode, what is ignored, what is refused, and who is cut."""

from __future__ import annotations

import functools
import gzip
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.sync.client import connect
from websockets.uri import parse_uri

from broker.simulator.ledger import feed_digest
from broker.upstox import MarketDataFeedV3_pb2 as pb
from tests.broker.simulator.feed_client import drain, has, open_feed, receive, receive_until, refused_status, request
from tests.fakes.exchange import RunningExchange, StartExchange, start_exchange  # noqa: F401

INDEX, BANK, UNKNOWN = "NSE_INDEX|Nifty 50", "NSE_INDEX|Nifty Bank", "NSE_FO|0"


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


def option_keys(exchange: RunningExchange, count: int = 1) -> list[str]:
    """Keys of options near the middle of the NIFTY list."""
    rows = exchange.get("/v2/option/contract", instrument_key=INDEX).json()["data"]
    middle = len(rows) // 2
    return [row["instrument_key"] for row in rows[middle : middle + count]]


# --- subscription ---------------------------------------------------------------------------------------------------------


def test_market_info_comes_first_and_repeats_while_idle(exchange: RunningExchange) -> None:
    with open_feed(exchange) as connection:
        first = receive(connection)
        assert first.type == pb.market_info
        assert len(first.marketInfo.segmentStatus) == 11
        again = receive(connection)
        assert again.type == pb.market_info
        assert 1000 < again.currentTs - first.currentTs < 10_000


def test_snapshot_then_live_frames_of_changed_keys(exchange: RunningExchange) -> None:
    keys = [INDEX, BANK, *option_keys(exchange, 20)]
    with open_feed(exchange) as connection:
        receive(connection)
        connection.send(request("sub", [*keys, UNKNOWN], "full"))
        snapshot = receive(connection)
        assert snapshot.type == pb.initial_feed
        assert set(snapshot.feeds) == set(keys)
        frames = receive_until(connection, lambda got: len(got) >= 20)
    assert 80 < (frames[-1].currentTs - snapshot.currentTs) / 20 < 1000
    assert {frame.type for frame in frames} == {pb.live_feed}
    assert all(frame.feeds and set(frame.feeds) <= set(keys) for frame in frames)
    assert min(len(frame.feeds) for frame in frames) < len(keys)
    assert [f.currentTs for f in frames] == sorted(f.currentTs for f in frames)


def test_each_mode_carries_its_own_fields(exchange: RunningExchange) -> None:
    option = option_keys(exchange)[0]
    with open_feed(exchange) as connection:
        receive(connection)
        found = {}
        for mode in ("ltpc", "option_greeks", "full"):
            connection.send(request("sub" if mode == "ltpc" else "change_mode", [option], mode))
            frames = receive_until(connection, lambda got: has(got, option, pb.initial_feed))
            live = receive_until(connection, lambda got: has(got, option))
            found[mode] = frames[-1].feeds[option]
            assert live[-1].feeds[option].requestMode == found[mode].requestMode
    assert {mode: feed.WhichOneof("FeedUnion") for mode, feed in found.items()} == {
        "ltpc": "ltpc",
        "option_greeks": "firstLevelWithGreeks",
        "full": "fullFeed",
    }
    assert [feed.requestMode for feed in found.values()] == [pb.RequestMode.ltpc, pb.RequestMode.option_greeks, pb.full_d5]
    greeks = found["option_greeks"].firstLevelWithGreeks
    assert greeks.ltpc.ltp > 0
    assert greeks.firstDepth.askP > 0
    assert greeks.optionGreeks.vega > 0
    assert greeks.iv > 0


def test_unsub_stops_a_key_and_sub_without_mode_is_ltpc(exchange: RunningExchange) -> None:
    with open_feed(exchange) as connection:
        connection.send(request("sub", [INDEX, BANK]))
        frames = receive_until(connection, lambda got: has(got, INDEX) and has(got, BANK))
        assert all(feed.WhichOneof("FeedUnion") == "ltpc" for frame in frames for feed in frame.feeds.values())
        connection.send(request("unsub", [INDEX]))
        exchange.wait_for(lambda state: state["subscribed"] == 1)
        drain(connection, 0.3)
        after = receive_until(connection, lambda got: sum(BANK in frame.feeds for frame in got) >= 5)
        assert not any(INDEX in frame.feeds for frame in after)


IGNORED: list[bytes | str] = [
    request("sub", [INDEX], "full_d5"),
    request("sub", [INDEX], "full_d30"),  # not in the normal plan
    request("sub", [UNKNOWN, "", "NSE_INDEX|nifty 50"], "full"),
    request("change_mode", [INDEX], "full"),  # not subscribed
    request("subscribe", [INDEX], "full"),
    request("sub", [INDEX], "full").decode(),  # a text frame
    b"",
    b"{",
    b"\xff\xfe\x00",
    b"[1,2]",
    b'{"method":"sub","data":null}',
    b'{"method":"sub","data":{"mode":"full","instrumentKeys":"NSE_INDEX|Nifty 50"}}',
    b'{"method":"sub","data":{"mode":"full","instrumentKeys":[1]}}',
    b"[" * 100_000,
]


def handled(state: dict[str, Any]) -> int:
    """Requests that the feed has looked at."""
    return int(state["counts"].get("requests_total", 0) + state["counts"].get("requests_text_total", 0))


def has_handled(count: int, state: dict[str, Any]) -> bool:
    return handled(state) == count


def test_what_the_broker_ignores_yields_only_market_info(exchange: RunningExchange) -> None:
    before = handled(exchange.state())
    with open_feed(exchange) as connection:
        for number, content in enumerate(IGNORED, 1):
            connection.send(content)
            state = exchange.wait_for(functools.partial(has_handled, before + number))
            assert state["subscribed"] == 0, content[:60]
        frames = receive_until(connection, lambda got: len(got) >= 2)
        assert {frame.type for frame in frames} == {pb.market_info}
        connection.send(request("sub", [INDEX], "ltpc"))  # and the connection lives on
        receive_until(connection, lambda got: has(got, INDEX))


def test_a_giant_request_closes_its_connection_only(exchange: RunningExchange) -> None:
    with open_feed(exchange) as other, open_feed(exchange) as connection:
        connection.send(request("sub", ["NSE_FO|" + "9" * 2_000_000]))
        with pytest.raises(ConnectionClosed) as caught:
            receive_until(connection, lambda got: False)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1009
        other.send(request("sub", [INDEX]))
        receive_until(other, lambda got: has(got, INDEX))


@pytest.mark.long
def test_keys_past_the_limit_of_a_mode_are_ignored_and_counted(start_exchange: StartExchange) -> None:  # noqa: F811
    exchange = start_exchange("--seed", "5", "--instruments", "2600")
    rows = [row for row in _master(exchange) if row["segment"] == "NSE_FO"]
    keys = [str(row["instrument_key"]) for row in rows]
    assert len(keys) > 2100
    with open_feed(exchange) as connection:
        connection.send(request("sub", keys, "full"))
        state = exchange.wait_for(lambda state: state["subscribed"] > 0)
        assert state["connections"][0]["modes"] == {"full": 2000}
        assert state["counts"]["keys_over_limit_total"] == len(keys) - 2000
        connection.send(request("unsub", keys))
        exchange.wait_for(lambda state: state["subscribed"] == 0)
        connection.send(request("sub", [INDEX], "ltpc"))
        connection.send(request("sub", keys, "full"))  # two modes: the combined limit
        state = exchange.wait_for(lambda state: state["subscribed"] > 1)
        assert state["connections"][0]["modes"] == {"ltpc": 1, "full": 1500}


def _master(exchange: RunningExchange) -> list[dict[str, object]]:
    content = httpx.get(f"{exchange.url}/market-quote/instruments/exchange/NSE.json.gz", timeout=60).content
    rows: list[dict[str, object]] = json.loads(gzip.decompress(content))
    return rows


# --- who gets in ----------------------------------------------------------------------------------------------------------


def test_codes_open_once(exchange: RunningExchange) -> None:
    url = exchange.authorized_url()
    with connect(url, ping_interval=None, proxy=None) as connection:
        receive(connection)
        assert refused_status(url) == 403
    assert refused_status(url.partition("code=")[0] + "code=made-up") == 403
    assert refused_status(url.partition("?")[0]) == 403


def test_a_third_connection_of_a_token_is_refused_status(exchange: RunningExchange) -> None:
    with open_feed(exchange) as one, open_feed(exchange) as two:
        assert refused_status(exchange.authorized_url()) == 403
        receive(one)
        receive(two)
    exchange.wait_for(lambda state: not state["connections"])
    with open_feed(exchange) as three:
        receive(three)


def test_entry_redirects_to_an_authorised_socket(exchange: RunningExchange) -> None:
    entry = f"{exchange.url}/v3/feed/market-data-feed"
    answer = httpx.get(entry, headers=exchange.headers)
    assert answer.status_code == 302
    assert httpx.get(entry).status_code == 401
    with connect(entry.replace("http", "ws", 1), additional_headers=exchange.headers, ping_interval=None, proxy=None) as connection:
        assert receive(connection).type == pb.market_info
    assert refused_status(entry.replace("http", "ws", 1)) == 401


def test_authorize_sends_both_spellings(exchange: RunningExchange) -> None:
    data = exchange.get("/v3/feed/market-data-feed/authorize").json()["data"]
    assert data["authorized_redirect_uri"] == data["authorizedRedirectUri"]
    assert data["authorized_redirect_uri"].startswith("ws://127.0.0.1:")


# --- who is cut -----------------------------------------------------------------------------------------------------------


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def never_reading(exchange: RunningExchange, keys: list[str]) -> Iterator[None]:
    """A client that subscribes, and then takes nothing out of a small socket buffer."""
    url = exchange.authorized_url()
    address = urlsplit(url)
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect((address.hostname, address.port))
    with connect(url, sock=raw, max_queue=1, compression=None, ping_interval=None, close_timeout=0.1) as connection:
        connection.send(request("sub", keys, "full"))
        yield


def test_a_client_that_does_not_read_is_cut_and_costs_bounded_memory(start_exchange: StartExchange) -> None:  # noqa: F811
    exchange = start_exchange("--seed", "5", "--rate", "4")
    keys = [str(row["instrument_key"]) for row in _master(exchange)][:1500]
    pid = exchange.process.pid
    with open_feed(exchange) as healthy, never_reading(exchange, keys):
        healthy.send(request("sub", [INDEX], "ltpc"))
        before = resident_bytes(pid)
        peak = before
        deadline = time.monotonic() + 60
        while (state := exchange.state())["counts"].get("slow_clients_aborted_total", 0) == 0:
            peak = max(peak, resident_bytes(pid))
            assert time.monotonic() < deadline, state
            drain(healthy, 0.2)
        assert peak - before < 120 * 1024 * 1024
        assert len(exchange.wait_for(lambda state: len(state["connections"]) == 1)["connections"]) == 1
        drain(healthy, 0.2)
        receive_until(healthy, lambda got: has(got, INDEX))  # the other one is served on


# --- ledger ---------------------------------------------------------------------------------------------------------------


def test_the_ledger_holds_what_the_client_received(start_exchange: StartExchange, tmp_path: Path) -> None:  # noqa: F811
    exchange = start_exchange("--seed", "9", ledger=tmp_path / "ledger")
    keys = [INDEX, *option_keys(exchange, 30)]
    contents: list[bytes] = []
    with open_feed(exchange) as connection:
        connection.send(request("sub", keys, "full"))
        while len(contents) < 20:
            message = connection.recv(timeout=60)
            assert isinstance(message, bytes)
            contents.append(message)
    assert exchange.stop() == 0
    frames = [frame for frame in exchange.ledger.frames() if frame.connection == 1]
    assert [frame.content for frame in frames[:20]] == contents
    expected = []
    for frame in frames:
        response = pb.FeedResponse.FromString(frame.content)
        for key in sorted(response.feeds):
            expected.append((frame.number, 1, response.currentTs, key, feed_digest(response.feeds[key])))
    assert [tuple(update) for update in exchange.ledger.updates()] == expected
    assert sum(exchange.ledger.counts().values()) == len(expected) > 60


def test_the_ledger_holds_what_was_asked_and_what_came_of_it(start_exchange: StartExchange, tmp_path: Path) -> None:  # noqa: F811
    exchange = start_exchange("--instruments", "40", ledger=tmp_path / "ledger")
    with open_feed(exchange) as connection:
        for method, keys, mode in (("sub", [INDEX, BANK, UNKNOWN], "full"), ("change_mode", [BANK], "ltpc"), ("unsub", [INDEX], None)):
            connection.send(request(method, keys, mode))
        connection.ping().wait(10)
    exchange.wait_for(lambda state: not state["connections"])
    asked = list(exchange.ledger.requests())
    assert [(each.method, each.mode, each.keys, each.refused, each.modes) for each in asked] == [
        ("open", "", [], [], {}),
        ("sub", "full", [INDEX, BANK, UNKNOWN], [UNKNOWN], {"full": 2}),
        ("change_mode", "ltpc", [BANK], [], {"full": 1, "ltpc": 1}),
        ("unsub", "", [INDEX], [], {"ltpc": 1}),
        ("close", "", [], [], {}),
    ]
    assert [each.connection for each in asked] == [1] * 5
    assert [each.at_ns for each in asked] == sorted(each.at_ns for each in asked)
    assert {each.at_ns // 60_000_000_000 - each.market_ms // 60_000 for each in asked} <= {0, 1}


# --- pings ----------------------------------------------------------------------------------------------------------------


def test_a_client_that_answers_no_ping_is_cut(start_exchange: StartExchange) -> None:  # noqa: F811
    exchange = start_exchange("--instruments", "1", "--ping", "0.3")
    url = exchange.authorized_url()
    address = urlsplit(url)
    client = ClientProtocol(parse_uri(url))
    with socket.create_connection((address.hostname, address.port or 80), timeout=60) as raw:
        client.send_request(client.connect())
        raw.sendall(b"".join(client.data_to_send()))
        opcodes: list[Opcode] = []
        while content := raw.recv(65_536):
            client.receive_data(content)  # its pongs are never sent
            opcodes += [event.opcode for event in client.events_received() if isinstance(event, Frame)]
    assert Opcode.PING in opcodes
    assert opcodes[-1] is Opcode.CLOSE
    assert client.close_rcvd is not None
    assert client.close_rcvd.code == 1011
