from __future__ import annotations

import numpy as np
import pytest

from broker.simulator.contract import Contract, Kind
from broker.simulator.path import MarketNoise, Path, Spots
from broker.simulator.tape import Tape
from broker.simulator.view import View

NOW = 1_795_329_000_000
CALL = Contract("NSE_FO|1", Kind.OPTION, "NSE_INDEX|Nifty 50", 1, 24_000.0, NOW + 9 * 86_400_000, 0.05, 65, "NSE_FO")


def test_feeds_show_the_tape_and_change_nothing() -> None:
    noise, spots, tape = MarketNoise(3), Spots(), Tape()
    vix = spots.add(Path("vix", 13.0, 0.9, -0.8, noise))
    nifty = spots.add(Path("NSE_INDEX|Nifty 50", 24_000.0, 0.12, 0.9, noise))
    slots = np.array([tape.add(CALL, nifty, 1, 1.0), tape.add(CALL._replace(kind=Kind.INDEX, sign=0, expiry_ms=0), nifty, 2, 1.0)])
    tape.fold(slots, np.full(2, NOW - 100), np.array([500.05, 24_000.0]), np.array([130, 0]))
    view = View(tape, spots, vix)
    first, second = (view.feeds(slots, NOW, np.random.default_rng(1), np.zeros(2, np.bool_)) for _ in range(2))
    assert first == second
    full = first[0].fullFeed.marketFF
    assert (full.ltpc.ltp, full.ltpc.ltq, full.vtt, full.atp) == (500.05, 130, 130, 500.05)
    worth = view.values(slots, NOW)
    best = full.marketLevel.bidAskQuote[0]
    assert best.bidP <= worth.fair.price[0] <= best.askP
    assert full.iv == pytest.approx(worth.fair.volatility[0], rel=1e-6)
    assert 0 < full.optionGreeks.delta < 1
    assert full.optionGreeks.theta < 0
    assert first[1].fullFeed.indexFF.ltpc.ltt == NOW - 1000
    assert view.feeds(slots[:0], NOW, np.random.default_rng(1), np.zeros(0, np.bool_)) == []
