"""Who follows what, and who waits."""

from __future__ import annotations

from marketdata.followers import TOLD, Followers
from marketdata.outbox import Outbox
from marketdata.wire import FULL, LTPC


def follow(followers: Followers, outbox: Outbox, instrument: int, mode: int = FULL) -> bool:
    outbox.subscribe(instrument, mode)
    return followers.add(outbox, instrument, mode)


def test_the_first_and_the_last_follower_change_what_is_wanted() -> None:
    followers, one, two = Followers(), Outbox(), Outbox()
    assert follow(followers, one, 5, LTPC)
    assert not follow(followers, two, 5, LTPC)
    assert followers.of(5, LTPC) == {one, two}
    assert followers.of(5, FULL) == set()
    assert followers.anyone(5)
    assert not followers.remove(one, 5)
    assert followers.remove(two, 5)
    assert not followers.remove(two, 5)
    assert followers.of(5, LTPC) == set()
    assert not followers.anyone(5)
    assert followers.wanted() == {}


def test_the_greatest_mode_is_wanted() -> None:
    followers, one, two = Followers(), Outbox(), Outbox()
    follow(followers, one, 5, LTPC)
    assert followers.wanted() == {5: "ltpc"}
    assert follow(followers, two, 5, FULL)
    follow(followers, two, 6, LTPC)
    assert followers.wanted() == {5: "full", 6: "ltpc"}


def test_who_waits_is_told_once_that_it_is_late_and_once_that_it_came() -> None:
    followers, one, two = Followers(), Outbox(), Outbox()
    for outbox, deadline in ((one, 10.0), (two, 20.0)):
        follow(followers, outbox, 5)
        followers.wait(outbox, 5, "K", deadline)
    assert list(followers.late(9.9)) == []
    assert list(followers.late(15.0)) == [(one, 5, "K")]
    assert list(followers.late(15.0)) == []
    assert followers.arrived(5) == [one, two]
    assert followers.arrived(5) == []


def test_who_knows_that_nothing_comes_is_not_told_again_until_it_has_come() -> None:
    followers, one, two = Followers(), Outbox(), Outbox()
    for outbox, deadline in ((one, 10.0), (two, TOLD)):
        follow(followers, outbox, 5)
        followers.wait(outbox, 5, "K", deadline)
    assert followers.is_awaited(5)
    assert followers.untold(5, "K") == [(one, "K")]
    assert followers.untold(5, "K") == followers.untold(6, "K") == []
    assert list(followers.late(1e9)) == []
    assert followers.arrived(5) == [one, two]
    assert not followers.is_awaited(5)
    assert not followers.is_awaited(6)
    assert {outbox for outbox, _ in followers.untold(5, "K")} == {one, two}, "who had it, too"
    assert followers.is_awaited(5)


def test_who_unsubscribed_waits_no_more() -> None:
    followers, one, two = Followers(), Outbox(), Outbox()
    for outbox in (one, two):
        follow(followers, outbox, 5)
        followers.wait(outbox, 5, "K", 10.0)
    followers.remove(one, 5)
    assert list(followers.late(11.0)) == [(two, 5, "K")]
    followers.remove(two, 5)
    assert followers.arrived(5) == []


def test_a_chart_wants_the_full_mode_until_its_last_follower_goes() -> None:
    followers, one = Followers(), Outbox()
    follow(followers, one, 5, LTPC)
    assert followers.add_chart(5)
    assert not followers.add_chart(5)
    assert followers.add_chart(6)
    assert followers.wanted() == {5: "full", 6: "full"}
    assert followers.anyone(6)
    assert not followers.remove_chart(5)
    assert followers.remove_chart(5)
    assert followers.remove_chart(6)
    assert followers.wanted() == {5: "ltpc"}
    assert not followers.anyone(6)
