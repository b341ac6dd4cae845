"""`manage.py brokerlogin`: sign in to the broker from a terminal. The token is stored encrypted and never shown."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from broker.sessions import SignInRefused, parse_callback, sign_in_begin, sign_in_finish
from broker.upstox.protocol import BrokerError


class Command(BaseCommand):
    help = "Sign in to the broker: prints the address of its dialog, takes the address it sends you back to."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            address, state = sign_in_begin()
            self.stdout.write(f"Open this address and sign in:\n\n  {address}\n")
            self.stdout.write("Then paste the whole address that your browser was sent to (it holds a code that works once):")
            self.stdout.flush()
            code, returned = parse_callback(input())
            session = sign_in_finish(code=code, state=returned, expected_state=state)
        except (SignInRefused, BrokerError) as error:
            raise CommandError(str(error)) from None
        except EOFError:
            raise CommandError("no address was given") from None
        self.stdout.write(f"Signed in as {session.user_id or 'an unnamed user'}; valid until {session.expires_at.isoformat()}.")
