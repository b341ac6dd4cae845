from __future__ import annotations

from datetime import date

from broker.simulator import master
from broker.simulator.contract import WALKS, Kind, contract_of, infer_walks, unknown_walk


def test_rows_of_each_kind_are_read() -> None:
    levels = {index.key: index.level for index in master.INDICES}
    rows = {row["trading_symbol"]: row for row in master.build(date(2026, 11, 22), levels.__getitem__)}
    index = contract_of(rows["NIFTY"])
    assert (index.kind, index.underlying, index.tick, index.lot, index.expiry_ms) == (Kind.INDEX, "NSE_INDEX|Nifty 50", 0.05, 1, 0)
    share = contract_of(rows["MARUTI"])
    assert (share.kind, share.underlying, share.tick, share.sign) == (Kind.SPOT, share.key, 1.0, 0)
    future = contract_of(rows["BANKNIFTY FUT 29 DEC 26"])
    assert (future.kind, future.underlying, future.tick, future.lot, future.strike) == (Kind.FUTURE, "NSE_INDEX|Nifty Bank", 0.2, 30, 0.0)
    put = contract_of(rows["NIFTY 23850 PE 01 DEC 26"])
    assert (put.kind, put.sign, put.strike, put.tick, put.expiry_ms) == (Kind.OPTION, -1, 23_850.0, 0.05, 1796149799000)


def test_a_contract_without_an_underlying_key_walks_by_its_symbol() -> None:
    row = {"segment": "NCD_FO", "instrument_type": "CE", "underlying_symbol": "GBPINR", "instrument_key": "NCD_FO|1", "tick_size": 0.25}
    contract = contract_of(row | {"strike_price": 130.5, "expiry": 1, "lot_size": 1})
    assert (contract.underlying, contract.tick) == ("NCD_FO|GBPINR", 0.0025)


def test_a_given_master_tells_levels_by_the_middle_of_its_nearest_expiry() -> None:
    def call(strike: float, expiry: int) -> master.Row:
        return {"segment": "NSE_FO", "instrument_type": "CE", "underlying_key": "NSE_EQ|X", "instrument_key": f"NSE_FO|{strike}{expiry}",
                "strike_price": strike, "expiry": expiry}  # fmt: skip

    walks = infer_walks([call(900.0, 2), call(100.0, 1), call(110.0, 1), call(120.0, 1), call(800.0, 2)])
    assert walks["NSE_EQ|X"].level == 110.0
    assert walks["NSE_EQ|X"].volatility == unknown_walk("NSE_EQ|X").volatility


def test_every_index_and_share_of_the_own_master_has_a_walk() -> None:
    assert WALKS.keys() == {index.key for index in master.INDICES} | {f"NSE_EQ|{share.isin}" for share in master.EQUITIES} | {
        master.VIX_KEY
    }
