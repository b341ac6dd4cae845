"""Instruments and rules in the admin. Instruments and loads are only shown: the master decides them. Rules are edited here.

No page sorts or counts the whole collection: `order_by` keeps MongoDB's indexes from sorting (MEASURED: 500 ms on 84,546 instruments
against 13 ms), so lists come in the order of the index that serves their filters, which ends with the id.
"""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils.functional import cached_property

from instruments.domain.instrument import PLACEHOLDER_TYPE, Segment
from instruments.models import Instrument, MasterLoad, SubscriptionRule
from instruments.selectors import ID_PREFIX, underlying_is_known
from instruments.store import instruments_collection

ROWS_SHOWN = 100
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
    """The model checks the words; the form also checks that there is such an underlying."""

    class Meta:
        model = SubscriptionRule
        fields = ["name", "what", "underlying", "expiries", "strikes", "keys", "mode", "priority", "enabled"]

    def clean_underlying(self) -> str:
        symbol: str = self.cleaned_data["underlying"].strip().upper()
        if symbol and not underlying_is_known(symbol):
            raise forms.ValidationError(f"No active instrument is called {symbol} or has it as its underlying.")
        return symbol


@admin.register(SubscriptionRule)
class SubscriptionRuleAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """What is followed. The feed takes a change over by itself within seconds."""

    form = SubscriptionRuleForm
    list_display = ["name", "what", "underlying", "expiry_words", "strikes", "mode", "priority", "enabled"]
    list_editable = ["priority", "enabled"]
    list_filter = ["enabled", "what", "mode"]
    search_fields = ["name", "underlying"]
    ordering = ["priority", "name"]

    @admin.display(description="expiries")
    def expiry_words(self, rule: SubscriptionRule) -> str:
        return ", ".join(rule.expiries)
