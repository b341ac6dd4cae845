"""/metrics: parsed as Prometheus does and compared with the state that it tells of."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from typing import Any

import pytest
from django.test import Client
from prometheus_client.parser import text_string_to_metric_families
from rest_framework.test import APIClient

from accounts.models import User
from accounts.services import api_key_create
from instruments.store import spots_write
from marketdata import live_state, store
from marketdata.domain.candle import MINUTE_MS, Candle, candle_id
from marketdata.domain.continuity import FEED_HOPS
from marketdata.domain.feed_status import FeedState
from marketdata.parity import parity_update
from tests.fakes.exchange import ROOT
from tests.marketdata.api.fixtures import OPEN_MS, publish_latest, status_of, store_minutes, store_ticks

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
PROMETHEUS = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
"""What a Prometheus server sends as Accept."""


@pytest.fixture
def program() -> APIClient:
    key = api_key_create(user=User.objects.create_user("prometheus"), name="scrape")
    return APIClient(headers={"Authorization": f"Bearer {key}", "Accept": PROMETHEUS})


def scraped(program: APIClient) -> Samples:
    answer = program.get("/metrics")
    assert answer.status_code == 200, answer.content
    assert answer["Content-Type"].startswith("text/plain; version=0.0.4")
    samples: Samples = {}
    for family in text_string_to_metric_families(answer.content.decode()):
        assert family.name.startswith("tradingok_")
        assert family.documentation
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples, f"{key} twice"
            samples[key] = sample.value
    return samples


def value_of(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((f"tradingok_{name}", frozenset(labels.items())))


async def write_hub(name: str, **counters: float) -> None:
    await live_state.ahub_counters_write(name, counters)
    await live_state.aclose()


def test_every_counter_of_every_shard_is_told_in_base_units(program: APIClient) -> None:
    now_ms = time.time_ns() // 1_000_000
    publish_latest([], status_of(now_ms=now_ms, frames_received_total=12.0, store_lag_ms=250.0, token_expires_ms=now_ms + 5000.0))
    publish_latest([], status_of("stale", now_ms=now_ms, shard=1, frames_received_total=7.0, token_expires_ms=0.0))
    samples = scraped(program)
    assert value_of(samples, "feed_frames_received_total", shard="0") == 12
    assert value_of(samples, "feed_frames_received_total", shard="1") == 7
    assert value_of(samples, "feed_store_lag_seconds", shard="0") == 0.25
    assert value_of(samples, "feed_token_expires_timestamp_seconds", shard="0") == pytest.approx(now_ms / 1000 + 5)
    assert value_of(samples, "feed_token_expires_timestamp_seconds", shard="1") is None
    assert value_of(samples, "feed_data_timestamp_seconds", shard="0") == pytest.approx((now_ms - 100) / 1000)
    assert value_of(samples, "feed_segment_open", shard="0", segment="NSE_EQ") == 1
    for shard, own in (("0", "live"), ("1", "stale")):
        states = {state.value: value_of(samples, "feed_state", shard=shard, state=state.value) for state in FeedState}
        assert states == {state.value: float(state.value == own) for state in FeedState}


def test_whatever_a_feed_counts_is_told_without_a_word_here(program: APIClient) -> None:
    names = {name for _, into, out in FEED_HOPS for name in (*into, *out)}
    counters: dict[str, Any] = {name: float(number) for number, name in enumerate(sorted(names))}
    publish_latest([], status_of(now_ms=time.time_ns() // 1_000_000, **counters))
    samples = scraped(program)
    assert {name: value_of(samples, f"feed_{name}", shard="0") for name in counters} == counters


def test_counters_are_counters_and_the_rest_are_gauges(program: APIClient) -> None:
    publish_latest([], status_of(now_ms=time.time_ns() // 1_000_000, frames_received_total=1.0, store_lag_ticks=2.0))
    kinds = {family.name: family.type for family in text_string_to_metric_families(program.get("/metrics").content.decode())}
    assert kinds["tradingok_feed_frames_received"] == "counter"
    assert kinds["tradingok_feed_store_lag_ticks"] == "gauge"


def test_hubs_of_all_web_processes_are_told(program: APIClient) -> None:
    asyncio.run(write_hub("a", batches_received_total=5, clients=2))
    asyncio.run(write_hub("b", batches_received_total=6, clients=1))
    samples = scraped(program)
    assert value_of(samples, "hub_batches_received_total", hub="a") == 5
    assert value_of(samples, "hub_batches_received_total", hub="b") == 6
    assert value_of(samples, "hub_clients", hub="b") == 1
    assert value_of(samples, "hubs") == 2


def test_what_does_not_add_up_is_told_as_a_difference(program: APIClient) -> None:
    counters: dict[str, Any] = {"frames_received_total": 9.0, "frames_decoded_total": 7.0, "frames_rejected_total": 1.0}
    publish_latest([], status_of(now_ms=time.time_ns() // 1_000_000, **counters))
    samples = scraped(program)
    assert value_of(samples, "continuity_difference", hop="feed 0: socket to decoder") == 1
    assert value_of(samples, "continuity_difference", hop="feed 0: socket to journal") is None


def test_runs_of_tasks_are_told(program: APIClient) -> None:
    live_state.task_run_write("roll_up", ok=True, detail="", seconds=0.5)
    live_state.task_run_write("poll_market_status", ok=False, detail="the broker's no", seconds=1)
    samples = scraped(program)
    assert value_of(samples, "task_last_run_success", task="roll_up") == 1
    assert value_of(samples, "task_last_run_success", task="poll_market_status") == 0
    assert value_of(samples, "task_last_run_duration_seconds", task="roll_up") == 0.5
    ended = value_of(samples, "task_last_run_timestamp_seconds", task="roll_up")
    assert ended == pytest.approx(time.time(), abs=120)


def test_sizes_are_told(program: APIClient, settings: Any, tmp_path: Any) -> None:
    settings.VAR = tmp_path
    for shard, size in (("0", 300), ("1", 50)):
        folder = tmp_path / "journal" / shard
        folder.mkdir(parents=True)
        (folder / "0000000000000001.mcap").write_bytes(b"x" * size)
    store_ticks(7, [OPEN_MS, OPEN_MS + 1])
    samples = scraped(program)
    assert (value_of(samples, "journal_bytes", shard="0"), value_of(samples, "journal_bytes", shard="1")) == (300, 50)
    assert value_of(samples, "ticks_stored") == 2
    free = value_of(samples, "disk_free_bytes")
    assert free is not None
    assert free > 0
    assert (value_of(samples, "redis_up"), value_of(samples, "mongodb_up")) == (1, 1)


def test_redis_away_is_told_and_no_error(program: APIClient, settings: Any) -> None:
    publish_latest([], status_of(now_ms=time.time_ns() // 1_000_000, frames_received_total=12.0))
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    samples = scraped(program)
    assert (value_of(samples, "redis_up"), value_of(samples, "mongodb_up")) == (0, 1)
    assert value_of(samples, "feed_frames_received_total", shard="0") is None
    assert value_of(samples, "ticks_stored") is not None


def test_the_newest_days_candles_are_told_by_state_and_by_what_was_equal(program: APIClient) -> None:
    assert value_of(scraped(program), "candles_today", state="confirmed") is None
    store_minutes(7, 4, state="closed")
    built = {
        candle_id(7, "1m", OPEN_MS + minute * MINUTE_MS): (minute, minute + 1, minute - 1, minute + 0.5, 9 + minute) for minute in (0, 1)
    }
    candles = [Candle(7, "1m", OPEN_MS + n * MINUTE_MS, n, n + 1, n - 1, n + 0.5, 10, None, "confirmed") for n in (0, 1)]
    store.candles_write(candles, built)
    spots_write({}, OPEN_MS + 10 * MINUTE_MS, shard=0, shards=1, priced=False, underlyings=())  # the market's time
    parity_update(market_ms=OPEN_MS + 10 * MINUTE_MS)
    samples = scraped(program)
    told = [value_of(samples, "candles_today", state=state) for state in ("confirmed", "closed", "backfilled", "missing")]
    assert told == [2, 2, 0, 0]
    assert value_of(samples, "candles_equal_ratio", field="prices") == 1
    assert value_of(samples, "candles_equal_ratio", field="volume") == 0.5


def test_mongodb_away_is_told_and_no_error() -> None:
    publish_latest([], status_of(now_ms=time.time_ns() // 1_000_000, frames_received_total=12.0))
    script = (
        "import django; django.setup(); from prometheus_client import generate_latest; from tradingok.metrics import SharedState;"
        "print(generate_latest(SharedState()).decode())"
    )
    away = {**os.environ, "MONGODB_URI": "mongodb://127.0.0.1:1/?directConnection=true"}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=away, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "tradingok_mongodb_up 0.0" in lines
    assert "tradingok_redis_up 1.0" in lines
    assert 'tradingok_feed_frames_received_total{shard="0"} 12.0' in lines
    assert "tradingok_ticks_stored" not in done.stdout


@pytest.mark.parametrize("accept", [PROMETHEUS, "text/plain", "application/json"])
def test_without_credentials_it_is_refused_as_the_api_is(accept: str) -> None:
    answer = Client().get("/metrics", headers={"Accept": accept})
    assert answer.status_code == 401
    assert answer["WWW-Authenticate"].startswith("Bearer")
    assert answer.json()["code"] == "not_authenticated"
    assert answer["Content-Type"] == Client().get("/api/health")["Content-Type"]


def test_a_wrong_key_is_refused() -> None:
    answer = Client().get("/metrics", headers={"Authorization": "Bearer wrong", "Accept": PROMETHEUS})
    assert answer.status_code == 401
