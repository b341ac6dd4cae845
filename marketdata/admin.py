"""Market data in the admin, to look at. Nothing is changed here, and no page counts, sorts or scans a large collection:
ticks and candles are read through `marketdata.store`, behind one instrument and one day.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django import forms
from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.functional import cached_property

from instruments.domain.instrument import ist_date
from instruments.models import Instrument
from instruments.search import search
from instruments.selectors import UnknownInstrument, instrument_resolve
from marketdata import store
from marketdata.chain_store import chains_stored, days_stored
from marketdata.domain.candle import STORED_INTERVALS, Candle, candle_id
from marketdata.models import OHLC, CandleParity, ChainSnapshot, Gap, InterestBase, MarketSession, MarketStatus, MarketTick
from marketdata.parity import FIELDS, HALF_A_CENT
from marketdata.services import candle_id_parts

IST = ZoneInfo("Asia/Kolkata")
PAGE_ROWS = 100
CHOICES = 20
DAYS_LISTED = 60
DAY_MS = 86_400_000
CHAIN_FIGURES = ("spot", "straddle", "atm_iv", "pcr_oi", "pcr_volume", "max_pain", "call_oi", "put_oi")
DAYS_SHOWN = {"1d": 366, "1h": 31}
"""Days up to the chosen one that a page of candles covers; one day for the finer intervals."""


class Row(NamedTuple):
    """A line of a series: the document's id and its cells as text."""

    id: int
    cells: list[str]


class Choice(NamedTuple):
    """An instrument that the words of a search may mean."""

    id: int
    symbol: str


class EstimatedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts by the collection's metadata while nothing is filtered: a true count reads every document."""

    @cached_property
    def count(self) -> int:
        query = getattr(self.object_list, "query", None)
        if query is None or query.where:
            return super().count
        return store.collection(query.model._meta.db_table).estimated_document_count()


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Shows rows; adds, changes and deletes nothing."""

    show_full_result_count = False
    paginator = EstimatedPaginator
    list_per_page = PAGE_ROWS
    actions = None

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class SeriesForm(forms.Form):
    """Which instrument and day. A key means the contract that held it that day."""

    instrument = forms.CharField(
        max_length=80, label="Instrument", widget=forms.TextInput(attrs={"placeholder": "NSE_FO|51420, nifty 25000 ce or id:5", "size": 34})
    )
    day = forms.DateField(
        label="Day (IST)",
        validators=[MinValueValidator(date(2020, 1, 1)), MaxValueValidator(date(2100, 1, 1))],
        widget=forms.DateInput(attrs={"type": "date"}),
    )
    after = forms.IntegerField(required=False, widget=forms.HiddenInput, min_value=0, max_value=2**63 - 1)


class CandleForm(SeriesForm):
    """Which candles."""

    interval = forms.ChoiceField(choices=[(name, name) for name in STORED_INTERVALS], initial="1m")


class SeriesAdmin(ReadOnlyAdmin):
    """A list of one instrument's rows in order of time, in place of the ORM's list: that one sorts whole collections."""

    form_class: type[SeriesForm] = SeriesForm
    headers: list[str] = []

    def rows(self, instrument: Instrument, asked: dict[str, Any]) -> list[Row]:
        """Return at most PAGE_ROWS rows, newest first."""
        raise NotImplementedError

    def period(self, asked: dict[str, Any]) -> str:
        """Say which time the rows are of."""
        return f"{asked['day']:%d %b %Y}"

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        form = self.form_class(request.GET) if request.GET else self.form_class(initial={"day": datetime.now(IST).date()})
        context = {
            **self.admin_site.each_context(request),
            "title": str(self.opts.verbose_name_plural).capitalize(),
            "opts": self.opts,
            "form": form,
            "headers": self.headers,
            "estimate": f"{store.collection(self.opts.db_table).estimated_document_count():,}",
            **(self._answer(form) if form.is_bound and form.is_valid() else {}),
            **(extra_context or {}),
        }
        return TemplateResponse(request, "admin/marketdata/series.html", context)

    def _answer(self, form: SeriesForm) -> dict[str, Any]:
        asked = form.cleaned_data
        instrument, others = find_instrument(asked["instrument"], asked["day"])
        if instrument is None and not others:
            form.add_error("instrument", "No instrument has this name. Try its key, its symbol, or id:<number>.")
            return {}
        query: dict[str, Any] = {name: asked[name] for name in ("day", "interval") if name in asked}
        if instrument is None:
            return {"choices": [{"label": row.symbol, "query": urlencode({"instrument": f"id:{row.id}", **query})} for row in others]}
        rows = self.rows(instrument, asked)
        more = {"instrument": f"id:{instrument.pk}", **query, "after": rows[-1].id} if len(rows) == PAGE_ROWS else None
        return {"instrument": instrument, "rows": rows, "period": self.period(asked), "older": urlencode(more) if more else ""}


def find_instrument(name: str, day: date) -> tuple[Instrument | None, list[Choice]]:
    """Return the instrument that a key, symbol or `id:<n>` means on a day, or those that the words may mean."""
    name = name.strip()
    for as_of in (datetime.combine(day, time.max, IST), None):
        try:
            return instrument_resolve(name, as_of=as_of), []
        except UnknownInstrument:
            continue
    found = [Choice(row["_id"], row["trading_symbol"]) for row in search(name, limit=CHOICES, at=datetime.combine(day, time.min, IST))]
    exact = [choice for choice in found if choice.symbol.casefold() == name.casefold()]
    if len(exact) == 1 or len(found) == 1:
        return instrument_resolve(f"id:{(exact or found)[0].id}"), []
    return None, found


def day_ms(day: date) -> int:
    """Return 00:00 IST of a day, ms UTC."""
    return round(datetime.combine(day, time.min, IST).timestamp() * 1000)


def clock(value: Any) -> str:
    """Return a stored time as IST with milliseconds; "" for none."""
    if value is None:
        return ""
    return datetime.fromtimestamp(store.time_ms(value) / 1000, UTC).astimezone(IST).isoformat(sep=" ", timespec="milliseconds")[:-6]


def indian_day(value: Any) -> str:
    """Return the date in India of a stored 00:00 IST."""
    return clock(value)[:10]


def number(value: Any) -> str:
    """Return a number as people read it; "" for none."""
    return "" if value is None else f"{value:,.10g}" if isinstance(value, float) else f"{value:,}"


def by_ticks(candle: Candle, built: list[float] | None) -> str:
    """Return in what the candle that ticks had made differs from the confirmed one, as "high 101.5, volume 90"; "" for none."""
    if not built:
        return ""
    values = zip(FIELDS, built, candle[3:8], strict=False)
    return ", ".join(f"{name} {number(before)}" for name, before, now in values if abs(before - now) >= HALF_A_CENT) or "equal"


TICK_COLUMNS: list[tuple[str, str, Callable[[Any], str]]] = [
    ("Time (IST)", "t", clock), ("Last trade", "lt", clock), ("Price", "p", number), ("Quantity", "q", number),
    ("Volume", "v", number), ("Open interest", "oi", number), ("Bid", "bp", number), ("Bid quantity", "bq", number),
    ("Ask", "ap", number), ("Ask quantity", "aq", number), ("IV", "iv", number), ("Delta", "d", number), ("Received", "r", clock),
]  # fmt: skip


@admin.register(MarketTick)
class MarketTickAdmin(SeriesAdmin):
    """Ticks of one instrument and day, by the index (instrument, time)."""

    headers = [title for title, _, _ in TICK_COLUMNS]

    def rows(self, instrument: Instrument, asked: dict[str, Any]) -> list[Row]:
        start = day_ms(asked["day"])
        documents = store.ticks_read(
            instrument.pk, from_ms=start, to_ms=start + DAY_MS, after=asked["after"], limit=PAGE_ROWS, newest_first=True
        )
        return [Row(row["_id"], [show(row.get(name)) for _, name, show in TICK_COLUMNS]) for row in documents]


@admin.register(OHLC)
class OHLCAdmin(SeriesAdmin):
    """Candles of one instrument up to a day, by the primary key."""

    form_class = CandleForm
    headers = ["Start (IST)", "Open", "High", "Low", "Close", "Volume", "Open interest", "State", "Revision", "Ticks", "By ticks before"]

    def rows(self, instrument: Instrument, asked: dict[str, Any]) -> list[Row]:
        start, end = self._range(asked)
        interval = asked["interval"]
        end = min(end, candle_id_parts(asked["after"])[1]) if asked["after"] else end
        found = store.candles_read(instrument.pk, interval, from_ms=start, to_ms=end, limit=PAGE_ROWS, newest_first=True)
        candles = {candle_id(candle.instrument, interval, candle.start_ms): candle for candle in found}
        built = {row["_id"]: row.get("b") for row in store.candles_collection().find({"_id": {"$in": list(candles)}}, {"b": 1})}
        return [
            Row(
                identifier,
                [
                    datetime.fromtimestamp(candle.start_ms / 1000, IST).strftime("%Y-%m-%d %H:%M"),
                    *map(number, (candle.open, candle.high, candle.low, candle.close, candle.volume, candle.open_interest)),
                    candle.state,
                    str(candle.revision),
                    number(candle.ticks),
                    by_ticks(candle, built.get(identifier)),
                ],
            )
            for identifier, candle in candles.items()
        ]

    def period(self, asked: dict[str, Any]) -> str:
        days = DAYS_SHOWN.get(asked["interval"], 1)
        return super().period(asked) if days == 1 else f"{days} days to {super().period(asked)}"

    @staticmethod
    def _range(asked: dict[str, Any]) -> tuple[int, int]:
        days = DAYS_SHOWN.get(asked["interval"], 1)
        return day_ms(asked["day"] - timedelta(days=days - 1)), day_ms(asked["day"]) + DAY_MS


@admin.register(MarketStatus)
class MarketStatusAdmin(ReadOnlyAdmin):
    """When each segment opened and closed."""

    list_display = ["segment", "status", "since"]
    search_fields = ["=segment", "=status"]
    ordering = ["-since"]


@admin.register(Gap)
class GapAdmin(ReadOnlyAdmin):
    """When the feed gave us nothing, whether it was healed, and by what or why not."""

    list_display = ["start", "end", "shard", "cause", "heal_state", "candles_healed", "heal_attempts", "heal_detail", "detail"]
    list_filter = ["heal_state", "cause"]
    search_fields = ["detail", "heal_detail"]
    ordering = ["-start"]


@admin.register(MarketSession)
class MarketSessionAdmin(ReadOnlyAdmin):
    """When each exchange trades, as the broker's timings and holidays tell it."""

    list_display = ["date", "exchange", "opens", "closes", "description"]
    list_filter = ["exchange"]
    search_fields = ["description"]
    ordering = ["-day", "-exchange"]

    @admin.display(description="Day", ordering="day")
    def date(self, row: MarketSession) -> str:
        return indian_day(row.day)


class FirstChosenFilter(admin.SimpleListFilter):
    """Without a choice the first one holds: the list never is of everything."""

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        for index, (value, title) in enumerate(self.lookup_choices):
            chosen = value == self.value() if self.value() else index == 0
            yield {"selected": chosen, "query_string": changelist.get_query_string({str(self.parameter_name): value}), "display": title}


class DayFilter(FirstChosenFilter):
    """One day's rows, the newest first. For models with a `day`."""

    title = "day"
    parameter_name = "day"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        days = store.collection(model_admin.opts.db_table).distinct("day")
        return [(str(store.time_ms(day)), indian_day(day)) for day in sorted(days, reverse=True)[:DAYS_LISTED]]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value() or (self.lookup_choices[0][0] if self.lookup_choices else "0")
        if not value.isascii() or not value.isdigit() or len(value) > 13:
            return queryset.none()
        return queryset.filter(day=datetime.fromtimestamp(int(value) / 1000, UTC))


def _percent(field: str) -> Callable[[CandleParity], str]:
    @admin.display(description=f"{field.capitalize()} equal", ordering=f"{field}_equal")
    def percent(row: CandleParity) -> str:
        compared = row.volume_compared if field == "volume" else row.compared
        return f"{100 * getattr(row, f'{field}_equal') / compared:.1f} %" if compared else ""

    return percent


class InstrumentDayAdmin(ReadOnlyAdmin):
    """Rows of instruments' days."""

    list_filter = [DayFilter]
    ordering = ["-day", "instrument"]

    @admin.display(description="Day", ordering="day")
    def date(self, row: Any) -> str:
        return indian_day(row.day)

    @admin.display(description="Instrument", ordering="instrument")
    def symbol(self, row: Any) -> str:
        found = Instrument.objects.filter(pk=row.instrument).values_list("trading_symbol", flat=True).first()
        return found or f"id:{row.instrument}"


@admin.register(CandleParity)
class CandleParityAdmin(InstrumentDayAdmin):
    """How each instrument's minutes of a day came to be, and how many that ticks had made equalled the broker's."""

    list_display = ["date", "symbol", "confirmed", "closed", "backfilled", "missing", "revised", "compared", *map(_percent, FIELDS)]


@admin.register(InterestBase)
class InterestBaseAdmin(InstrumentDayAdmin):
    """What the open interest of each option is compared with, a day at a time."""

    list_display = ["date", "symbol", "day_start", "previous_close"]


class ChainFilter(FirstChosenFilter):
    """One chain's minutes of one day, the newest day first: they lie side by side in the primary index."""

    title = "chain and day"
    parameter_name = "chain"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        days = [(day, *chain) for chain in chains_stored() for day in days_stored(*chain)]
        return [
            (f"{name}:{expiry}:{day}", f"{name} {expiry}, on {ist_date(day)}")
            for day, name, expiry in sorted(days)[: -1 - DAYS_LISTED : -1]
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[ChainSnapshot]) -> QuerySet[ChainSnapshot]:
        chain, _, day = (self.value() or next((value for value, _ in self.lookup_choices), "")).rpartition(":")
        if not day.isascii() or not day.isdigit() or len(day) > 13:
            return queryset.none()
        return queryset.filter(id__gte=f"{chain}:{day}", id__lt=f"{chain}:{int(day) + DAY_MS}")


def _figure(name: str) -> Callable[[ChainSnapshot], str]:
    @admin.display(description=name.replace("_", " ").capitalize())
    def figure(row: ChainSnapshot) -> str:
        return number(row.aggregate.get(name))

    return figure


@admin.register(ChainSnapshot)
class ChainSnapshotAdmin(ReadOnlyAdmin):
    """The stored minutes of an option chain, the newest first, with the figures of the whole."""

    list_display = ["underlying", "expiry", "minute", *map(_figure, CHAIN_FIGURES)]
    list_filter = [ChainFilter]
    fields = ["id", "underlying", "expiry", "minute", "stored_at", "aggregate"]
    ordering = ["-id"]
    sortable_by = ()
