"""Names of instruments: by key, by id, and from memory while the store is away."""

from __future__ import annotations

import asyncio
from datetime import date

import pytest
from pymongo.errors import ServerSelectionTimeoutError

from instruments.services import instruments_refresh
from instruments.universe_changes import instruments_retired
from marketdata import naming
from marketdata.hub import Hub
from marketdata.naming import resolve, resolve_with_endings
from tests.instruments.rows import DAY_1, DAY_2, index, option
from tests.marketdata.way_out import entry_of, instruments
from tests.zones import ist

pytestmark = pytest.mark.django_db


async def test_keys_and_ids_are_found_and_nothing_else(db: None) -> None:
    await instruments(1, 2)
    names = ["TEST|1", "id:2", "TEST|9", "id:9", "id:", "id:-1", "id:²", "id:99999999999999999999", ""]
    assert await resolve(names, Hub()) == {"TEST|1": (1, "TEST|1"), "id:2": (2, "TEST|2")}
    assert await resolve([], Hub()) == {}


async def test_the_hubs_memory_answers_while_the_store_is_away(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ServerSelectionTimeoutError("no server")

    monkeypatch.setattr(naming, "instrument_ids", fail)
    hub = Hub()
    hub.entries = {7: entry_of(7, 1, 10.0), 8: entry_of(8, 2, 10.0, key="TEST|7")}
    assert await resolve(["TEST|7", "id:7", "TEST|1"], hub) == {"TEST|7": (8, "TEST|7"), "id:7": (7, "TEST|7")}


async def test_what_has_ended_is_named_with_its_day(db: None) -> None:
    old = option(1, 24500.0, "CE", date(2026, 11, 10))
    new = option(2, 25000.0, "PE", date(2026, 11, 17))
    await asyncio.to_thread(lambda: instruments_refresh(rows=[index(), old, new], source="test", as_of=DAY_1))
    await asyncio.to_thread(lambda: instruments_refresh(rows=[index(), new], source="test", as_of=DAY_2, force=True))
    retired = (await asyncio.to_thread(instruments_retired, ["NSE_FO|1"]))["NSE_FO|1"].id
    names = ["NSE_FO|1", f"id:{retired}", "NSE_FO|2", "NSE_INDEX|Nifty 50", "NSE_FO|404", "id:x"]
    found = await resolve(names, Hub())
    assert found.keys() == {f"id:{retired}", "NSE_FO|2", "NSE_INDEX|Nifty 50"}
    expired = "NIFTY 24500 CE 10 NOV 26 has expired: trading in it ended on 2026-11-10."
    before = {"NSE_FO|1": expired, f"id:{retired}": expired}
    end = ist("2026-11-17 15:40:00")
    assert await resolve_with_endings(names, Hub(), end - 1) == (found, before)
    assert (await resolve_with_endings(names, Hub(), end))[1] == before | {
        "NSE_FO|2": "NIFTY 25000 PE 17 NOV 26 has expired: trading in it ended on 2026-11-17."
    }
    assert await resolve_with_endings([], Hub(), end) == ({}, {})


async def test_nothing_is_said_to_have_ended_while_the_store_is_away_which_is_waited_for_once(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(lambda: instruments_refresh(rows=[index(), option(1)], source="test", as_of=DAY_1))
    after, hub, tried = ist("2027-01-01 12:00:00"), Hub(), []
    assert len((await resolve_with_endings(["NSE_FO|1"], hub, after))[1]) == 1

    def fail(*_: object) -> None:
        tried.append(1)
        raise ServerSelectionTimeoutError("no server")

    hub.entries = {7: entry_of(7, 1, 10.0, key="NSE_FO|1")}
    monkeypatch.setattr(naming, "instrument_ids", fail)
    monkeypatch.setattr(naming, "instruments_named", fail)
    assert await resolve_with_endings(["NSE_FO|1"], hub, after) == ({"NSE_FO|1": (7, "NSE_FO|1")}, {})
    assert tried == [1]
