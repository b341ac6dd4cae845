"""Names of instruments: by key, by id, and from memory while the store is away."""

from __future__ import annotations

import pytest

from marketdata import naming
from marketdata.hub import Hub
from marketdata.naming import resolve
from tests.marketdata.way_out import entry_of, instruments

pytestmark = pytest.mark.django_db


async def test_keys_and_ids_are_found_and_nothing_else(db: None) -> None:
    await instruments(1, 2)
    names = ["TEST|1", "id:2", "TEST|9", "id:9", "id:", "id:-1", "id:²", "id:99999999999999999999", ""]
    assert await resolve(names, Hub()) == {"TEST|1": (1, "TEST|1"), "id:2": (2, "TEST|2")}
    assert await resolve([], Hub()) == {}


async def test_the_hubs_memory_answers_while_the_store_is_away(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from pymongo.errors import ServerSelectionTimeoutError

    def fail(*_: object) -> None:
        raise ServerSelectionTimeoutError("no server")

    monkeypatch.setattr(naming, "instrument_ids", fail)
    hub = Hub()
    hub.entries = {7: entry_of(7, 1, 10.0), 8: entry_of(8, 2, 10.0, key="TEST|7")}
    assert await resolve(["TEST|7", "id:7", "TEST|1"], hub) == {"TEST|7": (8, "TEST|7"), "id:7": (7, "TEST|7")}
