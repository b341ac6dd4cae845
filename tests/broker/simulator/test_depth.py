from __future__ import annotations

import numpy as np

from broker.simulator import depth
from broker.simulator.contract import Kind


def test_the_touch_lies_around_the_fair_price_on_the_tick() -> None:
    kind = np.full(4, Kind.OPTION)
    fair, tick = np.array([145.83, 3.12, 0.06, 1500.0]), np.full(4, 0.05)
    best = depth.touch(kind, fair, tick)
    assert (best.bid <= fair).all()
    assert (best.ask > best.bid).all()
    for side in best:
        assert np.allclose(side / tick, np.rint(side / tick))
    assert (best.ask - best.bid)[0] < 0.5


def test_nobody_bids_below_a_tick() -> None:
    best = depth.touch(np.array([Kind.OPTION]), np.array([0.01]), np.array([0.05]))
    assert (best.bid[0], best.ask[0]) == (0.0, 0.05)
    book = depth.book(best, np.array([0.05]), np.array([65]), np.random.default_rng(1))
    assert book.bid_quantity.tolist() == [[0] * 5]
    assert (book.ask_quantity > 0).all()


def test_an_index_has_no_spread() -> None:
    best = depth.touch(np.array([Kind.INDEX]), np.array([24_000.02]), np.array([0.05]))
    assert best.bid.tolist() == best.ask.tolist() == [24_000.0]


def test_levels_go_outward_in_ticks_and_lots() -> None:
    count = 300
    tick, lot = np.full(count, 0.05), np.where(np.arange(count) % 2, 65, 1)
    best = depth.touch(np.full(count, Kind.OPTION), np.linspace(0.02, 900, count), tick)
    book = depth.book(best, tick, lot, np.random.default_rng(1))
    assert (book.ask_price[:, 0] == best.ask).all()
    assert (book.bid_price[:, 0] == best.bid).all()
    assert (np.diff(book.ask_price, axis=1) >= 0.0499).all()
    there = book.bid_price > 0
    assert (np.diff(book.bid_price, axis=1)[there[:, 1:]] <= -0.0499).all()
    assert ((book.bid_quantity > 0) == there).all()
    for quantity in (book.bid_quantity, book.ask_quantity):
        assert (quantity % lot[:, None] == 0).all()
    for price in (book.bid_price, book.ask_price):
        assert np.allclose(price / 0.05, np.rint(price / 0.05))
