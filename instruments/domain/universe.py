"""Which instruments are followed: a trader's rules, the contracts there are and the present prices, cut to the broker's limits. Pure.

The strikes round the money are taken from the real strike list, whose steps are irregular, never from arithmetic. What did not fit, or
matched nothing, is said with its reason.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import NamedTuple

from instruments.domain.expiry import TradingEnd, expiries_of, resolve_expiry, usual_end_ms
from instruments.domain.instrument import DERIVATIVE_TYPES, FUTURE_TYPE, INDEX_TYPE, ist_date
from instruments.domain.limits import MODES, Limits, Room, Wish
from instruments.domain.strikes import INDEX_VOLATILITY, OTHER_VOLATILITY, at_the_money, check_strikes_word, strikes_window

WHATS = ("index", "equity", "futures", "options", "keys")
"""What a rule may ask for."""


class Contract(NamedTuple):
    """What a rule has to know of an instrument. `expiry_ms`: ms UTC · `strike_price`: INR · `symbol`: its trading symbol ·
    `connection`: the number of the broker connection that it is followed on."""

    key: str
    segment: str
    instrument_type: str
    symbol: str
    underlying_key: str | None
    underlying_symbol: str | None
    expiry_ms: int | None
    weekly: bool | None
    strike_price: float | None
    connection: int = 0


class Rule(NamedTuple):
    """One wish: see instruments.models.SubscriptionRule. `what`: index, equity, futures, options or keys. Smaller `priority` first."""

    name: str
    what: str
    underlying: str
    expiries: tuple[str, ...]
    strikes: str
    keys: tuple[str, ...]
    mode: str
    priority: int


class Selection(NamedTuple):
    """What one rule means now.

    Attributes:
        keys: what it asks for, most important first. Of options the underlying comes first, whose price says where the money is.
        expiries: those meant.
        at_the_money: expiry → the strike taken for the money · INR.
        unpriced: expiries whose underlying has no known price: the middle of the strike list stands for the money.
    """

    rule: Rule
    keys: list[str]
    expiries: list[date]
    at_the_money: dict[date, float]
    unpriced: list[date]


class Cut(NamedTuple):
    """What a rule asked for and does not get. `keys` is empty when the rule matched nothing, `mode` too when the rule itself is wrong."""

    rule: str
    mode: str
    reason: str
    keys: list[str]


class Universe(NamedTuple):
    """Attributes:
    by_mode: mode → keys, each key in one mode only; most important first; never more on one connection than the mode's limit.
    cut: what was asked for and left out.
    selections: rule by rule in order of priority, before any limit.
    used: connection → mode → how many keys.
    next_end_ms: when trading next ends in an expiry of what the rules speak of, followed or not, since words such as @w1 then move on:
        resolve again then · ms UTC; None when nothing of it expires.
    """

    by_mode: dict[str, list[str]]
    cut: list[Cut]
    selections: list[Selection]
    used: Mapping[int, Mapping[str, int]]
    next_end_ms: int | None = None


def resolve(
    contracts: Iterable[Contract],
    spots: Mapping[str, float],
    rules: Iterable[Rule],
    limits: Limits,
    *,
    now_ms: int,
    end_of: TradingEnd = usual_end_ms,
) -> Universe:
    """Turn rules into keys per mode.

    A key that several rules want is followed once, in the strongest mode that has room. Within a rule, what is nearest to the money
    and to expiry comes first, so a limit cuts the wings. What a rule gets, none after it takes away: a rule in a second mode, which lowers
    the limits of the first, gets what is left under the lower ones.

    Args:
        contracts: active instruments; at least those of the rules' underlyings.
        spots: price of each underlying by its key (or symbol) · INR. Without one, the middle of the strike list stands for the money
            until it is known: resolve again then.
        rules: the enabled ones, in any order.
        limits: of each connection.
        now_ms: market time · ms UTC; contracts past their last trading minute are not followed.
        end_of: when that is: the calendar.

    Raises:
        ValueError: a rule has a word that is no expiry or strikes word.
    """
    ordered = sorted(rules, key=lambda rule: (rule.priority, rule.name))
    shelf = _Shelf(list(contracts), frozenset(rule.underlying for rule in ordered))
    market = _Market(spots, now_ms, end_of)
    cut: list[Cut] = []
    selections = [_select(rule, shelf, market, cut) for rule in ordered]
    room = Room(limits)
    left: list[Wish] = []
    for number, (rule, keys, *_) in enumerate(selections):
        left = room.give([Wish(number, key, rule.mode, shelf.by_key[key].connection) for key in keys], left)
    cut += _cut_by_limits(left, selections, room, limits)
    by_mode: dict[str, list[str]] = {mode: [] for mode in MODES}
    for key, mode in room.taken.items():
        by_mode[mode].append(key)
    by_mode = {mode: keys for mode, keys in by_mode.items() if keys}
    return Universe(by_mode, cut, selections, room.used, market.next_end_ms)


@dataclass
class _Market:
    """Prices, market time · ms UTC, and when a segment's trading ends on a day, asked once each."""

    spots: Mapping[str, float]
    now_ms: int
    end_of: TradingEnd
    next_end_ms: int | None = None
    ends: dict[tuple[str, date], int] = field(default_factory=dict)

    def end_ms(self, segment: str, day: date) -> int:
        """When trading ends."""
        end = self.ends.get((segment, day))
        if end is None:
            end = self.ends[segment, day] = self.end_of(segment, day)
            if end > self.now_ms and (self.next_end_ms is None or end < self.next_end_ms):
                self.next_end_ms = end
        return end

    def has_ended(self, contract: Contract) -> bool:
        """True when trading in a contract has ended."""
        return contract.expiry_ms is not None and self.end_ms(contract.segment, ist_date(contract.expiry_ms)) <= self.now_ms


@dataclass
class _Shelf:
    """Contracts where rules look for them; of `names`, what the rules name as their underlyings, and without an underlying."""

    contracts: Sequence[Contract]
    names: Collection[str]
    by_key: dict[str, Contract] = field(default_factory=dict)
    indices: dict[str, list[Contract]] = field(default_factory=lambda: defaultdict(list))
    equities: dict[str, list[Contract]] = field(default_factory=lambda: defaultdict(list))
    futures: dict[str, list[Contract]] = field(default_factory=lambda: defaultdict(list))
    options: dict[str, list[Contract]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        names = self.names
        self.by_key = {contract.key: contract for contract in self.contracts}
        for contract in self.contracts:
            underlying = contract.underlying_symbol
            if underlying is not None and underlying not in names and contract.symbol not in names:
                continue  # most of a master: no rule speaks of it
            kind = contract.instrument_type
            if kind == INDEX_TYPE:
                self.indices[contract.symbol].append(contract)
            elif kind not in DERIVATIVE_TYPES:
                self.equities[contract.symbol].append(contract)
            elif underlying and contract.expiry_ms is not None:
                (self.futures if kind == FUTURE_TYPE else self.options)[underlying].append(contract)


def _select(rule: Rule, shelf: _Shelf, market: _Market, cut: list[Cut]) -> Selection:
    selection = Selection(rule, [], [], {}, [])
    said = len(cut)
    if rule.what == "keys":
        _select_keys(selection, shelf, market, cut)
    elif rule.what in ("index", "equity"):
        named = shelf.indices if rule.what == "index" else shelf.equities
        chosen = named.get(rule.underlying, []) if rule.underlying else [each for group in named.values() for each in group]
        selection.keys.extend(contract.key for contract in chosen)
    elif rule.what == "futures":
        _select_derivatives(selection, shelf.futures.get(rule.underlying, []), shelf, market, cut)
    elif rule.what == "options":
        check_strikes_word(rule.strikes)
        _select_derivatives(selection, shelf.options.get(rule.underlying, []), shelf, market, cut)
    else:
        raise ValueError(f"rule {rule.name!r} asks for {rule.what!r}, which is none of {', '.join(WHATS)}")
    if not selection.keys and len(cut) == said:
        cut.append(Cut(rule.name, rule.mode, f"no active {rule.what} instrument of {rule.underlying or 'any underlying'}", []))
    return selection


def _select_keys(selection: Selection, shelf: _Shelf, market: _Market, cut: list[Cut]) -> None:
    rule = selection.rule
    unknown, ended = [], []
    for key in dict.fromkeys(rule.keys):
        contract = shelf.by_key.get(key)
        if contract is None:
            unknown.append(key)
        elif market.has_ended(contract):
            ended.append(key)
        else:
            selection.keys.append(key)
    if unknown:
        cut.append(Cut(rule.name, rule.mode, "no active instrument has this key", unknown))
    if ended:
        cut.append(Cut(rule.name, rule.mode, "trading in this contract has ended", ended))


def _select_derivatives(selection: Selection, contracts: Sequence[Contract], shelf: _Shelf, market: _Market, cut: list[Cut]) -> None:
    rule = selection.rule
    for segment in sorted({contract.segment for contract in contracts}):
        by_expiry: dict[int, list[Contract]] = defaultdict(list)
        for contract in contracts:
            if contract.segment == segment and contract.expiry_ms is not None:
                by_expiry[contract.expiry_ms].append(contract)
        flags = ((expiry_ms, contract.weekly) for expiry_ms, mine in by_expiry.items() for contract in mine)
        listed = expiries_of(flags, now_ms=market.now_ms, segment=segment, end_of=market.end_ms)
        meant = []
        for word in rule.expiries:
            expiry = resolve_expiry(word, listed)
            if expiry is None:
                cut.append(Cut(rule.name, rule.mode, f"{rule.underlying} has no living expiry {word} in {segment}", []))
            elif expiry not in meant:
                meant.append(expiry)
        selection.expiries.extend(expiry.date for expiry in meant)
        for expiry in meant:
            _select_expiry(selection, expiry.date, by_expiry[expiry.expiry_ms], shelf, market)


def _select_expiry(selection: Selection, day: date, contracts: Sequence[Contract], shelf: _Shelf, market: _Market) -> None:
    rule, underlying = selection.rule, contracts[0].underlying_key or ""
    if contracts[0].instrument_type == FUTURE_TYPE:
        selection.keys.extend(contract.key for contract in contracts)
        return
    if underlying in shelf.by_key and underlying not in selection.keys and not market.has_ended(shelf.by_key[underlying]):
        selection.keys.append(underlying)
    by_strike: dict[float, list[Contract]] = defaultdict(list)
    for contract in contracts:
        by_strike[contract.strike_price or 0.0].append(contract)
    strikes = sorted(by_strike)
    spot = market.spots.get(underlying) or market.spots.get(rule.underlying)
    if not spot:
        selection.unpriced.append(day)
    selection.at_the_money[day] = strikes[at_the_money(strikes, spot)]
    days = max((day - ist_date(market.now_ms)).days, 0) + 1
    volatility = INDEX_VOLATILITY if "_INDEX|" in underlying else OTHER_VOLATILITY
    for place in strikes_window(rule.strikes, strikes, spot, days=days, volatility=volatility):
        selection.keys.extend(contract.key for contract in sorted(by_strike[strikes[place]], key=lambda each: each.instrument_type))


def _cut_by_limits(left: Iterable[Wish], selections: Sequence[Selection], room: Room, limits: Limits) -> list[Cut]:
    """Say what had no room, rule by rule, and why; the reasons of several connections may differ. A later rule may have served a wish."""
    reasons: dict[tuple[int, str], str] = {}
    keys: dict[tuple[int, str], list[str]] = defaultdict(list)
    for wish in (wish for wish in left if not room.serves(wish)):
        place = wish.connection, wish.mode
        if place not in reasons:
            reasons[place] = limits.refusal(room.used[wish.connection], wish.mode)
        keys[wish.who, reasons[place]].append(wish.key)
    return [Cut(selections[who].rule.name, selections[who].rule.mode, reason, cut) for (who, reason), cut in sorted(keys.items())]
