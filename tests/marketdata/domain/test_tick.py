"""Ids and stamps: what an id says, that stamps only rise, and that ids fit MongoDB's int64."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from marketdata.domain.tick import EPOCH_2020_US, MAX_RANK, received_stamp_us, stamp_to_ms, tick_id, tick_id_received_us

YEAR_2055_US = 2_682_288_000_000_000


@given(st.integers(EPOCH_2020_US, YEAR_2055_US), st.integers(0, 7), st.integers(0, MAX_RANK))
def test_an_id_fits_64_bits_and_gives_its_stamp_back(now_us: int, shard: int, rank: int) -> None:
    stamp = received_stamp_us(now_us, 0, shard)
    identifier = tick_id(stamp, rank)
    assert identifier < 2**63
    assert tick_id_received_us(identifier) == stamp
    assert identifier & MAX_RANK == rank
    assert stamp & 7 == shard
    assert 0 <= now_us // 1000 - stamp_to_ms(stamp) <= 1


@given(st.lists(st.integers(EPOCH_2020_US, YEAR_2055_US), min_size=2, max_size=50), st.integers(0, 7))
def test_stamps_rise_whatever_the_clock_does(clock: list[int], shard: int) -> None:
    stamps, last = [], 0
    for now_us in clock:
        last = received_stamp_us(now_us, last, shard)
        stamps.append(last)
    assert stamps == sorted(set(stamps))
    assert {stamp & 7 for stamp in stamps} == {shard}


def test_shards_never_share_a_stamp() -> None:
    now_us = EPOCH_2020_US + 123_456_789
    assert len({received_stamp_us(now_us, 0, shard) for shard in range(8)}) == 8
