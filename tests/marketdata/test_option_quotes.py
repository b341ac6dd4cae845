"""What a chain reads back of a quote is what the feed put in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.domain.chain import OptionQuote
from marketdata.domain.quote import FIELDS, Quote
from marketdata.option_quotes import option_quote
from marketdata.wire import QuoteEntry, quote_entry

WHOLE = {"last_quantity", "last_trade_ms", "volume", "bid_quantity", "ask_quantity"}
numbers = st.integers(0, 2**40) | st.none()
prices = st.floats(-1e9, 1e9) | st.none()


@given(st.fixed_dictionaries({name: numbers if name in WHOLE else prices for name in FIELDS}))
def test_an_option_quote_has_the_fields_that_the_feed_told(told: dict[str, float | int | None]) -> None:
    quote = Quote(7)
    quote.seq, quote.broker_ms = 3, 1_790_000_000_000
    quote.values = tuple(told[name] for name in FIELDS)
    read = option_quote(quote_entry(quote, "NSE_FO|1", True))
    assert read == OptionQuote(**{name: told[name] for name in OptionQuote._fields})  # type: ignore[arg-type]


def test_bytes_of_another_version_are_refused() -> None:
    with pytest.raises(ValueError, match="last_price"):
        option_quote(QuoteEntry(7, "NSE_FO|1", 1, 0, b'{"last_price":"high"', b"", b"", False))
