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


class CandleFetch(models.Model):
    """What the broker's REST was asked about one instrument's day, so that nothing is asked twice."""

    id = models.BigIntegerField(
        primary_key=True, db_column="_id", editable=False, help_text="Instrument id << 20 | 1 << 19 for daily bars | day number"
    )
    instrument = models.BigIntegerField()
    day = models.DateTimeField(help_text="00:00 IST")
    until = models.DateTimeField(help_text="Market time of the answer: minutes that were final then are settled")
    fetched_at = models.DateTimeField(help_text="Our clock")
    bars = models.IntegerField(default=0, help_text="In the answer, of this day")
    whole = models.BooleanField(default=False, help_text="All of them were written, not those of holes alone")
    refused = models.CharField(max_length=200, blank=True, help_text="Why the broker will never answer")

    class Meta:
        verbose_name_plural = "candle fetches"
        indexes = [models.Index(fields=["-fetched_at"], name="candle_fetch_time")]

    def __str__(self) -> str:
        return f"{self.instrument} {self.day:%Y-%m-%d}"
