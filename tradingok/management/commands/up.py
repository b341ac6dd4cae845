"""`manage.py up`: everything under one supervisor; `make run` calls it."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from tradingok import plan
from tradingok.embedded import EmbeddedServerError, needed_servers
from tradingok.embedded.errors import make_folders
from tradingok.locks import FileLock, LockHeld
from tradingok.logs import LINE, ROTATE_BYTES, ROTATE_KEEP
from tradingok.supervisor import StartFailed, Supervisor

SUMMARY = """
  TradingOK is running.

    Open      {link}
              (signs you in once, within 5 minutes; another: {manage} signinlink)
    Page      {base}/
    Admin     {base}/admin/
    API       {base}/api/        described at {base}/api/docs/
    Market    {market}
    Data      {var}
    Logs      {logs}
    Check     {manage} doctor
              {manage} selftest
    Stop      Ctrl-C
"""


class Command(BaseCommand):
    """Takes the copy's lock and port, then hands over to the supervisor."""

    help = "Start the embedded servers and every process, restart what ends, stop all of it on Ctrl-C."

    def handle(self, *args: Any, **options: Any) -> None:
        """Run until stopped."""
        logs = settings.VAR / "log"
        try:
            make_folders(settings.VAR, logs)
            with FileLock(settings.VAR / "supervisor.lock"):
                plan.check_port(settings.HOST, settings.PORT)
                try:
                    code = self._run(logs)
                finally:
                    plan.forget_exchange(settings.VAR / "exchange" / "address.json")
        except LockHeld as error:
            raise CommandError(
                f"TradingOK already runs on {settings.VAR} (process {error.holder}). For another copy set TRADINGOK_VAR and PORT."
            ) from None
        except (StartFailed, EmbeddedServerError) as error:
            raise CommandError(str(error)) from None
        raise SystemExit(code)

    def _run(self, logs: Path) -> int:
        record = _record(logs / "supervisor.log")
        environment = dict(os.environ) | {
            "TRADINGOK_VAR": str(settings.VAR),
            "PORT": str(settings.PORT),
            "PYTHONUNBUFFERED": "1",
        }

        def say(line: str) -> None:
            record.info(line)
            self._show(f"{time.strftime('%H:%M:%S')} {line}")

        supervisor = Supervisor(environment=environment, logs=logs, say=say, marker=str(settings.VAR.resolve()))
        return supervisor.run(
            needed_servers(settings.VAR, cache_gigabytes=settings.MONGOD_CACHE_GB),
            lambda running: plan.programs(
                running,
                var=settings.VAR,
                host=settings.HOST,
                port=settings.PORT,
                feeds=settings.FEED_SHARDS,
                webs=settings.WEB_PROCESSES,
            ),
            lambda: self._announce(supervisor),
        )

    def _announce(self, supervisor: Supervisor) -> None:
        base = f"http://{'localhost' if settings.HOST in {'127.0.0.1', '0.0.0.0', '::', '::1', ''} else settings.HOST}:{settings.PORT}"
        exchange = supervisor.environment.get("TRADINGOK_EXCHANGE_URL")
        market = f"simulated exchange ({exchange}): prices are made up" if exchange else "Upstox"
        try:
            link = supervisor.ask([*plan.MANAGE, "signinlink", "--base-url", base])
        except StartFailed as error:  # what runs goes on running
            link = f"(no link: {error})"
        # The link goes to the terminal only, never to a log.
        self._show(SUMMARY.format(link=link, base=base, market=market, var=settings.VAR, logs=supervisor.logs, manage=_short_manage()))

    def _show(self, text: str) -> None:
        """Show it at the terminal. A terminal that is gone (closed, or the reader of a pipe ended) must not end what runs."""
        with contextlib.suppress(OSError):
            self.stdout.write(text)
            self.stdout.flush()


def _short_manage() -> str:
    """How the person at the terminal calls manage.py for this copy from the project's folder."""
    python, folder = Path(plan.MANAGE[0]), Path(plan.MANAGE[1]).parent
    chosen = "".join(f"{name}={shlex.quote(os.environ[name])} " for name in ("TRADINGOK_VAR", "PORT") if os.environ.get(name))
    return f"{chosen}{python.relative_to(folder) if python.is_relative_to(folder) else python} manage.py"


def _record(file: Path) -> logging.Logger:
    """The supervisor's own log; embedded servers' lines come into it, and not to the terminal, where the supervisor says them."""
    handler = RotatingFileHandler(file, maxBytes=ROTATE_BYTES, backupCount=ROTATE_KEEP)
    handler.setFormatter(logging.Formatter(LINE, style="{"))
    for name in ("tradingok.supervisor", "tradingok.embedded"):
        logger = logging.getLogger(name)
        logger.propagate = False
        logger.addHandler(handler)
    return logging.getLogger("tradingok.supervisor")
