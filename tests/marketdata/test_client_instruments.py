"""The names by which a client calls what it follows. Subscribing over the wire is tested in test_consumers."""

from __future__ import annotations

import pytest

from instruments.models import Instrument
from marketdata.client_instruments import ClientInstruments
from marketdata.hub import Hub
from marketdata.wire import FULL
from tests.marketdata.recording import batch, client_of
from tests.marketdata.way_out import entry_of, instruments

pytestmark = pytest.mark.django_db


async def test_the_name_of_what_the_hub_has_ended_is_forgotten() -> None:
    await instruments(1, 2)
    hub = Hub()
    client = client_of(hub)
    names = ClientInstruments(client, hub)
    await names.subscribe(["TEST|1"], FULL, {})
    hub.subscriptions.remove(client, 1)  # as when it expires
    await names.subscribe(["TEST|2"], FULL, {})
    assert names.followed() == [("TEST|2", 2, FULL)]
    assert names._keys == {2: "TEST|2"}, "memory follows what is followed"


async def test_what_has_another_key_now_is_listed_and_left_by_that_too() -> None:
    await instruments(1, 2)
    hub = Hub()
    client = client_of(hub)
    names = ClientInstruments(client, hub)
    await names.subscribe(["TEST|1", "TEST|2"], FULL, {})
    await Instrument.objects.filter(pk=1).aupdate(instrument_key="TEST|7")
    hub._apply(batch(1, entry_of(1, 1, 10.0)._replace(key="TEST|7")))
    assert names.followed() == [("TEST|7", 1, FULL), ("TEST|2", 2, FULL)]
    await names.unsubscribe(["TEST|7", "TEST|9"])
    assert names.followed() == [("TEST|2", 2, FULL)]
    hub._apply(batch(2, entry_of(2, 1, 10.0)._replace(key="TEST|0")))  # a quote of the time before its present key
    assert names.followed() == [("TEST|0", 2, FULL)]
    await names.unsubscribe(["TEST|0"])
    assert (names.followed(), names._keys) == ([], {})
