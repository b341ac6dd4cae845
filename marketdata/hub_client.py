"""A connection as the hub sees it, and what is counted of all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Protocol

from accounts.services import Credential
from marketdata.outbox import Outbox

COUNTS = (
    *("batches_received_total", "batches_lost_total", "entries_received_total", "entries_stale_total", "reloads_total"),
    *("marked_total", "delivered_total", "merged_total", "forgotten_total", "controls_dropped_total", "sent_bytes_total"),
    *("candles_received_total", "notices_received_total", "candles_drained_total", "candles_merged_total", "snapshots_drained_total"),
    *("chains_drained_total", "chains_merged_total", "chain_snapshots_drained_total"),
    *("connections_accepted_total", "connections_refused_total", "clients_slow_told_total", "clients_aborted_total"),
)
"""Names of `Hub.counts`."""
OUTBOX_COUNTS = {
    "marked_total": "owed_total",
    "delivered_total": "delivered_total",
    "merged_total": "merged_total",
    "forgotten_total": "forgotten_total",
    "controls_dropped_total": "dropped_total",
    "sent_bytes_total": "sent_bytes",
    "candles_drained_total": "candles_drained_total",
    "candles_merged_total": "candles_merged_total",
    "snapshots_drained_total": "snapshots_drained_total",
    "chains_drained_total": "chains_drained_total",
    "chains_merged_total": "chains_merged_total",
    "chain_snapshots_drained_total": "chain_snapshots_drained_total",
}
"""Totals of this process → what each client adds to them."""


class Client(Protocol):
    """A connection, as the hub sees it.

    Attributes:
        outbox: what it still has to get.
        credential: what let it in; None: nobody asks.
        lease: (user, connection) of its place among the user's connections; None when it has none.
    """

    outbox: Outbox
    credential: Credential | None
    lease: tuple[str, str] | None

    def wake(self) -> None:
        """Send what the outbox has collected, at once; let the writer drain the rest. Cheap, and idempotent until it has."""

    def inspect(self, now: float) -> None:
        """Look at the clocks: owe a heartbeat, abort a client that takes nothing. Called about once a second."""

    def close(self, code: int, *why: bytes) -> None:
        """Say why, and bye, then close."""

    def abort(self) -> None:
        """End the connection without another word."""


def totals(counts: Mapping[str, int], outboxes: Iterable[Outbox]) -> dict[str, float]:
    """Return the counts of clients that are gone with what the present ones add."""
    present = list(outboxes)
    return dict(counts) | {name: counts[name] + sum(map(attrgetter(attribute), present)) for name, attribute in OUTBOX_COUNTS.items()}
