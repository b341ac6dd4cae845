"""The scheduled tasks: each does its one thing, one at a time, and its outcome is noted. One test runs a real worker."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings
from django.test import override_settings

from marketdata import leases, live_state, services, store, tasks
from marketdata.domain.candle import SESSION_OPEN_MS, Candle, day_start_ms
from marketdata.task_runs import BUSY, run_once
from tradingok.celery import app

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]

ROOT = Path(__file__).resolve().parents[2]
OPEN = day_start_ms(1_795_000_000_000) + SESSION_OPEN_MS


def write_minute(at: int) -> None:
    store.candles_write([Candle(1, "1m", OPEN + at * 60_000, 1.0, 2.0, 0.5, 1.5, 10, None, "confirmed")])


def noted(name: str) -> tuple[bool, str]:
    run = live_state.task_runs_read()[name]
    assert run["seconds"] >= 0
    return run["ok"], run["detail"]


# --- each task --------------------------------------------------------------------------------------------------------


def test_roll_up_writes_candles_and_notes_it() -> None:
    write_minute(0)
    assert tasks.roll_up() == "1 minutes read, 4 candles written"
    assert noted("roll_up") == (True, "1 minutes read, 4 candles written")
    assert tasks.roll_up(seconds=-5) == "1 minutes read, 0 candles written"


def test_parity_counts_and_notes_it() -> None:
    write_minute(0)
    assert tasks.parity() == "1 minutes read, 1 days of instruments counted"
    assert noted("parity") == (True, "1 minutes read, 1 days of instruments counted")


def test_retention_and_quotes_note_what_they_did() -> None:
    with override_settings(TICK_RETENTION_DAYS=5):
        assert tasks.apply_retention().startswith("5 days, ")
        assert tasks.apply_retention() == "5 days, unchanged; chains: 30 days, unchanged; changes: 90 days, unchanged"
    store.ticks_collection().drop_index(services.TTL_INDEX)
    assert tasks.store_latest_quotes() == "0 quotes stored"
    assert tasks.store_chains() == "0 chains stored, 0 as before, 0 without a quote, 0 closed"
    assert set(live_state.task_runs_read()) == {"apply_retention", "store_latest_quotes", "store_chains"}


# --- one at a time, noted, logged once --------------------------------------------------------------------------------


def test_a_task_that_runs_elsewhere_is_left_alone() -> None:
    with leases.Lock("task.roll_up", 30) as lock:
        assert lock.acquired
        write_minute(0)
        assert tasks.roll_up() == BUSY
        assert store.candles_collection().count_documents({"n": "5m"}) == 0
        assert live_state.task_runs_read() == {}
    assert tasks.roll_up() == "1 minutes read, 4 candles written"


def fail(error: Exception) -> str:
    raise error


def test_an_expected_failure_is_noted_and_logged_when_it_begins_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="marketdata.task_runs")
    for _ in range(3):
        assert run_once("t", lambda: fail(OSError("the broker is away")), expected=(OSError,)) == "the broker is away"
    assert noted("t") == (False, "the broker is away")
    for _ in range(2):
        assert run_once("t", lambda: "fine") == "fine"
    assert [record.message for record in caplog.records] == ["task t fails: the broker is away", "task t works again: fine"]


def test_an_unexpected_failure_is_noted_and_raised_and_the_lock_is_free_again() -> None:
    with pytest.raises(ZeroDivisionError):
        run_once("t", lambda: fail(ZeroDivisionError("x" * 5000)))
    ok, detail = noted("t")
    assert not ok
    assert detail.startswith("ZeroDivisionError: xxx")
    assert len(detail) == 300
    assert run_once("t", lambda: "fine") == "fine"


def test_without_redis_a_task_says_so_and_does_not_hang() -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        nobody = f"redis://127.0.0.1:{reserved.getsockname()[1]}"
    write_minute(0)
    live_state._client.cache_clear()
    try:
        with override_settings(REDIS_URL=nobody):
            assert "refused" in tasks.roll_up()
    finally:
        live_state._client.cache_clear()
    assert store.candles_collection().count_documents({"n": "5m"}) == 0
    assert tasks.roll_up() == "1 minutes read, 4 candles written"


# --- worker and schedule ----------------------------------------------------------------------------------------------


def test_every_scheduled_task_exists_and_nothing_old_is_done_late() -> None:
    app.loader.import_default_modules()
    for entry in settings.CELERY_BEAT_SCHEDULE.values():
        assert entry["task"] in app.tasks
        assert entry["options"]["expires"] > 0
    own = {name for name in app.tasks if name.startswith(("marketdata.", "broker."))}
    assert own == {entry["task"] for entry in settings.CELERY_BEAT_SCHEDULE.values()}


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "celery", "-A", "tradingok", "worker", "--pool", "solo", "--loglevel", "WARNING", "--without-mingle"]
    process = subprocess.Popen(command, cwd=ROOT, env=dict(os.environ), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    yield process
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)


def test_a_real_worker_takes_tasks_from_the_queue(worker: subprocess.Popen[str]) -> None:
    for at in range(7):
        write_minute(at)
    for _ in range(3):  # more than needed: each may come twice
        tasks.roll_up.delay()
    tasks.store_latest_quotes.delay()
    deadline = time.monotonic() + 90
    while not {"roll_up", "store_latest_quotes"} <= set(live_state.task_runs_read()):
        assert worker.poll() is None, worker.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert noted("roll_up")[0]
    assert noted("store_latest_quotes") == (True, "0 quotes stored")
    rows = store.candles_collection().find({"n": "5m"}).sort("_id")
    assert [(row["v"], row["rev"]) for row in rows] == [(50, 0), (20, 0)]
