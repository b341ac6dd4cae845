"""What we keep of the broker: the signed-in session, and how far the store has got with the journal."""

from __future__ import annotations

from django.db import models


class BrokerSession(models.Model):
    """One token of the broker's, encrypted. The newest that has not expired is used; older ones stay as a record without a token."""

    broker = models.CharField(max_length=20, default="upstox")
    user_id = models.CharField(max_length=40, blank=True, help_text="The broker's client code")
    token_encrypted = models.BinaryField(editable=False)
    issued_at = models.DateTimeField()
    expires_at = models.DateTimeField(db_index=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"{self.broker} {self.user_id} until {self.expires_at:%Y-%m-%d %H:%M}"


class FeedPosition(models.Model):
    """How far the journal of a feed shard is in the store: every tick up to `received_us` is there. Moves forward only."""

    shard = models.IntegerField(primary_key=True, db_column="_id")
    received_us = models.BigIntegerField(help_text="Microseconds since 2020-01-01, as in tick ids")
    updated_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"shard {self.shard}: {self.received_us}"
