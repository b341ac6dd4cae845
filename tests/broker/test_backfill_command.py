"""`manage.py backfill`: what it asks for, what it says, what it refuses, and how it ends by Ctrl-C."""

from __future__ import annotations

import io
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from broker.backfill_plan import day_ms, day_of
from broker.models import CandleFetch
from marketdata.models import OHLC, Gap
from tests.broker.scripted_http import Reply, ScriptedServer, scripted_server
from tests.broker.test_backfill import NOW, OPEN, WRONG_KEY, at, candles, error, gap, instrument, master_of, moment, row
from tests.fakes.exchange import RunningExchange

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]

ROOT = Path(__file__).resolve().parents[2]
OPENS = ("--from", "2026-11-20", "--to", "2026-11-20")


@pytest.fixture
def broker() -> Iterator[ScriptedServer]:
    with scripted_server() as server, at(server.url):
        yield server


def clock() -> Reply:
    """The exchange's own clock: the day after DAY."""
    return Reply(body=b'{"status":"success","data":{"exchange":"NSE","status":"NORMAL_OPEN","last_updated":%d}}' % (NOW + 86_400_000))


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command("backfill", *arguments, stdout=out)
    return out.getvalue()


def test_it_says_what_was_written_what_the_broker_lacked_and_what_was_odd(broker: ScriptedServer) -> None:
    instrument(1)
    instrument(2)
    rows = [row(OPEN), row(OPEN + 60_000), row(OPEN + 120_000, volume=-5)]
    broker.will(clock(), candles(*rows), WRONG_KEY)
    said = run("--instruments", "NSE_FO|1", "id:2", "--from", "2026-11-19", "--to", "2026-11-20")
    assert "2 calls; 2 candles are new or other than before." in said
    assert "no candles of 1 instrument-days" in said
    assert "1 odd rows were left out" in said
    assert "NSE_FO|2: refused: Invalid Instrument key (HTTP 400 UDAPI100011)" in said
    assert OHLC.objects.filter(instrument=1, interval="1m", state="backfilled").count() == 2
    broker.will(clock())
    assert run("--instruments", "NSE_FO|1", "--from", "2026-11-19", "--to", "2026-11-20").startswith("0 calls; 0 candles")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--instruments and --from"),
        (("--instruments", "NSE_FO|1"), "--instruments and --from"),
        (("--instruments", "nonsense", *OPENS), "--instruments: "),
        (("--instruments", "NSE_FO|77", *OPENS), "--instruments: no instrument is called 'NSE_FO|77'"),
        (("--instruments", "NSE_FO|1", "--from", "2026-11-21", "--to", "2026-11-20"), "--from: 2026-11-21 is after --to, 2026-11-20"),
        (("--instruments", "NSE_FO|1", "--from", "2021-12-31"), "--from: the broker has 1m candles since 2022-01-01, not of 2021-12-31"),
        (("--instruments", "NSE_FO|1", "--from", "1999-12-31", "--interval", "1d"), "since 2000-01-01"),
        (("--instruments", "NSE_FO|1", "--from", "2099-01-01", "--to", "2099-01-02"), "--from: 2099-01-01 is yet to come"),
        (("--instruments", "NSE_FO|1", "--from", "20 November"), "--from: '20 November' is no date; write YYYY-MM-DD"),
        (("--instruments", "NSE_FO|1", "--from", "2026-11-20", "--interval", "7m"), "--interval: invalid choice: '7m'"),
        (("--gaps", "--from", "2026-11-20"), "--gaps heals what is open; it goes without"),
        (("--instruments", "id:3", *OPENS), "--instruments: id:3 has expired"),
    ],
)
def test_an_argument_that_is_wrong_is_named_and_nothing_is_asked(broker: ScriptedServer, arguments: tuple[str, ...], words: str) -> None:
    instrument(1)
    instrument(3, active=False, active_to=moment(NOW))
    with pytest.raises(CommandError) as refused:
        run(*arguments)
    assert words in str(refused.value)
    assert broker.requests == []


def test_a_broker_s_failure_is_an_error_that_says_how_to_go_on(broker: ScriptedServer) -> None:
    instrument(1)
    broker.will(clock(), error(401, "UDAPI100050", "Invalid token used to access API"))
    with pytest.raises(CommandError, match=r"Invalid token .*HTTP 401.*goes on where it was"):
        run("--instruments", "NSE_FO|1", *OPENS)


def test_gaps_are_healed_at_once(broker: ScriptedServer) -> None:
    instrument(1)
    gap(OPEN, OPEN + 120_000, instruments=[1])
    broker.will(clock(), candles(row(OPEN), row(OPEN + 60_000)))
    assert "Gaps: 1 healed, 0 impossible, 0 still open." in run("--gaps")
    assert Gap.objects.get().heal_state == "healed"


@pytest.mark.long
def test_ctrl_c_ends_it_cleanly_and_the_same_command_goes_on(tmp_path: Path) -> None:
    exchange = RunningExchange("--instruments", "20", "--seed", "1")
    try:
        with at(exchange.url):
            keys = [chosen.instrument_key for chosen in master_of(exchange, 12)]  # at 8 calls a second it is busy for some
        today = day_of(time.time_ns() // 1_000_000)
        days = ["--from", str(today - timedelta(days=40)), "--to", str(today - timedelta(days=1))]
        command = [sys.executable, "manage.py", "backfill", "--instruments", *keys, *days]
        environment = dict(os.environ) | {"TRADINGOK_EXCHANGE_URL": exchange.url}
        master, slave = pty.openpty()  # a terminal: a bar, and Ctrl-C as a shell sends it
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=slave, stderr=subprocess.PIPE, text=True) as process:
            os.close(slave)
            deadline = time.monotonic() + 120
            while CandleFetch.objects.count() < 1:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            drawn = _read_all(master)
            _, errors = process.communicate(timeout=60)
        assert process.returncode == 130, errors
        assert "Stopped. What was written stays" in errors
        assert "Traceback" not in errors
        assert "\r[" in drawn
        assert "/" in drawn
        assert 0 < CandleFetch.objects.count() < len(keys) * 40
        before_yesterday = CandleFetch.objects.filter(day__lt=moment(day_ms(today - timedelta(days=1))))  # whose bars may yet come
        asked = dict(before_yesterday.values_list("pk", "fetched_at"))
        again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
        assert again.returncode == 0, again.stderr
        assert CandleFetch.objects.count() == len(keys) * 40
        assert asked.items() <= dict(before_yesterday.values_list("pk", "fetched_at")).items(), "nothing is asked for again"
    finally:
        exchange.stop()


def _read_all(master: int) -> str:
    """What was drawn on the terminal, until its other end is closed."""
    parts = []
    while True:
        try:
            part = os.read(master, 65_536)
        except OSError:
            break
        if not part:
            break
        parts.append(part)
    os.close(master)
    return b"".join(parts).decode(errors="replace")
