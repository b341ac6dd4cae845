"""When trading in a segment ends on a day, for this process: asked of the calendar, which an app above this one keeps.

Expiry follows the market's real hours, and the calendar belongs to `marketdata`, which may import us and we not it. So it hands
its answer in (`provide`, once, when Django is ready); without it, and for days that it does not know, the usual hours hold.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

from instruments.domain.expiry import usual_end_ms


def _nothing(segment: str, day: date) -> None:
    return None


_known: Callable[[str, date], int | None] = _nothing


def provide(known: Callable[[str, date], int | None]) -> None:
    """Let `known` tell when a segment's trading ends on a day (IST) · ms UTC; None where it does not know. It may block for a query."""
    global _known
    _known = known


def trading_end_ms(segment: str, day: date) -> int:
    """Return when trading in a segment ends on a day · ms UTC. May block for a query: not on an event loop."""
    known = _known(segment, day)
    return usual_end_ms(segment, day) if known is None else known
