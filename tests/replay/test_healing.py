"""Ten minutes are cut out of a real day while everything runs: the gap is known, healed from the exchange's candles, and charts repair.

Exchange, feed, web and worker are processes; what the healed candles must be is read from the captures, of which nothing is cut out.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from accounts.models import User
from accounts.services import api_key_create
from broker.simulator.captures import FRAME_MS
from instruments.selectors import instrument_ids
from marketdata import store
from marketdata.models import Gap
from tests.fakes.exchange import StartExchange, start_exchange  # noqa: F401 - a fixture
from tests.fakes.feed import StartFeed, start_feed  # noqa: F401 - a fixture
from tests.fakes.stack import Process
from tests.payloads.bars import Bar, Minutes, captured_bars, clock, folded
from tests.replay.candle_proof import Updates, assert_gaps, excerpt, stored_bars, stored_candles, traded_ms, whole_days
from tests.replay.test_real_data import answers, prepare, wait_until
from tradingok import ports
from tradingok.celery import app

pytestmark = [pytest.mark.django_db, pytest.mark.realdata, pytest.mark.slow, pytest.mark.usefixtures("valkey")]
FIRST, CUT, MENDED, LAST = "11:13", "11:20", "11:30", "11:37"
"""The part of the day that is played, and what of it is cut out: a stretch in which every captured minute has its bar."""
FOLLOWED = "NSE_FO|51414"
COARSER = ("5m", "15m", "1h", "1d")


class ChartClient:
    """A WebSocket client that follows one instrument's minutes and keeps all that it is told."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def read(self, socket: ClientConnection) -> None:
        """Take what comes until the connection ends."""
        with suppress(ConnectionClosed):
            for text in socket:
                self.messages.append(json.loads(text))

    def told(self, event: str) -> list[dict[str, Any]]:
        """Return the pushes of one kind so far, in their order."""
        return [message for message in list(self.messages) if message.get("event") == event]

    def chart(self) -> dict[int, dict[str, Any]]:
        """Return the chart that the pushes make: start, ms UTC → the last push of that candle. A seq never steps back."""
        drawn: dict[int, dict[str, Any]] = {}
        seen = -1
        for push in self.told("market:ohlc"):
            assert push["seq"] >= seen, push
            seen = push["seq"]
            if push.get("snapshot"):
                drawn.clear()
            for row in push["candles"] if push.get("snapshot") else [push]:
                drawn[row["candle"][0]] = row
        return drawn

    def bars(self) -> Minutes:
        """Return the five figures of the chart's candles."""
        return {at: Bar(*row["candle"][1:6]) for at, row in self.chart().items()}


@contextmanager
def following(host: str, api_key: str, key: str) -> Iterator[ChartClient]:
    """Have a client on that follows the minutes of `key`."""
    client = ChartClient()
    headers = {"Authorization": f"Bearer {api_key}"}
    with connect(f"ws://{host}/ws/market/", additional_headers=headers, max_size=None, ping_interval=None, proxy=None) as socket:
        socket.send(json.dumps({"id": 1, "op": "subscribe", "channels": [f"ohlc:1m:{key}"]}))
        reader = threading.Thread(target=client.read, args=(socket,), daemon=True)
        reader.start()
        yield client
    reader.join(10)


@contextmanager
def web_and_worker(exchange_url: str, folder: Path) -> Iterator[str]:
    """Run a web process and a Celery worker; give the web server's host and port."""
    port = ports.choose()
    environment = {
        **os.environ,
        "PORT": str(port),
        "TRADINGOK_VAR": str(folder),
        "SECRET_KEY": settings.SECRET_KEY,
        "TRADINGOK_EXCHANGE_URL": exchange_url,
    }
    words = "-m celery -A tradingok worker --pool threads --concurrency 2 --without-gossip --without-mingle --without-heartbeat"
    processes = [
        Process("web", [sys.executable, "-m", "tradingok.server"], environment, folder),
        Process("worker", [sys.executable, *words.split()], environment, folder),
    ]
    for process in processes:
        process.start()
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}"), 60, processes[0].told)
        yield f"127.0.0.1:{port}"
    finally:
        for process in processes:
            if process.running:
                process.stop()


def lost_minutes(rows: list[dict[str, Any]]) -> set[int]:
    """Return the starts of the minutes in the cut whose bar is not sent: that of the last one comes with the first updates behind it,
    whose frame may also hold trades of just before its time."""
    sent = [row for row in rows if not CUT <= clock(traded_ms(row)) < MENDED or clock(traded_ms(row) + FRAME_MS) >= MENDED]
    return {at for at in captured_bars(rows).keys() - captured_bars(sent).keys() if CUT <= clock(at) < MENDED}


def silence_of(updates: Updates, first: str, last: str) -> tuple[int, int]:
    """Return the last trade before the cut and the first one behind it, ms UTC."""
    times = [traded_ms(row) for rows in updates.values() for row in rows]
    return max(at for at in times if clock(at) < first), min(at for at in times if clock(at) >= last)


def test_ten_minutes_that_were_cut_out_are_healed_and_charts_repair_themselves(
    start_exchange: StartExchange,  # noqa: F811
    start_feed: StartFeed,  # noqa: F811
    tmp_path: Path,
) -> None:
    updates, paths = excerpt(whole_days(), FIRST, LAST, tmp_path)
    unbroken = {key: captured_bars(rows) for key, rows in updates.items()}
    lost = {key: lost_minutes(rows) for key, rows in updates.items()}
    exchange = start_exchange("--replay", *paths, "--speed", "120", "--cut-out", f"{CUT}-{MENDED}")
    prepare(exchange, list(updates))
    ids = instrument_ids(updates)
    api_key = api_key_create(user=User.objects.create_user("reader"), name="chart")
    with web_and_worker(exchange.url, tmp_path) as host, following(host, api_key, FOLLOWED) as client:
        feed = start_feed(exchange.url)
        exchange.wait_for(lambda state: bool(state["finished"]) or feed.process.poll() is not None, seconds=120)
        assert feed.process.poll() is None, feed.log()
        wait_until(lambda: Gap.objects.filter(end__isnull=False).exists(), 60, feed.log)
        assert_gaps([silence_of(updates, CUT, MENDED)])
        wait_until(lambda: max(client.chart(), default=0) >= max(unbroken[FOLLOWED]), 60, feed.log)

        assert lost[FOLLOWED].isdisjoint(client.chart())
        for key in updates:
            assert len(lost[key]) >= 8, key
            early = {clock(at): row for at, row in stored_candles(ids[key]).items() if at in lost[key]}
            assert early == {}, key
        app.send_task("marketdata.roll_up")
        wait_until(lambda: all(stored_candles(identifier, "1d") for identifier in ids.values()), 60, feed.log)

        app.send_task("broker.heal_gaps")
        wait_until(lambda: Gap.objects.get().heal_state != Gap.Heal.OPEN, 60, lambda: f"{Gap.objects.get().__dict__}")
        gap = Gap.objects.get()
        assert gap.heal_state == Gap.Heal.HEALED, gap.heal_detail
        assert gap.candles_healed >= sum(map(len, lost.values()))
        for key, bars in unbroken.items():
            stored = stored_candles(ids[key])
            assert {clock(at): bar for at, bar in stored_bars(ids[key]).items() if at in bars} == {
                clock(at): bar for at, bar in bars.items()
            }, key
            assert {stored[at]["s"] for at in lost[key]} == {"backfilled"}, key
            assert {clock(at): stored[at]["s"] for at in bars if stored[at]["s"] not in ("confirmed", "backfilled")} == {}, key
            for interval in COARSER:
                assert stored_bars(ids[key], interval) == folded(stored_bars(ids[key]), interval), (key, interval)

        wait_until(lambda: lost[FOLLOWED] <= client.chart().keys(), 60, lambda: f"{client.messages[-5:]}")
        whole = {at: bar for at, bar in client.bars().items() if at in unbroken[FOLLOWED]}
        assert {clock(at): bar for at, bar in whole.items()} == {clock(at): bar for at, bar in unbroken[FOLLOWED].items()}
        assert {client.chart()[at]["state"] for at in lost[FOLLOWED]} == {"backfilled"}
        wait_until(lambda: any(row["heal_state"] == "healed" for row in client.told("gap")), 30, lambda: f"{client.told('gap')}")
        (healed,) = [row for row in client.told("gap") if row["heal_state"] == "healed"]
        assert (healed["from"], healed["to"]) == (store.time_ms(gap.start), store.time_ms(gap.end or gap.start))
    assert feed.stop() == 0, feed.log()
