"""A search as a trader types it ("nifty 25000 ce", "banknifty nov fut", "reliance"), taken apart. Pure; no instrument is looked at."""

from __future__ import annotations

import calendar
import re
from datetime import date
from typing import NamedTuple

from rapidfuzz import process
from rapidfuzz.distance import OSA

from instruments.domain.instrument import FUTURE_TYPE, OptionType

TYPE_WORDS = {
    "CE": OptionType.CALL.value,
    "C": OptionType.CALL.value,
    "CALL": OptionType.CALL.value,
    "CALLS": OptionType.CALL.value,
    "PE": OptionType.PUT.value,
    "P": OptionType.PUT.value,
    "PUT": OptionType.PUT.value,
    "PUTS": OptionType.PUT.value,
    "FUT": FUTURE_TYPE,
    "FUTS": FUTURE_TYPE,
    "FUTURE": FUTURE_TYPE,
    "FUTURES": FUTURE_TYPE,
}
OPTION = "OPT"
"""A call or a put."""
OPTION_WORDS = frozenset({"OPT", "OPTION", "OPTIONS", "ATM", "CHAIN", "STRADDLE", "STRIKE"})
"""Beside a word of TYPE_WORDS they say nothing more; contracts are ranked from the money outwards anyway."""
SLOT_WORDS = {"WEEKLY": True, "MONTHLY": False}
NEXT_WORDS = {"THIS": 0, "CURRENT": 0, "NEAR": 0, "NEAREST": 0, "NEXT": 1, "FAR": 2}
"""How many expiries further, before "week", "month" and "future", as the exchange speaks of its near, next and far month."""
FILLERS = frozenset(
    {"LTD", "AND", "NSE", "EXPIRY", "SERIES", "CONTRACT", "CONTRACTS", "PRICE", "LTP"}
    | {"EQ", "EQUITY", "SHARE", "SHARES", "STOCK", "CASH", "SPOT", "INDEX"}
)
"""Words that say nothing where no name holds them."""
MONTHS = {name[number].upper(): number for name in (calendar.month_abbr, calendar.month_name) for number in range(1, 13)} | {"SEPT": 9}
NICKNAMES = {
    "BN": "BANKNIFTY",
    "BNF": "BANKNIFTY",
    "BNIFTY": "BANKNIFTY",
    "NIFTYBANK": "BANKNIFTY",
    "NF": "NIFTY",
    "NIFTY50": "NIFTY",
    "FNF": "FINNIFTY",
    "NIFTYFIN": "FINNIFTY",
    "NIFTYFINANCIAL": "FINNIFTY",
    "NIFTYFINSERVICE": "FINNIFTY",
    "MIDCAPNIFTY": "MIDCPNIFTY",
    "MIDCAPSELECT": "MIDCPNIFTY",
    "NIFTYMIDCAPSELECT": "MIDCPNIFTY",
    "NIFTYMIDSELECT": "MIDCPNIFTY",
    "NIFTYNEXT50": "NIFTYNXT50",
    "NIFTYNEXT": "NIFTYNXT50",
    "NIFTYJUNIOR": "NIFTYNXT50",
    "JUNIORNIFTY": "NIFTYNXT50",
    "NXT50": "NIFTYNXT50",
    "BOB": "BANKBARODA",
    "BOI": "BANKINDIA",
    "HPCL": "HINDPETRO",
    "HUL": "HINDUNILVR",
    "L&T": "LT",
    "LTIM": "LTM",
    "LTIMINDTREE": "LTM",
    "MNM": "M&M",
    "POLICYBAZAAR": "POLICYBZR",
    "RIL": "RELIANCE",
    "ZOMATO": "ETERNAL",
}
"""What traders call an underlying, without blanks → its symbol at the exchange. None of them is a symbol itself (master of July 2026)."""
NICKNAME_WORDS_MAX = 3
KEYWORDS = (*(word for word in TYPE_WORDS if len(word) > 1), *SLOT_WORDS, *MONTHS, "OPTION", "OPTIONS")
STRIKE_DIGITS_MAX = 7

LIKE_LENGTH_MIN = 3
"""Shorter words are taken as they are: two letters are near to everything."""

_MONTH = "|".join(sorted(MONTHS, key=len, reverse=True))
_SHORT_MONTH = "|".join(calendar.month_abbr[1:]).upper()
_GLUED = tuple(
    re.compile(rf"(\d*[A-Z&-]{{2,}}?)({day})?(\d+(?:\.\d+)?)?(CE|PE|FUT)?")
    for day in (rf"\d{{1,2}}(?:{_SHORT_MONTH})", rf"\d{{1,2}}(?:{_SHORT_MONTH})\d\d")
)
"""NIFTY25000CE, NIFTY26JUL25000CE (a year), NIFTY28JUL2625000CE (a day and a year)."""
_WEEKLY_SYMBOL = re.compile(r"([A-Z&-]{2,})(\d\d)([1-9OND])(\d\d)(\d+(?:\.\d+)?)(CE|PE)")
"""How other brokers call a weekly contract: NIFTY2671425000CE is that of 2026, month 7, day 14 (O, N, D are the last months)."""
_WEEKLY_MONTHS = "123456789OND"
_WRITTEN_OTHERWISE = (
    (re.compile(r"^\s*(?:NSE|BSE|NFO|BFO|CDS|MCX):|(?<=\w)\.(?:NS|BO)\s*$"), ""),
    (re.compile(r"(?<=\d),(?=\d)"), ""),
    (re.compile(r"(?<=\d)/(?=\d)"), "-"),
    (re.compile(r"\b(\d\d?)([. ])(\d\d?)\2(20\d\d|\d\d)\b"), r"\1-\3-\4"),
    (re.compile(r"(?<=[A-Z])['’](?=\d\d)"), ""),
    (re.compile(r"(?<=\S)\s+EQ\b"), ""),
)
"""NSE:RELIANCE and RELIANCE.NS, "25,000", "14/7/2026", "14.7.2026" and "14 07 26", "jul'26", "sbin eq"."""
_LIMITED = re.compile(r"\bLIMITED\b")
_THOUSANDS = re.compile(r"(?<![\d.])(\d{1,3}(?:\.\d+)?)K(?=\b|CE|PE)")
_SLOT_PHRASE = re.compile(rf"\b({'|'.join(NEXT_WORDS)})[\s-]*(?:(WEEK|MONTH)(?:LY|'?S)?\b|(?=FUT))")
_SLOT = re.compile(r"@([WM][0-9]{1,2})|([WM][0-9])")
_SEPARATORS = re.compile(r"[\s,/_]+")
_STRIKE_WITH_SIDE = re.compile(r"(\d+(?:\.\d+)?)(CE|PE|CALL|PUT|C|P)")
_SIDE_WITH_STRIKE = re.compile(r"(CE|PE|CALL|PUT)(\d+(?:\.\d+)?)")
_ORDINAL = re.compile(r"(\d\d?)(?:ST|ND|RD|TH)")
_NUMBER = re.compile(r"\d+(?:\.\d*)?")
_DAY_MONTH = re.compile(rf"(?:(\d{{1,2}})(?:ST|ND|RD|TH)?-?)?({_MONTH})(?:-?(\d{{2}}|\d{{4}}))?")
_ISO_DAY = re.compile(r"(?P<year>\d{4})-(?P<month>\d{1,2})-(?P<day>\d{1,2})")
_INDIAN_DAY = re.compile(r"(?P<day>0?[1-9]|[12]\d|3[01])-(?P<month>0?[1-9]|1[0-2])(?:-(?P<year>\d{4}|\d{2}))?")


class SearchWords(NamedTuple):
    """What the words of a search say.

    Attributes:
        text: upper case, words separated by single blanks: the whole query, for symbols and names.
        names: the words that say none of the following.
        strike: as typed ("25000", "250": the beginning of one); None where none was.
        instrument_type: CE, PE, FUT, or OPTION for either of the first two.
        weekly: True for "weekly", False for "monthly".
        slot: an expiry's word: "@w0", "@m1"; see `instruments.domain.expiry`.
        day, month, year: parts of an expiry date, as far as given.
    """

    text: str
    names: tuple[str, ...]
    strike: str | None = None
    instrument_type: str | None = None
    weekly: bool | None = None
    slot: str | None = None
    day: int | None = None
    month: int | None = None
    year: int | None = None

    @property
    def asks_for_derivatives(self) -> bool:
        """True when a word makes sense for futures and options only."""
        return any(said is not None for said in (self.instrument_type, self.month, self.weekly, self.slot))

    def expiry_matches(self, expiry: date) -> bool:
        """True unless a given part of the date differs."""
        wanted = ((self.day, expiry.day), (self.month, expiry.month), (self.year, expiry.year))
        return all(asked is None or asked == actual for asked, actual in wanted)


def read_search(query: str) -> SearchWords:
    """Take a search apart. Every text is a search; words that say nothing special are names."""
    tokens = _tokens(query)
    found: dict[str, int | str | bool | None] = {}
    names: list[str] = []
    for place, token in enumerate(tokens):
        following = tokens[place + 1] if place + 1 < len(tokens) else ""
        if not _read_token(token, following, bool(names), found):
            names.append(token)
    return SearchWords(" ".join(tokens), tuple(names), **found)  # type: ignore[arg-type]


def spellings(query: str) -> list[str]:
    """Return the ways in which a query may have been meant: as it was typed first, but a nickname's symbol before it.

    Written together ("nifty25000ce", "NIFTY25MAR24000PE") it is taken apart; what was typed before the name ("25000 ce nifty") is put
    behind it; a word behind the name that is one edit from one that says something ("nifty 25000 cee", "nifty fyt") is that one; last,
    words that say nothing are left out ("reliance share").
    """
    tokens, words = _tokens(query), read_search(query)
    if not tokens:
        return [query]
    first, rest = tokens[0], tokens[1:]
    found = [query]
    for together, others in ((first, rest), ("".join(tokens), [])):
        for glued in (pattern.fullmatch(together) for pattern in _GLUED):
            if glued and (glued[2] or glued[3] or glued[4] == FUTURE_TYPE):  # RELIANCE is no RELIAN CE
                found.append(" ".join([*filter(None, glued.groups()), *others]))
    if weekly := _WEEKLY_SYMBOL.fullmatch(first):
        name, year, month, day, strike, side = weekly.groups()
        found.append(" ".join([name, f"20{year}-{_WEEKLY_MONTHS.index(month) + 1}-{day}", strike, side, *rest]))
    if len(words.names) > 1 and _read_token(first, rest[0], True, {}):
        names = words.names[1:]
        found.append(" ".join([*names, first, *(token for token in rest if token not in names)]))
    if "-" in query:
        found.append(query.replace("-", " "))
    for word in words.names[1:]:
        likest = process.extractOne(word, KEYWORDS, scorer=OSA.distance, score_cutoff=1) if len(word) >= LIKE_LENGTH_MIN else None
        if likest is not None:
            found.append(" ".join(likest[0] if token == word else token for token in tokens))
    found += [_without_fillers(spelling) for spelling in found]
    return list(dict.fromkeys(each for spelling in found for each in (_in_full(spelling), spelling)))


def _tokens(query: str) -> list[str]:
    """Words in upper case; "25,000" is one number, "14/7/2026" one date, "25.5k" is 25500 and "next week" is @W1."""
    text = shortened(query)
    for pattern, usual in _WRITTEN_OTHERWISE:
        text = pattern.sub(usual, text)
    text = _THOUSANDS.sub(lambda match: f"{float(match[1]) * 1000:.10g}", text)
    text = _SLOT_PHRASE.sub(lambda match: f"@{(match[2] or 'M')[0]}{NEXT_WORDS[match[1]]} ", text)
    return [token for token in _SEPARATORS.split(text) if token]


def _without_fillers(query: str) -> str:
    tokens = _tokens(query)
    kept = tokens[:1] + [token for token in tokens[1:] if token not in FILLERS]
    return query if kept == tokens else " ".join(kept)


def _in_full(query: str) -> str:
    """Put the symbol for a nickname that a query begins with."""
    tokens = _tokens(query)
    for count in range(min(len(tokens), NICKNAME_WORDS_MAX), 0, -1):
        symbol = NICKNAMES.get("".join(tokens[:count]))
        if symbol is not None:
            return " ".join([symbol, *tokens[count:]])
    return query


def _read_token(token: str, following: str, named: bool, found: dict[str, int | str | bool | None]) -> bool:
    """Put what a token says into `found`; False when it is a name. The first word is always a name."""
    if not named:
        return False
    if token in TYPE_WORDS:
        both = {found.get("instrument_type"), TYPE_WORDS[token]} == {each.value for each in OptionType}
        found["instrument_type"] = OPTION if both else TYPE_WORDS[token]
    elif token in OPTION_WORDS:
        found.setdefault("instrument_type", OPTION)
    elif token in SLOT_WORDS:
        found["weekly"] = SLOT_WORDS[token]
    elif slot := _SLOT.fullmatch(token):
        found["slot"] = f"@{slot[1] or slot[2]}".lower()
    elif glued := _STRIKE_WITH_SIDE.fullmatch(token):
        found["strike"], found["instrument_type"] = glued[1], TYPE_WORDS[glued[2]]
    elif glued := _SIDE_WITH_STRIKE.fullmatch(token):
        found["strike"], found["instrument_type"] = glued[2], TYPE_WORDS[glued[1]]
    elif ordinal := _ORDINAL.fullmatch(token):
        found["day"] = int(ordinal[1])
    elif whole := _ISO_DAY.fullmatch(token) or _INDIAN_DAY.fullmatch(token):
        found["month"], found["day"] = int(whole["month"]), int(whole["day"])
        found["year"] = _year(whole["year"]) if whole["year"] else found.get("year")
    elif dated := _DAY_MONTH.fullmatch(token):
        found["month"] = MONTHS[dated[2]]
        found["day"] = int(dated[1]) if dated[1] else found.get("day")
        found["year"] = _year(dated[3]) if dated[3] else found.get("year")
    elif _NUMBER.fullmatch(token) and len(token.split(".")[0]) <= STRIKE_DIGITS_MAX:
        _read_number(token, following, found)
    else:
        return False
    return True


def _read_number(token: str, following: str, found: dict[str, int | str | bool | None]) -> None:
    """A number is a day before a month, a year behind one, else a strike; but beside a whole strike a day where it is short, or a year."""
    number = float(token)
    has_strike = len(str(found.get("strike", ""))) > 2
    if _DAY_MONTH.fullmatch(following) and not following[0].isdigit() and 1 <= number <= 31:
        found["day"] = int(number)
    elif found.get("month") and not found.get("year") and (20 <= number <= 99 or 2020 <= number <= 2099) and "." not in token:
        found["year"] = _year(token)
    elif has_strike and token.isdecimal() and len(token) <= 2:
        found["day"] = int(token)
    elif has_strike and token.isdecimal() and 2020 <= number <= 2099:
        found["year"] = _year(token)
    else:
        before = str(found.get("strike", ""))
        if before.isdecimal() and 1 <= int(before) <= 31:
            found["day"] = found.get("day") or int(before)
        found["strike"] = token


def _year(text: str) -> int:
    return int(text) if len(text) == 4 else 2000 + int(text)


def shortened(name: str) -> str:
    """Return a name in upper case, and as short as masters have it at times: LTD for LIMITED."""
    return _LIMITED.sub("LTD", name.upper())


def strike_ranges(typed: str) -> list[tuple[float, float]]:
    """The strikes that begin with what was typed: "250" → [250, 251), [2500, 2510), [25000, 25100), …

    Returns:
        half-open ranges, INR, smallest first; the first holds the number itself.
    """
    low = float(typed)
    ranges = [(low, low + 10.0 ** -len(typed.partition(".")[2]))]
    if "." not in typed and low > 0:
        digits = len(typed)
        ranges += [(low * 10**zeros, (low + 1) * 10**zeros) for zeros in range(1, STRIKE_DIGITS_MAX - digits + 1)]
    return ranges
