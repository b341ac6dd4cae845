"""`manage.py runfeed`: the feed process of one shard."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from typing import Any

import uvloop
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from broker.following import name_unknown
from broker.holding import ShardTaken
from broker.journal import JournalBusy
from broker.journal_keeping import JournalLimits
from broker.leftovers import Leftovers
from broker.runner import FeedConfig, FeedRunner
from instruments.domain.limits import Limits
from marketdata.leases import ShardsDisagree
from marketdata.live_state import MAX_SHARDS

log = logging.getLogger(__name__)

LEFTOVERS_SECONDS = 5.0
"""Longest wait for the journals of removed shards at the end."""


class Command(BaseCommand):
    """Parses the shard, runs one FeedRunner and the Leftovers beside it, ends with the runner's exit code."""

    requires_system_checks = []  # it serves no URL; `manage.py up` checks the settings before it starts any process
    help = "Receive the broker's live feed: journal, decode, store, publish. Ends in order on SIGTERM or Ctrl-C."

    def add_arguments(self, parser: CommandParser) -> None:
        """Offer the shard."""
        parser.add_argument(
            "--shard",
            help="K/N: this is the K-th of N feeds; the default is TRADINGOK_FEED_SHARD (from 0) of TRADINGOK_FEED_SHARDS",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run until stopped."""
        shard, shards = chosen_shard(options["shard"])
        runner = FeedRunner(feed_config(shard, shards))
        leftovers = Leftovers(
            settings.VAR / "journal",
            shards=shards,
            limits=journal_limits(),
            name_unknown=name_unknown,
            batch_ticks=settings.STORE_BATCH_TICKS,
            segment_bytes=settings.JOURNAL_SEGMENT_MB * 1_000_000,
        )
        leftovers.start()
        try:
            code = uvloop.run(_run(runner))
        except (JournalBusy, ShardTaken, ShardsDisagree) as error:
            raise CommandError(str(error)) from None
        except OSError as error:
            raise CommandError(f"the journal in {runner.config.folder} cannot be written: {error}") from None
        finally:
            leftovers.stop(LEFTOVERS_SECONDS)
        if code:
            raise SystemExit(code)


async def _run(runner: FeedRunner) -> int:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, runner.stop)
    return await runner.run()


def chosen_shard(text: str | None) -> tuple[int, int]:
    """Return the shard, from 0, and how many there are.

    Args:
        text: `--shard`, K/N with K from 1; None: as the settings say.

    Raises:
        CommandError: it is no such thing, or disagrees with a setting that is given.
    """
    shard, shards = settings.FEED_SHARD, settings.FEED_SHARDS
    if text is not None:
        try:
            number, shards = (int(part) for part in text.split("/"))
        except ValueError:
            raise CommandError(f"--shard {text!r}: give K/N, as in 1/2 and 2/2 for two feeds") from None
        shard = number - 1
        for name, value, given in (
            ("TRADINGOK_FEED_SHARDS", settings.FEED_SHARDS, shards),
            ("TRADINGOK_FEED_SHARD", settings.FEED_SHARD, shard),
        ):
            if name in os.environ and value != given:
                raise CommandError(f"--shard {text} disagrees with {name}={value} (it counts from 0); give only one of the two")
    if not 0 <= shard < shards <= MAX_SHARDS:
        raise CommandError(f"feed {shard + 1} of {shards}: the number must be from 1 to N, and N at most {MAX_SHARDS}")
    return shard, shards


def journal_limits() -> JournalLimits:
    """Return how much of a journal the settings keep."""
    return JournalLimits(
        days=settings.JOURNAL_DAYS,
        most_bytes=int(settings.JOURNAL_GB * 1_000_000_000),
        floor_bytes=int(settings.DISK_FLOOR_GB * 1_000_000_000),
    )


def feed_config(shard: int, shards: int) -> FeedConfig:
    """Return the settings as the runner wants them."""
    return FeedConfig(
        folder=settings.VAR / "journal" / str(shard),
        shard=shard,
        shards=shards,
        api_url=settings.UPSTOX_API_URL,
        window_ms=settings.EMISSION_WINDOW_MS,
        candle_grace_ms=settings.CANDLE_GRACE_MS,
        limits=Limits(settings.BROKER_MODE_LIMITS, settings.BROKER_MIXED_MODE_LIMITS),
        batch_ticks=settings.STORE_BATCH_TICKS,
        batch_ms=settings.STORE_BATCH_MS,
        queue_ticks=settings.STORE_QUEUE_TICKS,
        segment_bytes=settings.JOURNAL_SEGMENT_MB * 1_000_000,
        journal_limits=journal_limits(),
    )
