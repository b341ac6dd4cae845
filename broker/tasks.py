"""Scheduled work with the broker. Each task validates, calls one service, and may run again at any time."""

from __future__ import annotations

from celery import shared_task

from broker.calendar import calendar_refresh
from broker.market_status import market_status_poll
from broker.services import instruments_refresh_from
from broker.upstox.master import MasterRejected
from broker.upstox.master_source import MasterUnavailable
from broker.upstox.protocol import BrokerError
from instruments.services import RefreshRefused
from instruments.store import LockHeld, LockLost
from marketdata.task_runs import run_once

REFRESH_ERRORS = (MasterUnavailable, MasterRejected, RefreshRefused, LockHeld, LockLost)


@shared_task(name="broker.refresh_instruments")  # type: ignore[untyped-decorator]
def refresh_instruments() -> str:
    """Load the broker's instrument master. An empty, truncated or foreign file changes nothing."""

    def work() -> str:
        load = instruments_refresh_from()
        return f"{load.rows} rows: {load.created} created, {load.changed} changed, {load.retired} retired"

    return run_once("refresh_instruments", work, expected=REFRESH_ERRORS)


@shared_task(name="broker.poll_market_status")  # type: ignore[untyped-decorator]
def poll_market_status() -> str:
    """Ask the broker for the state of the exchanges and record what changed."""
    return run_once("poll_market_status", lambda: f"{market_status_poll()} segments changed", expected=(BrokerError,))


@shared_task(name="broker.refresh_calendar")  # type: ignore[untyped-decorator]
def refresh_calendar() -> str:
    """Fetch the hours of the days around the market's own, and the year's holidays."""
    return run_once("refresh_calendar", lambda: f"{calendar_refresh()} sessions changed", expected=(BrokerError,))
