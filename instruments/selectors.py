"""What is read of instruments. Look-ups that the feed and the API make often go by PyMongo on Django's connection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from django.conf import settings
from django.core.cache import cache
from django.core.exceptions import ValidationError

from instruments.contracts import contracts_for
from instruments.domain.expiry import Expiry, expiries_of, expiry_words
from instruments.domain.instrument import FUTURE_TYPE, IST, ms_of, split_key
from instruments.domain.limits import Limits
from instruments.domain.universe import Cut, Rule, Selection, Universe, resolve
from instruments.history import Holding, holdings_of, state_of_id, state_of_key, states_as_of, states_of
from instruments.models import Instrument, SubscriptionRule
from instruments.store import Document, instruments_collection, spots_read
from instruments.trading_ends import trading_end_ms

ID_PREFIX = "id:"


class UnknownInstrument(Exception):
    """No instrument has this name (at that time). The message is for a person; `code` is the client protocol's word."""

    code = "unknown_instrument"


def instrument_ids(keys: Iterable[str]) -> dict[str, int]:
    """Return the id of the active instrument under each key; keys that nobody holds are left out."""
    held = {"instrument_key": {"$in": list(keys)}, "active": True}
    documents = instruments_collection().find(held, {"instrument_key": 1}, hint="instrument_key_tenure", batch_size=10_000)
    return {document["instrument_key"]: int(document["_id"]) for document in documents}


def instrument_keys(ids: Iterable[int]) -> dict[int, str]:
    """Return the key that each instrument has, or had last; unknown ids are left out."""
    documents = instruments_collection().find({"_id": {"$in": list(ids)}}, {"instrument_key": 1}, batch_size=10_000)
    return {int(document["_id"]): document["instrument_key"] for document in documents}


def instrument_resolve(name: str, *, as_of: datetime | None = None) -> Instrument:
    """Find an instrument by its name in the API.

    Args:
        name: a broker's key (`NSE_FO|51420`), or `id:<n>` for ever.
        as_of: whom a key meant then (aware); default: who holds it now. `id:<n>` does not depend on it.

    Raises:
        UnknownInstrument: nobody has that name (then); trying again does not help.
    """
    if name.startswith(ID_PREFIX):
        found = Instrument.objects.filter(pk=_id_in(name)).first()
    elif as_of is None:
        _check_key(name)
        found = Instrument.objects.filter(pk=instrument_ids([name]).get(name, -1)).first()
    else:
        _check_key(name)
        state = state_of_key(name, as_of)
        found = None if state is None else Instrument.objects.get(pk=state["_id"])
    if found is None:
        raise _unknown(name, as_of)
    return found


def instrument_state(name: str, *, as_of: datetime | None = None) -> Document:
    """Return what an instrument is, or was: the present row, or with `as_of` (aware) its key, lot and the rest as they were then.

    Raises:
        UnknownInstrument: nobody has that name (then), or no master named it then; trying again does not help.
    """
    number = _id_in(name) if name.startswith(ID_PREFIX) else None
    if number is None:
        _check_key(name)
    if as_of is not None:
        state = state_of_key(name, as_of) if number is None else state_of_id(number, as_of)
    elif number is None:
        state = instruments_collection().find_one({"instrument_key": name, "active": True}, hint="instrument_key_tenure")
    else:
        state = instruments_collection().find_one({"_id": number})
    if state is None:
        raise _unknown(name, as_of)
    return state


class InstrumentHistory(NamedTuple):
    """What a key has meant, and what its instrument has been; both newest first.

    Attributes:
        key: the key that the instrument has, or had last; or the one that was asked for.
        instrument: whose `states` these are: who holds the key, or held it last.
    """

    key: str
    instrument: int
    holdings: list[Holding]
    states: list[Document]


def instrument_history(name: str) -> InstrumentHistory:
    """Tell all that a key has meant, and all that its instrument has been.

    Raises:
        UnknownInstrument: nobody ever had that name; trying again does not help.
    """
    if name.startswith(ID_PREFIX):
        number = _id_in(name)
        states = states_of(number)
        if not states:
            raise _unknown(name, None)
        key = states[0]["instrument_key"]
        return InstrumentHistory(key, number, holdings_of(key), states)
    _check_key(name)
    holdings = holdings_of(name)
    if not holdings:
        raise _unknown(name, None)
    holder = holdings[0].state["_id"]
    return InstrumentHistory(name, holder, holdings, states_of(holder))


def _id_in(name: str) -> int:
    """The number in `id:<n>`; -1, which no instrument has, when there is none."""
    number = name[len(ID_PREFIX) :]
    return int(number) if number.isascii() and number.isdigit() and len(number) < 19 else -1


def _check_key(key: str) -> None:
    try:
        split_key(key)
    except ValueError as error:
        raise UnknownInstrument(str(error)) from error


def _unknown(name: str, as_of: datetime | None) -> UnknownInstrument:
    when = "" if as_of is None else f" as of {as_of.astimezone(IST):%Y-%m-%d %H:%M} IST"
    return UnknownInstrument(f"no instrument is called {name[:80]!r}{when}")


def instrument_symbols(ids: Iterable[int]) -> dict[int, str]:
    """Return the trading symbol of each instrument; unknown ids are left out."""
    documents = instruments_collection().find({"_id": {"$in": list(ids)}}, {"trading_symbol": 1}, batch_size=10_000)
    return {int(document["_id"]): document["trading_symbol"] for document in documents}


def underlying_members(symbol: str) -> set[int]:
    """Return the ids of the active instruments that are called so, or are written on what is called so."""
    queries = [
        ({"active": True, "underlying_symbol": symbol}, "instrument_chain"),
        ({"trading_symbol": symbol, "active": True}, "instrument_symbol"),
    ]
    found = (instruments_collection().find(query, {"_id": 1}, hint=index, batch_size=10_000) for query, index in queries)
    return {int(document["_id"]) for documents in found for document in documents}


def underlying_is_known(symbol: str) -> bool:
    """True when an active instrument is called so or has it as its underlying; also while no master has been loaded."""
    instruments = instruments_collection()
    if instruments.find_one({"active": True, "underlying_symbol": symbol}, {"_id": 1}, hint="instrument_chain"):
        return True
    if instruments.find_one({"trading_symbol": symbol, "active": True}, {"_id": 1}, hint="instrument_symbol"):
        return True
    return instruments.find_one({"active": True, "placeholder": False}, {"_id": 1}, hint="instrument_active") is None


class UnderlyingExpiry(NamedTuple):
    """One living expiry of an underlying.

    Attributes:
        words: what it is called relatively (`@w0`, `@m0`), may be empty.
        futures, strikes: how many futures and how many strikes of options are listed for it.
    """

    segment: str
    expiry: Expiry
    words: list[str]
    futures: int
    strikes: int


def underlying_expiries(symbol: str, at: datetime, *, as_of: datetime | None = None) -> list[UnderlyingExpiry]:
    """List the living expiries of an underlying, from the master, segment by segment, nearest first.

    Args:
        symbol: as in `underlying_symbol`: NIFTY, BANKNIFTY, RELIANCE.
        at: market time (aware).
        as_of: which master (aware): the one in force then; default: the present one.

    Returns:
        empty when there is no such underlying, or nothing of it is alive.
    """
    wanted: Document = {"underlying_symbol": symbol, "expiry": {"$ne": None}}
    if as_of is None:
        fields = {"_id": 0, "segment": 1, "expiry": 1, "weekly": 1, "instrument_type": 1, "strike_price": 1}
        contracts: Iterable[Document] = instruments_collection().find(
            {"active": True, **wanted}, fields, hint="instrument_chain", batch_size=10_000
        )
    else:
        contracts = states_as_of(wanted, as_of, hint="instrument_underlying")
    listed: dict[str, dict[int, list[Document]]] = {}
    for contract in contracts:
        listed.setdefault(contract["segment"], {}).setdefault(ms_of(contract["expiry"]), []).append(contract)
    found = []
    for segment, by_expiry in sorted(listed.items()):
        flags = [(expiry_ms, contract["weekly"]) for expiry_ms, members in by_expiry.items() for contract in members]
        living = expiries_of(flags, now_ms=ms_of(at), segment=segment, end_of=trading_end_ms)
        words = expiry_words(living)
        for expiry in living:
            members = by_expiry[expiry.expiry_ms]
            futures = sum(contract["instrument_type"] == FUTURE_TYPE for contract in members)
            strikes = {contract["strike_price"] for contract in members if contract["strike_price"] is not None}
            found.append(UnderlyingExpiry(segment, expiry, words[expiry.date], futures, len(strikes)))
    return found


def universe_resolve(*, spots: Mapping[str, float], at_ms: int, shards: int = 1) -> Universe:
    """Say which keys are to be followed in which mode: the enabled rules, the active contracts, these prices, the settings' limits.

    A rule that is not valid is left out, and said among what was cut, without a mode.

    About 40 ms with the default rules on the real master; not for a hot path. Every shard gets the same answer to the same prices.

    Args:
        spots: the anchors that `spots_record` gave, by the underlying's key · INR. Equal ones give equal windows.
        at_ms: market time · ms UTC.
        shards: how many connections there are; the limits are those of one, and an instrument's is its id mod `shards`.
    """
    return _resolve_rules([_checked(row) for row in SubscriptionRule.objects.filter(enabled=True)], spots, at_ms, shards)


def _resolve_rules(checked: Sequence[Rule | Cut], spots: Mapping[str, float], at_ms: int, shards: int) -> Universe:
    rules = [rule for rule in checked if isinstance(rule, Rule)]
    universe = resolve(contracts_for(rules, shards), spots, rules, broker_limits(), now_ms=at_ms, end_of=trading_end_ms)
    return universe._replace(cut=[*(wrong for wrong in checked if isinstance(wrong, Cut)), *universe.cut])


def _checked(row: SubscriptionRule) -> Rule | Cut:
    """The rule that a stored one means; where somebody stored what `clean` refuses, why it is left out."""
    try:
        row.clean_fields()
        row.clean()
    except ValidationError as error:
        return Cut(str(row.name), "", f"the rule is not valid: {' '.join(error.messages)}", [])
    except (TypeError, ValueError, AttributeError):  # a list that is none, a word that is a number
        return Cut(str(row.name), "", "the rule is not valid: a value is of the wrong type", [])
    return rule_of(row)


class FollowedRule(NamedTuple):
    """A stored rule, and what it selects now; None while it is disabled, or where it is not valid."""

    row: SubscriptionRule
    selection: Selection | None


class Followed(NamedTuple):
    """What the rules mean now.

    Attributes:
        at: market time of this answer.
        spots_at_ms: market time of the prices, which the feed recorded; None when it never has.
        rules: all, in order of priority.
        limits: mode → keys on all connections together.
        ids: instruments followed in any mode, ascending.
    """

    at: datetime
    spots_at_ms: int | None
    rules: list[FollowedRule]
    limits: dict[str, int]
    universe: Universe
    ids: list[int]


FOLLOWED_SECONDS = 5
_FOLLOWED = "instruments.followed"


def followed(at: datetime) -> Followed:
    """Resolve the rules as the feed does, with the prices that it recorded last; kept for FOLLOWED_SECONDS in this process.

    What clients demand beyond the rules is not in it.
    """
    known: Followed | None = cache.get(_FOLLOWED)
    if known is None or abs((at - known.at).total_seconds()) > FOLLOWED_SECONDS:
        known = _followed_by(SubscriptionRule.objects.all(), at)
        cache.set(_FOLLOWED, known, FOLLOWED_SECONDS)
    return known


def followed_forget() -> None:
    """Let the next `followed` of this process resolve anew: a rule has changed."""
    cache.delete(_FOLLOWED)


def rule_preview(rule: SubscriptionRule, at: datetime) -> tuple[Followed, FollowedRule]:
    """Say what would be followed if `rule`, which need not be stored, were enabled beside the others, and what it would select itself.

    Args:
        rule: takes the place of the stored one with the same primary key.
        at: market time (aware).
    """
    rows = [row for row in SubscriptionRule.objects.all() if rule.pk is None or row.pk != rule.pk]
    now = _followed_by([*rows, rule], at, preview=rule)
    return now, next(each for each in now.rules if each.row is rule)


def _place(row: Any) -> tuple[int, str]:
    """Where a rule comes among all; what somebody stored unchecked may have no priority and no name."""
    return row.priority if isinstance(row.priority, int) else 0, str(row.name)


def _followed_by(rows: Iterable[SubscriptionRule], at: datetime, *, preview: SubscriptionRule | None = None) -> Followed:
    rows = sorted(rows, key=_place)
    checked = [_checked(row) if row.enabled or row is preview else None for row in rows]
    recorded = spots_read()
    universe = _resolve_rules([rule for rule in checked if rule is not None], recorded.spots, ms_of(at), recorded.shards)
    selections = {selection.rule.name: selection for selection in universe.selections}
    ids = instrument_ids(key for keys in universe.by_mode.values() for key in keys)
    return Followed(
        at,
        recorded.at_ms,
        [FollowedRule(row, selections[rule.name] if isinstance(rule, Rule) else None) for row, rule in zip(rows, checked, strict=True)],
        _limits_together(universe, recorded.shards),
        universe,
        sorted(ids.values()),
    )


def market_now() -> datetime:
    """Market time for answers that no feed gives: now, or in a replay the recorded time, moved on by what has passed since."""
    now = datetime.now(UTC)
    recorded = spots_read()
    if recorded.at_ms is None or recorded.written_at is None:
        return now
    return datetime.fromtimestamp(recorded.at_ms / 1000, UTC) + (now - recorded.written_at)


def broker_limits() -> Limits:
    """The settings' limits of one connection: what the feed keeps to, and what the rules are resolved with."""
    return Limits(settings.BROKER_MODE_LIMITS, settings.BROKER_MIXED_MODE_LIMITS)


def _limits_together(universe: Universe, shards: int) -> dict[str, int]:
    """The limits in force on all connections together, each by what the rules follow on it."""
    together: Counter[str] = Counter()
    for connection in range(shards):
        together.update(broker_limits().of(universe.used.get(connection, {})))
    return dict(together)


def rule_of(row: SubscriptionRule) -> Rule:
    """The rule that a stored one means."""
    return Rule(row.name, row.what, row.underlying, tuple(row.expiries or ()), row.strikes, tuple(row.keys or ()), row.mode, row.priority)
