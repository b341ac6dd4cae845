"""Gaps in the store: which are open, what they are judged, and minutes that nobody knew to be missing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from marketdata import gaps, store
from marketdata.domain.candle import Candle
from marketdata.gaps import Filled
from marketdata.models import Gap

pytestmark = pytest.mark.django_db

MINUTE = 60_000
START = 1_795_000_500_000 // MINUTE * MINUTE


def gap(start_ms: int, end_ms: int | None, **fields: Any) -> Gap:
    end = None if end_ms is None else datetime.fromtimestamp(end_ms / 1000, UTC)
    return Gap.objects.create(start=datetime.fromtimestamp(start_ms / 1000, UTC), end=end, cause="disconnected", **fields)


def candle(instrument: int, start_ms: int, state: str = "backfilled") -> Candle:
    return Candle(instrument, "1m", start_ms, 1.0, 2.0, 0.5, 1.5, 3, None, state)


def test_open_gaps_come_newest_first_without_those_that_last_or_have_just_ended() -> None:
    first, second = gap(START, START + MINUTE), gap(START + 5 * MINUTE, START + 6 * MINUTE, shard=2, instruments=[7, 8])
    gap(START, START + MINUTE, heal_state="healed")
    gap(START, START + MINUTE, heal_state="impossible")
    gap(START, None)
    recent = gap(START, START + 60 * MINUTE)
    found = gaps.gaps_open(ended_before_ms=START + 6 * MINUTE)
    assert [notice.gap for notice in found] == [str(second.pk), str(first.pk)]
    assert found[0][1:] == (2, START + 5 * MINUTE, START + 6 * MINUTE, "disconnected", "open", "", [7, 8], 0)
    assert len(gaps.gaps_open(ended_before_ms=START + 6 * MINUTE, limit=1)) == 1
    assert {notice.gap for notice in gaps.gaps_open()} == {str(row.pk) for row in (first, second, recent)}


def test_a_verdict_counts_what_is_filled_within_and_the_attempt() -> None:
    row = gap(START + 20_000, START + 2 * MINUTE + 10_000)
    within = [candle(1, START), candle(1, START + MINUTE), candle(2, START + 2 * MINUTE), candle(3, START, "confirmed")]
    store.candles_write([*within, candle(1, START - MINUTE), candle(1, START + 3 * MINUTE)])
    (notice,) = gaps.gaps_open(ended_before_ms=START + 9 * MINUTE)
    assert gaps.candles_filled(notice) == Filled(3, 2)
    assert gaps.candles_filled(notice._replace(instruments=[2, 3])) == Filled(1, 1)
    assert gaps.candles_filled(notice, shards=2) == Filled(1, 1), "the first of two feeds has the even ones"
    waiting = gaps.gap_judge(notice, "open", "not yet")
    assert (waiting.heal_state, waiting.heal_detail, waiting.candles_healed) == ("open", "not yet", 3)
    healed = gaps.gap_judge(notice, "healed", "x" * 300)
    row.refresh_from_db()
    assert (row.heal_state, row.heal_attempts, row.candles_healed, row.heal_detail) == ("healed", 2, 3, "x" * 200)
    assert row.healed_at is not None
    assert healed.gap == str(row.pk)
    assert gaps.gaps_open(ended_before_ms=START + 9 * MINUTE) == []


def test_a_gap_that_was_deleted_meanwhile_is_judged_without_harm() -> None:
    row = gap(START, START + MINUTE)
    (notice,) = gaps.gaps_open(ended_before_ms=START + 9 * MINUTE)
    row.delete()
    assert gaps.gap_judge(notice, "healed", "done").heal_state == "healed"
    assert not Gap.objects.exists()


def test_instruments_that_missed_the_same_minutes_share_a_gap_however_often_it_is_told() -> None:
    def missed(instrument: int, end_ms: int) -> str:
        return gaps.gap_missing_record(shard=1, start_ms=START, end_ms=end_ms, instruments=[instrument]).gap

    first = missed(5, START + 2 * MINUTE)
    assert missed(4, START + 2 * MINUTE) == first == missed(5, START + 2 * MINUTE)
    other = missed(5, START + 3 * MINUTE)
    assert other != first
    row = Gap.objects.get(pk=first)
    assert (row.shard, row.cause, row.heal_state, row.candles_healed) == (1, "missing", "healed", 4)
    assert sorted(row.instruments) == [4, 5]
    assert row.heal_detail == "4 candles filled, 2 instruments"
    assert Gap.objects.count() == 2


@pytest.mark.parametrize(
    ("filled", "text"), [(Filled(412, 37), "412 candles filled, 37 instruments"), (Filled(1, 1), "1 candle filled, 1 instrument")]
)
def test_what_was_filled_is_said_in_words(filled: Filled, text: str) -> None:
    assert gaps.filled_text(filled) == text
