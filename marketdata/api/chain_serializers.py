"""What the answers about option chains look like, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

Fields = dict[str, Any]
CHANGE_DAY = "Units, against the day's first."
CHANGE_CLOSE = "Units, against the previous trading day's last."


class FollowedChainSerializer(serializers.Serializer[Fields]):
    """A chain of which the rules follow options."""

    underlying = serializers.CharField()
    expiry = serializers.DateField()
    kind = serializers.CharField(help_text="weekly, monthly or quarterly")
    words = serializers.ListField(child=serializers.CharField(), help_text="What the expiry is called now: @w0, @m0.")
    ends = serializers.IntegerField(help_text="When trading in it ends, ms UTC.")
    options = serializers.IntegerField(help_text="Listed contracts, calls and puts.")
    followed = serializers.IntegerField(help_text="How many of these the rules follow.")


class FollowedChainsSerializer(serializers.Serializer[Fields]):
    """All of them, by underlying and expiry."""

    results = FollowedChainSerializer(many=True)


class SideSerializer(serializers.Serializer[Fields]):
    """One option. null = not known."""

    instrument = serializers.IntegerField()
    key = serializers.CharField()
    last_price = serializers.FloatField(allow_null=True, help_text="INR")
    change = serializers.FloatField(allow_null=True, help_text="INR, against the previous close")
    change_percent = serializers.FloatField(allow_null=True)
    bid_price = serializers.FloatField(allow_null=True)
    bid_quantity = serializers.IntegerField(allow_null=True)
    ask_price = serializers.FloatField(allow_null=True)
    ask_quantity = serializers.IntegerField(allow_null=True)
    volume = serializers.IntegerField(allow_null=True, help_text="Units since the open")
    open_interest = serializers.FloatField(allow_null=True, help_text="Units")
    oi_change_day = serializers.FloatField(allow_null=True, help_text=CHANGE_DAY)
    oi_change_close = serializers.FloatField(allow_null=True, help_text=CHANGE_CLOSE)
    implied_volatility = serializers.FloatField(allow_null=True, help_text="Fraction: 0.108 is 10.8 %")
    delta = serializers.FloatField(allow_null=True)
    gamma = serializers.FloatField(allow_null=True)
    theta = serializers.FloatField(allow_null=True, help_text="INR a calendar day")
    vega = serializers.FloatField(allow_null=True, help_text="INR per 1 % of volatility")
    rho = serializers.FloatField(allow_null=True, help_text="INR per 1 % of interest")
    computed = serializers.BooleanField(help_text="Volatility or greeks are ours: the broker sent none.")
    moneyness = serializers.ChoiceField(["itm", "atm", "otm"], allow_null=True)


class StrikeSerializer(serializers.Serializer[Fields]):
    """One strike; a side that is not listed is null."""

    strike = serializers.FloatField(help_text="INR")
    strike_to_forward = serializers.FloatField(
        allow_null=True, help_text="Strike divided by the forward, or by the spot where there is none."
    )
    call = SideSerializer(allow_null=True)
    put = SideSerializer(allow_null=True)


class AggregateSerializer(serializers.Serializer[Fields]):
    """The chain as a whole, over all its strikes. null = cannot be said."""

    spot = serializers.FloatField(allow_null=True, help_text="INR")
    forward = serializers.FloatField(allow_null=True, help_text="INR, implied by put-call parity")
    atm_strike = serializers.FloatField(allow_null=True, help_text="INR")
    atm_iv = serializers.FloatField(allow_null=True, help_text="Fraction")
    straddle = serializers.FloatField(allow_null=True, help_text="INR: call and put at the money")
    pcr_oi = serializers.FloatField(allow_null=True, help_text="Puts divided by calls")
    pcr_volume = serializers.FloatField(allow_null=True)
    max_pain = serializers.FloatField(allow_null=True, help_text="INR")
    call_oi = serializers.FloatField(help_text="Units")
    put_oi = serializers.FloatField()
    call_volume = serializers.IntegerField()
    put_volume = serializers.IntegerField()
    call_oi_change_day = serializers.FloatField(allow_null=True, help_text=CHANGE_DAY)
    put_oi_change_day = serializers.FloatField(allow_null=True, help_text=CHANGE_DAY)
    call_oi_change_close = serializers.FloatField(allow_null=True, help_text=CHANGE_CLOSE)
    put_oi_change_close = serializers.FloatField(allow_null=True, help_text=CHANGE_CLOSE)
    iv_skew = serializers.FloatField(allow_null=True, help_text="25-delta put minus 25-delta call, fraction")
    gamma_exposure = serializers.FloatField(allow_null=True, help_text="INR per 1 % move")
    options = serializers.IntegerField(allow_null=True, help_text="How many are listed")
    options_known = serializers.IntegerField(allow_null=True, help_text="Of how many of these open interest is known: the sums are of them")


class ChainSerializer(serializers.Serializer[Fields]):
    """One option chain."""

    underlying = serializers.CharField()
    underlying_key = serializers.CharField(allow_null=True)
    segment = serializers.CharField(help_text="Of the options.")
    expiry = serializers.DateField()
    kind = serializers.CharField(help_text="weekly, monthly or quarterly")
    ends = serializers.IntegerField(help_text="When trading in it ends, ms UTC.")
    at = serializers.IntegerField(allow_null=True, help_text="Market time of the newest quote in it, ms UTC; null without any.")
    state = serializers.CharField(help_text="The feed's now: live, quiet, stale, reconnecting, token_expired, closed.")
    stored = serializers.BooleanField(help_text="Whether it is a stored minute.")
    aggregate = AggregateSerializer()
    strikes = StrikeSerializer(many=True)


class ChainMinuteSerializer(AggregateSerializer):
    """The figures of one stored minute."""

    minute = serializers.IntegerField(help_text="Its begin in market time, ms UTC")


class ChainHistorySerializer(serializers.Serializer[Fields]):
    """A page of stored minutes, the oldest first."""

    underlying = serializers.CharField()
    expiry = serializers.DateField()
    results = ChainMinuteSerializer(many=True)
    next = serializers.URLField(allow_null=True)
