"""`manage.py backfill`: the broker's history into the store, and gaps healed now."""

from __future__ import annotations

import time
from argparse import ArgumentTypeError
from datetime import date
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error as DjangoError
from pymongo.errors import PyMongoError

from broker.backfill import gaps_heal, history_backfill
from broker.backfill_plan import FIRST_DAYS, FIRST_MINUTES, Subject, day_of
from broker.mending_run import Mended
from broker.upstox.protocol import BrokerError
from instruments.domain.instrument import INDEX_TYPE
from instruments.selectors import UnknownInstrument, instrument_resolve, market_now

BAR_WIDTH = 30
LINE_SECONDS = 5.0
"""Without a terminal, a line of progress comes at most so often."""
STOPPED = 130
"""Exit code after Ctrl-C, as a shell gives it."""
OLDEST = {"1m": FIRST_MINUTES, "1d": FIRST_DAYS}


class Command(BaseCommand):
    """Parses, calls one service, formats. Exit code 1 where the broker or the store failed: what was written stays; run it again."""

    help = (
        "Fetch candles from the broker and store them as back-filled, a month a call, within the broker's limits. "
        "What is stored already is not asked for again, and confirmed candles are never replaced."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--instruments", nargs="+", default=[], metavar="KEY", help="Keys (NSE_INDEX|Nifty 50) or ids (id:17).")
        parser.add_argument("--from", dest="first", type=_day, metavar="DATE", help="First day, YYYY-MM-DD, IST.")
        parser.add_argument("--to", dest="last", type=_day, metavar="DATE", help="Last day, included. Default: today.")
        parser.add_argument("--interval", choices=sorted(OLDEST), default="1m", help="Minutes or days. Default: 1m.")
        parser.add_argument("--again", action="store_true", help="Ask also for what was asked before.")
        parser.add_argument("--gaps", action="store_true", help="Heal the open gaps now, instead.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do it and say what it came to."""
        report = _Report(self, quiet=options["verbosity"] == 0)
        try:
            if options["gaps"]:
                if options["instruments"] or options["first"] or options["last"]:
                    raise CommandError("--gaps heals what is open; it goes without --instruments, --from and --to")
                mended = gaps_heal(progress=report)
            else:
                mended = self._history(options, report)
        except KeyboardInterrupt:
            report.end()
            self.stderr.write("Stopped. What was written stays; the same command goes on where it was.")
            raise SystemExit(STOPPED) from None
        except BrokerError as error:
            report.end()
            raise CommandError(f"The broker: {error}. What was written stays; the same command goes on where it was.") from error
        except (PyMongoError, DjangoError) as error:
            report.end()
            raise CommandError(f"MongoDB failed; the same command goes on where it was: {error}") from error
        report.end()
        if options["verbosity"]:
            self._say(mended, gaps=options["gaps"])
        if mended.failed:
            key, why = next(iter(mended.failed.items()))
            raise CommandError(f"No answer for {len(mended.failed)} instruments, {key}: {why}. The same command asks for them again.")

    def _history(self, options: dict[str, Any], report: _Report) -> Mended:
        if not options["instruments"] or options["first"] is None:
            raise CommandError("--instruments and --from say what to fetch (or --gaps: heal the open gaps)")
        today = day_of(int(market_now().timestamp() * 1000))
        first, last = options["first"], options["last"] or today
        if first > last:
            raise CommandError(f"--from: {first} is after --to, {last}")
        if first > today:
            raise CommandError(f"--from: {first} is yet to come; the market's today is {today}")
        if first < OLDEST[options["interval"]]:
            raise CommandError(f"--from: the broker has {options['interval']} candles since {OLDEST[options['interval']]}, not of {first}")
        subjects = [_subject(name) for name in dict.fromkeys(options["instruments"])]
        return history_backfill(subjects, first=first, last=last, interval=options["interval"], again=options["again"], progress=report)

    def _say(self, mended: Mended, *, gaps: bool) -> None:
        self.stdout.write(f"{mended.calls} calls; {mended.candles} candles are new or other than before.")
        if gaps:
            self.stdout.write(f"Gaps: {mended.healed} healed, {mended.impossible} impossible, {mended.waiting} still open.")
        if mended.empty:
            self.stdout.write(f"The broker has no candles of {mended.empty} instrument-days (weekends and holidays are such days).")
        if mended.odd:
            self.stdout.write(f"{mended.odd} odd rows were left out: negative volume, no price, twice the same time.")
        if mended.missing:
            self.stdout.write(f"{mended.missing} minutes had been missing among ours; each is a gap now, healed.")
        for key, why in mended.refused.items():
            self.stdout.write(self.style.WARNING(f"{key}: refused: {why}"))


class _Report:
    """Shows progress: a bar that redraws itself on a terminal, a line now and then elsewhere."""

    def __init__(self, command: BaseCommand, *, quiet: bool) -> None:
        self._out = command.stdout
        self._quiet = quiet
        self._terminal = bool(self._out.isatty())
        self._last_line = time.monotonic()
        self._drawn = False

    def __call__(self, done: int, total: int, key: str) -> None:
        if self._quiet:
            return
        if self._terminal:
            filled = BAR_WIDTH * done // max(total, 1)
            self._out.write(f"\r[{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {done}/{total} {key[:40]:<40}", ending="")
            self._out.flush()
            self._drawn = True
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            self._out.write(f"{done} of {total}: {key}")

    def end(self) -> None:
        """Leave the bar's line."""
        if self._drawn:
            self._out.write("")


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is no date; write YYYY-MM-DD") from error


def _subject(name: str) -> Subject:
    try:
        found = instrument_resolve(name)
    except UnknownInstrument as error:
        raise CommandError(f"--instruments: {error}") from error
    if not found.active:
        raise CommandError(f"--instruments: {name} has expired; the broker's candles of it need the Plus plan")
    auctioned = found.cas_eligible and found.instrument_type != INDEX_TYPE
    return Subject(found.pk, found.instrument_key, found.segment, auctioned=auctioned)
