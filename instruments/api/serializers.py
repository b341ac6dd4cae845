"""What the answers look like: ready rows made of stored documents, and their description for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from instruments.domain.instrument import ist_date, ms_of
from instruments.history import Holding
from instruments.selectors import UnderlyingExpiry
from instruments.store import Document

Row = dict[str, Any]


def instrument_row(document: Document) -> Row:
    """One instrument as the API shows it."""
    expiry = document["expiry"]
    expiry_ms = None if expiry is None else ms_of(expiry)
    return {
        "id": document["_id"],
        "key": document["instrument_key"],
        "segment": document["segment"],
        "exchange": document["exchange"],
        "instrument_type": document["instrument_type"],
        "trading_symbol": document["trading_symbol"],
        "name": document["name"],
        "underlying_key": document["underlying_key"],
        "underlying_symbol": document["underlying_symbol"],
        "expiry": None if expiry_ms is None else ist_date(expiry_ms).isoformat(),
        "expiry_ms": expiry_ms,
        "weekly": document["weekly"],
        "strike_price": document["strike_price"],
        "lot_size": document["lot_size"],
        "tick_size": document["tick_size"],
        "freeze_quantity": document["freeze_quantity"],
        "exchange_token": document["exchange_token"],
        "isin": document["isin"],
        "cas_eligible": document["cas_eligible"],
        "placeholder": document["placeholder"],
        "active": document["active"],
        "active_from_ms": ms_of(document["active_from"]),
        "active_to_ms": None if document["active_to"] is None else ms_of(document["active_to"]),
    }


class InstrumentSerializer(serializers.Serializer[Row]):
    """One instrument. null = it has none, or the master does not say."""

    id = serializers.IntegerField(help_text="Ours, for ever: `id:<n>` names this instrument everywhere.")
    key = serializers.CharField(help_text="The broker's; may mean another contract later.")
    segment = serializers.CharField(help_text="NSE_EQ, NSE_FO, NSE_INDEX, …")
    exchange = serializers.CharField(help_text="NSE, BSE, MCX")
    instrument_type = serializers.CharField(help_text="INDEX, EQ and other series, FUT, CE, PE; UNKNOWN for a placeholder.")
    trading_symbol = serializers.CharField(help_text="NIFTY 25000 CE 24 NOV 26, RELIANCE")
    name = serializers.CharField(help_text="Of the company, the index or the underlying.")
    underlying_key = serializers.CharField(allow_null=True, help_text="The broker's key of what it is written on.")
    underlying_symbol = serializers.CharField(allow_null=True, help_text="What the `underlying` of filters and rules means.")
    expiry = serializers.DateField(allow_null=True, help_text="Day in India.")
    expiry_ms = serializers.IntegerField(allow_null=True, help_text="23:59:59 IST of that day, ms UTC; trading ends earlier.")
    weekly = serializers.BooleanField(allow_null=True, help_text="false in the month's slot.")
    strike_price = serializers.FloatField(allow_null=True, help_text="INR")
    lot_size = serializers.IntegerField(allow_null=True, help_text="Units")
    tick_size = serializers.FloatField(allow_null=True, help_text="INR")
    freeze_quantity = serializers.FloatField(allow_null=True, help_text="Units")
    exchange_token = serializers.CharField(allow_null=True, help_text="The exchange's number of it; recycled too.")
    isin = serializers.CharField(allow_null=True, help_text="Of shares and bonds.")
    cas_eligible = serializers.BooleanField(help_text="Takes part in the closing auction: its trading ends before its segment's.")
    placeholder = serializers.BooleanField(help_text="Seen in the feed, unknown to the master.")
    active = serializers.BooleanField(help_text="It is so now.")
    active_from_ms = serializers.IntegerField(help_text="Since when it is so (key, lot and the rest): `as_of` of the master, ms UTC")
    active_to_ms = serializers.IntegerField(allow_null=True, help_text="Until when, ms UTC")


class InstrumentPageSerializer(serializers.Serializer[Row]):
    """A page of instruments, by id."""

    results = InstrumentSerializer(many=True)
    next = serializers.URLField(allow_null=True, help_text="Address of the next page; null on the last.")


def holding_row(holding: Holding) -> Row:
    """One holder of a key as the API shows it."""
    return {
        **instrument_row(holding.state),
        "since_ms": ms_of(holding.since),
        "until_ms": None if holding.until is None else ms_of(holding.until),
    }


class HoldingSerializer(InstrumentSerializer):
    """One instrument that held the key, as it was last while it did."""

    since_ms = serializers.IntegerField(help_text="Since when it held the key, ms UTC")
    until_ms = serializers.IntegerField(allow_null=True, help_text="Until when, ms UTC; null: it holds it.")


class HistorySerializer(serializers.Serializer[Row]):
    """What a key has meant, and what its instrument has been; newest first."""

    key = serializers.CharField(help_text="As asked; of `id:<n>` the key that it has, or had last.")
    id = serializers.IntegerField(help_text="The instrument of `states`: that holds the key, or held it last.")
    holders = HoldingSerializer(many=True, help_text="Every instrument that ever held the key.")
    states = InstrumentSerializer(many=True, help_text="Everything that the instrument has been: its row now, or last, and its versions.")


class SearchResultSerializer(serializers.Serializer[Row]):
    """What was found, best first."""

    results = InstrumentSerializer(many=True)


def expiry_row(listed: UnderlyingExpiry) -> Row:
    """One expiry as the API shows it."""
    return {
        "segment": listed.segment,
        "expiry": listed.expiry.date.isoformat(),
        "expiry_ms": listed.expiry.expiry_ms,
        "kind": listed.expiry.kind.value,
        "words": listed.words,
        "futures": listed.futures,
        "strikes": listed.strikes,
    }


class ExpirySerializer(serializers.Serializer[Row]):
    """One living expiry."""

    segment = serializers.CharField(help_text="Where its contracts are listed.")
    expiry = serializers.DateField(help_text="Day in India.")
    expiry_ms = serializers.IntegerField(help_text="23:59:59 IST, ms UTC")
    kind = serializers.ChoiceField(
        ["weekly", "monthly", "quarterly"], help_text="quarterly: in a month's slot, further than three months out."
    )
    words = serializers.ListField(child=serializers.CharField(), help_text="@w0: this week's; @m0: the nearest monthly.")
    futures = serializers.IntegerField(help_text="Futures listed.")
    strikes = serializers.IntegerField(help_text="Strikes listed.")


class ExpiriesSerializer(serializers.Serializer[Row]):
    """The living expiries of an underlying, nearest first."""

    underlying = serializers.CharField(help_text="Symbol, upper case.")
    results = ExpirySerializer(many=True)
