"""Query parameters, read by type. Whatever is wrong is refused with the parameter's name and what it takes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone
from typing import overload

from rest_framework.request import Request

from accounts.api.problems import BadInput

IST = timezone(timedelta(milliseconds=19_800_000))
EARLIEST_MS = 946_684_800_000
"""2000-01-01, UTC. Earlier times are mistakes, most often seconds given for milliseconds."""
LATEST_MS = 4_102_444_800_000
"""2100-01-01, UTC."""
_UNENCODED_PLUS = re.compile(r"(T.*) (\d\d:?\d\d)$")


class Parameters:
    """The query parameters of one request.

    Args:
        request: the request.
        names: the parameters that the view takes; `format` is taken by all.

    Raises:
        BadInput: there is another one: a misspelt filter must not silently return everything.
    """

    def __init__(self, request: Request, names: Iterable[str]) -> None:
        self._values = request.query_params
        known = {*names, "format"}
        unknown = next((name for name in self._values if name not in known), None)
        if unknown is not None:
            raise BadInput(unknown[:80], f"There is no such parameter. This address takes {', '.join(sorted(known))}.")

    def text(self, name: str) -> str | None:
        """Return a parameter as it is; None when missing or empty."""
        return self._values.get(name) or None

    def required(self, name: str, meaning: str) -> str:
        """Return a parameter that must be there."""
        value = self.text(name)
        if value is None:
            raise BadInput(name, f"This parameter is needed: {meaning}.")
        return value

    def words(self, name: str) -> list[str]:
        """Return a comma-separated list, which may also be repeated; blanks dropped, order kept, doubles removed."""
        return list(dict.fromkeys(word.strip() for value in self._values.getlist(name) for word in value.split(",") if word.strip()))

    @overload
    def integer(self, name: str, default: int, *, low: int, high: int) -> int: ...

    @overload
    def integer(self, name: str, default: None, *, low: int, high: int) -> int | None: ...

    def integer(self, name: str, default: int | None, *, low: int, high: int) -> int | None:
        """Return a whole number in [low, high]."""
        value = self.text(name)
        if value is None:
            return default
        if not value.isascii() or not value.isdigit() or len(value) > 19 or not low <= int(value) <= high:
            raise BadInput(name, f"Takes a whole number from {low} to {high}.")
        return int(value)

    def choice(self, name: str, default: str, choices: Iterable[str]) -> str:
        """Return one of `choices`."""
        value = self.text(name) or default
        if value not in choices:
            raise BadInput(name, f"Takes one of {', '.join(choices)}.")
        return value

    def instant(self, name: str, default: int) -> int:
        """Return a time as ms UTC, given as epoch milliseconds or ISO 8601; without an offset it is IST."""
        value = self.text(name)
        if value is None:
            return default
        try:
            moment = int(value) if re.fullmatch(r"-?\d{1,19}", value, re.ASCII) else _iso_ms(value)
        except (ValueError, OverflowError):
            raise BadInput(name, "Takes epoch milliseconds, or ISO 8601 as in 2026-11-20T09:15:00+05:30.") from None
        if not EARLIEST_MS <= moment <= LATEST_MS:
            raise BadInput(name, "Takes a time from 2000 to 2100; numbers are milliseconds since 1970, not seconds.")
        return moment

    def span(self) -> tuple[int, int]:
        """Return `from` and `to` as ms UTC; the whole of time when missing."""
        start, end = self.instant("from", EARLIEST_MS), self.instant("to", LATEST_MS)
        if start >= end:
            raise BadInput("from", "Must be earlier than `to`.")
        return start, end


def _iso_ms(value: str) -> int:
    # A plus sign that was not percent-encoded arrives as a blank.
    moment = datetime.fromisoformat(_UNENCODED_PLUS.sub(r"\1+\2", value))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=IST)
    return round((moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(milliseconds=1))
