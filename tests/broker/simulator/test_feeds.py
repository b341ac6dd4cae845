from __future__ import annotations

from broker.simulator.feeds import Bar1, Figures, index_feed, market_feed

DAY = Bar1(100.0, 110.0, 90.0, 105.0, 1300, 1_795_285_800_000)
MINUTE = Bar1(104.0, 106.0, 103.0, 105.0, 65, 1_795_329_000_000)
NONE = Bar1(0.0, 0.0, 0.0, 0.0, 0, 0)
SIDE = ([104.95, 104.9, 104.85, 0.0, 0.0], [65, 130, 195, 0, 0])
OPTION = Figures(
    105.0, 1_795_329_069_123, 65, 99.0, DAY, MINUTE, 101.5, 1300, 650, 0.125, (0.5, -9.0, 0.001, 10.0, 1.5), SIDE, SIDE, 10, 20
)


def test_an_option_has_everything() -> None:
    feed = market_feed(OPTION, partial=False)
    full = feed.fullFeed.marketFF
    assert feed.requestMode == 1
    assert (full.ltpc.ltp, full.ltpc.ltt, full.ltpc.ltq, full.ltpc.cp) == (105.0, 1_795_329_069_123, 65, 99.0)
    assert [(quote.bidP, quote.bidQ) for quote in full.marketLevel.bidAskQuote] == list(zip(*SIDE, strict=True))
    assert (full.optionGreeks.delta, full.optionGreeks.theta, full.optionGreeks.rho) == (0.5, -9.0, 1.5)
    assert [(bar.interval, bar.close, bar.vol, bar.ts) for bar in full.marketOHLC.ohlc] == [
        ("1d", 105.0, 1300, DAY.ts), ("I1", 105.0, 65, MINUTE.ts),
    ]  # fmt: skip
    assert (full.atp, full.vtt, full.oi, full.iv, full.tbq, full.tsq) == (101.5, 1300, 650, 0.125, 10, 20)


def test_a_partial_feed_lacks_depth_and_greeks_only() -> None:
    full = market_feed(OPTION, partial=True).fullFeed.marketFF
    assert not full.HasField("marketLevel")
    assert not full.HasField("optionGreeks")
    assert (full.vtt, full.oi) == (1300, 650)


def test_what_is_no_option_has_empty_greeks() -> None:
    full = market_feed(OPTION._replace(greeks=None, volatility=0.0), partial=False).fullFeed.marketFF
    assert full.HasField("optionGreeks")
    assert full.optionGreeks.ByteSize() == 0


def test_an_index_has_price_and_bars_only() -> None:
    feed = index_feed(24_000.05, 1_795_329_069_999, 23_900.0, DAY._replace(volume=0), MINUTE._replace(volume=0))
    full = feed.fullFeed.indexFF
    assert feed.fullFeed.WhichOneof("FullFeedUnion") == "indexFF"
    assert (full.ltpc.ltp, full.ltpc.ltt, full.ltpc.ltq, full.ltpc.cp) == (24_000.05, 1_795_329_069_000, 0, 23_900.0)
    assert [(bar.interval, bar.vol) for bar in full.marketOHLC.ohlc] == [("1d", 0), ("I1", 0)]


def test_before_the_first_finished_minute_the_element_is_empty() -> None:
    bars = market_feed(OPTION._replace(minute=NONE), partial=False).fullFeed.marketFF.marketOHLC.ohlc
    assert [bar.ByteSize() > 0 for bar in bars] == [True, False]
