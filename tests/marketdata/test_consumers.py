"""The WebSocket as programs see it: a real server, a real client, the real valkey and mongod between them."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
import redis
from channels.db import database_sync_to_async
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from instruments.services import instruments_refresh
from marketdata import consumers
from marketdata.bus import BusBatch
from marketdata.outbox import CONTROL_MESSAGES
from marketdata.wire import HEAD_FIELDS, SUBPROTOCOL
from tests.instruments.rows import DAY_1, MONTHLY, option
from tests.marketdata.way_out import (
    MarketClient,
    ScriptedFeed,
    WebServer,
    api_key,
    auntil,
    deaf_client,
    entry_of,
    farewell,
    hung,
    instruments,
    market_client,
    own_valkey,
    read_slowly,
    web_server,
)
from tests.zones import ist
from tradingok.embedded import start_server, stop_server

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]


@database_sync_to_async
def new_ticket() -> str:
    from accounts.models import User
    from accounts.services import ticket_create

    return ticket_create(user=User.objects.get_or_create(username="page")[0])


@database_sync_to_async
def session_cookie(*, signed_out: bool = False) -> str:
    from django.conf import settings
    from django.test import Client

    from accounts.models import User

    browser = Client()
    browser.force_login(User.objects.get_or_create(username="page")[0])
    cookie = f"{settings.SESSION_COOKIE_NAME}={browser.cookies[settings.SESSION_COOKIE_NAME].value}"
    if signed_out:
        browser.logout()
    return cookie


# --- who may connect ----------------------------------------------------------------------------------------------------
WRONG_CREDENTIALS: list[dict[str, str]] = [
    {},
    {"Authorization": ""},
    {"Authorization": "Bearer "},
    {"Authorization": "Bearer tok_wrong"},
    {"Authorization": f"Bearer tok_{'x' * 43}"},
    {"Authorization": f"Basic tok_{'x' * 43}"},
]


async def test_a_contract_that_has_ended_is_refused_by_subscribe_and_resume_and_its_chart_is_not(server: WebServer) -> None:
    end = ist("2026-11-17 15:40:00")
    rows = [option(1), option(2, day=MONTHLY)]
    await database_sync_to_async(instruments_refresh)(rows=rows, source="test", as_of=DAY_1)
    async with ScriptedFeed(end).reporting() as feed, market_client(server.url, await api_key()) as client:
        await auntil(lambda: server.hub.board.market_ms is not None)
        assert feed.market_ms == end
        ended = "NIFTY 25000 CE 17 NOV 26 has expired: trading in it ended on 2026-11-17."
        commands: list[dict[str, Any]] = [
            {"op": "subscribe", "instruments": ["NSE_FO|1", "NSE_FO|2"]},
            {"op": "resume", "epoch": end, "seq": {"NSE_FO|1": 3, "NSE_FO|2": 3}},
        ]
        for number, command in enumerate(commands):
            await client.send(id=number, **command)
            gone, alive = (await client.next(id=number))["results"]
            assert (gone["status"], gone["code"], gone["message"]) == ("error", 412, ended)
            assert alive["status"] == "accepted"
        await client.send(id=9, op="subscribe", channels=["ohlc:1m:NSE_FO|1"])
        assert [result["status"] for result in (await client.next(id=9))["results"]] == ["active"], "it has a history"


async def test_without_credentials_the_reason_is_told_before_the_close(server: WebServer) -> None:
    for headers in WRONG_CREDENTIALS:
        async with connect(server.url, additional_headers=headers) as connection:
            messages, code = await farewell(connection)
        told = [(message["event"], message["code"], message["retry"], message["id"]) for message in messages]
        assert told == [("error", 401, False, None)], headers
        assert code == 4101


async def test_a_revoked_key_is_refused(server: WebServer) -> None:
    from accounts.models import ApiKey
    from accounts.services import api_key_revoke

    secret = await api_key()
    await database_sync_to_async(lambda: api_key_revoke(keys=ApiKey.objects.all()))()
    async with connect(server.url, additional_headers={"Authorization": f"Bearer {secret}"}) as connection:
        assert (await farewell(connection))[1] == 4101


async def test_a_ticket_opens_one_connection(server: WebServer) -> None:
    protocols: Any = [SUBPROTOCOL, f"ticket.{await new_ticket()}"]
    async with connect(server.url, subprotocols=protocols) as connection:
        assert connection.subprotocol == SUBPROTOCOL
        assert (await MarketClient(connection).next())["event"] == "hello"
    async with connect(server.url, subprotocols=protocols) as connection:
        messages, code = await farewell(connection)
    assert (messages[0]["code"], code) == (401, 4101)


async def test_a_session_needs_our_own_origin(server: WebServer, settings: Any) -> None:
    settings.CSRF_TRUSTED_ORIGINS = ["https://trade.example", "https://*.desk.example"]
    cookie = {"Cookie": await session_cookie()}
    for origin in (f"http://127.0.0.1:{server.port}", "https://trade.example", "https://a.desk.example"):
        async with connect(server.url, additional_headers=cookie, origin=origin) as connection:  # type: ignore[arg-type]
            assert (await MarketClient(connection).next())["event"] == "hello"
    for wrong in ("http://127.0.0.1:1", "http://evil.example", "http://trade.example", "https://evildesk.example", "null", None):
        with pytest.raises(InvalidStatus) as caught:
            await connect(server.url, additional_headers=cookie, origin=wrong)  # type: ignore[arg-type]
        assert caught.value.response.status_code == 403, wrong


async def test_a_host_that_is_not_ours_is_no_origin(server: WebServer) -> None:
    headers = {"Cookie": await session_cookie(), "Host": "evil.example"}
    with pytest.raises(InvalidStatus):
        await connect(server.url, additional_headers=headers, origin="http://evil.example")  # type: ignore[arg-type]


async def test_a_session_that_ended_is_refused(server: WebServer) -> None:
    cookie = {"Cookie": await session_cookie(signed_out=True)}
    async with connect(server.url, additional_headers=cookie, origin=f"http://127.0.0.1:{server.port}") as connection:  # type: ignore[arg-type]
        assert (await farewell(connection))[1] == 4101


async def test_an_unknown_path_is_refused_before_the_handshake(server: WebServer, caplog: pytest.LogCaptureFixture) -> None:
    for path in ("/", "/ws/", "/ws/market", "/ws/other/"):
        with pytest.raises(InvalidStatus) as caught:
            await connect(f"ws://127.0.0.1:{server.port}{path}")
        assert caught.value.response.status_code == 403
    assert "Traceback" not in caplog.text


async def test_a_user_has_so_many_connections(server: WebServer, settings: Any) -> None:
    settings.WS_CONNECTIONS_PER_USER = 2
    secret, other = await api_key(), await api_key("other")
    async with market_client(server.url, secret) as first, market_client(server.url, secret) as second:
        for client in (first, second):
            await client.next(event="hello")
        async with connect(server.url, additional_headers={"Authorization": f"Bearer {secret}"}) as third:
            messages, code = await farewell(third)
        assert [(message["code"], message["retry"]) for message in messages] == [(406, True)]
        assert code == 4104
        async with market_client(server.url, other) as stranger:
            await stranger.next(event="hello")

    async def is_admitted() -> bool:
        async with market_client(server.url, secret) as again:
            return bool((await again.next())["event"] == "hello")

    await auntil(is_admitted)  # places are given back after the close


# --- quotes -------------------------------------------------------------------------------------------------------------
async def test_subscribing_gives_the_snapshot_and_then_updates(server: WebServer, feed: ScriptedFeed) -> None:
    secret = await api_key()
    await instruments(1, 2)
    await feed.tick(1, 100.5)
    await feed.write()
    async with market_client(server.url, secret) as client:
        hello = await client.next(event="hello")
        assert (hello["protocol"], hello["epoch"], hello["limits"]["instruments"]) == (1, feed.epoch, 2000)
        await client.send(op="subscribe", id=7, instruments=["TEST|1"])
        reply = await client.next(id=7)
        assert reply["results"] == [{"key": "TEST|1", "item": "TEST|1", "status": "active", "instrument": 1}]
        seq, quote = await client.price("TEST|1", 100.5)
        assert seq == 1
        assert quote["depth"] == [[100.45, 75, 100.55, 150]]
        await feed.tick(1, 101.0)
        assert (await client.price("TEST|1", 101.0))[0] == 2
        ticks = [message for message in client.seen if message.get("event") == "market:tick"]
        assert [message["n"] for message in ticks] == list(range(1, len(ticks) + 1))


async def test_depth_comes_only_when_it_changed(server: WebServer, feed: ScriptedFeed) -> None:
    secret = await api_key()
    await instruments(1)
    async with market_client(server.url, secret) as client:
        await client.send(op="subscribe", id=1, instruments=["TEST|1"])
        await client.next(id=1)
        await feed.tick(1, 100.5, depth_changed=False)
        assert "depth" in (await client.price("TEST|1", 100.5))[1], "the first quote is whole"
        await server.settled()
        await client.send(op="ping", id=2)
        await client.next(id=2)
        await feed.tick(1, 101.5, depth_changed=False)
        assert "depth" not in (await client.price("TEST|1", 101.5))[1]
        await feed.tick(1, 102.5, depth_changed=True)
        assert "depth" in (await client.price("TEST|1", 102.5))[1]


async def test_ltpc_is_the_short_quote_and_id_names_an_instrument_too(server: WebServer, feed: ScriptedFeed) -> None:
    secret = await api_key()
    await instruments(1)
    await feed.tick(1, 100.5)
    await feed.write()
    async with market_client(server.url, secret) as client:
        await client.send(op="subscribe", id=1, instruments=["id:1"], mode="ltpc")
        reply = await client.next(id=1)
        assert reply["results"] == [{"key": "TEST|1", "item": "id:1", "status": "active", "instrument": 1}]
        _seq, quote = await client.price("TEST|1", 100.5)
        assert set(quote) == {*HEAD_FIELDS, "broker_ms"}
        await client.send(op="subscribe", id=2, instruments=["TEST|1"], mode="full")
        await client.next(id=2)
        assert "depth" in (await client.price("TEST|1", 100.5))[1]


async def test_list_and_unsubscribe_tell_what_is_left(server: WebServer, feed: ScriptedFeed) -> None:
    secret = await api_key()
    await instruments(1, 2, 3)
    async with market_client(server.url, secret) as client:
        await client.send(op="subscribe", id=1, instruments=["TEST|1", "TEST|2", "TEST|3"], channels=["market", "feed"], mode="ltpc")
        await client.next(id=1)
        await client.send(op="unsubscribe", id=2, instruments=["TEST|1", "id:2", "TEST|9"], channels=["feed"])
        left = {"instruments": [{"key": "TEST|3", "instrument": 3, "mode": "ltpc"}], "channels": ["market"]}
        assert await client.next(id=2) == {"id": 2, "op": "unsubscribe", **left}
        await client.send(op="list", id=3)
        assert await client.next(id=3) == {"id": 3, "op": "list", **left}
        await feed.tick(1, 11.0)
        await feed.tick(3, 13.0)
        await client.price("TEST|3", 13.0)
        assert "TEST|1" not in json.dumps([message for message in client.seen if message.get("event") == "market:tick"])


async def test_a_wanted_instrument_is_demanded_and_told_when_it_comes(server: WebServer, feed: ScriptedFeed, monkeypatch: Any) -> None:
    from marketdata import hub_notices, live_state

    monkeypatch.setattr(hub_notices, "NO_DATA_SECONDS", 0.5)
    secret = await api_key()
    await instruments(1)
    async with market_client(server.url, secret) as client:
        await client.send(op="subscribe", id=1, instruments=["TEST|1"], mode="ltpc")
        assert (await client.next(id=1))["results"][0]["status"] == "accepted"

        async def is_demanded() -> bool:
            return await live_state.ademand_read() == {1: "ltpc"}

        async def is_not_demanded() -> bool:
            return await live_state.ademand_read() == {}

        await auntil(is_demanded)
        late = await client.next(event="subscription")
        assert (late["key"], late["instrument"], late["status"]) == ("TEST|1", 1, "no_data")
        assert late["reason"]
        await feed.tick(1, 100.5)
        assert (await client.next(event="subscription"))["status"] == "active"
        await client.price("TEST|1", 100.5)
        await client.send(op="unsubscribe", id=2, instruments=["TEST|1"])
        await auntil(is_not_demanded)
        await live_state.aclose()


async def test_resuming_sends_only_what_has_moved_and_everything_of_another_run(server: WebServer, feed: ScriptedFeed) -> None:
    secret = await api_key()
    await instruments(1, 2)
    await feed.tick(1, 100.5)
    await feed.tick(2, 200.5)
    await feed.write()
    async with market_client(server.url, secret) as client:
        await client.send(op="subscribe", id=1, instruments=["TEST|1"])
        await client.price("TEST|1", 100.5)
        await server.settled()  # the start's own repeated snapshots are over
    async with market_client(server.url, secret) as client:
        await client.send(op="resume", id=1, epoch=feed.epoch, seq={"TEST|1": 1, "TEST|2": 0})
        reply = await client.next(id=1)
        assert (reply["epoch"], [result["status"] for result in reply["results"]]) == (feed.epoch, ["active", "active"])
        ticks = (await client.next(event="market:tick"))["ticks"]
        assert [key for key, _seq, _quote in ticks] == ["TEST|2"]
        await client.send(op="resume", id=2, epoch=feed.epoch - 1, seq={"TEST|1": 1})
        await client.price("TEST|1", 100.5)


async def test_many_instruments_come_in_pieces(server: WebServer, feed: ScriptedFeed) -> None:
    secret, ids = await api_key(), range(1, 401)
    await instruments(*ids)
    await feed.publish([entry_of(number, 1, float(number)) for number in ids])
    await feed.write()
    async with market_client(server.url, secret) as client:
        await client.send(op="subscribe", id=1, instruments=[f"TEST|{number}" for number in ids])
        assert {result["status"] for result in (await client.next(id=1))["results"]} == {"active"}
        got: dict[str, float] = {}
        while len(got) < len(ids):
            message = await client.next(event="market:tick")
            got |= {key: quote["last_price"] for key, _seq, quote in message["ticks"]}
        assert got == {f"TEST|{number}": float(number) for number in ids}
        assert sum(message.get("event") == "market:tick" for message in client.seen) > 1


# --- bad input ----------------------------------------------------------------------------------------------------------
BAD_INPUT: list[tuple[str | bytes, int, str | None, int | None]] = [
    ("", 400, None, None),
    ("nonsense", 400, None, None),
    ('{"op":"subscribe","id":', 400, None, None),
    ("[1,2]", 400, None, None),
    ('{"op":"subscribe"}', 400, "id", None),
    ('{"op":"buy","id":4}', 400, "op", 4),
    ('{"op":"subscribe","id":4}', 400, "instruments", 4),
    ('{"op":"subscribe","id":4,"instruments":{"a":1}}', 400, "instruments", 4),
    ('{"op":"subscribe","id":4,"instruments":["A"],"mode":"ticks"}', 400, "mode", 4),
    ('{"op":"unsubscribe","id":4,"channel":["A"]}', 400, "channel", 4),
    (b'{"op":"ping","id":4}', 400, None, None),
    (b"\x00\xff\xfe", 400, None, None),
    ('{"op":"ping","id":4}' + " " * 65_536, 413, None, None),
    ("\u20b9" * 30_000, 413, None, None),
]
"""What is sent, the error's code, the field it names, the command's id where it could be read."""


async def test_bad_input_is_told_and_the_connection_goes_on(server: WebServer, caplog: pytest.LogCaptureFixture) -> None:
    async with market_client(server.url, await api_key()) as client:
        for sent, code, field, command in BAD_INPUT:
            await client.connection.send(sent)
            error = await client.next(event="error")
            assert (error["code"], error["field"], error["id"]) == (code, field, command), sent[:80]
            await client.send(op="ping", id=9)
            assert (await client.next(id=9))["op"] == "pong"
            await asyncio.sleep(0.1)  # two commands: 20 a second are allowed
    assert "Traceback" not in caplog.text


async def test_wrong_items_are_told_one_by_one(server: WebServer, settings: Any) -> None:
    settings.WS_INSTRUMENTS_PER_USER = 2
    await instruments(1, 2, 3)
    names = ["TEST|1", "TEST|1", "TEST|77", "id:2", "id:3", "id:x", "id:99999999999999999999", "id:", "", "\u20b9|\x00", "TEST|2"]
    channels = ["market", "chain:NIFTY:@w0:atm10", "ohlc:1m:TEST|1", "ohlc:1m:TEST|77", "gossip"]
    async with market_client(server.url, await api_key()) as client:
        await client.send(op="subscribe", id=1, instruments=names, channels=channels)
        results = (await client.next(id=1))["results"]
    assert [(result["item"], result["status"], result.get("code")) for result in results] == [
        ("TEST|1", "accepted", None),
        ("TEST|1", "accepted", None),
        ("TEST|77", "error", 411),
        ("id:2", "accepted", None),
        ("id:3", "error", 405),
        ("id:x", "error", 411),
        ("id:99999999999999999999", "error", 411),
        ("id:", "error", 411),
        ("", "error", 411),
        ("\u20b9|\x00", "error", 411),
        ("TEST|2", "accepted", None),
        ("market", "active", None),
        ("chain:NIFTY:@w0:atm10", "error", 411),
        ("ohlc:1m:TEST|1", "active", None),
        ("ohlc:1m:TEST|77", "error", 411),
        ("gossip", "error", 400),
    ]
    assert all(result["message"] for result in results if result["status"] == "error")


async def test_too_many_commands_are_refused_and_later_ones_obeyed(server: WebServer, settings: Any) -> None:
    settings.WS_COMMANDS_PER_SECOND = 5
    async with market_client(server.url, await api_key()) as client:
        for number in range(30):
            await client.send(op="ping", id=number)
        error = await client.next(event="error")
        assert (error["code"], error["retry"]) == (429, True)
        obeyed = [message["id"] for message in client.seen if message.get("op") == "pong"]
        assert obeyed == list(range(error["id"]))
        assert len(obeyed) >= 5

        async def is_obeyed() -> bool:
            await client.send(op="ping", id=50)
            return (await client.next(id=50)).get("op") == "pong"

        await auntil(is_obeyed)


# --- slow clients -------------------------------------------------------------------------------------------------------
async def flood(feed: ScriptedFeed, ids: range, rounds: int, first: int) -> int:
    """Publish `rounds` windows with a new price for each instrument; return the last."""
    for price in range(first, first + rounds):
        await feed.publish([entry_of(number, price, float(price)) for number in ids])
        await asyncio.sleep(0.01)
    return first + rounds - 1


async def test_a_slow_client_gets_fewer_and_newer_quotes(server: WebServer, feed: ScriptedFeed, settings: Any) -> None:
    settings.WS_STALL_SECONDS = 60
    secret, ids = await api_key(), range(1, 201)
    await instruments(*ids)
    connection = await deaf_client(server.url, secret)
    client = MarketClient(connection)
    await client.send(op="subscribe", id=1, instruments=[f"TEST|{number}" for number in ids])
    await client.next(id=1)
    outbox = next(iter(server.hub.clients))
    price = 1
    while not outbox.merged_total:
        price = await flood(feed, ids, 50, price) + 1
    last = await flood(feed, ids, 20, price)
    got: dict[str, tuple[int, float]] = {}
    frames = []
    while len(got) < len(ids) or any(price != last for _seq, price in got.values()):
        message = await client.next(event="market:tick")
        frames.append(message["n"])
        for key, seq, quote in message["ticks"]:
            assert seq > got.get(key, (0, 0.0))[0] or "depth" in quote, "a quote never goes back"
            got[key] = (seq, quote["last_price"])
    assert frames == list(range(1, len(frames) + 1)), "merging leaves no hole in n"
    assert len(outbox.dirty) <= len(ids), "memory follows subscriptions"
    await connection.close()


async def test_who_takes_nothing_is_aborted_and_nobody_else_waits(server: WebServer, feed: ScriptedFeed, settings: Any) -> None:
    settings.WS_STALL_SECONDS = 2.0
    secret, ids = await api_key(), range(1, 201)
    await instruments(*ids)
    names = [f"TEST|{number}" for number in ids]
    async with market_client(server.url, secret) as reader:
        await reader.send(op="subscribe", id=1, instruments=names)
        await reader.next(id=1)
        deaf = await deaf_client(server.url, secret)
        await deaf.send(json.dumps({"op": "subscribe", "id": 1, "instruments": names}))
        await auntil(lambda: len(server.hub.clients) == 2)
        _, outbox = server.hub.clients
        price, beside = 1, 0
        while len(server.hub.clients) == 2:
            stalled = outbox.merged_total > 0
            last = await flood(feed, ids, 10, price)
            await reader.price("TEST|200", float(last))
            beside += stalled and len(server.hub.clients) == 2
            price = last + 1
            assert price < 3000, "the deaf client was never aborted"
        assert beside, "the other was served while this one took nothing"
        last = await flood(feed, ids, 1, price)
        await reader.price("TEST|200", float(last))
        _messages, code = await farewell(deaf)
        assert code == 1006
        assert len(server.hub.clients) == 1


@pytest.mark.long
async def test_who_reads_too_slowly_for_too_long_is_told_and_closed(server: WebServer, feed: ScriptedFeed, monkeypatch: Any) -> None:
    monkeypatch.setattr(consumers, "SLOW_SECONDS", 2.0)
    secret, ids = await api_key(), range(1, 201)
    await instruments(*ids)
    await feed.publish([entry_of(number, 1, 1.0) for number in ids])
    reading = asyncio.create_task(asyncio.to_thread(read_slowly, server.url, secret, [f"TEST|{number}" for number in ids]))
    price = 2
    while not reading.done():
        price = await flood(feed, ids, 5, price) + 1
    messages, code = await reading
    told = [message for message in messages if message.get("event") in ("error", "bye")]
    assert [(message["event"], message["code"]) for message in told] == [("error", 407), ("bye", 4008)]
    assert told[0]["retry"] is True
    assert (told[1]["reconnect"], told[1]["after_ms"]) == (True, 5000)
    assert code == 4008
    counters = server.hub.counters()
    assert (counters["clients_slow_told_total"], counters["clients_aborted_total"]) == (1, 0)
    assert counters["merged_total"] > 0


async def test_bye_is_the_last_message_whatever_is_pushed_after_it(server: WebServer, feed: ScriptedFeed, settings: Any) -> None:
    settings.WS_STALL_SECONDS = 60
    secret, ids = await api_key(), range(1, 201)
    await instruments(*ids)
    client = MarketClient(await deaf_client(server.url, secret))
    await client.send(op="subscribe", id=1, instruments=[f"TEST|{number}" for number in ids])
    await client.next(id=1)
    ((outbox, served),) = server.hub.clients.items()
    price = 1
    while not outbox.merged_total:
        price = await flood(feed, ids, 50, price) + 1

    def close_and_push() -> None:
        served.close(4001)
        for _ in range(CONTROL_MESSAGES + 44):
            outbox.push(b'{"event":"late"}')
        served.wake()

    server.loop.call_soon_threadsafe(close_and_push)
    for number in (2, 3):
        await client.send(op="ping", id=number)
    messages, code = await farewell(client.connection)
    assert outbox.dropped_total >= 44
    assert [message["code"] for message in messages if message.get("event") == "bye"] == [4001]
    assert messages[-1]["event"] == "bye"
    assert code == 4001


async def test_an_abort_is_counted_once(server: WebServer) -> None:
    async with market_client(server.url, await api_key()) as client:
        await client.next(event="hello")
        ((_outbox, served),) = server.hub.clients.items()

        def inspect_twice() -> None:
            served.close(4001)
            for later in (1, 2):
                served.inspect(time.monotonic() + consumers.BYE_SECONDS + later)

        server.loop.call_soon_threadsafe(inspect_twice)
        _messages, code = await farewell(client.connection)
        assert code == 1006
        await auntil(lambda: not server.hub.clients)
        assert server.hub.counters()["clients_aborted_total"] == 1


async def test_what_a_closed_line_does_not_take_is_forgotten_not_delivered(server: WebServer, feed: ScriptedFeed) -> None:
    await instruments(1)
    async with market_client(server.url, await api_key()) as client:
        await client.send(op="subscribe", id=1, instruments=["TEST|1"])
        await feed.tick(1, 1.0)
        await client.price("TEST|1", 1.0)
        await server.settled()
        ((outbox, served),) = server.hub.clients.items()
        await auntil(lambda: outbox.window is not None)
        delivered = outbox.delivered_total

        def tick_after_the_end() -> None:
            served.abort()
            server.hub._apply(BusBatch(1, feed.epoch, 1, [entry_of(1, 2, 2.0)], None))

        server.loop.call_soon_threadsafe(tick_after_the_end)
        await auntil(lambda: not server.hub.clients)
        counters = server.hub.counters()
        assert (counters["delivered_total"], counters["forgotten_total"]) == (delivered, 1)


# --- states -------------------------------------------------------------------------------------------------------------
async def test_states_and_segments_are_told_when_they_change(server: WebServer, feed: ScriptedFeed) -> None:
    await feed.publish(report=True)
    await feed.write()
    async with market_client(server.url, await api_key()) as client:
        hello = await client.next(event="hello")
        assert (hello["feed"]["state"], hello["market"]) == ("live", {"NSE_FO": "NORMAL_OPEN"})
        feed.state = "token_expired"
        told = await client.next(event="feed:status")
        assert (told["state"], told["scope"], told["epoch"]) == ("token_expired", "all", feed.epoch)
        feed.segments = {"NSE_FO": "NORMAL_CLOSE"}
        assert (await client.next(event="market:status"))["segments"] == {"NSE_FO": "NORMAL_CLOSE"}


async def test_a_quiet_connection_gets_heartbeats(server: WebServer, monkeypatch: Any) -> None:
    monkeypatch.setattr(consumers, "HEARTBEAT_SECONDS", 0.5)
    async with market_client(server.url, await api_key()) as client:
        for _ in range(2):
            beat = await client.next(event="heartbeat")
            assert (beat["merged"], beat["dropped"]) == (0, 0)
            assert beat["lag_ms"] >= 0


async def test_closing_the_hub_says_bye_first(server: WebServer) -> None:
    async with market_client(server.url, await api_key()) as client:
        await client.next(event="hello")
        await asyncio.to_thread(server.close_hub)
        messages, code = await farewell(client.connection)
    assert messages[-1] == {"event": "bye", "code": 4001, "reconnect": True, "after_ms": 1000}
    assert code == 4001


async def test_a_feed_without_reports_is_reconnecting_until_it_reports_again(server: WebServer, valkey: redis.Redis) -> None:
    await instruments(1)
    feed = ScriptedFeed()
    async with market_client(server.url, await api_key()) as client:
        assert (await client.next(event="hello"))["feed"]["state"] == "reconnecting"
        await client.send(op="subscribe", id=1, instruments=["TEST|1"])
        async with feed.reporting():
            await feed.tick(1, 100.5)
            await client.next(event="feed:status", state="live")
        silent = await client.next(event="feed:status", state="reconnecting")
        assert "No report" in silent["detail"]
        async with feed.reporting():
            await client.next(event="feed:status", state="live")


async def test_another_run_of_the_feed_resets_seq_and_gives_whole_quotes(server: WebServer, feed: ScriptedFeed) -> None:
    await instruments(1)
    for price in (1.0, 2.0, 3.0):
        await feed.tick(1, price)
    await feed.write()
    async with market_client(server.url, await api_key()) as client:
        await client.send(op="subscribe", id=1, instruments=["TEST|1"])
        assert (await client.price("TEST|1", 3.0))[0] == 3
        feed.epoch, feed.n, feed.seqs = feed.epoch + 5000, 0, {}
        feed.newest = {}
        await feed.tick(1, 50.0, depth_changed=False)
        assert (await client.price("TEST|1", 50.0))[0] == 1
        assert (await client.next(event="feed:status", state="live"))["epoch"] == feed.epoch
        assert "depth" in (await client.price("TEST|1", 50.0))[1]


async def test_lost_messages_are_made_good_from_the_shared_state(server: WebServer, feed: ScriptedFeed) -> None:
    await instruments(1, 2)
    await feed.tick(1, 1.0)
    async with market_client(server.url, await api_key()) as client:
        await client.send(op="subscribe", id=1, instruments=["TEST|1", "TEST|2"])
        await client.next(id=1)
        await server.settled()
        feed.n += 3  # three windows are lost on the way; one of them had this quote
        feed.newest[1] = entry_of(1, 2, 99.0)
        told = await client.next(event="feed:status", state="reconnecting")
        assert told["detail"] == "3 messages of the feed were lost."
        client.seen.clear()
        await client.price("TEST|1", 99.0)
        await client.told(event="feed:status", state="live")


async def test_redis_restarts_and_clients_see_reconnecting_then_fresh_quotes(db: None, tmp_path: Path, settings: Any) -> None:
    with own_valkey(tmp_path, settings) as valkey, web_server() as server:
        await instruments(1)
        async with ScriptedFeed().reporting() as feed, market_client(server.url, await api_key()) as client:
            await client.send(op="subscribe", id=1, instruments=["TEST|1"])
            await feed.tick(1, 1.0)
            await client.price("TEST|1", 1.0)
            await server.settled()
            await asyncio.to_thread(stop_server, valkey)
            feed.newest[1] = entry_of(1, 2, 99.0)  # it ticks while nobody can be told
            await client.next(event="feed:status", state="reconnecting")
            await client.send(op="ping", id=2)
            await client.next(id=2)
            async with market_client(server.url, await api_key("other")) as newcomer:
                assert (await newcomer.next(event="hello"))["feed"]["state"] == "reconnecting"
            await asyncio.to_thread(start_server, valkey)
            await client.next(event="feed:status", state="live")
            await client.price("TEST|1", 99.0)
            feed.seqs[1] = 2
            await feed.tick(1, 100.0)
            await client.price("TEST|1", 100.0)


@pytest.mark.long
async def test_redis_hangs_and_the_hub_opens_again(db: None, tmp_path: Path, settings: Any) -> None:
    with own_valkey(tmp_path, settings) as valkey, web_server() as server:
        await instruments(1)
        async with ScriptedFeed().reporting() as feed, market_client(server.url, await api_key()) as client:
            await client.send(op="subscribe", id=1, instruments=["TEST|1"])
            await client.next(id=1)
            await server.settled()
            with hung(valkey):
                await client.next(event="feed:status", state="reconnecting")
                async with market_client(server.url, await api_key("other")) as newcomer:
                    await newcomer.next(event="hello")
            await client.next(event="feed:status", state="live")
            await feed.tick(1, 5.0)
            await client.price("TEST|1", 5.0)
