"""Subscription rules as people write them: checked in one way for the admin and the API, stored, removed."""

from __future__ import annotations

import logging
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError

from instruments.models import SubscriptionRule
from instruments.selectors import followed_forget, underlying_is_known

log = logging.getLogger(__name__)

MOST_RULES = 500
"""Each is resolved with all others, many times a day."""


def underlying_checked(text: str) -> str:
    """Return the symbol that a person means by `text`: upper case, without spaces round it.

    Raises:
        ValidationError: no active instrument has it, or is written on it.
    """
    symbol = text.strip().upper()
    if symbol and not underlying_is_known(symbol):
        raise ValidationError(f"No active instrument is called {symbol} or has it as its underlying.")
    return symbol


def rule_check(rule: SubscriptionRule) -> None:
    """See that a rule means something, and write its underlying as the master does. Nothing is stored.

    Raises:
        ValidationError: by field, with the words that there are.
    """
    wrong: dict[str, list[str]] = {}
    try:
        rule.underlying = underlying_checked(rule.underlying)
    except ValidationError as error:
        wrong["underlying"] = error.messages
    try:
        rule.full_clean(exclude=set(wrong))
    except ValidationError as error:
        wrong |= error.message_dict
    if rule._state.adding and SubscriptionRule.objects.count() >= MOST_RULES:
        wrong["name"] = [f"There are {MOST_RULES} rules already; change or remove one."]
    if wrong:
        raise ValidationError(wrong)


def rule_save(*, rule: SubscriptionRule, by: str) -> None:
    """Store a rule, checked. The feeds take it over within seconds. One that was removed meanwhile stays so.

    Args:
        by: who did it, for the log.

    Raises:
        ValidationError: see rule_check.
        SubscriptionRule.DoesNotExist: it was removed meanwhile.
    """
    rule_check(rule)
    made = rule._state.adding
    try:
        if made:
            rule.save(force_insert=True)
        elif not SubscriptionRule.objects.filter(pk=rule.pk).update(**_words(rule)):
            raise SubscriptionRule.DoesNotExist
    except IntegrityError:
        raise ValidationError({"name": rule.unique_error_message(SubscriptionRule, ("name",)).messages}) from None  # since it was checked
    followed_forget()
    log.info("subscription rule %r %s by %s", rule.name, "made" if made else "changed", by)


def _words(rule: SubscriptionRule) -> dict[str, Any]:
    return {field.attname: getattr(rule, field.attname) for field in SubscriptionRule._meta.concrete_fields if not field.primary_key}


def rule_remove(*, rule: SubscriptionRule, by: str) -> None:
    """Remove a rule for ever; what only it wanted is left within seconds."""
    rule.delete()
    followed_forget()
    log.info("subscription rule %r removed by %s", rule.name, by)
