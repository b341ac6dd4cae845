"""The command: its line when ready, its end, and clear words for what it cannot do."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from websockets.exceptions import ConnectionClosed

from tests.broker.simulator.feed_client import open_feed, receive, receive_until, request
from tests.fakes.exchange import ROOT, StartExchange, start_exchange  # noqa: F401


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "manage.py", "runexchange", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, env=dict(os.environ), check=False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_0_soon_with_clients_connected(
    start_exchange: StartExchange,  # noqa: F811
    number: signal.Signals,
) -> None:
    exchange = start_exchange("--seed", "1")
    with open_feed(exchange) as one, open_feed(exchange) as two:
        one.send(request("sub", ["NSE_INDEX|Nifty 50"], "full"))
        receive(one)
        receive(two)
        assert exchange.stop(number) == 0  # 0.2–0.8 s where nothing else runs; stock uvicorn hangs and would be killed
        for connection in (one, two):
            with pytest.raises(ConnectionClosed) as caught:
                receive_until(connection, lambda got: False)
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1012  # service restart
    assert sum("ready at http://127.0.0.1:" in line for line in exchange.lines) == 1
    assert not any("Traceback" in line for line in exchange.lines)


def test_a_port_in_use_is_said(start_exchange: StartExchange) -> None:  # noqa: F811
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = run("--port", port)
    assert ended.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr
    assert "--port" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--port", "99999"), "--port"),
        (("--host", "192.0.2.1"), "cannot listen on 192.0.2.1"),
        (("--port", "x"), "--port"),
        (("--rate", "0"), "--rate"),
        (("--rate", "nan"), "--rate"),
        (("--seed", "-1"), "--seed"),
        (("--speed", "-1", "--replay", "x"), "--speed"),
        (("--replay", "/no/such/file"), "/no/such/file"),
        (("--master", "/no/such/file"), "/no/such/file"),
        (("--ledger", "/proc/none"), "/proc/none"),
        (("--hours", "sometimes"), "--hours"),
        (("--cut-out", "10:10-10:00"), "--cut-out"),
        (("--cut-out", "10:00-10:10"), "--cut-out needs --replay"),
        (("--from", "tomorrow"), "--from"),
        (("--from", "1970-01-01T09:00"), "--from"),
        (("--from", "2026-11-06T09:00", "--replay", "x"), "--from is for the simulated market"),
        (("--speed", "max"), "needs --replay"),
    ],
)
def test_wrong_options_are_named(arguments: tuple[str, ...], word: str) -> None:
    with pytest.raises(CommandError, match=re.escape(word)):
        call_command("runexchange", *(() if "--port" in arguments else ("--port", "0")), *arguments)


@pytest.mark.parametrize("content", [b"", b"[]", b"[{}]", b"{}", b"<html></html>", b"\x1f\x8bshort"])
def test_a_wrong_master_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "NSE.json.gz"
    path.write_bytes(content)
    with pytest.raises(CommandError, match=r"NSE\.json\.gz is not an instrument master"):
        call_command("runexchange", "--port", "0", "--master", str(path))


def test_it_needs_no_other_server(start_exchange: StartExchange, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("MONGODB_URI", "mongodb://127.0.0.1:1/")
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/")
    with open_feed(start_exchange("--instruments", "1")) as connection:
        assert receive(connection).marketInfo.segmentStatus


def test_it_begins_at_a_time_of_the_market_and_runs_ahead(start_exchange: StartExchange) -> None:  # noqa: F811
    exchange = start_exchange("--instruments", "1", "--hours", "real", "--from", "2026-11-09T15:30", "--speed", "600", "--paused")
    begun = int(datetime(2026, 11, 9, 10, 0, tzinfo=UTC).timestamp() * 1000)
    assert exchange.state()["market_ms"] == begun
    exchange.fault(kind="clear")
    nifty, expired = "NSE_INDEX|Nifty 50", "2026-11-09"
    listed = {row["expiry"] for row in exchange.get("/v2/option/contract", instrument_key=nifty).json()["data"]}
    assert min(listed) == expired  # Tuesday the 10th is a holiday
    exchange.wait_for(lambda state: state["market_ms"] >= begun + 41 * 3_600_000)  # Wednesday morning
    assert exchange.get("/v2/market/status/NSE").json()["data"]["last_updated"] >= begun + 41 * 3_600_000
    listed = {row["expiry"] for row in exchange.get("/v2/option/contract", instrument_key=nifty).json()["data"]}
    assert min(listed) == "2026-11-17"
    assert exchange.get("/v3/market-quote/ltp", instrument_key=nifty).status_code == 200  # its token has seen 03:30 twice
