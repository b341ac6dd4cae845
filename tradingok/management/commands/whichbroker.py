"""`manage.py whichbroker`: what `make run` connects the feed to."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from broker.models import BrokerSession


class Command(BaseCommand):
    """Prints one word, for the supervisor."""

    help = 'Print "exchange" (the simulated one) or "upstox": the real broker, once there are any credentials for it.'

    def handle(self, *args: Any, **options: Any) -> None:
        # A session that has expired still says whose data this copy holds: simulated ticks must not be mixed into it.
        real = settings.UPSTOX_ACCESS_TOKEN or settings.UPSTOX_CLIENT_ID or _signed_in_before()
        self.stdout.write("upstox" if real and not settings.EXCHANGE_URL else "exchange")


def _signed_in_before() -> bool:
    return BrokerSession.objects.filter(broker="upstox", revoked_at=None).exists()
