"""What can be traded, and the rules that say which of it is followed."""

from __future__ import annotations

from collections.abc import Callable

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from django_mongodb_backend.fields import ArrayField

from instruments.domain.expiry import check_expiry_word
from instruments.domain.instrument import IST, split_key
from instruments.domain.strikes import check_strikes_word

EVERY_FILTER = ("lot_size", "active_from", "active_to")
"""Ends each index of the API's lists: filters that come with any other."""


class InstrumentState(models.Model):
    """What the masters say of an instrument, and for how long: [active_from, active_to), by the `as_of` of the masters."""

    instrument_key = models.CharField(max_length=80, help_text="The broker's key, as in NSE_FO|51420.")
    segment = models.CharField(max_length=12)
    exchange = models.CharField(max_length=8)
    instrument_type = models.CharField(max_length=12, help_text="INDEX, EQ, FUT, CE, PE, …")
    trading_symbol = models.CharField(max_length=80)
    name = models.CharField(max_length=120)
    underlying_key = models.CharField(max_length=80, null=True, blank=True)
    underlying_symbol = models.CharField(max_length=40, null=True, blank=True)
    expiry = models.DateTimeField(null=True, blank=True, help_text="23:59:59 IST of the expiry day, as the broker gives it.")
    weekly = models.BooleanField(null=True, blank=True, help_text="The broker's flag: false in the monthly slot.")
    strike_price = models.FloatField(null=True, blank=True, help_text="INR")
    lot_size = models.IntegerField(null=True, blank=True)
    tick_size = models.FloatField(null=True, blank=True, help_text="INR")
    freeze_quantity = models.FloatField(null=True, blank=True, help_text="Units; an order above it is split.")
    exchange_token = models.CharField(max_length=20, null=True, blank=True)
    isin = models.CharField(max_length=12, null=True, blank=True)
    cas_eligible = models.BooleanField(default=False, help_text="Takes part in the closing auction: its trading ends before its segment's.")
    active_from = models.DateTimeField(help_text="As of the master that said so first")
    active_to = models.DateTimeField(null=True, blank=True, help_text="As of the master that said otherwise, or no more")

    class Meta:
        abstract = True


class Instrument(InstrumentState):
    """One contract, share or index, under an id of our own that is never used again; its present state, or its last.

    The broker's keys are recycled (FACTS §4): `instrument_key` is unique among *active* rows only. `identity` is what it is,
    for ever. What it was before, its versions say.
    """

    id = models.BigIntegerField(primary_key=True, db_column="_id", editable=False)
    identity = models.CharField(max_length=120, help_text="What it is: segment, underlying, expiry, strike, type; or ISIN; or key.")
    placeholder = models.BooleanField(default=False, help_text="Seen in the feed, unknown to the master.")
    active = models.BooleanField(default=True)
    fingerprint = models.BigIntegerField(default=0, editable=False, help_text="Hash of the master's row: equal means nothing to write.")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["identity"], name="instrument_identity"),
            models.UniqueConstraint(fields=["instrument_key"], condition=Q(active=True), name="instrument_active_key"),
        ]
        # Each list query of the API finds its filters and its order (by id) in one index: see instruments/api/queries.py.
        indexes = [
            models.Index(fields=["instrument_key", "active_from", "active", "id"], name="instrument_key_tenure"),
            models.Index(fields=["active", "id", *EVERY_FILTER], name="instrument_active"),
            models.Index(
                fields=["active", "lot_size", "id", "segment", "instrument_type", "active_from", "active_to"], name="instrument_lot"
            ),
            models.Index(fields=["active", "segment", "id", "instrument_type", *EVERY_FILTER], name="instrument_segment"),
            models.Index(fields=["active", "instrument_type", "id", *EVERY_FILTER], name="instrument_type"),
            models.Index(fields=["active", "expiry", "id", "segment", "instrument_type", *EVERY_FILTER], name="instrument_expiry"),
            models.Index(
                fields=["active", "underlying_symbol", "id", "expiry", "strike_price", "instrument_type", "segment", *EVERY_FILTER],
                name="instrument_underlying",
            ),
            models.Index(
                fields=["active", "underlying_symbol", "expiry", "strike_price", "instrument_type", "id"], name="instrument_chain"
            ),
            models.Index(fields=["active", "underlying_symbol", "name"], name="instrument_name"),
            models.Index(fields=["trading_symbol", "active", "underlying_symbol"], name="instrument_symbol"),
        ]

    def __str__(self) -> str:
        return self.trading_symbol


class MasterLoad(models.Model):
    """One successful load of an instrument master: the reference for the next one's row count, and its age for `doctor`."""

    loaded_at = models.DateTimeField(auto_now_add=True)
    as_of = models.DateTimeField(db_index=True)
    source = models.CharField(max_length=300)
    rows = models.IntegerField()
    created = models.IntegerField()
    changed = models.IntegerField()
    retired = models.IntegerField()
    keys_passed = models.IntegerField(default=0, help_text="Keys that went from one contract to another.")
    etag = models.CharField(max_length=200, blank=True, help_text="The server's mark of this version of the file.")

    class Meta:
        get_latest_by = "as_of"

    def __str__(self) -> str:
        return f"{self.rows} rows as of {self.as_of.astimezone(IST):%Y-%m-%d %H:%M} IST"


class InstrumentVersion(InstrumentState):
    """A state that has ended because another of the same instrument followed: another lot, another key, a return after an absence.

    An instrument's versions and its row in Instrument never overlap and leave no hole but its absences.
    """

    instrument = models.BigIntegerField(help_text="Instrument id")

    class Meta:
        indexes = [
            models.Index(fields=["instrument_key", "active_to"], name="instrument_version_key"),
            models.Index(
                fields=["instrument", "active_to", "active_from", "segment", "instrument_type", "expiry", "lot_size"],
                name="instrument_version",
            ),
            models.Index(
                fields=["underlying_symbol", "instrument", "expiry", "strike_price", "instrument_type", "segment", *EVERY_FILTER],
                name="instrument_version_underlying",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.trading_symbol} until {self.active_to:%Y-%m-%d}"


class UniverseChange(models.Model):
    """One change of what a feed shard follows: what entered, what left, and why."""

    at = models.DateTimeField(help_text="Market time")
    recorded_at = models.DateTimeField(auto_now_add=True)
    shard = models.IntegerField(default=0)
    causes = ArrayField(
        models.CharField(max_length=12), default=list, help_text="start, master, rules, expiry, day, spot, time, demand, limit"
    )
    entered = models.JSONField(default=dict, help_text="Key: mode")
    left = models.JSONField(default=dict, help_text="Key: why: expired, key, rules, demand, limit")
    moved = models.JSONField(default=dict, help_text="Key: its new mode")
    by_mode = models.JSONField(default=dict, help_text="Mode: how many are followed since")

    class Meta:
        indexes = [
            models.Index(fields=["-at", "-id"], name="universe_change_at"),
            models.Index(fields=["recorded_at"], name="universe_change_recorded"),
        ]

    def __str__(self) -> str:
        return f"+{len(self.entered)} −{len(self.left)} {', '.join(self.causes)}"


MOST_EXPIRIES = 50
MOST_KEYS = 5000
"""What a rule may name: more keys than one connection carries are of no use."""
TOO_MANY = "A rule takes {most} of them; make another rule for the rest."


class SubscriptionRule(models.Model):
    """One wish in a trader's words: an underlying, what of it, which expiries, which strikes. Resolved by `instruments.domain.universe`."""

    class What(models.TextChoices):
        INDEX = "index"
        EQUITY = "equity"
        FUTURES = "futures"
        OPTIONS = "options"
        KEYS = "keys"

    class Mode(models.TextChoices):
        LTPC = "ltpc"
        OPTION_GREEKS = "option_greeks"
        FULL = "full"
        FULL_D30 = "full_d30"

    name = models.CharField(max_length=60, unique=True, error_messages={"unique": "Another rule has this name."})
    what = models.CharField(max_length=10, choices=What.choices)
    underlying = models.CharField(max_length=40, blank=True, help_text="NIFTY, BANKNIFTY, RELIANCE…; empty for explicit keys.")
    expiries = ArrayField(
        models.CharField(max_length=12),
        default=list,
        blank=True,
        help_text="@w0 this week's (the nearest), @m0 the nearest monthly, or YYYY-MM-DD.",
    )
    strikes = models.CharField(max_length=12, default="all", help_text="atm10 = ten each side of the money, or all.")
    keys = ArrayField(models.CharField(max_length=80), default=list, blank=True, help_text="Explicit instrument keys.")
    mode = models.CharField(max_length=14, choices=Mode.choices, default=Mode.FULL)
    priority = models.IntegerField(default=100, help_text="Smaller comes first when the broker's limit cuts.")
    enabled = models.BooleanField(default=True)

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Check the words, and that the rule says enough to mean something.

        Raises:
            ValidationError: by field.
        """
        wrong: dict[str, list[str]] = {}
        derivative = self.what in (self.What.FUTURES, self.What.OPTIONS)
        if not self.underlying and self.what in (self.What.EQUITY, self.What.FUTURES, self.What.OPTIONS):
            wrong["underlying"] = [f"A rule for {self.what} needs an underlying, as in NIFTY or RELIANCE."]
        if derivative and not self.expiries:
            wrong["expiries"] = ["Say which expiries: @w0 (this week's), @m0 (the nearest monthly), or YYYY-MM-DD."]
        if self.what == self.What.KEYS and not self.keys:
            wrong["keys"] = ["A rule for keys needs some, as in NSE_FO|51420."]
        for field, listed, most in (("expiries", self.expiries, MOST_EXPIRIES), ("keys", self.keys, MOST_KEYS)):
            if len(listed or []) > most:
                wrong[field] = [TOO_MANY.format(most=most)]
        for field, values, check in (("expiries", self.expiries, check_expiry_word), ("keys", self.keys, split_key)):
            for value in () if field in wrong else values or []:
                _collect(wrong, field, check, value)
        _collect(wrong, "strikes", check_strikes_word, self.strikes)
        if wrong:
            raise ValidationError(wrong)


def _collect(wrong: dict[str, list[str]], field: str, check: Callable[[str], object], value: str) -> None:
    try:
        check(value)
    except ValueError as error:
        wrong.setdefault(field, []).append(str(error))
