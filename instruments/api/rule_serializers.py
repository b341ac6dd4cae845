"""What the answers about rules look like, and what a rule's words may be in a body."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from instruments.api.queries import MomentField, QuerySerializer
from instruments.domain.instrument import KEY_LENGTH_MAX, ms_of
from instruments.domain.limits import MODES
from instruments.domain.universe import WHATS, Cut
from instruments.models import MOST_EXPIRIES, MOST_KEYS, TOO_MANY, SubscriptionRule
from instruments.selectors import Followed, FollowedRule
from instruments.store import Document

Row = dict[str, Any]

CUT_KEYS_SHOWN = 20
CHANGES, MOST_CHANGES = 50, 200
"""Changes on a page; each may name thousands of keys."""
CAUSES = ("start", "master", "rules", "expiry", "day", "spot", "time", "demand", "limit")
"""Why the universe changed: see broker.resolving."""
WORDS = ("name", "what", "underlying", "expiries", "strikes", "keys", "mode", "priority", "enabled")
"""Fields of a rule that people write."""


def rule_row(rule: FollowedRule) -> Row:
    """One rule and what it means now. What somebody stored unchecked is shown as it is."""
    row, selection = rule.row, rule.selection
    return {
        "id": None if row.pk is None else str(row.pk),
        **{name: getattr(row, name) for name in WORDS},
        "expiries": list(row.expiries or []),
        "keys": list(row.keys or []),
        "resolved": None
        if selection is None
        else {
            "instruments": len(selection.keys),
            "expiries": [day.isoformat() for day in selection.expiries],
            "at_the_money": {day.isoformat(): strike for day, strike in selection.at_the_money.items()},
            "unpriced": [day.isoformat() for day in selection.unpriced],
        },
    }


def rule_detail(rule: FollowedRule) -> Row:
    """One rule with the keys that it selects."""
    return {**rule_row(rule), "instruments": [] if rule.selection is None else rule.selection.keys}


def followed_summary(now: Followed) -> Row:
    """What is followed, against which limits, and what is cut."""
    by_mode, limits = now.universe.by_mode, now.limits
    shown = [mode for mode in MODES if limits.get(mode) or mode in by_mode]
    return {
        "at": ms_of(now.at),
        "prices_at": now.spots_at_ms,
        "next_end": now.universe.next_end_ms,
        "modes": [{"mode": mode, "instruments": len(by_mode.get(mode, [])), "limit": limits[mode]} for mode in shown],
        "cut": [cut_row(cut) for cut in now.universe.cut],
    }


def cut_row(cut: Cut) -> Row:
    """What a rule does not get."""
    return {"rule": cut.rule, "mode": cut.mode, "reason": cut.reason, "instruments": len(cut.keys), "keys": cut.keys[:CUT_KEYS_SHOWN]}


def change_row(document: Document) -> Row:
    """One change of what is followed."""
    return {
        "id": str(document["_id"]),
        "at": ms_of(document["at"]),
        "recorded_at": ms_of(document["recorded_at"]),
        **{name: document[name] for name in ("shard", "causes", "entered", "left", "moved", "by_mode")},
    }


class WordField(serializers.ChoiceField):
    """One of a few words; another is refused with those there are."""

    def __init__(self, words: tuple[str, ...], **options: Any) -> None:
        super().__init__(words, error_messages={"invalid_choice": f'"{{input}}" is none of {", ".join(words)}.'}, **options)


class WordsField(serializers.ListField):
    """A list of words; of one that is too long none is looked at."""

    def __init__(self, *, most: int, length: int, **options: Any) -> None:
        super().__init__(child=serializers.CharField(max_length=length), default=list, **options)
        self._most = most

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, list) and len(data) > self._most:
            raise serializers.ValidationError(TOO_MANY.format(most=self._most))
        return super().to_internal_value(data)


class RuleWords(serializers.Serializer[Row]):
    """A rule as it is written; what it leaves out has its default. Its words are in docs/rules.md."""

    name = serializers.CharField(max_length=60, help_text="What people call it, no other rule's; `cut` names rules so.")
    what = WordField(WHATS, help_text="What of the underlying is followed.")
    underlying = serializers.CharField(
        max_length=40, allow_blank=True, default="", help_text="NIFTY, RELIANCE…; empty for keys, and for all indices."
    )
    expiries = WordsField(most=MOST_EXPIRIES, length=12, help_text="Of futures and options: @w0, @w1, @m0 … or YYYY-MM-DD.")
    strikes = serializers.CharField(max_length=12, default="all", help_text="Of options: all, atm10, pct5, delta10.")
    keys = WordsField(most=MOST_KEYS, length=KEY_LENGTH_MAX, help_text="Of keys: NSE_FO|51420 …")
    mode = WordField(MODES, default="full", help_text="What each update carries.")
    priority = serializers.IntegerField(default=100, min_value=-1_000_000, max_value=1_000_000, help_text="Smaller comes first.")
    enabled = serializers.BooleanField(default=True, help_text="false: it is kept, and follows nothing.")

    def to_internal_value(self, data: Any) -> Row:
        if isinstance(data, dict) and (unknown := next((name for name in data if name not in self.fields), None)) is not None:
            raise serializers.ValidationError({str(unknown)[:40]: f"A rule has no such field. It has {', '.join(self.fields)}."})
        found: Row = super().to_internal_value(data)
        return found


class RulePreviewWords(RuleWords):
    """A rule to be tried."""

    name = serializers.CharField(max_length=60, default="preview")
    replaces = serializers.RegexField("^[0-9a-f]{24}$", required=False, help_text="Id of the rule whose place it would take.")


class ResolvedSerializer(serializers.Serializer[Row]):
    """What a rule means now, before limits."""

    instruments = serializers.IntegerField(help_text="How many it selects.")
    expiries = serializers.ListField(child=serializers.DateField(), help_text="Days that its words mean now.")
    at_the_money = serializers.DictField(child=serializers.FloatField(), help_text="Expiry → strike taken for the money, INR.")
    unpriced = serializers.ListField(
        child=serializers.DateField(), help_text="Expiries whose underlying has no known price: the middle of the strikes is taken."
    )


class SubscriptionRuleSerializer(serializers.Serializer[Row]):
    """One rule, and what it means now."""

    id = serializers.CharField(allow_null=True, help_text="null in a preview of a rule that is not stored.")
    name = serializers.CharField(help_text="What people call it; `cut` names rules so.")
    what = serializers.ChoiceField(WHATS, help_text="What of the underlying is followed.")
    underlying = serializers.CharField(allow_blank=True, help_text="Symbol; empty for keys, and for all indices.")
    expiries = serializers.ListField(child=serializers.CharField(), help_text="Words, as written: @w0, @m0, YYYY-MM-DD …")
    strikes = serializers.CharField(help_text="Word, as written: all, atm10, pct5, delta10.")
    keys = serializers.ListField(child=serializers.CharField(), help_text="The broker's, as written.")
    mode = serializers.ChoiceField(MODES, help_text="What each update carries.")
    priority = serializers.IntegerField(help_text="Smaller comes first when a limit cuts.")
    enabled = serializers.BooleanField(help_text="false: it is kept, and follows nothing.")
    resolved = ResolvedSerializer(allow_null=True, help_text="null while the rule is disabled, or where it is not valid.")


class SubscriptionDetailSerializer(SubscriptionRuleSerializer):
    """One rule with the instruments it means now, before limits."""

    instruments = serializers.ListField(child=serializers.CharField(), help_text="Keys, most important first.")


class ModeSerializer(serializers.Serializer[Row]):
    """How much of a mode's limit is used."""

    mode = serializers.CharField(help_text="ltpc, option_greeks, full or full_d30.")
    instruments = serializers.IntegerField(help_text="How many the rules follow in it.")
    limit = serializers.IntegerField(help_text="The broker's, of all connections together, each with the modes that are followed on it.")


class CutSerializer(serializers.Serializer[Row]):
    """What a rule asked for and does not get."""

    rule = serializers.CharField(help_text="Its name.")
    mode = serializers.CharField(allow_blank=True, help_text="Empty: the rule is not valid and was left out.")
    reason = serializers.CharField(help_text="One sentence for a person.")
    instruments = serializers.IntegerField(help_text="0: the rule matched nothing.")
    keys = serializers.ListField(child=serializers.CharField(), help_text=f"The first {CUT_KEYS_SHOWN}.")


class SummarySerializer(serializers.Serializer[Row]):
    """What the rules mean together."""

    at = serializers.IntegerField(help_text="Market time of this answer, ms UTC")
    prices_at = serializers.IntegerField(
        allow_null=True,
        help_text="Market time of the underlyings' prices, ms UTC; null: none known, the middle of each strike list is taken.",
    )
    next_end = serializers.IntegerField(allow_null=True, help_text="When the next expiry that the rules speak of ends, ms UTC")
    modes = ModeSerializer(many=True)
    cut = CutSerializer(many=True)


class SubscriptionsSerializer(SummarySerializer):
    """The rules that decide what is followed, and what they mean now."""

    results = SubscriptionRuleSerializer(many=True)


class PreviewSerializer(SummarySerializer):
    """What would be followed with a rule that is not stored: `rule` is it, the rest speaks of all rules together."""

    rule = SubscriptionDetailSerializer()


class ChangeSerializer(serializers.Serializer[Row]):
    """One change of what a feed follows."""

    id = serializers.CharField(help_text="Names this change for ever.")
    at = serializers.IntegerField(help_text="Market time, ms UTC")
    recorded_at = serializers.IntegerField(help_text="When it was stored, by our clock, ms UTC")
    shard = serializers.IntegerField(help_text="Number of the feed, from 0")
    causes = serializers.ListField(child=serializers.ChoiceField(CAUSES), help_text="All that came together.")
    entered = serializers.DictField(child=serializers.CharField(), help_text="Key → mode")
    left = serializers.DictField(child=serializers.CharField(), help_text="Key → why: expired, key, rules, demand, limit")
    moved = serializers.DictField(child=serializers.CharField(), help_text="Key → its new mode")
    by_mode = serializers.DictField(child=serializers.IntegerField(), help_text="Mode → how many are followed since")


class ChangesSerializer(serializers.Serializer[Row]):
    """Changes of what is followed, newest first."""

    results = ChangeSerializer(many=True)
    next = serializers.URLField(allow_null=True, help_text="Address of the next page; null on the last.")


class ChangesQuery(QuerySerializer):
    """Filters and paging of the changes."""

    cause = WordField(CAUSES, required=False, help_text="Only changes that this had a part in.")
    after = serializers.RegexField(r"^\d{12,14}-[0-9a-f]{24}$", required=False, help_text="Cursor of the next page.")
    limit = serializers.IntegerField(
        required=False, default=CHANGES, min_value=1, max_value=MOST_CHANGES, help_text=f"1 to {MOST_CHANGES}."
    )

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        """`from` is no name in Python."""
        since = MomentField(required=False, help_text="Market time from, epoch ms or ISO 8601")
        until = MomentField(required=False, help_text="Market time before, epoch ms or ISO 8601")
        return {"from": since, "to": until, **super().get_fields()}


def rule_of_words(words: Row, rule: SubscriptionRule) -> SubscriptionRule:
    """Write words into a rule; nothing is checked or stored."""
    for name in WORDS:
        if name in words:
            setattr(rule, name, words[name])
    return rule
