"""What is counted of clients, the present ones and those that are gone."""

from __future__ import annotations

from collections import Counter

from marketdata.hub_client import COUNTS, OUTBOX_COUNTS, totals
from marketdata.outbox import Outbox


def test_totals_are_of_those_that_are_gone_and_of_those_that_are_here() -> None:
    counts = Counter(dict.fromkeys(COUNTS, 0)) + Counter({"merged_total": 3, "batches_received_total": 5})
    one, two = Outbox(), Outbox()
    one.merged_total, two.merged_total, two.sent_bytes, two.candles_merged_total = 1, 2, 70, 4
    found = totals(counts, [one, two])
    assert [found[name] for name in ("merged_total", "sent_bytes_total", "candles_merged_total", "batches_received_total")] == [6, 70, 4, 5]


def test_every_count_of_a_client_has_its_total() -> None:
    assert set(OUTBOX_COUNTS) <= set(COUNTS)
    assert all(isinstance(getattr(Outbox(), attribute), int) for attribute in OUTBOX_COUNTS.values())
