"""Is it well? `/api/health` says it of each part; `live` and `ready` answer a supervisor or load balancer with one word."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pymongo
from django.db import DatabaseError, connections
from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_safe
from drf_spectacular.utils import extend_schema
from pymongo.errors import PyMongoError
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from marketdata import live_state
from marketdata.api.status import feed_now
from marketdata.domain.feed_status import FeedState
from marketdata.selectors import market_statuses

STORE_SECONDS = 1.0
"""The database has so long to answer a ping."""
READY_SECONDS = 1.0
"""An answer of `ready` is given again for so long: anybody may ask, as often as they like."""
WORKER_SILENT_MS = 10 * 60_000
"""The schedule has a task every few minutes: without a run for so long, worker or beat is not at work."""
STARTING_MS = 3 * 60_000
"""The schedule has tasks each minute: for so long after this process began, a worker that has not run one yet is no alarm."""
_BEGAN_MS = time.time_ns() // 1_000_000

WELL = {FeedState.LIVE, FeedState.QUIET, FeedState.CLOSED}
OPEN = "NORMAL_OPEN"
"""A segment's state in market hours. Source: MarketDataFeedV3.proto, MarketStatus."""


class ComponentSerializer(serializers.Serializer[dict[str, Any]]):
    """One part."""

    state = serializers.CharField(help_text="ok, or what is wrong in a word.")
    latency_ms = serializers.FloatField(required=False, allow_null=True)
    detail = serializers.CharField(required=False)


class TaskRunSerializer(serializers.Serializer[dict[str, Any]]):
    """The last run of a scheduled task."""

    ok = serializers.BooleanField()
    detail = serializers.CharField()
    seconds = serializers.FloatField()
    at_ms = serializers.IntegerField(help_text="When it ended, ms UTC")


class HealthSerializer(serializers.Serializer[dict[str, Any]]):
    """All parts."""

    state = serializers.ChoiceField(["ok", "starting", "degraded", "down"])
    time = serializers.IntegerField()
    components = serializers.DictField(child=ComponentSerializer())
    tasks = serializers.DictField(child=TaskRunSerializer())


def _store_ping() -> float:
    start = time.perf_counter()
    with pymongo.timeout(STORE_SECONDS):
        connections["default"].database.command("ping")  # type: ignore[attr-defined]  # the MongoDB backend's
    return time.perf_counter() - start


def _pinged(ping: Callable[[], float]) -> dict[str, Any]:
    try:
        return {"state": "ok", "latency_ms": round(ping() * 1000, 2)}
    except (PyMongoError, DatabaseError, live_state.Unavailable) as error:
        return {"state": "down", "latency_ms": None, "detail": type(error).__name__}


def _feed(now_ms: int) -> dict[str, Any]:
    view, _ = feed_now()
    age = max(0, now_ms - view.data_ms) if view.data_ms else None
    return {"state": "ok" if view.state in WELL else view.state, "latency_ms": age, "detail": view.detail or view.state}


def _worker(runs: dict[str, dict[str, Any]] | None, now_ms: int) -> dict[str, Any]:
    if runs is None:
        return {"state": "unknown", "detail": "Redis does not answer."}
    newest_ms = max((run["at_ms"] for run in runs.values()), default=0)
    age_ms = now_ms - newest_ms
    if age_ms > WORKER_SILENT_MS and now_ms - _BEGAN_MS < STARTING_MS:
        return {"state": "starting", "detail": "No task has run since the start; the first ones come within a minute or two."}
    if not runs:
        return {"state": "unknown", "detail": "No task has run yet."}
    failed = sorted(name for name, run in runs.items() if not run["ok"])
    state = "silent" if age_ms > WORKER_SILENT_MS else "failing" if failed else "ok"
    detail = f"Failed last: {', '.join(failed)}." if failed else f"Last run {age_ms // 1000} s ago."
    return {"state": state, "detail": detail}


def _whole(components: dict[str, dict[str, Any]]) -> str:
    states = {component["state"] for component in components.values()} - {"ok"}
    if components["mongodb"]["state"] != "ok":
        return "down"
    return "degraded" if states - {"starting"} else "starting" if states else "ok"


def _task_runs() -> dict[str, dict[str, Any]] | None:
    try:
        return live_state.task_runs_read()
    except live_state.Unavailable:
        return None


class HealthView(APIView):
    """Each part, its state and latency: database, Redis, feed (its latency is the data's age), worker and beat by their last runs."""

    @extend_schema(operation_id="health", responses=HealthSerializer)
    def get(self, request: Request) -> Response:
        now_ms = time.time_ns() // 1_000_000
        runs = _task_runs()
        components = {
            "mongodb": _pinged(_store_ping),
            "redis": _pinged(live_state.ping),
            "feed": _feed(now_ms),
            "worker": _worker(runs, now_ms),
        }
        return Response({"state": _whole(components), "time": now_ms, "components": components, "tasks": runs or {}})


@csrf_exempt
@require_safe
def live(request: HttpRequest) -> JsonResponse:
    """Answer that the process runs. Needs no credentials, touches nothing."""
    return JsonResponse({"state": "live"})


class _Readiness:
    """Whether this process can serve; asked again after READY_SECONDS at the earliest."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked_at = float("-inf")
        self._ready = False

    def read(self, now: float) -> bool:
        with self._lock:
            if now - self._asked_at >= READY_SECONDS:
                self._ready = _is_ready()
                self._asked_at = time.monotonic()
            return self._ready

    def forget(self) -> None:
        """Ask anew next time."""
        self._asked_at = float("-inf")


def _is_ready() -> bool:
    if _pinged(_store_ping)["state"] != "ok":
        return False
    view, board = feed_now()
    if view.state in WELL or view.scope != "all":  # with one of several feeds in trouble, this process is as good as its siblings
        return True
    segments = board.segments() or {row.segment: row.status for row in market_statuses()}
    return OPEN not in segments.values()


readiness = _Readiness()


@csrf_exempt
@require_safe
def ready(request: HttpRequest) -> JsonResponse:
    """Answer 503 when the store is gone or every feed is stale in market hours, else 200. Needs no credentials, gives no detail."""
    if readiness.read(time.monotonic()):
        return JsonResponse({"state": "ready"})
    return JsonResponse({"state": "not ready"}, status=503)
