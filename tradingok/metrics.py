"""`/metrics`: what all processes count, for Prometheus. Read at each request from the state they share, so any web process tells of all.

A counter's name is ours with `tradingok_feed_` or `tradingok_hub_` before it. Milliseconds become seconds: an age or a lag `…_ms` is
`…_seconds`, a moment `…_expires_ms` is `…_expires_timestamp_seconds`, left out where it is not known. It needs credentials as the API does,
and answers when Redis or MongoDB is away: `tradingok_redis_up`, `tradingok_mongodb_up` then say 0, and what they would tell is left out.
"""

from __future__ import annotations

import contextlib
import platform
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import django
import pymongo
from django.conf import settings
from django.db import DatabaseError
from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from pymongo.errors import PyMongoError
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.request import Request
from rest_framework.views import APIView

from broker.journal_segments import segment_paths
from instruments.search import index_built
from instruments.selectors import market_now
from marketdata import live_state
from marketdata.domain.continuity import continuity
from marketdata.domain.feed_status import FeedState, FeedStatus
from marketdata.parity import STATES, parity_day, parity_total, percents
from marketdata.store import tick_count_estimate

STORE_SECONDS = 1.0
"""MongoDB has so long to answer."""
OPEN = "NORMAL_OPEN"
"""A segment's state in market hours. Source: MarketDataFeedV3.proto, MarketStatus."""

Labels = tuple[str, ...]
Sample = tuple[Labels, float]


def counter_name(prefix: str, name: str) -> tuple[str, float]:
    """Return the Prometheus name of one of our counters or gauges, and what its value is multiplied by."""
    if name.endswith("_expires_ms"):
        return f"{prefix}_{name.removesuffix('_ms')}_timestamp_seconds", 0.001
    if name.endswith("_ms"):
        return f"{prefix}_{name.removesuffix('_ms')}_seconds", 0.001
    return f"{prefix}_{name}", 1


class SharedState(Collector):
    """Reads the state once per `collect`; keeps nothing between two."""

    def collect(self) -> Iterator[Metric]:
        """Yield every metric that can be read now."""
        yield InfoMetricFamily("tradingok_build", "Versions", value=_versions())
        yield from self._redis()
        yield from self._mongodb()
        yield from self._disk()
        yield from _search()

    def _redis(self) -> Iterator[Metric]:
        try:
            statuses = live_state.statuses_read()
            hubs = live_state.hub_counters_read()
            tasks = live_state.task_runs_read()
        except live_state.Unavailable:
            yield _up("redis", answers=False)
            return
        yield _up("redis", answers=True)
        yield from _feeds(statuses)
        yield from _counters("hub", dict(sorted(hubs.items())))
        yield GaugeMetricFamily("tradingok_hubs", "Web processes that have a hub and reported in the last seconds", value=len(hubs))
        yield from _tasks(tasks)
        rows = continuity({str(status.shard): status.counters for status in statuses}, hubs)
        judged = [((row.hop,), row.difference) for row in rows if row.holds is not None]
        yield _gauge("continuity_difference", "What went into a hop less what became of it; 0 once nothing is under way", ("hop",), judged)

    def _mongodb(self) -> Iterator[Metric]:
        try:
            with pymongo.timeout(STORE_SECONDS):
                ticks = tick_count_estimate()
                day = parity_day(round(market_now().timestamp() * 1000))
                candles = None if day is None else parity_total(day)
        except (PyMongoError, DatabaseError):
            yield _up("mongodb", answers=False)
            return
        yield _up("mongodb", answers=True)
        yield GaugeMetricFamily("tradingok_ticks_stored", "Ticks in the store, by its own estimate", value=ticks)
        if candles is not None:
            minutes = [((state,), candles[state]) for state in STATES]
            yield _gauge(
                "candles_today", "1-minute candles of the market's newest day by state, and those that are missing", ("state",), minutes
            )
            equal = [((field,), percent / 100) for field, percent in percents(candles).items() if percent is not None]
            yield _gauge("candles_equal_ratio", "Of that day's candles made of ticks, those that equal the broker's", ("field",), equal)

    def _disk(self) -> Iterator[Metric]:
        """Of the machine that this web process runs on: feeds may run on another."""
        folders = sorted(path for path in (settings.VAR / "journal").glob("[0-9]*") if path.is_dir())
        sizes = [((path.name,), _size(path)) for path in folders]
        yield _gauge("journal_bytes", "All segments of a shard's journal on this machine", ("shard",), sizes)
        if settings.VAR.exists():
            yield GaugeMetricFamily("tradingok_disk_free_bytes", "Where the data folder lies", value=shutil.disk_usage(settings.VAR).free)


def _search() -> Iterator[Metric]:
    """Of this web process: each has an index of its own."""
    built = index_built()
    if built is not None:
        yield GaugeMetricFamily(
            "tradingok_search_index_bytes",
            "Memory of the search index of the web process that answers",
            value=built.search_index.memory_bytes,
        )
        yield GaugeMetricFamily("tradingok_search_index_instruments", "Instruments in it", value=built.search_index.size)
        yield GaugeMetricFamily("tradingok_search_index_build_seconds", "What its last making took", value=built.seconds)


def _feeds(statuses: Iterable[FeedStatus]) -> Iterator[Metric]:
    by_shard = {str(status.shard): status for status in statuses}
    yield _gauge(
        "feed_state",
        "1 for the state that a feed is in, 0 for the others",
        ("shard", "state"),
        [((shard, state.value), float(status.state == state)) for shard, status in by_shard.items() for state in FeedState],
    )
    yield _gauge(
        "feed_segment_open",
        "1 while a segment trades, as the broker told the feed",
        ("shard", "segment"),
        [((shard, name), float(told == OPEN)) for shard, status in by_shard.items() for name, told in sorted(status.segments.items())],
    )
    for name, meaning, attribute in (
        ("start", "When this run of the feed began", "epoch"),
        ("state_since", "Since when the feed is in its state", "since_ms"),
        ("data", "The broker's clock of the newest frame", "data_ms"),
        ("reported", "Our clock when the feed reported", "reported_ms"),
    ):
        moments = [((shard,), getattr(status, attribute) / 1000) for shard, status in by_shard.items() if getattr(status, attribute)]
        yield _gauge(f"feed_{name}_timestamp_seconds", meaning, ("shard",), moments)
    yield from _counters("feed", {shard: status.counters for shard, status in by_shard.items()}, label="shard")


def _counters(whose: str, counters: Mapping[str, Mapping[str, float]], label: str = "") -> Iterator[Metric]:
    """Yield everything that these count: a metric per name, a sample per one that counts it."""
    prefix, labels = f"tradingok_{whose}", (label or whose,)
    for name in sorted({name for counted in counters.values() for name in counted}):
        exported, factor = counter_name(prefix, name)
        samples = [((owner,), counted[name] * factor) for owner, counted in counters.items() if name in counted]
        if name.endswith("_total"):
            family: CounterMetricFamily | GaugeMetricFamily = CounterMetricFamily(exported, f"{name} of a {whose}", labels=labels)
        else:
            family = GaugeMetricFamily(exported, f"{name} of a {whose}", labels=labels)
        for values, value in samples:
            if value or not name.endswith("_expires_ms"):
                family.add_metric(values, value)
        yield family


def _tasks(runs: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    for name, meaning, read in (
        ("success", "Whether a task's last run did what it should", lambda run: float(run["ok"])),
        ("timestamp_seconds", "When a task's last run ended", lambda run: run["at_ms"] / 1000),
        ("duration_seconds", "How long a task's last run took", lambda run: float(run["seconds"])),
    ):
        yield _gauge(f"task_last_run_{name}", meaning, ("task",), [((task,), read(run)) for task, run in sorted(runs.items())])


def _gauge(name: str, meaning: str, labels: Labels, samples: Iterable[Sample]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"tradingok_{name}", meaning, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _size(folder: Path) -> float:
    size = 0
    for path in segment_paths(folder):
        with contextlib.suppress(FileNotFoundError):  # retention may delete it meanwhile
            size += path.stat().st_size
    return size


def _up(server: str, *, answers: bool) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"tradingok_{server}_up", f"Whether {server} answers this web process", value=float(answers))


def _versions() -> dict[str, str]:
    return {"api": settings.SPECTACULAR_SETTINGS["VERSION"], "django": django.get_version(), "python": platform.python_version()}


class _WhateverIsAccepted(BaseContentNegotiation):
    """Prometheus asks for its own formats; errors are problems in JSON whatever is asked for."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        """Return the first."""
        return parsers[0]

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        """Return the first."""
        return renderers[0], renderers[0].media_type


class MetricsView(APIView):
    """The metrics in Prometheus' text format. Credentials as for the API: `authorization: {credentials: <api key>}` in the scrape."""

    content_negotiation_class = _WhateverIsAccepted

    @extend_schema(exclude=True)
    def get(self, request: Request) -> HttpResponse:
        """Read and tell."""
        return HttpResponse(generate_latest(SharedState()), content_type=CONTENT_TYPE_PLAIN_0_0_4)
