"""The equations between hops: what goes in is what became of it."""

from __future__ import annotations

import pytest

from marketdata.domain.continuity import FEED_HOPS, HUB_HOPS, Row, broken, continuity, continuity_text

FEED = {
    "frames_received_total": 100,
    "frames_journalled_total": 95,
    "frames_unjournalled_total": 3,
    "frames_waiting": 2,
    "frames_decoded_total": 99,
    "frames_rejected_total": 1,
    "ticks_decoded_total": 1000,
    "ticks_changed_total": 900,
    "repeated_total": 60,
    "out_of_order_total": 30,
    "ticks_unknown_total": 10,
    "ticks_replayed_total": 50,
    "ticks_stored_total": 980,
    "ticks_duplicate_total": 40,
    "ticks_unnamed_total": 5,
    "ticks_dropped_total": 4,
    "store_lag_ticks": 21,
    "store_behind": 0,
    "quotes_published_total": 700,
    "merged_total": 150,
    "quotes_forgotten_total": 20,
    "quotes_unsent_total": 25,
    "quotes_waiting": 5,
    "candles_finished_total": 60,
    "candles_recorded_total": 45,
    "candles_overtaken_total": 8,
    "candles_unwritten_total": 3,
    "candles_waiting": 4,
}
HUB = {"marked_total": 500, "delivered_total": 400, "merged_total": 70, "forgotten_total": 20, "waiting": 10}
TERMS = sorted({name for _, into, out in FEED_HOPS for name in (*into, *out)})


def row_of(rows: list[Row], hop: str) -> Row:
    (row,) = [row for row in rows if row.hop == hop]
    return row


def test_counters_that_add_up_hold_at_every_hop() -> None:
    rows = continuity({"0": FEED}, {"a": HUB})
    assert [row.holds for row in rows] == [True] * (len(FEED_HOPS) + len(HUB_HOPS))
    assert broken(rows) == []
    assert row_of(rows, "feed 0: decoder to store")[1:4] == (1050, 1050, 0)


@pytest.mark.parametrize("name", TERMS)
def test_one_more_of_any_counter_is_noticed(name: str) -> None:
    rows = broken(continuity({"1": {**FEED, name: FEED[name] + 1}}, {}))
    assert rows
    for row in rows:
        assert abs(row.difference) == 1
        assert f"{FEED[name] + 1} {name}" in row.equation
    assert {row.hop for row in rows} == {f"feed 1: {hop}" for hop, into, out in FEED_HOPS if name in (*into, *out)}


def test_a_tick_that_was_lost_says_by_how_many_and_where() -> None:
    rows = continuity({"0": {**FEED, "ticks_stored_total": 970}}, {})
    (row,) = broken(rows)
    assert (row.hop, row.difference) == ("feed 0: decoder to store", 10)
    assert "feed 0: decoder to store: DIFFERS by 10" in "\n".join(continuity_text(rows))


def test_while_the_store_reads_the_journal_its_hop_is_not_judged() -> None:
    rows = continuity({"0": {**FEED, "ticks_stored_total": 970, "store_behind": 1}}, {})
    assert broken(rows) == []
    assert row_of(rows, "feed 0: decoder to store").holds is None
    assert row_of(rows, "feed 0: decoder to quotes").holds


def test_a_counter_that_is_not_reported_is_named_and_not_passed() -> None:
    rows = continuity({"0": {name: value for name, value in FEED.items() if name != "merged_total"}}, {})
    row = row_of(rows, "feed 0: quotes to bus")
    assert (row.holds, row.detail) == (None, "not counted: merged_total")
    assert "cannot be said: not counted: merged_total" in "\n".join(continuity_text(rows))


def test_each_hub_and_each_shard_has_its_own_rows() -> None:
    rows = continuity({"0": FEED, "1": FEED}, {"a": HUB, "b": {**HUB, "delivered_total": 399}})
    assert [row.hop for row in broken(rows)] == ["hub b: hub to clients"]
    assert len({row.hop for row in rows}) == len(rows) == 2 * len(FEED_HOPS) + 2 * len(HUB_HOPS)
