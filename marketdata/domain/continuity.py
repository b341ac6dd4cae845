"""Continuity: what goes into each hop must come out of it, be waiting, or be counted as what else became of it. Pure.

The table below is the law; whoever counts must make it add up. Used by `manage.py verify`, `/api/marketdata/continuity/` and tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

Terms = tuple[str, ...]
Hop = tuple[str, Terms, Terms]
"""Name of a hop, the counters of what goes in, the counters of what became of it."""

FEED_HOPS: tuple[Hop, ...] = (
    ("socket to journal", ("frames_received_total",), ("frames_journalled_total", "frames_unjournalled_total", "frames_waiting")),
    ("socket to decoder", ("frames_received_total",), ("frames_decoded_total", "frames_rejected_total")),
    (
        "decoder to quotes",
        ("ticks_decoded_total",),
        ("ticks_changed_total", "repeated_total", "out_of_order_total", "ticks_unknown_total"),
    ),
    (
        "decoder to store",
        ("ticks_decoded_total", "ticks_replayed_total"),
        ("ticks_stored_total", "ticks_duplicate_total", "ticks_unnamed_total", "ticks_dropped_total", "store_lag_ticks"),
    ),
    (
        "quotes to bus",
        ("ticks_changed_total",),
        ("quotes_published_total", "merged_total", "quotes_forgotten_total", "quotes_unsent_total", "quotes_waiting"),
    ),
    (
        "candles to store",
        ("candles_finished_total",),
        ("candles_recorded_total", "candles_overtaken_total", "candles_unwritten_total", "candles_waiting"),
    ),
)
"""Of one feed shard."""

HUB_HOPS: tuple[Hop, ...] = (("hub to clients", ("marked_total",), ("delivered_total", "merged_total", "forgotten_total", "waiting")),)
"""Of one hub, over all its clients, those that are gone included."""

READS_JOURNAL = "store_behind"
"""While the store's writer reads from the journal, what waits there is not counted in ticks: that hop cannot be judged."""


class Row(NamedTuple):
    """One hop, judged.

    Attributes:
        hop: its name, with whose it is: "feed 0: socket to journal".
        taken, given: what went in; what became of it.
        difference: taken − given.
        holds: whether they are equal; None where that cannot be said now, for the reason in `detail`.
        equation: the counters with their values, for a person.
        detail: why it cannot be judged, or "".
    """

    hop: str
    taken: float
    given: float
    difference: float
    holds: bool | None
    equation: str
    detail: str

    def as_dict(self) -> dict[str, Any]:
        """Return the row as plain values."""
        return self._asdict()


def continuity(feeds: Mapping[str, Mapping[str, float]], hubs: Mapping[str, Mapping[str, float]]) -> list[Row]:
    """Judge every hop of the feeds and hubs.

    The counters of a running process are read while it works: a difference of what was under way is none; once nothing comes, every row
    must hold exactly.

    Args:
        feeds: shard → the counters of its FeedStatus.
        hubs: hub → its counters.

    Returns:
        Rows in the order of feeds, hubs and hops; empty without any.
    """
    rows = [row for name, counters in feeds.items() for row in hops_judge(f"feed {name}", counters, FEED_HOPS)]
    return rows + [row for name, counters in hubs.items() for row in hops_judge(f"hub {name}", counters, HUB_HOPS)]


def hops_judge(whose: str, counters: Mapping[str, float], hops: Iterable[Hop]) -> list[Row]:
    """Judge the hops of one table by one set of counters."""
    return [_judge(f"{whose}: {hop}", counters, into, out) for hop, into, out in hops]


def _judge(hop: str, counters: Mapping[str, float], into: Terms, out: Terms) -> Row:
    taken, given = (sum(counters.get(name, 0) for name in terms) for terms in (into, out))
    unsaid = [name for name in (*into, *out) if name not in counters]
    detail = f"not counted: {', '.join(unsaid)}" if unsaid else ""
    if READS_JOURNAL in counters and counters[READS_JOURNAL] and "store_lag_ticks" in out:
        detail = "the store is behind and reads from the journal"
    return Row(
        hop,
        taken,
        given,
        taken - given,
        None if detail else taken == given,
        f"{_spelled(into, counters)} = {_spelled(out, counters)}",
        detail,
    )


def _spelled(terms: Terms, counters: Mapping[str, float]) -> str:
    return " + ".join(f"{counters[name]:.0f} {name}" if name in counters else f"? {name}" for name in terms)


def broken(rows: Iterable[Row]) -> list[Row]:
    """Return the rows that do not hold; those that cannot be judged are not among them."""
    return [row for row in rows if row.holds is False]


def continuity_text(rows: Iterable[Row]) -> list[str]:
    """Return a line per row for a person."""
    words = {True: "holds", False: "DIFFERS", None: "cannot be said"}
    lines = []
    for row in rows:
        said = words[row.holds] + (f" by {row.difference:.0f}" if row.holds is False else f": {row.detail}" if row.detail else "")
        lines.append(f"{row.hop}: {said}\n    {row.equation}")
    return lines
