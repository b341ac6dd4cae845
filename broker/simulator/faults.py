"""Faults on demand: the kinds as small messages, and which of them are in force.

POST /simulator/faults with `{"kind": …}`; GET /simulator/state → `faults`: kind → how often it *happened*, and `faults_injected`: kind →
how often it was asked for.

| kind | what it does | a time it happened |
|---|---|---|
| drop | cuts feed connections without a close frame | a connection cut |
| mute | sends nothing; connections stay open and pings are answered; what is due meanwhile is lost | a frame withheld |
| pause | the market stands still, requests are answered; it goes on where it stood | a step not taken, 50 a second |
| holiday | every segment closes, then not one frame until cleared | a market_info saying so |
| garbage | bytes that are no `FeedResponse`, once, on each connection | a message |
| text_frame | a text frame, once, on each connection | a message |
| refuse | authorise or the upgrade answers `status`, as JSON or HTML, with `Retry-After` where given | a refusal |
| spent_code | authorise gives an address whose single-use code is spent already: the upgrade answers 403 | an address |
| connection_limit | an upgrade past so many connections of a user answers 403 | a refusal |
| expire_token | tokens die, now or at a chosen time: authorise answers 401 until a new login; `drop` cuts connections too | a token ended |
| truncated | each n-th live frame lacks its second half | a frame |
| oversized | each n-th live frame is padded by `size` bytes, in a field of a newer schema; legal, but past what clients take | a frame |
| duplicate | each n-th live frame is sent twice: the same bytes, or (`new_frame`) the same updates 1 ms later | a frame more |
| reorder | a live frame is held back until a newer one with one of its keys was sent, each n-th while none is | a frame sent late |
| unknown_keys | each n-th live frame also carries a key that nobody asked for | a key added |
| newer_schema | each n-th live frame has unknown fields on every level | a frame |
| partial | each n-th live frame carries one group (`keep`) of each full feed only | a frame |
| zeroes | in each n-th live frame zeroes take the place of numbers, and so vanish from the wire | a frame |
| clear | ends all that is in force (`held` frames still go out) and accepts the first token again | – |

Those in force last for `count` times or `seconds`, or (both 0) until cleared; a new one replaces the one of its kind.
To add one: a Struct here with its tag in `Fault`, and one line where it is done (`control.inject`, `alterations`, `feed_server`).
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta
from starlette.responses import HTMLResponse, Response

from broker.simulator.errors import ApiError, error_response

STATUS_CODES = {400: "UDAPI10000", 401: "UDAPI100050", 404: "UDAPI100012", 429: "UDAPI10005"}
MESSAGE_BYTES = 64 * 1024 * 1024
"""Largest message that can be asked for."""
Count = Annotated[int, Meta(ge=0, le=1_000_000)]
Seconds = Annotated[float, Meta(ge=0, le=86_400 * 7)]
Size = Annotated[int, Meta(ge=1, le=MESSAGE_BYTES)]


class Once(msgspec.Struct, tag_field="kind", forbid_unknown_fields=True):
    """A fault that is done when it is asked for."""


class Lasting(Once):
    """A fault that stays in force: for `count` times, for `seconds`, or (both 0) until cleared."""

    count: Count = 0
    seconds: Seconds = 0.0


class Altering(Lasting):
    """Changes each `every`-th live frame that it can change, counted over all connections."""

    every: Annotated[int, Meta(ge=1, le=1_000_000)] = 10


class Drop(Once, tag="drop"):
    """Cut this connection, or all."""

    connection: int | None = None


class Mute(Lasting, tag="mute"):
    """Send nothing."""


class Pause(Lasting, tag="pause"):
    """Let the market stand still: now, or as soon as its clock has come to `at_market_ms` (ms UTC)."""

    at_market_ms: int = 0


class Holiday(Lasting, tag="holiday"):
    """Close every segment and send nothing more."""


class Garbage(Once, tag="garbage"):
    """Send `count` messages of `size` bytes."""

    count: Count = 1
    size: Size = 64


class TextFrame(Once, tag="text_frame"):
    """Send a text frame."""

    text: str = '{"status":"failed","method":"sub","error":{"code":"UDAPI100050","message":"simulated"}}'


class Refuse(Lasting, tag="refuse"):
    """Refuse with this HTTP status; `retry_after` seconds in the header of that name, where given."""

    status: Annotated[int, Meta(ge=400, le=599)] = 403
    at: Literal["authorize", "upgrade"] = "authorize"
    body: Literal["json", "html"] = "json"
    retry_after: Annotated[int, Meta(ge=0, le=86_400)] | None = None


class SpentCode(Lasting, tag="spent_code"):
    """Give addresses whose code is spent."""


class ConnectionLimit(Lasting, tag="connection_limit"):
    """Let a user have only so many connections."""

    limit: Count = 0


class ExpireToken(Once, tag="expire_token"):
    """End this token, or all: now, after so many seconds, or when the market's clock has come to `at_market_ms` (ms UTC)."""

    token: str | None = None
    drop: bool = False
    after_seconds: Seconds = 0.0
    at_market_ms: int | None = None


class Truncated(Altering, tag="truncated"):
    """Cut frames short."""


class Oversized(Altering, tag="oversized"):
    """Pad frames."""

    size: Size = 17 * 1024 * 1024


class Duplicate(Altering, tag="duplicate"):
    """Send frames twice."""

    new_frame: bool = False


class Reorder(Altering, tag="reorder"):
    """Send frames late."""


class UnknownKeys(Altering, tag="unknown_keys"):
    """Add a key to frames."""

    key: str = "NSE_FO|999999999"


class NewerSchema(Altering, tag="newer_schema"):
    """Add unknown fields to frames."""


class Partial(Altering, tag="partial"):
    """Leave groups out of full feeds; an index keeps its price in any case but `depth`, where it is left as it is."""

    keep: Literal["ltpc", "depth"] = "ltpc"


class Zeroes(Altering, tag="zeroes"):
    """Send zeroes: open interest, implied volatility, both total quantities, the best bid."""


class Clear(Once, tag="clear"):
    """End every fault in force."""


Fault = (
    Drop
    | Mute
    | Pause
    | Holiday
    | Garbage
    | TextFrame
    | Refuse
    | SpentCode
    | ConnectionLimit
    | ExpireToken
    | Truncated
    | Oversized
    | Duplicate
    | Reorder
    | UnknownKeys
    | NewerSchema
    | Partial
    | Zeroes
    | Clear
)
_L = TypeVar("_L", bound=Lasting)


class _Rule(msgspec.Struct):
    """A fault in force: until when, how many times still, how many frames it has passed over."""

    fault: Lasting
    until: float
    left: float
    passed: int = 0


def kind_of(fault: type[Once] | Once) -> str:
    """The name of a fault on the wire."""
    return str(fault.__struct_config__.tag)


class Faults:
    """What is in force now. Times are seconds of the caller's clock.

    Attributes:
        injected: kind → times asked for.
        happened: kind → times it happened.
    """

    def __init__(self) -> None:
        self.injected: Counter[str] = Counter()
        self.happened: Counter[str] = Counter()
        self._rules: dict[type[Lasting], _Rule] = {}
        self._expiries: list[tuple[float, ExpireToken]] = []

    def begin(self, fault: Lasting, now: float) -> None:
        """Bring a fault into force in place of the one of its kind."""
        self._rules[type(fault)] = _Rule(fault, now + fault.seconds if fault.seconds else math.inf, fault.count or math.inf)

    def in_force(self, kind: type[_L], now: float) -> _L | None:
        """The fault of this kind that is in force; None: there is none."""
        rule = self._rules.get(kind)
        if rule is None:
            return None
        if now >= rule.until or rule.left <= 0:
            del self._rules[kind]
            return None
        assert isinstance(rule.fault, kind)
        return rule.fault

    def is_due(self, fault: Altering) -> bool:
        """Pass over one frame; whether it is the `every`-th, and stays so until the fault happened."""
        rule = self._rules[type(fault)]
        rule.passed += 1
        return rule.passed >= fault.every

    def happen(self, fault: Once, times: int = 1) -> None:
        """Count that a fault was done."""
        self.happened[kind_of(fault)] += times
        if isinstance(fault, Lasting):
            self.spend(fault)

    def spend(self, fault: Lasting) -> None:
        """Take one of the `count` times, and begin again with `every`."""
        rule = self._rules.get(type(fault))
        if rule is not None:
            rule.left -= 1
            rule.passed = 0

    def take(self, kind: type[_L], now: float) -> _L | None:
        """As `in_force`, and it happens now."""
        fault = self.in_force(kind, now)
        if fault is not None:
            self.happen(fault)
        return fault

    def refusal(self, at: str, now: float) -> Response | None:
        """The answer that refuses a request at this place; None when it is to be served. Counts one refusal."""
        fault = self.in_force(Refuse, now)
        if fault is None or fault.at != at:
            return None
        self.happen(fault)
        headers = {"Retry-After": str(fault.retry_after)} if fault.retry_after is not None else None
        if fault.body == "html":
            page = "<html><body><h1>Sorry, you have been blocked</h1></body></html>"
            return HTMLResponse(page, status_code=fault.status, headers=headers)
        response = error_response(ApiError(STATUS_CODES.get(fault.status, "UDAPI100500"), status=fault.status))
        response.headers.update(headers or {})
        return response

    def expire_later(self, fault: ExpireToken, now: float) -> None:
        """Remember tokens that end at a chosen time."""
        self._expiries.append((now + fault.after_seconds, fault))

    def expiries(self, now: float, market_ms: int) -> list[ExpireToken]:
        """Those whose time has come, once."""
        due = [fault for at, fault in self._expiries if now >= at and (fault.at_market_ms is None or market_ms >= fault.at_market_ms)]
        self._expiries = [(at, fault) for at, fault in self._expiries if fault not in due]
        return due

    def clear(self) -> None:
        """End what is in force; counters stay."""
        self._rules.clear()
        self._expiries.clear()
