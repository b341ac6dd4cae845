"""`manage.py runfeed`: the feed process of one shard."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Any

import uvloop
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from broker.journal import JournalBusy
from broker.runner import FeedConfig, FeedRunner, ShardTaken

log = logging.getLogger(__name__)


class Command(BaseCommand):
    """Parses the shard, runs one FeedRunner, ends with its exit code."""

    requires_system_checks = []  # it serves no URL; `manage.py up` checks the settings before it starts any process
    help = "Receive the broker's live feed: journal, decode, store, publish. Ends in order on SIGTERM or Ctrl-C."

    def add_arguments(self, parser: CommandParser) -> None:
        """Offer the shard."""
        parser.add_argument(
            "--shard", help="K/N: this is shard K (from 0) of N; the default is TRADINGOK_FEED_SHARD of TRADINGOK_FEED_SHARDS"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run until stopped."""
        shard, shards = _parse_shard(options["shard"])
        runner = FeedRunner(feed_config(shard, shards))
        try:
            code = uvloop.run(_run(runner))
        except (JournalBusy, ShardTaken) as error:
            raise CommandError(str(error)) from None
        except OSError as error:
            raise CommandError(f"the journal in {runner.config.folder} cannot be written: {error}") from None
        if code:
            raise SystemExit(code)


async def _run(runner: FeedRunner) -> int:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, runner.stop)
    return await runner.run()


def _parse_shard(text: str | None) -> tuple[int, int]:
    if text is None:
        shard, shards = settings.FEED_SHARD, settings.FEED_SHARDS
    else:
        try:
            shard, shards = (int(part) for part in text.split("/"))
        except ValueError:
            raise CommandError(f"--shard {text!r}: give K/N, as in 0/2") from None
    if not 0 <= shard < shards <= 8:
        raise CommandError(f"shard {shard} of {shards}: K must be from 0 to N-1, N at most 8")
    return shard, shards


def feed_config(shard: int, shards: int) -> FeedConfig:
    """Return the settings as the runner wants them."""
    return FeedConfig(
        folder=settings.VAR / "journal" / str(shard),
        shard=shard,
        shards=shards,
        api_url=settings.UPSTOX_API_URL,
        window_ms=settings.EMISSION_WINDOW_MS,
        limits=settings.BROKER_MODE_LIMITS,
        batch_ticks=settings.STORE_BATCH_TICKS,
        batch_ms=settings.STORE_BATCH_MS,
        queue_ticks=settings.STORE_QUEUE_TICKS,
        segment_bytes=settings.JOURNAL_SEGMENT_MB * 1_000_000,
    )
