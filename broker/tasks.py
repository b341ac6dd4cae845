"""Scheduled work with the broker. Each task validates, calls one service, and may run again at any time."""

from __future__ import annotations

from celery import shared_task

from broker.backfill import candles_mend, days_confirm
from broker.calendar import calendar_refresh
from broker.market_status import market_status_poll
from broker.mending_run import Mended
from broker.open_interest import interest_bases_fetch
from broker.services import instruments_refresh_from
from broker.upstox.master import MasterRejected
from broker.upstox.master_source import MasterUnavailable
from broker.upstox.protocol import BrokerError
from instruments.chain_listing import NoSuchChain
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


@shared_task(name="broker.fetch_interest_bases")  # type: ignore[untyped-decorator]
def fetch_interest_bases() -> str:
    """Keep what the followed chains' open interest is compared with: the day's first, and the previous close as the broker tells it."""

    def work() -> str:
        done = interest_bases_fetch()
        refused = f", {done.refused} chains refused" if done.refused else ""
        return f"{done.calls} calls, {done.started} day starts, {done.closed} previous closes{refused}"

    return run_once("fetch_interest_bases", work, expected=(BrokerError, NoSuchChain))


@shared_task(name="broker.heal_gaps")  # type: ignore[untyped-decorator]
def heal_gaps(seconds: float = 40.0) -> str:
    """Fill holes from the broker's candles, confirm what its feed did not, compare days that are over. `seconds`: 1–600."""
    limit = min(max(float(seconds), 1.0), 600.0)
    return run_once("heal_gaps", lambda: _sentence(candles_mend(seconds=limit)), expected=(BrokerError,))


@shared_task(name="broker.confirm_daily")  # type: ignore[untyped-decorator]
def confirm_daily(seconds: float = 40.0) -> str:
    """Confirm the daily candles of the last days with the broker's own. `seconds`: 1–600."""
    limit = min(max(float(seconds), 1.0), 600.0)
    return run_once("confirm_daily", lambda: _sentence(days_confirm(seconds=limit)), expected=(BrokerError,))


def _sentence(mended: Mended) -> str:
    gaps = f"gaps: {mended.healed} healed, {mended.impossible} impossible, {mended.waiting} waiting"
    refused = f", {len(mended.refused)} instruments refused" if mended.refused else ""
    failed = f", {len(mended.failed)} instruments without an answer" if mended.failed else ""
    return f"{mended.calls} calls, {mended.candles} candles, {gaps}{refused}{failed}{'' if mended.complete else ', more to come'}"
