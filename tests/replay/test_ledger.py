"""A short run of the whole system against the exchange's ledger: what was sent is stored, each update once, none changed.

`make bench` does the same for a minute with 1,000 instruments and judges the speed; here only the content counts.
"""

from __future__ import annotations

import pytest

from tests.bench import endtoend


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.django_db
@pytest.mark.usefixtures("valkey")
def test_nothing_the_exchange_sent_is_lost_doubled_or_changed() -> None:
    result = endtoend.measure(seconds=5, instruments=300)
    assert result.updates > 2000
    assert result.stored == result.updates
    assert result.wrong == []
    assert result.delivered > 500
