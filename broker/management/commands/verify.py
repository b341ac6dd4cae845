"""`manage.py verify`: the certificate of a day."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from pymongo.errors import PyMongoError

from broker.verification import day_verify
from instruments.domain.instrument import IST
from marketdata import live_state


class Command(BaseCommand):
    """Parses, calls one service, prints the certificate; progress goes to standard error."""

    requires_system_checks = []
    help = (
        "Prove a day: compare the journal with the store tick by tick and print the certificate. It reads only, "
        "beside a running feed, too. Exit code 0: clean. 1: something is missing, doubled or altered, or cannot be proved."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--date", type=date.fromisoformat, default=None, metavar="YYYY-MM-DD", help="IST day of receipt; today.")
        parser.add_argument(
            "--shard",
            type=int,
            default=None,
            choices=range(live_state.MAX_SHARDS),
            metavar="N",
            help="Only this feed shard, as its journal folder is called; all.",
        )
        parser.add_argument("--json", action="store_true", help="Print the certificate as JSON.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Verify, print, exit with the verdict."""
        now = datetime.now(UTC)
        try:
            certificate = day_verify(
                options["date"] or now.astimezone(IST).date(),
                journal=settings.VAR / "journal",
                shard=options["shard"],
                retention_days=settings.TICK_RETENTION_DAYS,
                now_ms=int(now.timestamp() * 1000),
                progress=self._progress if options["verbosity"] else None,
            )
        except PyMongoError as error:
            raise CommandError(f"MongoDB failed, nothing is proved; try again: {error}") from error
        self._progress(certificate.counts["ticks_expected"], certificate.seconds, certificate.until_ms)
        self.stdout.write(json.dumps(certificate.as_dict(), indent=2, ensure_ascii=False) if options["json"] else certificate.text())
        if not certificate.clean:
            raise SystemExit(1)

    def _progress(self, ticks: int, seconds: float, at_ms: int) -> None:
        moment = datetime.fromtimestamp(at_ms / 1000, IST)
        rate = ticks / seconds if seconds else 0
        self.stderr.write(f"verify: {ticks} ticks, up to {moment:%Y-%m-%d %H:%M:%S}, {rate:,.0f} ticks/s")
