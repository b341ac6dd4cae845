"""`doctor`: each look on a well copy and on a broken one. A whole running copy is examined in test_up."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from django.utils import timezone
from pytest_django.fixtures import Settings

from instruments.models import Instrument, MasterLoad
from marketdata import live_state
from marketdata.domain.feed_status import FeedStatus
from marketdata.domain.tick import EPOCH_2020_US
from tests.tradingok.embedded_runs import PROJECT, environment
from tradingok import doctor, ports
from tradingok.findings import Finding, Level, fail, format_finding, ok, verdict, warn

BEGUN_MS = time.time_ns() // 1_000_000


def only(findings: Iterable[Finding]) -> Finding:
    """The one finding that there is."""
    (finding,) = findings
    return finding


def test_what_is_installed_is_compared_with_what_is_pinned(tmp_path: Path) -> None:
    assert only(doctor.requirements()).level == Level.OK
    file = tmp_path / "requirements.txt"
    file.write_text("# nothing\ndjango==1.0\nno-such-thing==2.0\nhttpx==0.28.1\n")
    finding = only(doctor.requirements(file))
    assert finding.level == Level.FAIL
    assert "instead of 1.0" in finding.text
    assert "no-such-thing missing" in finding.text
    assert "httpx" not in finding.text


@pytest.mark.django_db
def test_the_tests_own_servers_are_well() -> None:
    assert [finding.level for finding in doctor.mongodb()] == [Level.OK]
    assert only(doctor.redis_server()).level == Level.OK
    assert only(doctor.migrations()).level == Level.OK
    assert "more full days" in only(doctor.mongodb_disk()).text


def test_servers_that_are_down_are_findings(settings: Settings) -> None:
    port = ports.choose()
    settings.MONGODB_URI = f"mongodb://127.0.0.1:{port}/?directConnection=true"
    settings.REDIS_URL = f"redis://127.0.0.1:{port}/0"
    for look in (doctor.mongodb, doctor.redis_server):
        finding = only(look())
        assert finding.level == Level.FAIL
        assert "make run" in finding.way_out


def test_a_redis_that_throws_keys_away_is_a_warning(valkey: redis.Redis) -> None:
    valkey.config_set("maxmemory-policy", "allkeys-lru")
    try:
        assert only(doctor.redis_server()).level == Level.WARN
    finally:
        valkey.config_set("maxmemory-policy", "noeviction")


def test_a_port_in_use_by_another_program_is_told_from_a_free_one(settings: Settings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings.PORT = taken.getsockname()[1]
        assert only(doctor.web_port()).level == Level.FAIL
    assert only(doctor.web_port()).level == Level.OK


def test_an_address_of_another_machine_cannot_be_listened_on(settings: Settings) -> None:
    settings.HOST = "192.0.2.1"
    finding = only(doctor.web_port())
    assert finding.level == Level.FAIL
    assert "TRADINGOK_HOST" in finding.way_out


@pytest.mark.django_db
def test_too_little_room_for_the_days_that_are_kept_is_a_warning_with_the_days_that_fit(settings: Settings) -> None:
    settings.TICK_RETENTION_DAYS = 1_000_000
    finding = only(doctor.mongodb_disk())
    assert finding.level == Level.WARN
    assert "TRADINGOK_TICK_DAYS=" in finding.way_out


@pytest.mark.django_db
def test_missing_and_old_masters_are_told_apart() -> None:
    assert only(doctor.instruments()).text == "none is loaded"
    now = timezone.now()
    Instrument.objects.create(
        id=1,
        identity="i",
        instrument_key="NSE_EQ|1",
        segment="NSE_EQ",
        exchange="NSE",
        instrument_type="EQ",
        trading_symbol="A",
        name="A",
        active_from=now,
    )
    load = MasterLoad.objects.create(as_of=now, source="test", rows=1, created=1, changed=0, retired=0)
    assert only(doctor.instruments()).level == Level.OK
    MasterLoad.objects.filter(pk=load.pk).update(loaded_at=now - timedelta(hours=40))
    finding = only(doctor.instruments())
    assert (finding.level, finding.text) == (Level.WARN, "1 active, master loaded 40 h ago")


@pytest.mark.django_db
def test_without_credentials_the_exchange_is_named(settings: Settings) -> None:
    assert "simulated exchange" in only(doctor.credentials()).text
    settings.UPSTOX_CLIENT_ID = "hunter2"
    finding = only(doctor.credentials())
    assert finding.level == Level.FAIL
    assert "brokerlogin" in finding.way_out
    assert "hunter2" not in finding.text + finding.way_out


def test_no_feed_is_something_to_know(valkey: redis.Redis) -> None:
    assert only(doctor.feed()).text == "no feed has reported"


def report(shard: int, *, feeds: int, epoch: int = 5, state: str = "live", age_ms: int = 0, lag_ms: float = 0.0) -> FeedStatus:
    counters = {"feed_shards": float(feeds), "store_lag_ms": lag_ms}
    return FeedStatus(shard, epoch, 1, state, 1, 1, BEGUN_MS - age_ms, {}, counters, "so it is")


@pytest.mark.parametrize(
    ("reports", "expected"),
    [
        ([report(0, feeds=1)], [("ok", "feed 1 of 1: live")]),
        (
            [report(0, feeds=2), report(1, feeds=2, lag_ms=60_000)],
            [("ok", "feed 1 of 2: live"), ("warn", "feed 2 of 2: live, store 60.0 s")],
        ),
        ([report(1, feeds=2)], [("fail", "feed 1 of 2 has not reported"), ("ok", "feed 2 of 2: live")]),
        (
            [report(0, feeds=2, age_ms=9000), report(1, feeds=2)],
            [("fail", "feed 1 of 2: last report "), ("ok", "feed 2 of 2: live")],
        ),
        ([report(0, feeds=1, epoch=6), report(1, feeds=2, state="closed")], [("ok", "feed 1 of 1: live")]),
        ([report(0, feeds=1, state="token_expired")], [("fail", "feed 1 of 1: token_expired, store 0.0 s behind the journal. so it is")]),
    ],
)
async def test_each_feed_is_shown_and_a_missing_one_missed(
    valkey: redis.Redis, reports: list[FeedStatus], expected: list[tuple[str, str]]
) -> None:
    for one in reports:
        await live_state.astatus_write(one._replace(reported_ms=one.reported_ms + time.time_ns() // 1_000_000 - BEGUN_MS))
    await live_state.aclose()
    found = list(doctor.feed())
    assert [(finding.level.value, finding.text[: len(text)]) for finding, (_, text) in zip(found, expected, strict=True)] == expected


def test_web_processes_are_counted_by_who_listens_on_the_port(settings: Settings) -> None:
    settings.PORT = ports.choose()
    assert only(doctor.web_processes()).level == Level.WARN
    with socket.socket() as one, socket.socket() as two:
        for each in (one, two):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            each.bind((ports.LOOPBACK, settings.PORT))
            each.listen()
        settings.WEB_PROCESSES = 3
        assert only(doctor.web_processes()).text == f"2 processes listen on port {settings.PORT}, TRADINGOK_WEB_PROCESSES says 3"
        settings.WEB_PROCESSES = 2
        assert only(doctor.web_processes()) == ok("web", f"2 processes listen on port {settings.PORT}")


def test_journals_are_shown_with_their_age_and_the_room_there_is(settings: Settings, tmp_path: Path) -> None:
    settings.VAR = tmp_path
    assert only(doctor.journals()).text == "none on this machine yet"
    two_days_ago_us = time.time_ns() // 1000 - 2 * 86_400_000_000
    for shard in (0, 1):
        (tmp_path / "journal" / str(shard)).mkdir(parents=True)
        (tmp_path / "journal" / str(shard) / f"{two_days_ago_us - EPOCH_2020_US:016d}.mcap").write_bytes(b"x" * 20_000_000)
    settings.JOURNAL_DAYS, settings.JOURNAL_GB, settings.DISK_FLOOR_GB = 7, 50, 0
    found = list(doctor.journals())
    assert [finding.level for finding in found] == [Level.OK, Level.OK]
    for number, finding in enumerate(found, start=1):
        assert finding.text.startswith(f"feed {number}: 0.02 GB of 2.0 days (at most 7 days or 50 GB are kept); room for ")
    settings.DISK_FLOOR_GB = 1_000_000
    found = list(doctor.journals())
    assert [finding.level for finding in found] == [Level.WARN, Level.WARN]
    assert found[0].text.endswith("room for 0 more days above the floor")
    assert only(doctor.disk()).level == Level.WARN
    now_us = time.time_ns() // 1000
    (tmp_path / "journal" / "2").mkdir()
    (tmp_path / "journal" / "2" / f"{now_us - EPOCH_2020_US:016d}.mcap").write_bytes(b"x" * 1000)
    assert list(doctor.journals())[2].text.endswith("; too young to say for how long there is room")


def test_a_look_that_fails_itself_does_not_stop_the_others() -> None:
    def broken() -> Iterable[Finding]:
        raise RuntimeError("nobody thought of this")

    findings = list(doctor.examine([doctor.Look("first", broken), doctor.Look("second", lambda: [ok("second", "fine")])]))
    assert [finding.level for finding in findings] == [Level.FAIL, Level.OK]
    assert "nobody thought of this" in findings[0].text


def test_a_look_that_needs_what_has_failed_is_not_taken() -> None:
    found = doctor.examine(
        [doctor.Look("a", lambda: [fail("a", "down", "start it")]), doctor.Look("b", lambda: [ok("b", "fine")], needs="a")]
    )
    assert [finding.text for finding in found] == ["down", "cannot be known without a"]


def test_it_works_when_nothing_else_does(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "doctor", "--json"],
        cwd=PROJECT,
        env=environment(tmp_path, UPSTOX_API_URL=f"http://127.0.0.1:{ports.choose()}", PORT="99999"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    report = json.loads(done.stdout)
    levels = {finding["what"]: finding["level"] for finding in report["findings"]}
    assert done.returncode == report["exit_code"] == 1
    assert [levels[what] for what in ("settings", "mongodb", "redis", "migrations", "instruments", "feed")] == ["fail"] * 6
    assert levels["clock"] == "warn"
    assert all(finding["way_out"] for finding in report["findings"] if finding["level"] != "ok")
    assert "Traceback" not in done.stderr


def test_findings_are_shown_with_their_way_out() -> None:
    assert format_finding(ok("disk", "plenty")) == "ok    disk             plenty"
    assert format_finding(warn("disk", "little", "buy one")).splitlines() == [
        "warn  disk             little",
        "                       → buy one",
    ]


@pytest.mark.parametrize(
    ("findings", "expected"),
    [
        ([ok("a", "")], ("all 1 fine", 0)),
        ([ok("a", ""), warn("b", "", "x")], ("nothing failed, 1 of 2 to know about", 0)),
        ([fail("a", "", "x"), warn("b", "", "x")], ("1 of 2 failed", 1)),
    ],
)
def test_the_verdict_counts_and_decides_the_exit_code(findings: list[Finding], expected: tuple[str, int]) -> None:
    assert verdict(findings) == expected
