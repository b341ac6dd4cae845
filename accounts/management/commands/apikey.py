"""Makes, lists and ends API keys: the credentials of programs."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts.models import ApiKey, User
from accounts.services import api_key_create, api_key_revoke, owner_user


class Command(BaseCommand):
    """`apikey create NAME [--user U]` prints the secret alone, once; `apikey list`; `apikey revoke NAME [--user U]`."""

    help = "Make, list or revoke API keys. `create` prints the secret, which cannot be had again."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        for action in ("create", "revoke"):
            sub = actions.add_parser(action)
            sub.add_argument("name", help="What the key is for, as in `laptop`.")
            sub.add_argument("--user", help="Whose key. Default: the local owner for create, anybody's for revoke.")
        actions.add_parser("list")

    def handle(self, *args: Any, action: str, name: str = "", user: str | None = None, **options: Any) -> None:
        owner = self._user(user) if user else None
        if action == "list":
            self._list()
        elif action == "create":
            self._create(owner or owner_user(), name)
        else:
            self._revoke(owner, name)

    def _create(self, owner: User, name: str) -> None:
        if not name.strip() or len(name) > 100:
            raise CommandError("A key's name has 1 to 100 characters.")
        self.stdout.write(api_key_create(user=owner, name=name.strip()))

    def _revoke(self, owner: User | None, name: str) -> None:
        keys = ApiKey.objects.filter(name=name)
        count = api_key_revoke(keys=keys.filter(user=owner) if owner else keys)
        if not count:
            raise CommandError(f"No working key is called {name!r}. `manage.py apikey list` shows them.")
        self.stderr.write(f"{count} revoked. Running servers refuse it within 30 s.")

    def _list(self) -> None:
        for key in ApiKey.objects.order_by("created_at").select_related("user"):
            used = f"{key.last_used_at:%Y-%m-%d %H:%M}" if key.last_used_at else "never"
            state = f"revoked {key.revoked_at:%Y-%m-%d}" if key.revoked_at else "works"
            self.stdout.write(f"{key.hint}…  {key.name}  of {key.user.username}  made {key.created_at:%Y-%m-%d}  used {used}  {state}")

    def _user(self, username: str) -> User:
        user = User.objects.filter(username=username).first()
        if user is None:
            raise CommandError(f"There is no user {username!r}. `manage.py createsuperuser` makes one.")
        return user
