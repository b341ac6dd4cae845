"""The report: a state has a beginning, a change is told and logged once, rates are of the last second, trouble is part of the detail."""

from __future__ import annotations

import logging

import pytest

from broker.report import COUNTS, Report, first_line
from marketdata.domain.feed_status import FeedState


def test_a_state_begins_once_and_its_detail_may_change() -> None:
    report = Report(shard=3)
    assert report.change(FeedState.STALE, "NSE_FO has sent nothing for over 10 s")
    since = report.since_ms
    assert not report.change(FeedState.STALE, "NSE_FO has sent nothing for over 20 s")
    told = report.status(epoch=5, n=7, data_ms=9, segments={"NSE_FO": "NORMAL_OPEN"}, counters={})
    assert (told.shard, told.epoch, told.n, told.data_ms, told.segments) == (3, 5, 7, 9, {"NSE_FO": "NORMAL_OPEN"})
    assert (told.state, told.since_ms, told.detail) == ("stale", since, "NSE_FO has sent nothing for over 20 s")


def test_trouble_beside_the_state_is_told_with_it() -> None:
    report = Report(shard=0)
    report.change(FeedState.LIVE)
    report.trouble = "the journal's disk takes nothing"
    assert report.status(epoch=1, n=1, data_ms=0, segments={}, counters={}).detail == "the journal's disk takes nothing"
    report.change(FeedState.STALE, "silent")
    assert report.status(epoch=1, n=1, data_ms=0, segments={}, counters={}).detail == "silent; the journal's disk takes nothing"


def test_every_counter_is_told_before_it_happens() -> None:
    told = Report(shard=0).status(epoch=1, n=1, data_ms=0, segments={}, counters={"store_lag_ticks": 4})
    assert {name: told.counters[name] for name in COUNTS} == dict.fromkeys(COUNTS, 0)
    assert told.counters["store_lag_ticks"] == 4
    assert (told.counters["frames_per_second"], told.counters["ticks_per_second"]) == (0, 0)


def test_rates_are_of_the_time_since_the_last_measure() -> None:
    report = Report(shard=0)
    report.counts["frames_received_total"] += 1_000_000
    report.measure()
    report.measure()
    assert report.status(epoch=1, n=1, data_ms=0, segments={}, counters={}).counters["frames_per_second"] == 0


def test_a_change_of_state_and_a_failure_are_one_line_each(caplog: pytest.LogCaptureFixture) -> None:
    report = Report(shard=0)
    with caplog.at_level(logging.INFO, logger="broker.report"):
        for _ in range(3):
            report.change(FeedState.LIVE, "")
            report.failing("Redis", ConnectionError("refused\nat 127.0.0.1"))
        report.failing("Redis", None)
        report.failing("Redis", None)
    assert [record.getMessage() for record in caplog.records] == [
        "feed: closed → live", "feed: Redis fails: refused", "feed: Redis works again",
    ]  # fmt: skip


def test_an_error_without_a_text_is_named_by_its_kind() -> None:
    assert (first_line(TimeoutError()), first_line(ValueError("x" * 500))) == ("TimeoutError", "x" * 200)
