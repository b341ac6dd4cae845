"""What is remembered of chains before any price."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from instruments.chain_listing import NoSuchChain
from marketdata.api.chain_memory import ChainMemory
from marketdata.domain.chain import InterestBase
from marketdata.interest import bases_write
from tests.marketdata.option_market import DAY, EXPIRY, OPEN_MS, option_market

pytestmark = pytest.mark.django_db

AT = datetime.fromtimestamp(OPEN_MS / 1000, UTC)


def test_a_chain_is_read_once_until_it_is_forgotten_and_the_unknown_is_asked_for_each_time() -> None:
    memory = ChainMemory()
    with pytest.raises(NoSuchChain):
        memory.read("NIFTY", "@w0", AT)
    made = option_market()
    first = memory.read("NIFTY", "@w0", AT)
    assert (first.listing.expiry.isoformat(), len(first.listing.options), first.bases) == (EXPIRY, 42, {})
    one = made.options[25_000.0, "CE"]
    bases_write({one: InterestBase(5.0, None)}, DAY)
    assert memory.read("NIFTY", "@w0", AT) is first
    memory.forget()
    assert memory.read("NIFTY", "@w0", AT).bases == {one: InterestBase(5.0, None)}
