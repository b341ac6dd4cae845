"""What clients are told of the feed, out of the reports of its shards."""

from __future__ import annotations

from itertools import permutations

import pytest

from marketdata.domain.feed_status import FeedState, FeedStatus
from marketdata.feed_board import FeedBoard


def status(
    shard: int = 0, *, epoch: int = 10, n: int = 1, state: str = "live", since_ms: int = 5, segments: dict[str, str] | None = None
) -> FeedStatus:
    return FeedStatus(shard, epoch, n, state, since_ms, 100 + n, 200 + n, segments or {}, {}, f"shard {shard}")


def board(*statuses: FeedStatus) -> FeedBoard:
    made = FeedBoard()
    for one in statuses:
        made.take(one)
    return made


def test_before_any_report_the_feed_is_reconnecting() -> None:
    view = FeedBoard().view(None)
    assert (view.state, view.since_ms, view.data_ms, view.age_ms, view.epoch) == ("reconnecting", None, None, None, 0)


def test_one_shards_report_is_told_as_it_is() -> None:
    view = board(status(state="quiet")).view(70)
    assert tuple(view) == ("quiet", 5, 101, 70, "all", "shard 0", 10)


def test_newer_reports_replace_older_ones_whatever_their_order() -> None:
    reports = [status(epoch=9, n=50), status(epoch=10, n=1), status(epoch=10, n=2, state="stale")]
    for order in permutations(reports):
        assert board(*order).statuses[0] == reports[2]


@pytest.mark.parametrize(
    ("states", "expected", "scope"),
    [
        (["live", "live"], "live", "all"),
        (["live", "quiet"], "quiet", "shard:1"),
        (["stale", "live", "stale"], "stale", "shard:0,2"),
        (["token_expired", "stale"], "token_expired", "shard:0"),
        (["closed", "closed"], "closed", "all"),
        (["reconnecting", "token_expired"], "reconnecting", "shard:0"),
    ],
)
def test_of_several_shards_the_gravest_state_is_told_with_its_scope(states: list[str], expected: str, scope: str) -> None:
    view = board(*(status(shard, state=state) for shard, state in enumerate(states))).view(0)
    assert (view.state, view.scope) == (expected, scope)


def test_every_state_a_feed_may_report_can_be_told() -> None:
    assert {board(status(state=state)).view(0).state for state in FeedState} == set(FeedState)


def test_a_feed_that_said_that_it_stops_is_not_missed() -> None:
    made = board(status(0, state="closed"), status(1, state="live"))
    assert not made.is_closed
    assert not made.hush(0, 90)
    assert made.hush(1, 90)
    assert (made.view(1).state, made.view(1).scope) == ("reconnecting", "shard:1")
    ended = board(status(0, state="closed"), status(1, state="closed"))
    assert ended.is_closed
    assert not FeedBoard().is_closed


def test_our_own_loss_hides_what_the_feed_says_until_it_is_found() -> None:
    made = board(status())
    assert made.lose("2 messages were lost.", 77)
    assert not made.lose("more", 88)
    view = made.view(1)
    assert (view.state, view.since_ms, view.detail, view.epoch) == ("reconnecting", 77, "2 messages were lost.", 10)
    assert made.find()
    assert not made.find()
    assert made.view(1).state == "live"


def test_segments_of_all_shards_are_told_together() -> None:
    made = board(status(0, segments={"NSE_EQ": "NORMAL_OPEN"}), status(1, segments={"NSE_FO": "NORMAL_CLOSE"}))
    assert made.segments() == {"NSE_EQ": "NORMAL_OPEN", "NSE_FO": "NORMAL_CLOSE"}


def test_a_silent_shard_says_nothing_of_a_segment_that_another_tells_of() -> None:
    made = board(status(0, segments={"NSE_FO": "NORMAL_CLOSE"}), status(1, segments={"NSE_FO": "NORMAL_OPEN", "MCX_FO": "NORMAL_OPEN"}))
    made.hush(1, 50)
    assert made.segments() == {"NSE_FO": "NORMAL_CLOSE", "MCX_FO": "NORMAL_OPEN"}


def of(shards: int, shard: int, **values: int | str) -> FeedStatus:
    """A report of a feed that knows how many there are."""
    return status(shard, **values)._replace(counters={"feed_shards": shards})  # type: ignore[arg-type]


def test_a_loss_of_one_shard_is_told_of_it_alone() -> None:
    made = board(of(2, 0), of(2, 1))
    assert made.lose("5 messages were lost.", 77, 1)
    assert not made.lose("more", 78, 1)
    view = made.view(1)
    assert (view.state, view.scope, view.since_ms, view.detail) == ("reconnecting", "shard:1", 77, "5 messages were lost.")
    assert (made.lost_since_ms, made.lost_why) == (77, "5 messages were lost.")
    assert made.lose("everything", 79)
    assert made.view(1).scope == "all"
    assert made.find()
    assert made.view(1).state == "live"
    assert made.lost_since_ms is None


def test_a_shard_that_is_silent_is_reconnecting_until_it_is_heard() -> None:
    made = board(of(2, 0), of(2, 1))
    assert made.hush(1, 50)
    assert not made.hush(1, 60)
    assert not made.hush(7, 60)  # there is none
    view = made.view(1)
    assert (view.state, view.scope, view.since_ms, view.detail) == ("reconnecting", "shard:1", 50, "Feed 2 of 2 reports no more.")
    made.hear(1)
    assert made.view(1).state == "live"


def test_a_shard_that_has_never_reported_is_missed() -> None:
    view = board(of(3, 0), of(3, 2)).view(1)
    assert (view.state, view.scope, view.since_ms, view.detail) == ("reconnecting", "shard:1", None, "Feed 2 of 3 has not reported.")


@pytest.mark.parametrize("order", list(permutations([of(2, 0), of(2, 1, state="closed"), of(1, 0, epoch=11)])))
def test_reports_of_shards_that_are_no_more_are_dropped(order: tuple[FeedStatus, ...]) -> None:
    made = board(*order)
    assert list(made.statuses) == [0]
    assert (made.view(1).state, made.view(1).scope) == ("live", "all")


def test_market_time_is_the_newest_that_a_running_feed_has_told() -> None:
    assert FeedBoard().market_ms is None
    assert board(status(0, n=7), status(1, n=3)).market_ms == 107
    assert board(status(0, n=7, state="closed"), status(1, n=3)).market_ms == 107
    assert board(status(0, n=7, state="closed"), status(1, n=3, state="closed")).market_ms is None
    assert board(status()._replace(data_ms=0)).market_ms is None, "no frame yet"
