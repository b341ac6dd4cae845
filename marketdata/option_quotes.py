"""What an option chain needs of an encoded quote, read back out of its bytes. Pure."""

from __future__ import annotations

import msgspec

from marketdata.domain.chain import OptionQuote
from marketdata.wire import QuoteEntry

_FLOATS = ("last_price", "previous_close", "bid_price", "ask_price", "open_interest")
_GREEKS = ("implied_volatility", "delta", "theta", "gamma", "vega", "rho")

_Read = msgspec.defstruct(
    "_Read",
    [(name, (float if name in _FLOATS + _GREEKS else int) | None, None) for name in OptionQuote._fields],
    gc=False,
)
"""An OptionQuote as JSON has it: by names; what else a quote says is skipped."""
_decode = msgspec.json.Decoder(_Read).decode
_values = msgspec.structs.astuple


def option_quote(entry: QuoteEntry) -> OptionQuote:
    """Return what the entry says of an option: one parse of its head and tail.

    Raises:
        ValueError: the bytes are no such quote (another version's); not worth a retry.
    """
    return OptionQuote._make(_values(_decode(entry.head + entry.tail + b"}")))
