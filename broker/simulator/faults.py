"""Faults on demand. A fault is a small message; `Faults` holds what is in force and counts what was done.

To add one: a Struct here with its tag in `Fault`, and one branch in `control.inject`.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

import msgspec
from starlette.responses import HTMLResponse, Response

from broker.simulator.errors import ApiError, error_response

STATUS_CODES = {400: "UDAPI10000", 401: "UDAPI100050", 404: "UDAPI100012", 429: "UDAPI10005"}


class Drop(msgspec.Struct, tag_field="kind", tag="drop", forbid_unknown_fields=True):
    """Cut feed connections without a close frame: this one, or all."""

    connection: int | None = None


class Mute(msgspec.Struct, tag_field="kind", tag="mute", forbid_unknown_fields=True):
    """Send nothing on the feed, for so many seconds or (0) until cleared; connections stay open. What is due meanwhile is lost."""

    seconds: float = 0


class Garbage(msgspec.Struct, tag_field="kind", tag="garbage", forbid_unknown_fields=True):
    """Send bytes that are no `FeedResponse`, on each connection."""

    count: int = 1
    size: int = 64


class Refuse(msgspec.Struct, tag_field="kind", tag="refuse", forbid_unknown_fields=True):
    """Refuse at authorise, or at the upgrade, with this HTTP status; so many times or so many seconds or (both 0) until cleared."""

    status: int = 403
    at: Literal["authorize", "upgrade"] = "authorize"
    body: Literal["json", "html"] = "json"
    count: int = 0
    seconds: float = 0


class ExpireToken(msgspec.Struct, tag_field="kind", tag="expire_token", forbid_unknown_fields=True):
    """End this token, or all; `drop` cuts its feed connections as well."""

    token: str | None = None
    drop: bool = False


class TextFrame(msgspec.Struct, tag_field="kind", tag="text_frame", forbid_unknown_fields=True):
    """Send a text frame on each connection."""

    text: str = '{"status":"failed","method":"sub","error":{"code":"UDAPI100050","message":"simulated"}}'


class Clear(msgspec.Struct, tag_field="kind", tag="clear", forbid_unknown_fields=True):
    """End every fault in force and accept the first token again."""


Fault = Drop | Mute | Garbage | Refuse | ExpireToken | TextFrame | Clear


class Faults:
    """What is in force now. Times are seconds of the caller's clock."""

    def __init__(self) -> None:
        self.injected: Counter[str] = Counter()
        self.refused_total = 0
        self._muted_until = 0.0
        self._refusal: tuple[Refuse, float] | None = None
        self._refusals_left = 0

    def mute(self, fault: Mute, now: float) -> None:
        """Bring a Mute into force."""
        self._muted_until = now + fault.seconds if fault.seconds else float("inf")

    def is_muted(self, now: float) -> bool:
        """Whether the feed must send nothing."""
        return now < self._muted_until

    def refuse(self, fault: Refuse, now: float) -> None:
        """Bring a Refuse into force; it replaces the one before."""
        self._refusal = (fault, now + fault.seconds if fault.seconds else float("inf"))
        self._refusals_left = fault.count or -1

    def refusal(self, at: str, now: float) -> Response | None:
        """The answer that refuses a request at this place; None when it is to be served. Counts one refusal."""
        if self._refusal is None:
            return None
        fault, end = self._refusal
        if now >= end or not self._refusals_left:
            self._refusal = None
            return None
        if fault.at != at:
            return None
        self._refusals_left -= 1
        self.refused_total += 1
        if fault.body == "html":
            return HTMLResponse("<html><body><h1>Sorry, you have been blocked</h1></body></html>", status_code=fault.status)
        return error_response(ApiError(STATUS_CODES.get(fault.status, "UDAPI100500"), status=fault.status))

    def clear(self) -> None:
        """End what is in force; counters stay."""
        self._muted_until, self._refusal = 0.0, None
