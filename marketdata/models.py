"""What is stored of the market. Ticks and candles are written and read in bulk by `marketdata.store`; these models give
them to the admin and name their short fields. A stored tick is what the broker's frame said, never merged state."""

from __future__ import annotations

from django.db import models
from django.utils.timezone import localtime
from django_mongodb_backend.fields import ArrayField


class MarketTick(models.Model):
    """One update of one instrument in one frame. The id is made by `marketdata.domain.tick.tick_id`."""

    class Kind(models.IntegerChoices):
        SNAPSHOT = 0
        LIVE = 1

    id = models.BigIntegerField(primary_key=True, db_column="_id", editable=False)
    instrument = models.BigIntegerField(db_column="i", help_text="Instrument id")
    time = models.DateTimeField(db_column="t", help_text="Broker's clock when the frame was made")
    last_trade_time = models.DateTimeField(db_column="lt", null=True)
    received_at = models.DateTimeField(db_column="r", help_text="Our clock when the frame was read")
    kind = models.IntegerField(db_column="k", choices=Kind.choices)
    last_price = models.FloatField(db_column="p", null=True, help_text="INR")
    last_quantity = models.BigIntegerField(db_column="q", null=True, help_text="Units")
    previous_close = models.FloatField(db_column="c", null=True, help_text="INR")
    volume = models.BigIntegerField(db_column="v", null=True, help_text="Units since the open")
    average_traded_price = models.FloatField(db_column="a", null=True, help_text="INR")
    open_interest = models.FloatField(db_column="oi", null=True, help_text="Units")
    implied_volatility = models.FloatField(db_column="iv", null=True, help_text="Fraction: 0.108 is 10.8 %")
    delta = models.FloatField(db_column="d", null=True)
    theta = models.FloatField(db_column="th", null=True, help_text="INR a day")
    gamma = models.FloatField(db_column="g", null=True)
    vega = models.FloatField(db_column="ve", null=True)
    rho = models.FloatField(db_column="rh", null=True)
    bid_price = models.FloatField(db_column="bp", null=True, help_text="INR")
    bid_quantity = models.BigIntegerField(db_column="bq", null=True)
    ask_price = models.FloatField(db_column="ap", null=True, help_text="INR")
    ask_quantity = models.BigIntegerField(db_column="aq", null=True)
    total_buy_quantity = models.FloatField(db_column="tb", null=True)
    total_sell_quantity = models.FloatField(db_column="ts", null=True)

    class Meta:
        indexes = [models.Index(fields=["instrument", "time", "id"], name="tick_instrument_time")]

    def __str__(self) -> str:
        return f"{self.instrument} {localtime(self.time):%Y-%m-%d %H:%M:%S} {self.last_price}"


class OHLC(models.Model):
    """One candle. `marketdata.domain.candle.candle_id` makes its id of instrument, interval and start: writing it again replaces it."""

    class State(models.TextChoices):
        LIVE = "live"
        CLOSED = "closed"
        CONFIRMED = "confirmed"
        BACKFILLED = "backfilled"

    id = models.BigIntegerField(primary_key=True, db_column="_id", editable=False)
    instrument = models.BigIntegerField(db_column="i")
    interval = models.CharField(db_column="n", max_length=4, help_text="1m, 5m, 15m, 1h, 1d")
    start = models.DateTimeField(db_column="t")
    open = models.FloatField(db_column="o", help_text="INR")
    high = models.FloatField(db_column="h", help_text="INR")
    low = models.FloatField(db_column="l", help_text="INR")
    close = models.FloatField(db_column="c", help_text="INR")
    volume = models.BigIntegerField(db_column="v", default=0, help_text="Units")
    open_interest = models.FloatField(db_column="oi", null=True, help_text="Units")
    state = models.CharField(db_column="s", max_length=10, choices=State.choices)
    revision = models.IntegerField(db_column="rev", default=0)
    ticks = models.IntegerField(db_column="tk", null=True, help_text="Different trades that the feed has shown of it")
    built = ArrayField(
        models.FloatField(),
        db_column="b",
        null=True,
        help_text="Open, high, low, close, volume by ticks, before it was confirmed",
    )
    final = models.BooleanField(db_column="f", null=True, help_text="A daily candle that the broker's own daily bar has confirmed")
    updated_at = models.DateTimeField(
        db_column="u", null=True, help_text="Our clock when this candle last changed: the roll-up reads what is newer"
    )

    class Meta:
        verbose_name = "candle"
        indexes = [
            models.Index(fields=["interval", "start"], name="ohlc_interval_start"),
            models.Index(fields=["interval", "updated_at"], name="ohlc_interval_updated"),
        ]

    def __str__(self) -> str:
        return f"{self.instrument} {self.interval} {localtime(self.start):%Y-%m-%d %H:%M:%S}"


class LatestQuote(models.Model):
    """The last known quote of an instrument as clients get it: written each minute, so that a start with no feed has something to show."""

    id = models.BigIntegerField(primary_key=True, db_column="_id", editable=False, help_text="Instrument id")
    entry = models.BinaryField(help_text="marketdata.wire.QuoteEntry, packed")
    updated_at = models.DateTimeField()

    def __str__(self) -> str:
        return str(self.id)


class MarketStatus(models.Model):
    """A segment's state from one moment on, as the feed or the broker's REST told it."""

    segment = models.CharField(max_length=12)
    status = models.CharField(max_length=20, help_text="NORMAL_OPEN, NORMAL_CLOSE, PRE_OPEN_START, …")
    since = models.DateTimeField(help_text="Broker's time of the first report")

    class Meta:
        verbose_name_plural = "market statuses"
        indexes = [models.Index(fields=["segment", "-since"], name="market_status_segment")]

    def __str__(self) -> str:
        return f"{self.segment} {self.status}"


class MarketSession(models.Model):
    """One exchange's continuous trading on one day, as the broker's timings and holidays tell it."""

    id = models.CharField(primary_key=True, db_column="_id", max_length=16, editable=False, help_text="NSE:2026-11-08")
    exchange = models.CharField(max_length=8, help_text="NSE, NFO, CDS, BSE, BFO, BCD, MCX, NSCOM")
    day = models.DateTimeField(help_text="00:00 IST")
    opens = models.DateTimeField(null=True, blank=True, help_text="Empty on a day without trading")
    closes = models.DateTimeField(null=True, blank=True)
    description = models.CharField(max_length=120, blank=True)

    class Meta:
        indexes = [models.Index(fields=["day", "exchange"], name="market_session_day")]

    def __str__(self) -> str:
        return self.id


class CandleParity(models.Model):
    """One instrument's minutes of one day: how they came to be, and how those made of ticks compared with the broker's bars.

    Counted anew from the stored candles whenever they change; never added to.
    """

    id = models.BigIntegerField(primary_key=True, db_column="_id", editable=False, help_text="Instrument id << 20 | day number")
    instrument = models.BigIntegerField()
    day = models.DateTimeField(help_text="00:00 IST")
    confirmed = models.IntegerField(default=0)
    closed = models.IntegerField(default=0, help_text="From ticks alone")
    backfilled = models.IntegerField(default=0)
    missing = models.IntegerField(default=0, help_text="Minutes of the session in gaps that are not healed")
    revised = models.IntegerField(default=0, help_text="Finished with other values than at last")
    compared = models.IntegerField(default=0, help_text="Minutes that had a candle from ticks before they were confirmed")
    volume_compared = models.IntegerField(default=0, help_text="Of these, those with volume: indices have none")
    open_equal = models.IntegerField(default=0)
    high_equal = models.IntegerField(default=0)
    low_equal = models.IntegerField(default=0)
    close_equal = models.IntegerField(default=0)
    volume_equal = models.IntegerField(default=0)
    prices_equal = models.IntegerField(default=0, help_text="Open, high, low and close")
    updated_at = models.DateTimeField()

    class Meta:
        verbose_name_plural = "candle parities"
        indexes = [models.Index(fields=["-day", "instrument"], name="candle_parity_day")]

    def __str__(self) -> str:
        return f"{self.instrument} {localtime(self.day):%Y-%m-%d}"


class Gap(models.Model):
    """A stretch of time in which the feed gave us nothing though it should have."""

    class Cause(models.TextChoices):
        DISCONNECTED = "disconnected"
        STALE = "stale"
        STOPPED = "stopped"
        SILENT = "silent"
        MISSING = "missing"

    class Heal(models.TextChoices):
        OPEN = "open"
        HEALED = "healed"
        IMPOSSIBLE = "impossible"

    shard = models.IntegerField(default=0)
    start = models.DateTimeField()
    end = models.DateTimeField(null=True, blank=True)
    cause = models.CharField(max_length=14, choices=Cause.choices)
    detail = models.CharField(max_length=200, blank=True)
    instruments = ArrayField(models.BigIntegerField(), default=list, blank=True, help_text="Instrument ids; empty: all of the shard")
    heal_state = models.CharField(max_length=10, choices=Heal.choices, default=Heal.OPEN)
    heal_detail = models.CharField(max_length=200, blank=True, help_text="What healing did, or why it cannot")
    heal_attempts = models.IntegerField(default=0)
    candles_healed = models.IntegerField(default=0)
    healed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [models.Index(fields=["-start"], name="gap_start"), models.Index(fields=["heal_state", "start"], name="gap_heal")]

    def __str__(self) -> str:
        return f"{self.cause} {localtime(self.start):%Y-%m-%d %H:%M:%S}"


class ChainSnapshot(models.Model):
    """One option chain at the end of one minute of market time. `marketdata.chain_store` makes the id and packs the rows."""

    id = models.CharField(primary_key=True, db_column="_id", max_length=80, editable=False, help_text="NIFTY:2026-11-24:1790000000000")
    underlying = models.CharField(max_length=40)
    expiry = models.CharField(max_length=10, help_text="2026-11-24")
    minute = models.DateTimeField(help_text="Begin of the minute, market time")
    aggregate = models.JSONField(help_text="marketdata.domain.chain.Aggregate, by name")
    rows = models.BinaryField(help_text="All strikes, packed")
    stored_at = models.DateTimeField(help_text="Our clock; old ones are deleted by it")

    class Meta:
        indexes = [models.Index(fields=["underlying", "expiry", "minute"], name="chain_snapshot_minute")]

    def __str__(self) -> str:
        return f"{self.underlying} {self.expiry} {localtime(self.minute):%Y-%m-%d %H:%M}"


class InterestBase(models.Model):
    """What an instrument's open interest of one day is compared with."""

    id = models.BigIntegerField(primary_key=True, db_column="_id", editable=False, help_text="Instrument id << 20 | day number")
    instrument = models.BigIntegerField()
    day = models.DateTimeField(help_text="00:00 IST")
    day_start = models.FloatField(null=True, help_text="The day's first, units")
    previous_close = models.FloatField(null=True, help_text="The last one of the trading day before, units, as the broker tells it")

    class Meta:
        indexes = [models.Index(fields=["-day", "instrument"], name="interest_base_day")]

    def __str__(self) -> str:
        return f"{self.instrument} {localtime(self.day):%Y-%m-%d}"
