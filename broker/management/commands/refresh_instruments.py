"""`manage.py refresh_instruments`: make the instruments those of the broker's master."""

from __future__ import annotations

import time
from argparse import ArgumentTypeError
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from pymongo.errors import PyMongoError

from broker.services import instruments_refresh_from
from broker.upstox.master import MasterRejected
from broker.upstox.master_source import MasterUnavailable
from instruments.domain.instrument import IST
from instruments.services import RefreshRefused
from instruments.store import LockHeld, LockLost

BAR_WIDTH = 30
LINE_SECONDS = 2.0
"""Without a terminal, a line of progress comes at most so often."""


class Command(BaseCommand):
    """Parses, calls one service, formats. Exit code 1 when nothing was changed because of an error."""

    help = "Read the broker's instrument master and apply what differs. Nothing is changed unless the whole file is a plausible master."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--source", default="", metavar="URL|FILE", help="Gzipped JSON master. Default: the broker's, or the exchange's."
        )
        parser.add_argument(
            "--as-of",
            type=_moment,
            default=None,
            metavar="DATE",
            help="When it was true: YYYY-MM-DD or YYYY-MM-DDTHH:MM, IST. Default: now.",
        )
        parser.add_argument("--force", action="store_true", help="Apply it although more than half of the last master's rows are missing.")

    def handle(self, *args: Any, **options: Any) -> None:
        began = time.monotonic()
        report = _Report(self)
        try:
            load = instruments_refresh_from(
                source=options["source"],
                as_of=options["as_of"],
                force=options["force"],
                progress=report if options["verbosity"] > 0 else None,
            )
        except (MasterRejected, MasterUnavailable, RefreshRefused, LockHeld, LockLost) as error:
            report.end()
            raise CommandError(str(error) if isinstance(error, LockLost) else f"Nothing was changed: {error}") from error
        except PyMongoError as error:
            report.end()
            raise CommandError(f"MongoDB failed, perhaps half-way; run it again, it goes on where it was: {error}") from error
        report.end()
        if options["verbosity"] > 0:
            self.stdout.write(
                f"{load.rows} rows as of {load.as_of.astimezone(IST):%Y-%m-%d %H:%M} IST: {load.created} created, {load.changed} changed, "
                f"{load.retired} retired, {load.keys_passed} keys passed on, in {time.monotonic() - began:.1f} s"
            )


class _Report:
    """Shows progress: a bar that redraws itself on a terminal, a line now and then elsewhere."""

    def __init__(self, command: BaseCommand) -> None:
        self._out = command.stdout
        self._terminal = bool(self._out.isatty())
        self._last_line = 0.0
        self._drawn = False

    def __call__(self, what: str, done: int, total: int) -> None:
        if self._terminal:
            filled = BAR_WIDTH * done // max(total, 1)
            self._out.write(f"\r[{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {done}/{total} {what:<16}", ending="")
            self._out.flush()
            self._drawn = True
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            self._out.write(f"{what}: {done} of {total}" if done else f"{what} …")

    def end(self) -> None:
        """Leave the bar's line."""
        if self._drawn:
            self._out.write("")


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is no date; write YYYY-MM-DD or YYYY-MM-DDTHH:MM") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=IST)
