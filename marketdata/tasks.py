"""Scheduled work on stored market data. Each task validates, calls one service, and may run again at any time."""

from __future__ import annotations

from celery import shared_task
from django.conf import settings

from instruments.chain_listing import NoSuchChain
from instruments.selectors import market_now
from marketdata import services
from marketdata.chain_minutes import chains_store
from marketdata.parity import parity_update
from marketdata.roll_up import candles_roll_up
from marketdata.task_runs import run_once


@shared_task(name="marketdata.roll_up")  # type: ignore[untyped-decorator]
def roll_up(seconds: float = 45.0) -> str:
    """Bring 5m, 15m, 1h and 1d candles up to what has changed. `seconds`: 1–600."""
    limit = min(max(float(seconds), 1.0), 600.0)

    def work() -> str:
        done = candles_roll_up(seconds=limit)
        return f"{done.changed} minutes read, {done.written} candles written{'' if done.complete else ', more to come'}"

    return run_once("roll_up", work)


@shared_task(name="marketdata.apply_retention")  # type: ignore[untyped-decorator]
def apply_retention() -> str:
    """Let MongoDB delete ticks, option chains and changes of what is followed that are older than the settings say."""

    def work() -> str:
        chains = f"chains: {settings.CHAIN_RETENTION_DAYS} days, {services.chain_retention_apply()}"
        changes = f"changes: {settings.CHANGE_RETENTION_DAYS} days, {services.change_retention_apply()}"
        return f"{settings.TICK_RETENTION_DAYS} days, {services.retention_apply()}; {chains}; {changes}"

    return run_once("apply_retention", work)


@shared_task(name="marketdata.store_chains")  # type: ignore[untyped-decorator]
def store_chains() -> str:
    """Store the followed option chains for the present minute of market time."""

    def work() -> str:
        done = chains_store()
        return f"{done.stored} chains stored, {done.unchanged} as before, {done.empty} without a quote, {done.closed} closed"

    return run_once("store_chains", work, expected=(NoSuchChain,))


@shared_task(name="marketdata.store_latest_quotes")  # type: ignore[untyped-decorator]
def store_latest_quotes() -> str:
    """Copy the latest quotes to MongoDB, for a start without a feed."""
    return run_once("store_latest_quotes", lambda: f"{services.latest_quotes_store()} quotes stored")


@shared_task(name="marketdata.parity")  # type: ignore[untyped-decorator]
def parity() -> str:
    """Count how candles made of ticks compare with the broker's, and what the day has of each state."""

    def work() -> str:
        done = parity_update(market_ms=round(market_now().timestamp() * 1000))
        return f"{done.changed} minutes read, {done.counted} days of instruments counted{'' if done.complete else ', more to come'}"

    return run_once("parity", work)
