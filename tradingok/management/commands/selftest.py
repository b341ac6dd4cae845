"""`manage.py selftest`: try a running server end to end."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError
from pymongo.errors import PyMongoError

from accounts.models import ApiKey
from accounts.services import api_key_create, api_key_revoke, owner_user
from tradingok import plan
from tradingok.findings import format_finding, verdict
from tradingok.selftest import WAIT_SECONDS, SelfTest

KEY_NAME = "selftest"


class Command(BaseCommand):
    """Makes a key that lives as long as the test, prints each finding as it comes."""

    help = "Try a running server: health, broker status, REST, a WebSocket subscription that must deliver. Exit code 1 when it fails."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the options."""
        default = f"http://{plan.reachable(settings.HOST)}:{settings.PORT}"
        parser.add_argument("--url", default=default, help=f"The server's address. Default: {default}")
        parser.add_argument("--key", help="An API key. Default: a temporary one, made on this machine.")
        parser.add_argument("--wait", type=float, default=WAIT_SECONDS, help="Seconds that a quote may take to move.")

    def handle(self, *args: Any, url: str, key: str | None, wait: float, **options: Any) -> None:
        """Run, print, exit with the verdict."""
        if not url.startswith(("http://", "https://")):
            raise CommandError("--url begins with http:// or https://")
        findings = []
        with _key(key) as secret:
            for finding in SelfTest(url=url, key=secret, wait_seconds=wait).run():
                findings.append(finding)
                self.stdout.write(format_finding(finding))
                self.stdout.flush()
        line, code = verdict(findings)
        self.stdout.write(f"\n{url}: {line}")
        if code:
            raise SystemExit(code)


@contextmanager
def _key(given: str | None) -> Iterator[str]:
    """The key that was given, else one that is revoked afterwards."""
    if given:
        yield given
        return
    try:
        secret = api_key_create(user=owner_user(), name=KEY_NAME)
    except (PyMongoError, DatabaseError):
        text = "no temporary API key can be made: MongoDB does not answer. Is the server running? Or give --key."
        raise CommandError(text) from None
    try:
        yield secret
    finally:
        api_key_revoke(keys=ApiKey.objects.filter(name=KEY_NAME))
