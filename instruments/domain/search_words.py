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
OPTION_WORDS = frozenset({"OPT", "OPTION", "OPTIONS", "ATM"})
"""Beside a word of TYPE_WORDS they say nothing more; contracts are ranked from the money outwards anyway."""
SLOT_WORDS = {"WEEKLY": True, "MONTHLY": False}
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
    "HUL": "HINDUNILVR",
    "L&T": "LT",
    "RIL": "RELIANCE",
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
_IGNORED_COMMA, _SLASH_IN_DATE = re.compile(r"(?<=\d),(?=\d)"), re.compile(r"(?<=\d)/(?=\d)")
_SEPARATORS = re.compile(r"[\s,/_]+")
_STRIKE_WITH_SIDE = re.compile(r"(\d+(?:\.\d+)?)(CE|PE|CALL|PUT|C|P)")
_NUMBER = re.compile(r"\d+(?:\.\d*)?")
_DAY_MONTH = re.compile(rf"(?:(\d{{1,2}})-?)?({_MONTH})(?:-?(\d{{2}}|\d{{4}}))?")
_ISO_DAY = re.compile(r"(?P<year>\d{4})-(?P<month>\d{1,2})-(?P<day>\d{1,2})")
_INDIAN_DAY = re.compile(r"(?P<day>\d{1,2})-(?P<month>\d{1,2})-(?P<year>\d{4}|\d{2})")


class SearchWords(NamedTuple):
    """What the words of a search say.

    Attributes:
        text: upper case, words separated by single blanks: the whole query, for symbols and names.
        names: the words that say none of the following.
        strike: as typed ("25000", "250": the beginning of one); None where none was.
        instrument_type: CE, PE, FUT, or OPTION for either of the first two.
        weekly: True for "weekly", False for "monthly".
        day, month, year: parts of an expiry date, as far as given.
    """

    text: str
    names: tuple[str, ...]
    strike: str | None = None
    instrument_type: str | None = None
    weekly: bool | None = None
    day: int | None = None
    month: int | None = None
    year: int | None = None

    @property
    def asks_for_derivatives(self) -> bool:
        """True when a word makes sense for futures and options only."""
        return self.instrument_type is not None or self.month is not None or self.weekly is not None

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
    behind it; a word behind the name that is one edit from one that says something ("nifty 25000 cee", "nifty fyt") is that one.
    """
    tokens, words = _tokens(query), read_search(query)
    if not tokens:
        return [query]
    first, rest = tokens[0], tokens[1:]
    found = [query]
    for glued in (pattern.fullmatch(first) for pattern in _GLUED):
        if glued and any(glued.groups()[1:]):
            found.append(" ".join([*filter(None, glued.groups()), *rest]))
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
    return list(dict.fromkeys(each for spelling in found for each in (_in_full(spelling), spelling)))


def _tokens(query: str) -> list[str]:
    """Words in upper case; "25,000" is one number, "14/7/2026" one date."""
    text = _SLASH_IN_DATE.sub("-", _IGNORED_COMMA.sub("", query.upper()))
    return [token for token in _SEPARATORS.split(text) if token]


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
        found["instrument_type"] = TYPE_WORDS[token]
    elif token in OPTION_WORDS:
        found.setdefault("instrument_type", OPTION)
    elif token in SLOT_WORDS:
        found["weekly"] = SLOT_WORDS[token]
    elif glued := _STRIKE_WITH_SIDE.fullmatch(token):
        found["strike"], found["instrument_type"] = glued[1], TYPE_WORDS[glued[2]]
    elif whole := _ISO_DAY.fullmatch(token) or _INDIAN_DAY.fullmatch(token):
        found["year"], found["month"], found["day"] = _year(whole["year"]), int(whole["month"]), int(whole["day"])
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
    """A number is a day before a month, a year behind one, else a strike; but behind a whole strike a day where it is short, or a year."""
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
        found["strike"] = token


def _year(text: str) -> int:
    return int(text) if len(text) == 4 else 2000 + int(text)


def strike_ranges(typed: str) -> list[tuple[float, float]]:
    """The strikes that begin with what was typed: "250" → [250, 251), [2500, 2510), [25000, 25100), …

    Returns:
        half-open ranges, INR, smallest first; the first holds the number itself.
    """
    low = float(typed)
    ranges = [(low, low + (1.0 if "." not in typed else 0.1))]
    if "." not in typed and low > 0:
        digits = len(typed)
        ranges += [(low * 10**zeros, (low + 1) * 10**zeros) for zeros in range(1, STRIKE_DIGITS_MAX - digits + 1)]
    return ranges
