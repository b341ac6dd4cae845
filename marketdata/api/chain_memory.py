"""The contracts of a chain and what their open interest is compared with, remembered for a few seconds: reading them took 20 times as
long as putting the chain together.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import NamedTuple

from instruments.chain_listing import chain_listing
from instruments.domain.instrument import ms_of
from instruments.domain.listing import ChainListing
from marketdata.domain.candle import day_start_ms
from marketdata.domain.chain_rows import InterestBase
from marketdata.interest import bases_read

SECONDS = 5.0
"""An expiry that has ended, or a contract that is new, is seen after so long at the latest."""
MOST_CHAINS = 200


class KnownChain(NamedTuple):
    """One chain before any price."""

    listing: ChainListing
    bases: dict[int, InterestBase]


class ChainMemory:
    """Underlying and expiry word → the chain. Forgets all of them at once, every SECONDS; what does not exist is never remembered."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], KnownChain] = {}
        self._until = 0.0

    def read(self, underlying: str, expiry: str, at: datetime) -> KnownChain:
        """Return a chain as of market time `at`.

        Raises:
            NoSuchChain, ValueError: as `chain_listing` does.
        """
        now = time.monotonic()
        if now > self._until or len(self._known) >= MOST_CHAINS:
            self._known, self._until = {}, now + SECONDS
        known = self._known
        found = known.get((underlying, expiry))
        if found is None:
            listing = chain_listing(underlying, expiry, at)
            bases = bases_read([option.instrument for option in listing.options], day_start_ms(ms_of(at)))
            found = known[underlying, expiry] = KnownChain(listing, bases)
        return found

    def forget(self) -> None:
        """Ask the database for every chain again."""
        self._until = 0.0


chain_memory = ChainMemory()
