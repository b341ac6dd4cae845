"""What the answers look like, for the OpenAPI document. The answers themselves are made of ready rows, not by these."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

Fields = dict[str, Any]


class QuoteSerializer(serializers.Serializer[Fields]):
    """A quote; `mode=ltpc` ends with `broker_ms`. null = not known."""

    last_price = serializers.FloatField(allow_null=True, help_text="INR")
    last_quantity = serializers.IntegerField(allow_null=True)
    last_trade_ms = serializers.IntegerField(allow_null=True, help_text="ms UTC")
    previous_close = serializers.FloatField(allow_null=True, help_text="INR")
    broker_ms = serializers.IntegerField(help_text="Broker's clock, ms UTC")
    volume = serializers.IntegerField(required=False, allow_null=True, help_text="Units since the open")
    average_traded_price = serializers.FloatField(required=False, allow_null=True, help_text="INR")
    open_interest = serializers.FloatField(required=False, allow_null=True, help_text="Units")
    implied_volatility = serializers.FloatField(required=False, allow_null=True, help_text="Fraction: 0.108 is 10.8 %")
    delta = serializers.FloatField(required=False, allow_null=True)
    theta = serializers.FloatField(required=False, allow_null=True)
    gamma = serializers.FloatField(required=False, allow_null=True)
    vega = serializers.FloatField(required=False, allow_null=True)
    rho = serializers.FloatField(required=False, allow_null=True)
    bid_price = serializers.FloatField(required=False, allow_null=True)
    bid_quantity = serializers.IntegerField(required=False, allow_null=True)
    ask_price = serializers.FloatField(required=False, allow_null=True)
    ask_quantity = serializers.IntegerField(required=False, allow_null=True)
    total_buy_quantity = serializers.FloatField(required=False, allow_null=True)
    total_sell_quantity = serializers.FloatField(required=False, allow_null=True)
    day_open = serializers.FloatField(required=False, allow_null=True)
    day_high = serializers.FloatField(required=False, allow_null=True)
    day_low = serializers.FloatField(required=False, allow_null=True)
    depth = serializers.ListField(
        child=serializers.ListField(child=serializers.FloatField(allow_null=True)),
        required=False,
        help_text="Levels, best first: [bid_price, bid_quantity, ask_price, ask_quantity]",
    )


class LatestItemSerializer(serializers.Serializer[Fields]):
    """The latest quote of one instrument."""

    key = serializers.CharField()
    instrument = serializers.IntegerField()
    seq = serializers.IntegerField(help_text="Counts changes at the source, within one epoch of the feed.")
    age_ms = serializers.IntegerField(help_text="Since the broker's clock of the quote.")
    quote = QuoteSerializer()


class MissingSerializer(serializers.Serializer[Fields]):
    """What was asked for and cannot be given."""

    item = serializers.CharField(help_text="As it was asked for.")
    code = serializers.ChoiceField(["unknown_instrument", "no_data"])


class LatestSerializer(serializers.Serializer[Fields]):
    """Latest quotes, in the order asked."""

    state = serializers.CharField(help_text="The feed's: live, quiet, stale, reconnecting, token_expired, closed.")
    time = serializers.IntegerField(help_text="Server's clock, ms UTC")
    results = LatestItemSerializer(many=True)
    missing = MissingSerializer(many=True)


class TickSerializer(serializers.Serializer[Fields]):
    """One stored tick: what the broker's frame said. null = the frame did not say."""

    id = serializers.CharField(help_text="64-bit integer as text; give the last one as `after` to go on.")
    broker_ms = serializers.IntegerField(help_text="Broker's clock of the frame, ms UTC")
    received_ms = serializers.IntegerField(help_text="Our clock, ms UTC")
    kind = serializers.ChoiceField(["snapshot", "live"])
    last_trade_ms = serializers.IntegerField(allow_null=True, help_text="ms UTC")
    last_price = serializers.FloatField(allow_null=True, help_text="INR")
    last_quantity = serializers.IntegerField(allow_null=True)
    previous_close = serializers.FloatField(allow_null=True)
    volume = serializers.IntegerField(allow_null=True)
    average_traded_price = serializers.FloatField(allow_null=True)
    open_interest = serializers.FloatField(allow_null=True)
    implied_volatility = serializers.FloatField(allow_null=True)
    delta = serializers.FloatField(allow_null=True)
    theta = serializers.FloatField(allow_null=True)
    gamma = serializers.FloatField(allow_null=True)
    vega = serializers.FloatField(allow_null=True)
    rho = serializers.FloatField(allow_null=True)
    bid_price = serializers.FloatField(allow_null=True)
    bid_quantity = serializers.IntegerField(allow_null=True)
    ask_price = serializers.FloatField(allow_null=True)
    ask_quantity = serializers.IntegerField(allow_null=True)
    total_buy_quantity = serializers.FloatField(allow_null=True)
    total_sell_quantity = serializers.FloatField(allow_null=True)


class TickPageSerializer(serializers.Serializer[Fields]):
    """A page of ticks."""

    key = serializers.CharField()
    instrument = serializers.IntegerField()
    results = TickSerializer(many=True)
    next = serializers.URLField(allow_null=True, help_text="Address of the next page; null on the last.")


class CandleRowSerializer(serializers.Serializer[Fields]):
    """One candle."""

    candle = serializers.ListField(child=serializers.FloatField(allow_null=True), help_text="[t, o, h, l, c, v, oi], t in ms UTC")
    state = serializers.ChoiceField(["live", "closed", "backfilled", "confirmed", "filled"])
    revision = serializers.IntegerField(help_text="One more each time the values changed.")
    ticks = serializers.IntegerField(allow_null=True, help_text="Different trades the feed has shown of it; null where not from ticks.")


class CandlePageSerializer(serializers.Serializer[Fields]):
    """A page of candles."""

    key = serializers.CharField()
    instrument = serializers.IntegerField()
    interval = serializers.CharField()
    results = CandleRowSerializer(many=True)
    next = serializers.URLField(allow_null=True)


class MoverSerializer(serializers.Serializer[Fields]):
    """An instrument among the first of its kind."""

    key = serializers.CharField()
    instrument = serializers.IntegerField()
    symbol = serializers.CharField(allow_null=True)
    last_price = serializers.FloatField(allow_null=True, help_text="INR")
    change_percent = serializers.FloatField(allow_null=True, help_text="Over the window")
    volume = serializers.IntegerField(allow_null=True, help_text="Units since the open")
    value = serializers.FloatField(allow_null=True, help_text="Turnover since the open, INR; of an option's premiums")
    open_interest = serializers.FloatField(allow_null=True, help_text="Units")
    oi_change = serializers.FloatField(allow_null=True, help_text="Over the window, units")
    oi_change_percent = serializers.FloatField(allow_null=True)


class StretchSerializer(serializers.Serializer[Fields]):
    """A stretch of market time, ms UTC. No beginning: since the close of the trading day before."""

    from_ms = serializers.IntegerField(allow_null=True)
    to_ms = serializers.IntegerField(allow_null=True)


class BreadthSerializer(serializers.Serializer[Fields]):
    """How many went which way."""

    advances = serializers.IntegerField()
    declines = serializers.IntegerField()
    unchanged = serializers.IntegerField()
    unknown = serializers.IntegerField(help_text="Without a price now or then.")


class StatsSerializer(serializers.Serializer[Fields]):
    """Statistics over the instruments that are followed."""

    window = serializers.CharField()
    change = StretchSerializer(help_text="Over which changes of price and open interest are counted")
    activity = StretchSerializer(help_text="Over which volume and value are counted: always the day")
    segment = serializers.CharField(allow_null=True)
    underlying = serializers.CharField(allow_null=True)
    state = serializers.CharField()
    market_ms = serializers.IntegerField(allow_null=True, help_text="Newest broker's clock among the quotes, ms UTC")
    instruments = serializers.IntegerField()
    breadth = BreadthSerializer()
    gainers = MoverSerializer(many=True)
    losers = MoverSerializer(many=True)
    most_active = MoverSerializer(many=True, help_text="By volume")
    most_active_by_value = MoverSerializer(many=True)
    oi_gainers = MoverSerializer(many=True)
    oi_losers = MoverSerializer(many=True)
    ticks_stored_today = serializers.IntegerField(allow_null=True, help_text="null while it is still being counted: ask again.")


class SegmentSerializer(serializers.Serializer[Fields]):
    """A segment's state."""

    segment = serializers.CharField()
    status = serializers.CharField(help_text="As the broker names it: NORMAL_OPEN, NORMAL_CLOSE, PRE_OPEN_START, …")
    since_ms = serializers.IntegerField(allow_null=True)


class SessionSerializer(serializers.Serializer[Fields]):
    """One day's continuous trading of an exchange, as the broker plans it."""

    day = serializers.DateField(help_text="In India.")
    open_ms = serializers.IntegerField(allow_null=True, help_text="ms UTC; null on a day without trading.")
    close_ms = serializers.IntegerField(allow_null=True, help_text="Not included.")
    description = serializers.CharField(allow_blank=True, help_text="A holiday's or special session's name.")


class ExchangeHoursSerializer(serializers.Serializer[Fields]):
    """When an exchange trades."""

    exchange = serializers.CharField()
    segments = serializers.ListField(child=serializers.CharField())
    today = SessionSerializer(allow_null=True, help_text="null: the broker has not said yet.")
    next = SessionSerializer(allow_null=True, help_text="The next session of a later day.")


class HolidaySerializer(serializers.Serializer[Fields]):
    """A day on which exchanges are closed that has a name; weekends have none."""

    day = serializers.DateField()
    description = serializers.CharField()
    exchanges = serializers.ListField(child=serializers.CharField())


class CalendarSerializer(serializers.Serializer[Fields]):
    """The broker's calendar from the market's own day on."""

    day = serializers.DateField(help_text="The market's day: in a replay the recorded one.")
    exchanges = ExchangeHoursSerializer(many=True)
    holidays = HolidaySerializer(many=True)


class MarketStatusSerializer(serializers.Serializer[Fields]):
    """All segments, and the calendar."""

    time = serializers.IntegerField()
    segments = SegmentSerializer(many=True)
    calendar = CalendarSerializer()


class GapSerializer(serializers.Serializer[Fields]):
    """A stretch of time without data."""

    gap = serializers.CharField(help_text="Its id, as in the push `gap`.")
    to = serializers.IntegerField(allow_null=True, help_text="ms UTC; null while it lasts.")
    shard = serializers.IntegerField()
    cause = serializers.ChoiceField(["disconnected", "stale", "stopped", "silent", "missing"])
    heal_state = serializers.ChoiceField(["open", "healed", "impossible"])
    heal_detail = serializers.CharField(allow_blank=True, help_text="What healing did, or why it cannot.")
    candles_healed = serializers.IntegerField(help_text="1-minute candles that were filled.")
    detail = serializers.CharField(allow_blank=True)
    instruments = serializers.ListField(child=serializers.IntegerField(), help_text="Empty: all of the shard.")

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        return {"from": serializers.IntegerField(help_text="ms UTC"), **super().get_fields()}


class GapPageSerializer(serializers.Serializer[Fields]):
    """A page of gaps, the newest first."""

    results = GapSerializer(many=True)
    next = serializers.URLField(allow_null=True)


class ModeUseSerializer(serializers.Serializer[Fields]):
    """Subscriptions of one mode."""

    subscribed = serializers.IntegerField()
    limit = serializers.IntegerField()


class ShardSerializer(serializers.Serializer[Fields]):
    """One feed."""

    shard = serializers.IntegerField()
    epoch = serializers.IntegerField(help_text="Start of this run, ms UTC")
    state = serializers.CharField()
    since_ms = serializers.IntegerField()
    detail = serializers.CharField(allow_blank=True)
    report_age_ms = serializers.IntegerField()
    data_age_ms = serializers.IntegerField(allow_null=True)
    frames_per_second = serializers.FloatField()
    ticks_per_second = serializers.FloatField()
    subscribed = serializers.DictField(child=ModeUseSerializer())
    reconnects = serializers.IntegerField()
    gaps = serializers.IntegerField()
    store_lag_ticks = serializers.IntegerField()
    store_lag_ms = serializers.IntegerField()
    journal_bytes = serializers.IntegerField()
    token_expires_ms = serializers.IntegerField(allow_null=True)
    counters = serializers.DictField(child=serializers.FloatField())


class BrokerStatusSerializer(serializers.Serializer[Fields]):
    """The feeds as this web process sees them."""

    state = serializers.CharField()
    since_ms = serializers.IntegerField(allow_null=True)
    detail = serializers.CharField(allow_blank=True)
    data_age_ms = serializers.IntegerField(allow_null=True)
    time = serializers.IntegerField()
    shards = ShardSerializer(many=True)


class HopSerializer(serializers.Serializer[Fields]):
    """One hop of the data's way: what went in, and what became of it."""

    hop = serializers.CharField(help_text="Whose, and which: feed 0: socket to journal.")
    taken = serializers.FloatField(help_text="What went in.")
    given = serializers.FloatField(help_text="What came out, waits, or was counted as something else.")
    difference = serializers.FloatField(help_text="taken − given. While data comes, what is just under way.")
    holds = serializers.BooleanField(allow_null=True, help_text="null: cannot be said now, for the reason in detail.")
    equation = serializers.CharField(help_text="The counters with their values.")
    detail = serializers.CharField(allow_blank=True)


class ContinuitySerializer(serializers.Serializer[Fields]):
    """Every hop of every feed and hub."""

    time = serializers.IntegerField(help_text="Server's clock, ms UTC")
    hops = HopSerializer(many=True)
