"""Figures of a whole chain: by hand, by a slower way of counting, and against the exchange's end-of-day file read by polars."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.domain.chain import Aggregate, Chain, InterestBase, OptionQuote
from marketdata.domain.chain_figures import (
    HOLD_MS,
    TOGETHER_MS,
    books_forward,
    chain_figures,
    max_pain,
    trades_forward,
    volatility_at_delta,
)
from marketdata.domain.option_values import CALL, PUT
from tests.marketdata.domain.hand_chains import CAPTURED, DAY_MS, captured_frames, captured_listing, captured_quote, chain_listing, ladder
from tests.payloads import real_data

DAY_END_MS = int(datetime(2026, 3, 24, 10, 0, tzinfo=UTC).timestamp() * 1000)
INTERESTS = st.integers(0, 10**7).map(float)


def paid(at: float, strikes: Sequence[float], call_oi: Sequence[float], put_oi: Sequence[float]) -> float:
    rows = zip(strikes, call_oi, put_oi, strict=True)
    return sum(calls * max(at - strike, 0) + puts * max(strike - at, 0) for strike, calls, puts in rows)


@given(st.dictionaries(st.integers(1, 2_000).map(lambda steps: steps * 2.5), st.tuples(INTERESTS, INTERESTS), min_size=1, max_size=40))
def test_max_pain_is_the_first_strike_at_which_least_is_paid(interests: dict[float, tuple[float, float]]) -> None:
    strikes = sorted(interests)
    call_oi, put_oi = [interests[strike][0] for strike in strikes], [interests[strike][1] for strike in strikes]
    expected = min(strikes, key=lambda at: paid(at, strikes, call_oi, put_oi)) if any(call_oi + put_oi) else None
    assert max_pain(strikes, call_oi, put_oi) == expected


def test_max_pain_by_hand() -> None:
    assert max_pain([100, 110, 120], [10, 0, 0], [0, 0, 30]) == 120  # 200 paid there, 400 at 110, 600 at 100
    assert max_pain([100, 110, 120], [30, 0, 0], [0, 0, 30]) == 100  # the same everywhere: the lowest
    assert max_pain([100, 110], [0, 0], [0, 0]) is None
    assert max_pain([], [], []) is None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([(0.5, 0.10), (0.3, 0.12), (0.2, 0.14), (0.1, 0.2)], 0.13),
        ([(-0.5, 0.10), (-0.3, 0.12), (-0.2, 0.14)], 0.13),
        ([(0.5, 0.10), (0.25, 0.11), (0.2, 0.14)], 0.11),
        ([(0.5, 0.10), (None, 0.5), (0.3, None), (0.3, 0.0), (0.0, 0.2)], 0.15),  # unknown ones are passed over
        ([(0.2, 0.1), (0.1, 0.2)], None),  # begins beyond it
        ([(0.5, 0.1), (0.3, 0.2)], None),  # ends before it
        ([], None),
    ],
)
def test_volatility_at_a_delta_lies_between_its_neighbours(
    options: list[tuple[float | None, float | None]], expected: float | None
) -> None:
    assert volatility_at_delta(options) == (None if expected is None else pytest.approx(expected))


def quoted(price: float) -> OptionQuote:
    return OptionQuote(bid_price=price - 0.5, ask_price=price + 0.5)


def test_the_forward_prefers_two_sided_quotes_to_last_prices() -> None:
    chain = Chain(ladder([100, 110, 120]), interest_rate=0.0)
    for instrument, price in ((1, 15.0), (2, 3.0), (3, 9.0), (4, 7.0)):  # strikes 100 and 110 both say 112
        chain.take(instrument, OptionQuote(last_price=price), 1)
    assert chain.aggregate().forward == 112
    chain.take(5, quoted(4.0), 2)
    chain.take(6, quoted(9.0), 2)  # the only strike with books says 115
    assert chain.aggregate().forward == 115
    chain.take(6, OptionQuote(bid_price=9.5, ask_price=8.5), 3 + HOLD_MS)  # crossed
    assert chain.aggregate().forward == 112


def test_a_forward_that_books_told_is_held_for_a_moment_and_goes_with_the_spot() -> None:
    """The only books go; last prices are of another time of the day and say 50 more, which is another strike."""
    strikes = [24_900.0, 24_950.0, 25_000.0, 25_050.0, 25_100.0]
    chain = Chain(ladder(strikes), interest_rate=0.0)
    chain.take_spot(25_000.0, 1_000)
    chain.take(5, quoted(130.0)._replace(last_price=180.0), 1_000)
    chain.take(6, quoted(120.0)._replace(last_price=120.0), 1_000)

    def told() -> tuple[float | None, float | None, tuple[float, ...]]:
        return chain.aggregate().forward, chain.aggregate().atm_strike, chain.window("atm1")

    assert told() == (25_010.0, 25_000.0, tuple(strikes[1:4]))
    chain.take(5, OptionQuote(last_price=180.0), 2_000)
    assert told() == (25_010.0, 25_000.0, tuple(strikes[1:4]))
    chain.take_spot(25_004.0, 1_000 + HOLD_MS)
    assert told() == (25_014.0, 25_000.0, tuple(strikes[1:4]))
    chain.take_spot(25_006.0, 1_001 + HOLD_MS)
    assert told() == (25_060.0, 25_050.0, tuple(strikes[2:]))
    chain.take(5, quoted(130.0), 1_002 + HOLD_MS)
    assert told() == (25_010.0, 25_000.0, tuple(strikes[1:4]))
    chain.take(5, OptionQuote(), 1_003 + HOLD_MS)
    chain.take_spot(None, 1_004 + HOLD_MS)
    assert told() == (25_010.0, 25_000.0, tuple(strikes[1:4]))
    chain.take_spot(25_070.0, 1_003 + 2 * HOLD_MS)
    assert told() == (None, 25_050.0, tuple(strikes[2:]))


def test_last_prices_of_another_time_say_nothing_of_the_forward() -> None:
    """The strike at the money last traded an hour ago, its put five minutes after its call; the next one just now."""
    chain = Chain(ladder([24_900, 25_000, 25_100]), interest_rate=0.0)
    chain.take_spot(25_005.0, 1)
    now_ms = 4_000_000
    for instrument, price, traded_ms in (
        (3, 300.0, 100_000),
        (4, 90.0, now_ms - TOGETHER_MS - 1),
        (5, 70.0, now_ms),
        (6, 160.0, now_ms - 9),
    ):
        chain.take(instrument, OptionQuote(last_price=price, last_trade_ms=traded_ms), now_ms)
    assert chain.aggregate().forward == 25_010
    chain.take(3, OptionQuote(last_price=120.0, last_trade_ms=now_ms), now_ms)
    assert chain.aggregate().forward == 25_010, "its put is too old still"
    chain.take(4, OptionQuote(last_price=90.5, last_trade_ms=now_ms - TOGETHER_MS), now_ms)
    assert chain.aggregate().forward == (25_029.5 + 25_010) / 2


def test_books_as_wide_as_before_the_open_say_nothing_of_the_forward() -> None:
    chain = Chain(ladder([24_900, 25_000, 25_100]), interest_rate=0.0)
    chain.take_spot(25_005.0, 1)
    chain.take(3, OptionQuote(last_price=130.0, bid_price=0.05, ask_price=9_000.0), 2)
    chain.take(4, OptionQuote(last_price=120.0, bid_price=0.05, ask_price=200.0), 2)
    assert chain.aggregate().forward == 25_010  # of last prices; the middles of the books would say 29,400
    chain.take(3, OptionQuote(last_price=130.0, bid_price=100.0, ask_price=350.0), 3)
    chain.take(4, OptionQuote(last_price=120.0, bid_price=75.0, ask_price=325.0), 3)  # 500 together: just 2 % of the strike
    assert chain.aggregate().forward == 25_025


def test_the_forward_hears_only_the_strikes_nearest_the_spot() -> None:
    """Books far away, and prices there, say nonsense; near the spot there are last prices alone."""
    strikes = [float(strike) for strike in range(1_000, 3_000, 50)]
    chain = Chain(ladder(strikes), interest_rate=0.0)
    for number, strike in enumerate(strikes):
        call, put = max(2_010.0 - strike, 0) + 50, max(strike - 2_010.0, 0) + 50
        near = 1_700 <= strike <= 2_300
        chain.take(2 * number + 1, OptionQuote(last_price=call) if near else quoted(call + 300), 1)
        chain.take(2 * number + 2, OptionQuote(last_price=put) if near else quoted(put), 1)
    assert (chain.aggregate().forward, chain.aggregate().atm_strike) == (2_010, 2_000)  # no spot: where call and put last cost the same
    chain.take_spot(2_005.0, 2)
    assert (chain.aggregate().forward, chain.aggregate().atm_strike) == (2_010, 2_000)
    chain.take_spot(2_705.0, 3)
    assert chain.aggregate().forward == 2_310


def test_without_prices_there_is_no_forward() -> None:
    for spot in (None, 100.0):
        assert books_forward([], spot, 1.0) is trades_forward([], spot, 1.0) is None
    empty = chain_figures([], None, None, None, None)
    counted = {"call_oi", "put_oi", "call_volume", "put_volume", "options", "options_known"}
    assert {name: value for name, value in empty._asdict().items() if value is not None} == dict.fromkeys(counted, 0)


def test_it_says_of_how_many_options_the_sums_are() -> None:
    chain = Chain(ladder([100, 110, 120]), interest_rate=0.0)
    chain.take(1, OptionQuote(last_price=5.0, open_interest=0.0), 1)
    chain.take(2, OptionQuote(last_price=5.0, open_interest=75.0), 1)
    chain.take(3, OptionQuote(last_price=5.0), 1)  # followed in a mode without open interest
    assert (chain.aggregate().options, chain.aggregate().options_known) == (6, 2)


def test_figures_by_hand() -> None:
    """Three strikes; forward 112 of both traded ones, so 110 is at the money."""
    chain = Chain(ladder([100, 110, 120]), interest_rate=0.0)
    deltas = {1: 0.8, 2: -0.2, 3: 0.4, 4: -0.6, 5: 0.2, 6: -0.9}
    prices = {1: 15.0, 2: 3.0, 3: 9.0, 4: 7.0}
    for instrument, delta in deltas.items():
        chain.take(
            instrument,
            OptionQuote(
                last_price=prices.get(instrument), volume=100 * instrument, open_interest=65.0 * instrument,
                implied_volatility=0.1 * instrument, delta=delta, theta=-1, gamma=0.01, vega=1, rho=1,
            ),
            1,
        )  # fmt: skip
    chain.take_bases({1: InterestBase(50.0, None), 2: InterestBase(None, 100.0), 3: InterestBase(200.0, 200.0), 99: InterestBase(1.0, 1.0)})
    figures = chain.aggregate()
    assert (figures.forward, figures.atm_strike, figures.straddle) == (112, 110, 16)
    assert figures.atm_iv == pytest.approx(0.35)
    assert (figures.call_oi, figures.put_oi, figures.pcr_oi) == (585, 780, 1.333333)
    assert (figures.call_volume, figures.put_volume, figures.pcr_volume) == (900, 1_200, 1.333333)
    assert (figures.call_oi_change_day, figures.put_oi_change_day) == (15 - 5, None)
    assert (figures.call_oi_change_close, figures.put_oi_change_close) == (-5, 30)
    # puts: 0.6 at 0.4 volatility, 0.2 at 0.2; calls: 0.4 at 0.3, 0.2 at 0.5
    assert figures.iv_skew == pytest.approx((0.4 - 0.35 / 0.4 * 0.2) - (0.3 + 0.15 / 0.2 * 0.2))
    assert figures.max_pain == 120  # 65 · 20 + 195 · 10 = 3,250 paid there; 65 · 10 + 390 · 10 = 4,550 at 110


@pytest.mark.realdata
def test_gamma_exposure_is_that_of_a_second_library() -> None:
    """From the captured volatilities and open interest of both chains, at pyvolr's gamma."""
    from pyvolr import bs

    for underlying in CAPTURED:
        chain, now_ms = captured_chain(underlying)
        figures = chain.aggregate()
        years = (chain.listing.ends_ms - now_ms) / (365 * 86_400_000)
        expected = 0.0
        for row in chain.rows():
            for sign, side in ((1, row.call), (-1, row.put)):
                assert side is not None
                assert side.open_interest is not None
                assert side.implied_volatility is not None
                assert figures.forward is not None
                gamma = bs.gamma(figures.forward, row.strike_price, years, 0.0, side.implied_volatility, 0.0)
                expected += sign * float(gamma) * side.open_interest * figures.forward**2 * 0.01
        assert figures.gamma_exposure == pytest.approx(expected, rel=1e-4)
        print(f"{underlying}: {expected / 1e7:.0f} crore INR per 1 %")


@pytest.mark.realdata
@pytest.mark.parametrize(("underlying", "tolerance"), [("NIFTY", 3.0), ("BANKNIFTY", 20.0)])
def test_parity_finds_the_future_at_each_real_frame(underlying: str, tolerance: float) -> None:
    """The captured future expires with the options: what calls and puts imply must be where it trades, give or take a bid and ask."""
    chain = Chain(captured_listing(underlying), interest_rate=0.0)
    _, _, number, index = CAPTURED[underlying]
    instruments, future, apart = {option.key: option.instrument for option in chain.listing.options}, None, []
    for now_ms, feeds in captured_frames():
        for key in instruments.keys() & feeds.keys():
            chain.take(instruments[key], captured_quote(feeds[key]), now_ms)
        if index in feeds:
            chain.take_spot(feeds[index]["ltpc"]["ltp"], now_ms)
        if said := feeds.get(f"NSE_FO|{number}"):
            future = said["ltpc"]["ltp"]
        forward = chain.aggregate().forward
        if future and forward:
            apart.append(forward - future)
    assert len(apart) > 80
    apart.sort(key=abs)
    print(f"{underlying}: future {future}, forward {forward}; apart: median {apart[len(apart) // 2]:.2f}, most {apart[-1]:.2f}")
    assert abs(apart[-1]) < tolerance


def captured_chain(underlying: str) -> tuple[Chain, int]:
    """The chain as it stands after the 100 frames, and the broker's time of the last."""
    chain = Chain(captured_listing(underlying), interest_rate=0.0)
    instruments = {option.key: option.instrument for option in chain.listing.options}
    for now_ms, feeds in captured_frames():
        for key in instruments.keys() & feeds.keys():
            chain.take(instruments[key], captured_quote(feeds[key]), now_ms)
    return chain, now_ms


# --- the exchange's own end of day ------------------------------------------------------------------------------------
def exchange_file() -> pl.DataFrame:
    content = pl.read_csv(real_data("nse_fo_bhav_NIFTY_2026-03-24.csv.gz").read_bytes(), infer_schema_length=None)
    return content.with_columns(pl.col("XpryDt").str.to_date(), units=pl.col("TtlTradgVol") * pl.col("NewBrdLotQty"))


def chain_of_day(rows: list[dict[str, Any]], expiry: date) -> Chain:
    """Take an expiry's contracts as the file leaves them. It counts volume in lots and open interest in units."""
    ends_ms = int(datetime(expiry.year, expiry.month, expiry.day, 10, 0, tzinfo=UTC).timestamp() * 1000)
    chain = Chain(chain_listing(((row["FinInstrmId"], row["StrkPric"], row["OptnTp"]) for row in rows), ends_ms=ends_ms), interest_rate=0.0)
    for row in rows:
        chain.take(
            row["FinInstrmId"],
            OptionQuote(
                last_price=row["ClsPric"] or None,
                last_trade_ms=DAY_END_MS - (0 if row["TtlTradgVol"] else DAY_MS),
                previous_close=row["PrvsClsgPric"],
                volume=row["units"],
                open_interest=float(row["OpnIntrst"]),
            ),
            DAY_END_MS,
        )
    chain.take_bases({row["FinInstrmId"]: InterestBase(None, float(row["OpnIntrst"] - row["ChngInOpnIntrst"])) for row in rows})
    chain.take_spot(rows[0]["UndrlygPric"], DAY_END_MS)
    return chain


def expected_figures(options: pl.DataFrame) -> dict[str, Any]:
    """Count by polars alone: sums, ratios, and what each strike would have paid."""
    sums: dict[tuple[str, str], int] = {
        (side, name): int(options.filter(pl.col("OptnTp") == side)[column].sum())
        for side in (CALL, PUT)
        for name, column in (("oi", "OpnIntrst"), ("volume", "units"), ("change", "ChngInOpnIntrst"))
    }
    ends = options.select(end=pl.col("StrkPric")).unique()
    owed = pl.when(pl.col("OptnTp") == CALL).then(pl.col("end") - pl.col("StrkPric")).otherwise(pl.col("StrkPric") - pl.col("end"))
    pains = (
        options.join(ends, how="cross").group_by("end").agg(pain=(owed.clip(lower_bound=0) * pl.col("OpnIntrst")).sum()).sort("pain", "end")
    )
    return {
        "call_oi": sums[CALL, "oi"],
        "put_oi": sums[PUT, "oi"],
        "call_volume": sums[CALL, "volume"],
        "put_volume": sums[PUT, "volume"],
        "call_oi_change_close": sums[CALL, "change"],
        "put_oi_change_close": sums[PUT, "change"],
        "pcr_oi": pytest.approx(sums[PUT, "oi"] / sums[CALL, "oi"], abs=1e-6) if sums[CALL, "oi"] else None,
        "pcr_volume": pytest.approx(sums[PUT, "volume"] / sums[CALL, "volume"], abs=1e-6) if sums[CALL, "volume"] else None,
        "max_pain": pains["end"][0] if sums[CALL, "oi"] or sums[PUT, "oi"] else None,
    }


@pytest.mark.realdata
def test_figures_of_each_expiry_are_those_of_the_exchanges_own_file() -> None:
    content = exchange_file()
    options, futures = content.filter(pl.col("OptnTp").is_in([CALL, PUT])), content.filter(pl.col("FinInstrmTp") == "IDF")
    traded = {row["XpryDt"]: row["ClsPric"] for row in futures.iter_rows(named=True)}
    expiries = sorted(options["XpryDt"].unique())
    assert len(expiries) == 18
    compared: dict[date, Aggregate] = {}
    for expiry in expiries:
        of_expiry = options.filter(pl.col("XpryDt") == expiry)
        figures = compared[expiry] = chain_of_day(of_expiry.to_dicts(), expiry).aggregate()
        expected = expected_figures(of_expiry)
        assert {name: getattr(figures, name) for name in expected} == expected, expiry
    for expiry, price in traded.items():  # the day's closes of options are averages of the last half hour, as the future's is
        assert compared[expiry].forward == pytest.approx(price, rel=0.001), expiry
        print(f"{expiry}: future {price}, forward {compared[expiry].forward}")
    assert len(traded) == 3
    (near, price), (far, more) = sorted(traded.items())[:2]
    between = [expiry for expiry in expiries if near < expiry < far]
    assert len(between) == 3
    for expiry in between:  # where a future would trade: on the line between the two; options that did not trade that day say other things
        expected = price + (more - price) * (expiry - near) / (far - near)
        assert compared[expiry].forward == pytest.approx(expected, rel=0.001), expiry
