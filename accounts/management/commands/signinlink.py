"""Prints a link that signs in once."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from accounts.models import User
from accounts.services import sign_in_link_create


class Command(BaseCommand):
    """Prints the URL and nothing else, so that a script can take it."""

    help = "Print a link that signs you in once, within five minutes."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--base-url", default=f"http://localhost:{settings.PORT}", help="The web server's address.")
        parser.add_argument("--user", help="Whom it signs in. Default: the local owner.")

    def handle(self, *args: Any, base_url: str, user: str | None, **options: Any) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise CommandError("--base-url begins with http:// or https://")
        somebody = User.objects.filter(username=user, is_active=True).first() if user else None
        if user and somebody is None:
            raise CommandError(f"There is no active user {user!r}.")
        self.stdout.write(sign_in_link_create(base_url=base_url, user=somebody))
