"""The words for a chain's strikes, and the columns of the wire."""

from __future__ import annotations

import pytest

from marketdata.domain.chain_rows import SIDE_COLUMNS, check_window, each_side


@pytest.mark.parametrize(("word", "count"), [("all", None), ("atm1", 1), ("atm10", 10), ("atm200", 200)])
def test_a_window_is_all_strikes_or_so_many_each_side(word: str, count: int | None) -> None:
    check_window(word)
    assert each_side(word) == count


@pytest.mark.parametrize("word", ["", "atm", "atm0", "atm201", "atm1000", "atm-1", "ATM5", "atm5 ", "pct5", "delta10", "alle", "atm١"])
def test_any_other_word_is_refused_with_the_words_that_there_are(word: str) -> None:
    for read in (check_window, each_side):
        with pytest.raises(ValueError, match="write all, or atm10"):
            read(word)


def test_a_side_begins_with_who_it_is() -> None:
    """Clients read sides by place: the columns are part of the protocol."""
    assert SIDE_COLUMNS == (
        "instrument", "key", "last_price", "change", "change_percent", "bid_price", "bid_quantity", "ask_price", "ask_quantity", "volume",
        "open_interest", "oi_change_day", "oi_change_close", "implied_volatility", "delta", "gamma", "theta", "vega", "rho", "computed",
        "moneyness",
    )  # fmt: skip
