"""What the shared state holds of one hub, kept alive: its clients' demand, its counters, its connections' places."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from marketdata import leases, live_state
from marketdata.hub_client import Client
from marketdata.outbox import Outbox
from marketdata.subscriptions import Subscriptions

logger = logging.getLogger(__name__)

DEMAND_SECONDS = 5.0
DEMAND_PAUSE_SECONDS = 0.2
"""Demand is written so often, and at once on change, but not more often than the second."""
PLACES_SECONDS = 10.0
"""The places of connections are renewed so often."""


class HubPresence:
    """Writes while the shared state answers; what was not written ends by itself.

    Args:
        name: the hub's own.
        clients: outbox → connection; read, never changed.
        subscriptions: what they follow.
        counters: returns the hub's counters.
    """

    def __init__(
        self, name: str, clients: Mapping[Outbox, Client], subscriptions: Subscriptions, counters: Callable[[], dict[str, float]]
    ) -> None:
        self._name, self._clients, self._subscriptions, self._counters = name, clients, subscriptions, counters

    async def demand_step(self) -> None:
        """Wait for a change of the demand, or DEMAND_SECONDS, and write it and the counters."""
        changed = self._subscriptions.demand_changed
        try:
            async with asyncio.timeout(DEMAND_SECONDS):
                await changed.wait()
        except TimeoutError:
            pass
        changed.clear()
        try:
            await live_state.ademand_write(self._name, self._subscriptions.followers.wanted())
            await live_state.ahub_counters_write(self._name, self._counters())
        except live_state.Unavailable:
            logger.debug("demand was not written")
        await asyncio.sleep(DEMAND_PAUSE_SECONDS)

    async def places_step(self) -> None:
        """Wait PLACES_SECONDS, and renew what every connection holds."""
        await asyncio.sleep(PLACES_SECONDS)
        held = [client.lease for client in self._clients.values() if client.lease is not None]
        if held:
            try:
                await leases.aconnection_renew(held)
            except live_state.Unavailable:
                logger.debug("places of connections were not renewed")
