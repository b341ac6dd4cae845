"""`manage.py refresh_instruments`, as a user runs it: own process, real mongod, good and bad files, killed half-way."""

from __future__ import annotations

import gzip
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from broker.services import instruments_refresh_from
from instruments.models import Instrument, InstrumentVersion, MasterLoad
from instruments.selectors import instrument_ids
from tests.broker.scripted_http import Reply, ScriptedServer, scripted_server
from tests.instruments.rows import REAL_MASTER, broker_json, market, master_file, needs_real_master, option, patience

pytestmark = pytest.mark.django_db
ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "manage.py", "refresh_instruments"]


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as running:
        yield running


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return master_file(tmp_path / "NSE.json.gz", market())


def run(source: Path | str, **options: object) -> str:
    out = io.StringIO()
    call_command("refresh_instruments", source=str(source), stdout=out, **options)
    return out.getvalue()


def test_the_command_loads_shows_its_steps_and_sums_up(good: Path) -> None:
    said = run(good)
    assert "reading" in said
    assert f"{len(market())} rows as of" in said
    assert f"{len(market())} created, 0 changed, 0 retired" in said
    assert "0 created, 0 changed, 0 retired" in run(good)
    assert run(good, verbosity=0) == ""


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (gzip.compress(broker_json(market()))[:-200], "cut off"),
        (b"<html>Access denied</html>", "a web page"),
        (gzip.compress(b"<html>Access denied</html>"), "a web page"),
        (gzip.compress(b'{"status":"error","errors":[{"errorCode":"UDAPI100012"}]}'), "error envelope"),
        (gzip.compress(b'[{"date":"2026-11-22","close":1.5}]'), "not a master"),
        (gzip.compress(broker_json(market()[:30])), "more than half is missing"),
    ],
    ids=["empty", "cut off", "page", "packed page", "envelope", "another list", "half"],  # not the bytes: gzip puts the time into them
)
def test_a_bad_file_changes_nothing_and_says_why(good: Path, tmp_path: Path, content: bytes, why: str) -> None:
    run(good)
    before = list(Instrument.objects.order_by("id").values())
    bad = tmp_path / "bad.json.gz"
    bad.write_bytes(content)
    with pytest.raises(CommandError, match=f"(?s)Nothing was changed: .*{why}"):
        run(bad)
    assert list(Instrument.objects.order_by("id").values()) == before
    assert MasterLoad.objects.count() == 1


def test_as_of_is_a_day_in_india(good: Path) -> None:
    call_command("refresh_instruments", "--source", str(good), "--as-of", "2026-11-10", stdout=io.StringIO())
    assert MasterLoad.objects.get().as_of.isoformat() == "2026-11-09T18:30:00+00:00"
    with pytest.raises(CommandError, match="older than the last load"):
        call_command("refresh_instruments", "--source", str(good), "--as-of", "2026-11-09T23:59", stdout=io.StringIO())
    with pytest.raises(CommandError, match="no date; write YYYY-MM-DD"):
        call_command("refresh_instruments", "--source", str(good), "--as-of", "10/11/2026")


def test_the_server_need_not_send_the_same_master_twice(server: ScriptedServer) -> None:
    source = f"{server.url}/NSE.json.gz"
    server.will(Reply(200, gzip.compress(broker_json(market())), (("ETag", '"v1"'),)), Reply(304, b"", ()))
    instruments_refresh_from(source=source)
    load = instruments_refresh_from(source=source)
    assert server.requests[1].headers["If-None-Match"] == '"v1"'
    assert (load.rows, load.created, load.etag, load.source) == (len(market()), 0, '"v1"', source)
    assert MasterLoad.objects.count() == 2


def test_another_source_in_between_makes_the_mark_worthless(server: ScriptedServer, good: Path) -> None:
    source = f"{server.url}/NSE.json.gz"
    whole = Reply(200, gzip.compress(broker_json(market())), (("ETag", '"v1"'),))
    server.will(whole, whole)
    instruments_refresh_from(source=source)
    instruments_refresh_from(source=str(good))
    instruments_refresh_from(source=source)
    assert "If-None-Match" not in server.requests[1].headers


def test_a_simulated_market_may_be_smaller_than_the_last_one(server: ScriptedServer, good: Path) -> None:
    source = f"{server.url}/NSE.json.gz"
    instruments_refresh_from(source=str(good))
    server.will(Reply(200, gzip.compress(broker_json(market()[:5]))))
    with override_settings(EXCHANGE_URL=server.url, INSTRUMENT_MASTER_URL=source):
        assert instruments_refresh_from().retired == len(market()) - 5


@pytest.mark.long
@pytest.mark.slow
def test_a_refresh_killed_half_way_is_completed_by_the_next(tmp_path: Path) -> None:
    """First a killed first load; then a killed refresh in which every key passes to another contract."""
    size = 8_000
    for number, shift in enumerate((0, 100_000)):
        rows = [option(token, float(token + shift)) for token in range(1, size + 1)]
        source = master_file(tmp_path / f"{number}.json.gz", rows)
        process = subprocess.Popen([*COMMAND, "--source", str(source)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        entered = Instrument.objects.filter(strike_price__gt=shift)
        deadline = time.monotonic() + 120
        while not entered.filter(pk__gt=0).exists():
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
        assert process.returncode == -signal.SIGKILL
        assert 0 < entered.count() < size
        assert MasterLoad.objects.count() == number
        keys = list(Instrument.objects.filter(active=True).values_list("instrument_key", flat=True))
        assert len(keys) == len(set(keys))

        done = subprocess.run([*COMMAND, "--source", str(source)], cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
        assert done.returncode == 0, done.stderr
        active = Instrument.objects.filter(active=True)
        assert active.count() == active.filter(strike_price__gt=shift).count() == size
        assert len(instrument_ids([row.instrument_key for row in rows])) == size
    assert Instrument.objects.count() == 2 * size


@pytest.mark.long
@pytest.mark.slow
def test_a_change_of_lots_killed_half_way_keeps_each_contracts_former_lot_once(tmp_path: Path) -> None:
    size = 8_000
    before, after = (
        master_file(tmp_path / f"{lot}.json.gz", [option(token, float(token), lot=lot) for token in range(1, size + 1)]) for lot in (75, 65)
    )
    run(before, verbosity=0)
    process = subprocess.Popen([*COMMAND, "--source", str(after)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not InstrumentVersion.objects.exists():
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    done = set(InstrumentVersion.objects.filter(lot_size=75).values_list("instrument", flat=True))
    assert 0 < len(done) < size
    assert done == set(Instrument.objects.filter(lot_size=65).values_list("id", flat=True))

    run(after, verbosity=0)
    versions = list(InstrumentVersion.objects.values_list("instrument", "lot_size"))
    assert sorted(versions) == [(number, 75) for number in sorted(Instrument.objects.values_list("id", flat=True))]
    assert Instrument.objects.filter(lot_size=65).count() == size


MEASURED = """
import json, re, sys, time
began = time.monotonic()
from django.core.management import execute_from_command_line
execute_from_command_line(["manage.py", "refresh_instruments", "--source", sys.argv[1], "--verbosity", "0"])
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])  # ru_maxrss counts the parent's pages too
print(json.dumps([time.monotonic() - began, peak / 1024]))
"""


@pytest.mark.long
@pytest.mark.realdata
@pytest.mark.slow
@needs_real_master
def test_the_real_master_loads_in_time_and_memory(capsys: pytest.CaptureFixture[str]) -> None:
    def measured() -> tuple[float, float]:
        command = [sys.executable, "-c", MEASURED, str(REAL_MASTER)]
        done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
        seconds, megabytes = done.stdout.strip().splitlines()[-1].strip("[]").split(",")
        return float(seconds), float(megabytes)

    first, again = measured(), [measured() for _ in range(2)]
    with capsys.disabled():
        print(f"\nreal master: first {first[0]:.1f} s, {first[1]:.0f} MB; unchanged {again}")
    assert Instrument.objects.filter(active=True).count() == 84_546
    assert [load.created for load in MasterLoad.objects.order_by("as_of")] == [84_546, 0, 0]
    assert first[0] < 20 * patience()
    assert min(seconds for seconds, _ in again) < 8 * patience()
    assert max(first[1], *(megabytes for _, megabytes in again)) < 400
