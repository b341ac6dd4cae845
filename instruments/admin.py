"""Instruments and rules in the admin. Instruments and loads are only shown: the master decides them. Rules are edited here.

No page sorts or counts the whole collection: `order_by` keeps MongoDB's indexes from sorting (MEASURED: 500 ms on 84,546 instruments
against 13 ms), so lists come in the order of the index that serves their filters, which ends with the id.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils.functional import cached_property
from django.utils.html import format_html_join

from instruments.domain.instrument import IST, PLACEHOLDER_TYPE, Segment
from instruments.domain.universe import Cut
from instruments.history import states_of
from instruments.models import Instrument, MasterLoad, SubscriptionRule, UniverseChange
from instruments.rules import underlying_checked
from instruments.selectors import ID_PREFIX, Followed, FollowedRule, followed, followed_forget, market_now, rule_preview
from instruments.store import instruments_collection

ROWS_SHOWN = 100
SHOWN = 30
"""Keys of a rule's preview."""
LAST_CHARACTER = "\uffff"
TYPES = ("INDEX", "EQ", "FUT", "CE", "PE", PLACEHOLDER_TYPE)


class IndexOrderedChangeList(ChangeList):
    """A list in the order of the index that serves it: nothing is sorted."""

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Model]:
        return super().get_queryset(request, exclude_parameters).order_by()


class EstimatedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts by the collection's metadata while nothing is filtered, and takes the index's order for one."""

    @cached_property
    def count(self) -> int:
        if getattr(self.object_list, "query", None) is None or self.object_list.query.where:  # type: ignore[attr-defined]
            return super().count
        return instruments_collection().estimated_document_count()

    def _check_object_list_is_ordered(self) -> None:
        """The order is the index's own."""


class ShownOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Rows that nobody edits."""

    actions = None

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class SegmentFilter(admin.SimpleListFilter):
    """By segment; the choices are fixed, so that no page reads every row to find them."""

    title = "segment"
    parameter_name = "segment"
    choices_fixed = tuple(Segment)

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(str(choice), str(choice)) for choice in self.choices_fixed]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Instrument]) -> QuerySet[Instrument]:
        return queryset.filter(**{str(self.parameter_name): self.value()}) if self.value() else queryset


class TypeFilter(SegmentFilter):
    """By type: the frequent ones."""

    title = "type"
    parameter_name = "instrument_type"
    choices_fixed = TYPES  # type: ignore[assignment]


@admin.register(Instrument)
class InstrumentAdmin(ShownOnlyAdmin):
    """Search: the beginning of a trading symbol ("NIFTY 25000"), a broker's key ("NSE_FO|514"), or id:<n>."""

    list_display = ["trading_symbol", "id", "instrument_key", "segment", "instrument_type", "expiry", "strike_price", "lot_size", "active"]
    list_filter = ["active", SegmentFilter, TypeFilter]
    search_fields = ["trading_symbol"]
    search_help_text = "Beginning of a trading symbol (NIFTY 25000) or of a key (NSE_FO|514), or id:<n>"
    sortable_by = ()
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = ROWS_SHOWN
    list_max_show_all = ROWS_SHOWN
    paginator = EstimatedPaginator
    readonly_fields = ["earlier"]

    @admin.display(description="Earlier")
    def earlier(self, instrument: Instrument) -> str:
        """What it was before, newest first; times are in IST, as all of the admin's are."""
        versions = states_of(instrument.pk)[1:]
        lines = ((_ist(state["active_from"]), _ist(state["active_to"]), state["instrument_key"], state["lot_size"]) for state in versions)
        return format_html_join("", "<div>{}–{}: {}, lot {}</div>", lines) or "–"

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return IndexOrderedChangeList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Instrument], search_term: str
    ) -> tuple[QuerySet[Instrument], bool]:
        term = search_term.strip()[:80]
        if not term:
            return queryset, False
        number = term.removeprefix(ID_PREFIX)
        if number != term:
            return queryset.filter(pk=int(number)) if number.isascii() and number.isdigit() and len(number) < 19 else queryset.none(), False
        if "|" in term:
            return queryset.filter(instrument_key__gte=term, instrument_key__lt=term + LAST_CHARACTER), False
        symbol = term.upper()
        return queryset.filter(trading_symbol__gte=symbol, trading_symbol__lt=symbol + LAST_CHARACTER), False


@admin.register(MasterLoad)
class MasterLoadAdmin(ShownOnlyAdmin):
    """What was loaded, when, and what it changed."""

    list_display = ["as_of", "source", "rows", "created", "changed", "retired", "keys_passed", "loaded_at"]
    ordering = ["-as_of"]
    show_full_result_count = False


class SubscriptionRuleForm(forms.ModelForm[SubscriptionRule]):
    """The model checks the words; the form also checks that there is such an underlying, as the API does."""

    class Meta:
        model = SubscriptionRule
        fields = ["name", "what", "underlying", "expiries", "strikes", "keys", "mode", "priority", "enabled"]
        help_texts = {
            "strikes": "Of options: atm10 = ten each side of the money, pct5 = 5 % each side, delta10 = a delta of 0.10 and more, or all.",
            "priority": "Smaller comes first when the broker's limit cuts. Save a rule that is not enabled to see what it would select.",
        }

    def clean_underlying(self) -> str:
        return underlying_checked(self.cleaned_data["underlying"])

    def add_error(self, field: str | None, error: Any) -> None:
        """What the model says of a field that the form has refused is left out: it only finds it missing."""
        if isinstance(error, ValidationError) and hasattr(error, "error_dict"):
            error = ValidationError({name: found for name, found in error.error_dict.items() if name not in self.errors})
        super().add_error(field, error)


class RuleChangeList(ChangeList):
    """The rules, each with what it selects now, resolved once for all of them."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        now = followed(market_now())
        known = {each.row.pk: each for each in now.rules}
        for rule in self.result_list:
            rule.selected_now = _selected(now, known.get(rule.pk))


@admin.register(SubscriptionRule)
class SubscriptionRuleAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """What is followed. The feed takes a change over by itself within seconds."""

    form = SubscriptionRuleForm
    list_display = ["name", "what", "underlying", "expiry_words", "strikes", "mode", "priority", "enabled", "selected"]
    list_editable = ["priority", "enabled"]
    list_filter = ["enabled", "what", "mode"]
    search_fields = ["name", "underlying"]
    ordering = ["priority", "name"]
    readonly_fields = ["selects_now"]

    @admin.display(description="expiries")
    def expiry_words(self, rule: SubscriptionRule) -> str:
        return ", ".join(map(str, rule.expiries or []))

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return RuleChangeList

    @admin.display(description="instruments now")
    def selected(self, rule: Any) -> str:
        return str(rule.selected_now)

    @admin.display(description="selects now")
    def selects_now(self, rule: SubscriptionRule | None = None) -> str:
        """What the stored rule selects now, enabled or not, what of it the limits cut, and what else is cut then."""
        if rule is None or rule.pk is None:
            return "Save it to see; not enabled, it changes nothing."
        now, tried = rule_preview(rule, market_now())
        return format_html_join("", "{}<br>", ((line,) for line in _preview_lines(now, tried)))

    def save_model(self, request: HttpRequest, obj: SubscriptionRule, form: Any, change: bool) -> None:
        obj.save(force_update=change)  # what somebody removes at this moment does not come back
        followed_forget()

    def delete_model(self, request: HttpRequest, obj: SubscriptionRule) -> None:
        super().delete_model(request, obj)
        followed_forget()

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[SubscriptionRule]) -> None:
        super().delete_queryset(request, queryset)
        followed_forget()


def _ist(moment: datetime) -> str:
    return f"{moment.astimezone(IST):%Y-%m-%d %H:%M}"


def _cuts(now: Followed, rule: FollowedRule) -> list[Cut]:
    return [cut for cut in now.universe.cut if cut.rule == rule.row.name]


def _selected(now: Followed, rule: FollowedRule | None) -> str:
    """How many a rule selects and, where not all of them are followed, how many are cut."""
    if rule is None or rule.selection is None:
        return "invalid" if rule is not None and any(not cut.mode for cut in _cuts(now, rule)) else ""
    cut = sum(len(cut.keys) for cut in _cuts(now, rule))
    return f"{len(rule.selection.keys)}, {cut} cut" if cut else str(len(rule.selection.keys))


def _preview_lines(now: Followed, rule: FollowedRule) -> Iterator[str]:
    """What a rule selects and what is cut, in sentences."""
    selection = rule.selection
    if selection is not None:
        yield f"{len(selection.keys)} instruments: {', '.join(selection.keys[:SHOWN])}{' …' if len(selection.keys) > SHOWN else ''}"
        for day in selection.expiries:
            strike = selection.at_the_money.get(day)
            guess = " (no price is known: the middle of the strikes)" if day in selection.unpriced else ""
            yield f"{day}: at the money {strike:g}{guess}" if strike is not None else f"{day}"
    for cut in _cuts(now, rule):
        yield f"Cut: {cut.reason}{f' ({len(cut.keys)} instruments)' if cut.keys else ''}"
    others = sum(len(cut.keys) for cut in now.universe.cut if cut.rule != rule.row.name)
    if others:
        yield f"{others} instruments of other rules are cut."


@admin.register(UniverseChange)
class UniverseChangeAdmin(ShownOnlyAdmin):
    """What entered and left what the feeds follow, and why."""

    list_display = ["at", "shard", "because", "came", "went", "changed_mode", "by_mode"]
    ordering = ["-at", "-id"]
    sortable_by = ()
    show_full_result_count = False

    @admin.display(description="causes")
    def because(self, change: UniverseChange) -> str:
        return ", ".join(change.causes)

    @admin.display(description="entered")
    def came(self, change: UniverseChange) -> int:
        return len(change.entered)

    @admin.display(description="left")
    def went(self, change: UniverseChange) -> int:
        return len(change.left)

    @admin.display(description="moved")
    def changed_mode(self, change: UniverseChange) -> int:
        return len(change.moved)
