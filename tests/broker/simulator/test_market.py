from __future__ import annotations

import gzip
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from broker.simulator import market as market_module
from broker.simulator.market import Market
from broker.simulator.source import Bar, Update
from broker.upstox import MarketDataFeedV3_pb2 as pb

ROOT = Path(__file__).parents[3]
MINUTE = 60_000
NIFTY = "NSE_INDEX|Nifty 50"


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("Asia/Kolkata")).timestamp() * 1000)


START = ms("2026-11-20T11:29:50")


def some_keys(market: Market, count: int = 60) -> set[str]:
    """Indices, shares, futures and options of all chains, evenly."""
    keys = list(market.rows_by_key)
    return {NIFTY, *keys[:: max(1, len(keys) // count)], *keys[36:51]}


def run(market: Market, seconds: float, keys: set[str], every_ms: int = 50) -> list[Update]:
    start, found = market.now_ms(), []
    for number in range(int(seconds * 1000 / every_ms)):
        found += market.due(start + (number + 1) * every_ms, keys)
    return found


def key_of(market: Market, symbol: str) -> str:
    return next(key for key, row in market.rows_by_key.items() if row["trading_symbol"] == symbol)


def near_option(market: Market) -> str:
    rows = [row for row in market.rows_by_key.values() if row["instrument_type"] == "CE" and row["underlying_symbol"] == "NIFTY"]
    best: dict[str, Any] = min(rows, key=lambda row: (row["expiry"], abs(row["strike_price"] - market.spot(NIFTY))))
    return str(best["instrument_key"])


def bars_of(feed: pb.Feed) -> dict[str, pb.OHLC]:
    union = feed.fullFeed.indexFF if feed.fullFeed.HasField("indexFF") else feed.fullFeed.marketFF
    return {bar.interval: bar for bar in union.marketOHLC.ohlc}


# --- repeatable ----------------------------------------------------------------------------------------------------------


def digest(updates: list[Update]) -> str:
    found = hashlib.sha256()
    for update in updates:
        found.update(str(update.broker_ms).encode())
        for key, feed in update.feeds.items():
            found.update(key.encode() + feed.SerializeToString())
    return found.hexdigest()


def digest_of_a_run() -> str:
    market = Market(seed=5, start_ms=START)
    keys = some_keys(market)
    first = run(market, 8, set(sorted(keys)[: len(keys) // 2]))
    return digest(first + run(market, 8, keys))


def test_two_fresh_processes_make_the_same_bytes() -> None:
    program = (
        "import importlib.util, sys; "
        f"spec = importlib.util.spec_from_file_location('case', {__file__!r}); "
        "case = importlib.util.module_from_spec(spec); spec.loader.exec_module(case); print(case.digest_of_a_run())"
    )

    def output(hash_seed: str) -> str:
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=120
        )
        return done.stdout.strip()

    assert output("1") == output("2") == digest_of_a_run()


def test_how_often_due_is_called_changes_nothing() -> None:
    def updates(every_ms: int) -> list[Update]:
        market = Market(seed=5, start_ms=START)
        keys = some_keys(market)
        market.due(START, keys)
        return run(market, 6, keys, every_ms)

    assert digest(updates(20)) == digest(updates(1500))


def test_what_is_asked_over_rest_changes_nothing_in_the_feed() -> None:
    def updates(asked: bool) -> list[Update]:
        market = Market(seed=5, start_ms=START)
        keys = some_keys(market, 30)
        found = run(market, 2, keys)
        if asked:
            others = set(list(market.rows_by_key)[100:400]) - keys
            assert len(market.snapshot(others | keys)) == len(others | keys)
            market.minute_bars(min(others), START - 10 * 86_400_000, START)
        return found + run(market, 2, keys)

    assert digest(updates(True)) == digest(updates(False))


def test_another_seed_is_another_market() -> None:
    first, second = Market(seed=5, start_ms=START), Market(seed=6, start_ms=START)
    assert first.spot(NIFTY) != second.spot(NIFTY)


def test_a_restart_goes_on_where_the_market_is() -> None:
    market = Market(seed=5, start_ms=START)
    run(market, 130, {NIFTY}, 1000)
    again = Market(seed=5, start_ms=market.now_ms())
    assert again.spot(NIFTY) == market.spot(NIFTY)
    assert again.rows_by_key == market.rows_by_key
    minute = ms("2026-11-20T11:31:00")
    live, told = (found.minute_bars(NIFTY, minute, minute + MINUTE)[0] for found in (market, again))
    assert live.open == pytest.approx(told.open, rel=2e-4)
    assert live.close == pytest.approx(told.close, rel=2e-4)


# --- every trade is in the bars, the feed shows a part --------------------------------------------------------------------


class Trades:
    """An independent record of the trades, folded here by hand."""

    def __init__(self) -> None:
        self.of: dict[str, list[tuple[int, float, int]]] = defaultdict(list)

    def __call__(self, key: str, at_ms: int, price: float, quantity: int) -> None:
        self.of[key].append((at_ms, price, quantity))

    def minutes(self, key: str) -> dict[int, tuple[float, float, float, float, int]]:
        by_minute: dict[int, list[tuple[float, int]]] = defaultdict(list)
        for at_ms, price, quantity in self.of[key]:
            by_minute[at_ms // MINUTE * MINUTE].append((price, quantity))
        return {
            start: (trades[0][0], max(trades)[0], min(trades)[0], trades[-1][0], sum(quantity for _, quantity in trades))
            for start, trades in by_minute.items()
        }


def test_bars_are_made_of_every_trade_and_the_feed_shows_them() -> None:
    market = Market(seed=9, start_ms=START)
    trades = Trades()
    market.on_trade = trades
    keys = some_keys(market)
    before = {key: feed.fullFeed.marketFF.vtt for key, feed in market.snapshot(keys).items()}
    seen: dict[str, dict[int, tuple[float, float, float, float, int]]] = defaultdict(dict)
    last: dict[str, pb.Feed] = {}
    for update in run(market, 150, keys, 200):
        for key, feed in update.feeds.items():
            last[key] = feed
            bar = bars_of(feed)["I1"]
            shown = (bar.open, bar.high, bar.low, bar.close, bar.vol)
            assert seen[key].setdefault(bar.ts, shown) == shown
            assert bar.ts + MINUTE <= update.broker_ms
    whole = [ms("2026-11-20T11:30:00"), ms("2026-11-20T11:31:00")]
    for key in keys:
        folded = trades.minutes(key)
        for start in whole:
            if start not in folded:
                continue
            assert seen[key][start] == folded[start], (key, start)
            assert [bar[1:6] for bar in market.minute_bars(key, start, start + 1)] == [folded[start]]
        forming = market.minute_bars(key, ms("2026-11-20T11:32:00"), START + 10**6)
        assert [bar[1:6] for bar in forming] == [folded[start] for start in sorted(folded) if start >= ms("2026-11-20T11:32:00")]
        day = market.day_bars(key, 0, 1 << 60)[-1]
        assert day.high >= max(price for _, price, _ in trades.of[key])
        assert day.low <= min(price for _, price, _ in trades.of[key])
        assert day.close == trades.of[key][-1][1]
        if not key.startswith("NSE_INDEX|"):
            assert day.volume == before[key] + sum(quantity for _, _, quantity in trades.of[key])
    assert market.trades_total == sum(map(len, trades.of.values()))
    assert sum(len(trades.of[key]) for key in keys if not key.startswith("NSE_INDEX|")) > 5000


def test_the_feed_is_conflated_as_the_brokers() -> None:
    market = Market(seed=1, start_ms=START)
    keys = set(list(market.rows_by_key)[:300])
    market.due(START + 1, keys)
    updates = run(market, 60, keys)
    shown: dict[str, list[tuple[int, pb.Feed]]] = defaultdict(list)
    for update in updates:
        for key, feed in update.feeds.items():
            shown[key].append((update.broker_ms, feed))

    assert {133, 166} >= {min(gaps := [b.broker_ms - a.broker_ms for a, b in pairwise(updates)]), max(gaps)}
    rates = [len(feeds) / 60 for feeds in shown.values()]
    assert len(rates) == 300
    assert min(rates) >= 1.6
    assert max(rates) <= 2.1

    counts: Counter[str] = Counter()
    lags = []
    for key, feeds in shown.items():
        if key.startswith("NSE_INDEX|"):
            continue
        for (_, before), (at_ms, after) in pairwise(feeds):
            old, new = before.fullFeed.marketFF, after.fullFeed.marketFF
            counts["updates"] += 1
            counts["repeated"] += before.SerializeToString() == after.SerializeToString()
            counts["partial"] += not new.HasField("marketLevel")
            counts["traded"] += new.vtt > old.vtt
            counts["one trade"] += new.vtt > old.vtt and new.vtt - old.vtt == new.ltpc.ltq
            assert new.vtt >= old.vtt
            assert new.ltpc.ltt >= old.ltpc.ltt
            lags.append(at_ms - new.ltpc.ltt)
    assert 0.3 < counts["one trade"] / counts["traded"] < 0.7
    assert 0.01 < counts["repeated"] / counts["updates"] < 0.13
    assert 0.001 < counts["partial"] / counts["updates"] < 0.01
    assert min(lags) >= 27
    assert 100 < statistics.median(lags) < 800


def test_a_higher_rate_shows_more_and_trades_more() -> None:
    def count(rate: float) -> tuple[float, int]:
        market = Market(seed=1, start_ms=START, rate=rate)
        keys = set(list(market.rows_by_key)[50:150])
        market.due(START + 1, keys)
        updates = run(market, 20, keys)
        return sum(len(update.feeds) for update in updates) / 20 / 100, market.trades_total

    slow, usual, fast = count(0.5), count(1.0), count(5.0)
    assert slow[0] == pytest.approx(0.9, rel=0.1)
    assert usual[0] == pytest.approx(1.85, rel=0.1)
    assert fast[0] == pytest.approx(9.2, rel=0.15)
    assert fast[1] > 4 * usual[1] > 6 * slow[1]


def test_only_wanted_and_known_keys_appear() -> None:
    market = Market(seed=1, start_ms=START)
    option = near_option(market)
    assert {key for update in run(market, 3, {option, "NSE_FO|none", NIFTY}) for key in update.feeds} == {option, NIFTY}
    assert {key for update in run(market, 3, {NIFTY}) for key in update.feeds} == {NIFTY}
    assert run(market, 3, set()) == []
    assert market.snapshot({"NSE_FO|none"}) == {}
    assert market.feed("NSE_FO|none") is None
    assert market.minute_bars("NSE_FO|none", 0, 1 << 60) == market.day_bars("NSE_FO|none", 0, 1 << 60) == []
    assert market.previous_open_interest("NSE_FO|none") == 0
    with pytest.raises(KeyError):
        market.spot("NSE_INDEX|none")


def test_a_market_that_was_not_asked_for_long_was_halted() -> None:
    market = Market(seed=1, start_ms=START)
    run(market, 2, {NIFTY})
    updates = market.due(market.now_ms() + 3_600_000, {NIFTY})
    assert len(updates) < 80
    assert market.halted_total == 1
    assert market.now_ms() - updates[0].broker_ms <= market_module.CATCH_UP_MS


def test_up_to_a_minute_in_a_second_each_finished_minute_is_shown() -> None:
    speed, start = 60, ms("2026-11-12T09:14:00")
    market = Market(seed=7, start_ms=start, hours="real", speed=speed)
    keys = some_keys(market)
    shown: dict[str, set[int]] = defaultdict(set)
    for at in range(start, start + 20 * MINUTE, 20 * speed):
        for update in market.due(at, keys):
            for key, feed in update.feeds.items():
                shown[key].add(bars_of(feed)["I1"].ts if "I1" in bars_of(feed) else 0)
    first, last = start + 2 * MINUTE, start + 18 * MINUTE
    made = {key: {bar.start_ms for bar in market.minute_bars(key, first, last)} for key in keys}
    assert sum(map(len, made.values())) > 14 * len(keys) > 14 * 20
    assert {key: bars - shown[key] for key, bars in made.items() if not bars <= shown[key]} == {}


def test_a_faster_clock_shows_as_much_in_the_hosts_time_and_each_minute_in_the_markets() -> None:
    speed, start = 2_000, ms("2026-11-12T09:15:00")
    market = Market(seed=4, start_ms=start, hours="real", speed=speed, partial_share=0.0)
    keys = set(list(market.rows_by_key)[:600])
    updates = [update for at in range(start, start + 3_600_000, 20 * speed) for update in market.due(at, keys)]
    times = [update.broker_ms for update in updates]
    assert max(after - before for before, after in pairwise(times)) <= 20_000
    assert market.halted_total == 0
    a_second = sum(len(update.feeds) for update in updates) / (3_600 / speed) / len(keys)
    assert 1.2 < a_second < 2.4  # 1.4 to 2.0 of the real feed; here over 1.8 s
    bars = market.minute_bars(NIFTY, start, start + 3_540_000)
    assert [bar.start_ms for bar in bars] == list(range(start, start + 3_540_000, MINUTE))

    evening, close = Market(seed=4, start_ms=ms("2026-11-12T15:35:00"), hours="real", speed=speed), ms("2026-11-12T15:40:00")
    evening.rate, trades = 1.0, Trades()
    evening.on_trade = trades
    future = key_of(evening, "NIFTY FUT 23 NOV 26")
    shown = [update for at in range(evening.now_ms(), close + 600_000, 20 * speed) for update in evening.due(at, keys | {future})]
    assert close - 60_000 < shown[-1].broker_ms < close
    assert close - 5_000 < trades.of[future][-1][0] < close


# --- feeds ------------------------------------------------------------------------------------------------------------


def test_every_kind_has_its_form() -> None:
    market = Market(seed=2, start_ms=START, partial_share=0.0)
    keys = some_keys(market, 200)
    for update in run(market, 4, keys):
        for key, feed in update.feeds.items():
            row = market.rows_by_key[key]
            if row["instrument_type"] == "INDEX":
                index = feed.fullFeed.indexFF
                assert (index.ltpc.ltq, index.ltpc.ltt % 1000) == (0, 0)
                assert index.ltpc.cp > 0
                continue
            full = feed.fullFeed.marketFF
            tick, lot = row["tick_size"] / 100, row["lot_size"]
            assert full.ltpc.ltp / tick == pytest.approx(round(full.ltpc.ltp / tick), abs=1e-6)
            assert full.vtt % lot == full.ltpc.ltq % lot == full.oi % lot == full.tbq % lot == full.tsq % lot == 0
            assert len(full.marketLevel.bidAskQuote) == 5
            best = full.marketLevel.bidAskQuote[0]
            assert best.bidP < best.askP
            assert abs(full.ltpc.ltp - (best.bidP + best.askP) / 2) <= max(0.04 * full.ltpc.ltp, 5 * tick)
            day = bars_of(feed)["1d"]
            assert day.low <= full.ltpc.ltp <= day.high
            assert day.low - 0.01 <= full.atp <= day.high + 0.01
            assert (day.close, day.vol, day.ts) == (full.ltpc.ltp, full.vtt, ms("2026-11-20T00:00:00"))
            option = row["instrument_type"] in {"CE", "PE"}
            assert (full.iv > 0) == option == (full.optionGreeks.ByteSize() > 0)
            assert (full.oi > 0) == (row["segment"] == "NSE_FO")


def test_a_chain_of_options_obeys_parity_within_its_spreads() -> None:
    market = Market(seed=2, start_ms=START)
    rows = [row for row in market.rows_by_key.values() if row["segment"] == "NSE_FO" and row["underlying_symbol"] == "NIFTY"]
    expiry = min(row["expiry"] for row in rows)
    chain = {(row["strike_price"], row["instrument_type"]): row["instrument_key"] for row in rows if row["expiry"] == expiry}
    feeds = market.snapshot(set(chain.values()))
    future = feeds[chain.pop((0.0, "FUT"))].fullFeed.marketFF.ltpc.ltp
    strikes = sorted({strike for strike, _ in chain})
    assert len(strikes) >= 81
    assert strikes[40] < future < strikes[-41]
    for strike in strikes:
        call, put = (feeds[chain[strike, side]].fullFeed.marketFF for side in ("CE", "PE"))
        width = sum(quote.askP - quote.bidP for full in (call, put) for quote in full.marketLevel.bidAskQuote[:1])
        assert call.ltpc.ltp - put.ltpc.ltp == pytest.approx(future - strike, abs=width + 0.002 * abs(future - strike) + 1)
        assert call.optionGreeks.delta - put.optionGreeks.delta == pytest.approx(1, abs=0.01)


def test_rest_figures_agree_with_the_feed() -> None:
    market = Market(seed=2, start_ms=START)
    option = near_option(market)
    run(market, 5, {option})
    feed = market.feed(option)
    assert feed is not None
    assert feed == market.snapshot({option})[option]
    assert market.previous_open_interest(option) > 0
    assert market.previous_open_interest(NIFTY) == 0
    index = market.feed(NIFTY)
    assert index is not None
    assert index.fullFeed.indexFF.ltpc.ltp == pytest.approx(market.spot(NIFTY), rel=1e-4)
    vix = market.feed("NSE_INDEX|India VIX")
    assert vix is not None
    assert feed.fullFeed.marketFF.iv == pytest.approx(vix.fullFeed.indexFF.ltpc.ltp / 100, rel=0.15)


def test_an_instrument_that_nobody_follows_is_brought_up_to_date_when_asked_for() -> None:
    market = Market(seed=2, start_ms=START)
    option = near_option(market)
    found = []
    for _ in range(5):
        feed = market.feed(option)
        assert feed is not None
        found.append(feed.fullFeed.marketFF)
        run(market, 20, {NIFTY}, 1000)
    assert len({full.ltpc.ltp for full in found}) > 1
    for before, after in pairwise(found):
        assert after.ltpc.ltt > before.ltpc.ltt
        assert after.vtt >= before.vtt


def test_following_again_never_steps_back() -> None:
    market = Market(seed=2, start_ms=START)
    option = near_option(market)
    first = run(market, 20, {option})
    run(market, 100, set(), 1000)
    again = run(market, 20, {option})
    before, after = first[-1].feeds[option].fullFeed.marketFF, again[0].feeds[option].fullFeed.marketFF
    assert after.vtt >= before.vtt
    assert after.ltpc.ltt > before.ltpc.ltt


# --- days, hours, history -------------------------------------------------------------------------------------------------


def test_midnight_begins_a_new_day_and_drops_what_expired() -> None:
    market = Market(seed=3, start_ms=ms("2026-11-23T23:59:00"))
    rows = market.rows_by_key
    expiring = key_of(market, "NIFTY FUT 23 NOV 26")
    living = key_of(market, "NIFTY FUT 29 DEC 26")
    run(market, 58, {expiring, living, NIFTY}, 1000)
    evening = market.feed(living)
    assert evening is not None
    run(market, 5, {expiring, living, NIFTY})
    early = market.feed(living)
    assert early is not None
    assert early.fullFeed.marketFF.vtt < evening.fullFeed.marketFF.vtt
    assert [(bar.interval, bar.ts) for bar in early.fullFeed.marketFF.marketOHLC.ohlc] == [("1d", ms("2026-11-24T00:00:00")), ("", 0)]
    assert expiring not in market.rows_by_key
    assert market.rows_by_key.keys() != rows.keys()
    assert {key for update in run(market, 3, {expiring, living, NIFTY}) for key in update.feeds} == {living, NIFTY}
    closed, opened = market.day_bars(living, 0, 1 << 60)[-2:]
    assert (closed.start_ms, opened.start_ms) == (ms("2026-11-23T00:00:00"), ms("2026-11-24T00:00:00"))
    assert closed.volume >= evening.fullFeed.marketFF.vtt
    run(market, 60, {living}, 1000)
    shown = market.feed(living)
    assert shown is not None
    assert bars_of(shown)["I1"].ts == ms("2026-11-24T00:00:00")


def test_a_listed_strike_stays_until_its_contract_ends() -> None:
    market = Market(seed=3, start_ms=ms("2026-11-12T23:59:00"))
    listed = {key: row["expiry"] for key, row in market.rows_by_key.items() if "expiry" in row}
    for day in range(13, 20):
        market.due(ms(f"2026-11-{day}T12:00:00"), {NIFTY})
        alive = {key for key, expiry in listed.items() if expiry >= ms(f"2026-11-{day}T00:00:00")}
        now = {key: row["expiry"] for key, row in market.rows_by_key.items() if "expiry" in row}
        assert alive <= now.keys()
        assert min(now.values()) >= ms(f"2026-11-{day}T00:00:00")
        listed = now
    assert min(listed.values()) > ms("2026-11-18T00:00:00")  # the weekly of the 17th has gone


def test_real_hours_are_silent_before_the_open_and_after_the_close() -> None:
    market = Market(seed=3, start_ms=ms("2026-11-23T09:14:50"), hours="real")
    share, future = "NSE_EQ|INE002A01018", key_of(market, "NIFTY FUT 29 DEC 26")
    assert market.segments()["NSE_FO"] == "PRE_OPEN_END"
    before = market.feed(share)
    assert before is not None
    assert bars_of(before)["1d"].ts == ms("2026-11-20T00:00:00")
    assert run(market, 10, {share, future, NIFTY}) == []
    assert {key for update in run(market, 5, {share, future, NIFTY}) for key in update.feeds} == {share, future, NIFTY}
    opened = market.feed(share)
    assert opened is not None
    assert bars_of(opened)["1d"].ts == ms("2026-11-23T00:00:00")

    auction = Market(seed=3, start_ms=ms("2026-11-23T15:14:50"), hours="real")
    assert auction.auctions() == {}
    assert {key for update in run(auction, 5, {share, future, NIFTY}) for key in update.feeds} == {share, future, NIFTY}
    run(auction, 5.5, {share, future, NIFTY})
    assert auction.auctions() == {"NSE_EQ": ("CTS_CLOSE", ms("2026-11-23T15:15:00"))}
    assert {key for update in run(auction, 5, {share, future, NIFTY}) for key in update.feeds} == {future, NIFTY}
    late = Market(seed=3, start_ms=ms("2026-11-23T15:30:01"), hours="real")
    assert {key for update in run(late, 5, {share, future, NIFTY}) for key in update.feeds} == {future}
    night = Market(seed=3, start_ms=ms("2026-11-23T15:40:01"), hours="real")
    assert run(night, 5, {share, future, NIFTY}) == []
    assert night.segments()["NSE_EQ"] == "CLOSING_END"


@pytest.mark.parametrize("symbol", ["NIFTY", "RELIANCE", "NIFTY FUT 29 DEC 26", "option"])
def test_a_chart_has_a_past_that_runs_into_the_present(symbol: str) -> None:
    market = Market(seed=4, start_ms=START)
    key = near_option(market) if symbol == "option" else key_of(market, symbol)
    run(market, 80, {key}, 1000)
    bars = market.minute_bars(key, ms("2026-11-12T00:00:00"), market.now_ms() + 1)
    assert [a.start_ms for a in bars] == sorted({a.start_ms for a in bars})
    past = [bar for bar in bars if bar.start_ms < ms("2026-11-20T00:00:00")]
    days = Counter((bar.start_ms + 19_800_000) // 86_400_000 for bar in past)
    cash = symbol in {"NIFTY", "RELIANCE"}
    assert list(days.values()) == [{"NIFTY": 375, "RELIANCE": 360}.get(symbol, 385)] * 6, "to 15:30, 15:15 (closing auction), 15:40"
    today = [bar for bar in bars if bar.start_ms >= ms("2026-11-20T00:00:00")]
    assert len(today) == 11 * 60 + 32
    for before, after in pairwise(today):
        assert after.open == pytest.approx(before.close, rel=0.003 if symbol != "option" else 0.2, abs=2)
    for bar in bars:
        assert bar.low <= min(bar.open, bar.close) <= max(bar.open, bar.close) <= bar.high
    daily: list[Bar] = market.day_bars(key, START - 380 * 86_400_000, market.now_ms())
    assert len(daily) >= (250 if cash else 40)
    assert daily[-1].start_ms == ms("2026-11-20T00:00:00")
    shown = market.feed(key)
    assert shown is not None
    union = shown.fullFeed.indexFF if symbol == "NIFTY" else shown.fullFeed.marketFF
    assert union.ltpc.cp == daily[-2].close


# --- a given master -------------------------------------------------------------------------------------------------------


def test_a_given_master_is_served_and_priced_from_its_strikes() -> None:
    common = {"segment": "NSE_FO", "underlying_symbol": "X", "underlying_key": "NSE_EQ|X", "lot_size": 500, "tick_size": 5.0}

    def row(number: int, kind: str, strike: float, expiry: int) -> dict[str, Any]:
        named = {"instrument_key": f"NSE_FO|{number}", "trading_symbol": f"X {strike:g} {kind}"}
        return {**common, **named, "instrument_type": kind, "strike_price": strike, "expiry": expiry}

    live, dead = ms("2026-12-29T23:59:59"), ms("2026-07-28T23:59:59")
    rows = [row(number, "CE", 400.0 + 10 * number, live) for number in range(11)]
    rows += [row(99, "FUT", 0.0, live), row(98, "PE", 450.0, dead)]
    rows.append({"segment": "NSE_EQ", "instrument_type": "EQ", "instrument_key": "NSE_EQ|X", "trading_symbol": "X", "tick_size": 5.0})
    market = Market(seed=1, start_ms=START, master_rows=rows)
    assert market.master_rows() == rows
    assert 320 < market.spot("NSE_EQ|X") < 600
    seen = {key for update in run(market, 4, {row["instrument_key"] for row in rows}) for key in update.feeds}
    assert seen == {row["instrument_key"] for row in rows}
    future = market.feed("NSE_FO|99")
    expired = market.feed("NSE_FO|98")
    assert future is not None
    assert expired is not None
    assert future.fullFeed.marketFF.ltpc.ltp == pytest.approx(market.spot("NSE_EQ|X") * 1.0057, rel=0.003)
    assert expired.fullFeed.marketFF.optionGreeks.delta < 0


@pytest.mark.realdata
def test_the_brokers_own_master_is_served_and_every_kind_of_row_is_priced() -> None:
    path = Path(os.environ.get("TRADINGOK_SHARED", ROOT.parent / "shared" / "upstox" / "data")) / "NSE_2026-07.json.gz"
    if not path.exists():
        pytest.skip(f"needs the broker's instrument master of the captured data: {path}")
    with gzip.open(path) as file:
        rows: list[dict[str, Any]] = json.load(file)
    market = Market(seed=1, start_ms=START, master_rows=rows)
    assert len(market.master_rows()) == len(rows) == 84_546
    kinds: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        kinds[row["segment"], row["instrument_type"]].append(row["instrument_key"])
    keys = {key for members in kinds.values() for key in members[:: max(1, len(members) // 20)]}
    seen = {key for update in run(market, 4, keys) for key in update.feeds}
    assert seen == keys
    for key, feed in market.snapshot(keys).items():
        union = feed.fullFeed.indexFF if key.startswith("NSE_INDEX|") else feed.fullFeed.marketFF
        assert union.ltpc.ltp > 0
        assert union.ltpc.cp > 0


# --- cost -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "rate", "share"), [(1000, 1.0, 0.15), (2000, 3.0, 0.8)])
def test_a_market_keeps_up(count: int, rate: float, share: float) -> None:
    market = Market(seed=1, start_ms=START, rate=rate, instruments=count)
    keys = set(list(market.rows_by_key)[:count])
    market.due(START + 1000, keys)
    begun = time.process_time()
    updates = run(market, 10, keys)
    assert time.process_time() - begun < 10 * share
    assert sum(len(update.feeds) for update in updates) > 1.6 * rate * count * 10
