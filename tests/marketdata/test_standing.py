"""What a hub knows of instruments that are not followed."""

from __future__ import annotations

from marketdata.standing import LATE_SECONDS, REFUSED_SECONDS, Standing


def test_what_left_is_back_with_a_quote_that_was_not_on_its_way() -> None:
    standing = Standing()
    assert not standing.has_left(7)
    assert standing.arrive(7, 0.0)
    standing.leave(7, "demand", 100.0)
    assert standing.has_left(7)
    assert not standing.arrive(7, 100.0 + LATE_SECONDS - 0.1)
    assert standing.has_left(7)
    assert standing.unfollowed == {7}
    assert standing.arrive(7, 100.0 + LATE_SECONDS)
    assert not standing.has_left(7)
    assert standing.unfollowed == set()


def test_what_expired_has_left_and_is_not_unfollowed() -> None:
    standing = Standing()
    for instrument, why in enumerate(["expired", "rules", "demand", "limit"]):
        standing.leave(instrument, why, 0.0)
    assert all(standing.has_left(instrument) for instrument in range(4))
    assert standing.unfollowed == {1, 2, 3}


def test_a_refusal_holds_as_long_as_the_feed_says_so_and_ends_with_a_quote() -> None:
    standing = Standing()
    standing.refuse({7: "No room.", 8: "Expired."}, 0.0)
    standing.refuse({7: "No room yet."}, 10.0)
    assert standing.refusal(7, 10.0 + REFUSED_SECONDS - 0.1) == "No room yet."
    assert standing.refusal(8, REFUSED_SECONDS) is None
    assert standing.refusal(9, 0.0) is None
    assert standing.arrive(7, 11.0)
    assert standing.refusal(7, 11.0) is None


def test_what_nobody_can_ask_for_again_is_dropped() -> None:
    standing = Standing()
    for instrument in (7, 8):
        standing.leave(instrument, "rules", 0.0)
    standing.refuse({9: "No room."}, 0.0)
    unfollowed = standing.unfollowed
    standing.forget({8: "a quote"}, REFUSED_SECONDS)
    assert (standing.has_left(7), standing.has_left(8)) == (False, True)
    assert unfollowed == {8}, "who holds the set sees it"
    assert standing._refused == {}
