"""The instruments that one client follows, by the names that it calls them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from django.conf import settings

from instruments.selectors import ID_PREFIX
from marketdata.hub import Hub
from marketdata.hub_client import Client
from marketdata.naming import resolve, resolve_with_endings
from marketdata.wire import ItemResult


class ClientInstruments:
    """What one client has subscribed by `instruments`."""

    def __init__(self, client: Client, hub: Hub) -> None:
        self._client, self._hub = client, hub
        self._keys: dict[int, str] = {}

    def followed(self) -> list[tuple[str, int, int]]:
        """Return key, instrument id and kind (LTPC or FULL) of each, in the order subscribed. The key is the one that quotes come under."""
        entries = self._hub.entries
        return [
            (entry.key if (entry := entries.get(instrument)) else self._keys[instrument], instrument, mode)
            for instrument, mode in self._client.outbox.modes.items()
        ]

    async def subscribe(self, names: Sequence[str], mode: int, seen: Mapping[str, int]) -> list[ItemResult]:
        """Follow instruments; `seen` has the seq of those whose quote the client has already. One result for each, in the order asked."""
        found, ended = await resolve_with_endings(names, self._hub, self._hub.market_ms())
        for gone in self._keys.keys() - self._client.outbox.modes.keys():
            del self._keys[gone]  # it left what the feed follows, and the hub has ended it here
        results = []
        for name in names:
            if name in ended:
                instrument, key = found.get(name, (None, name))
                results.append(ItemResult(key, name, "error", instrument, 412, ended[name]))
            elif name not in found:
                results.append(ItemResult(name, name, "error", code=411, message="No instrument is called so."))
            else:
                results.append(self._subscribe(name, *found[name], mode, seen))
        return results

    def _subscribe(self, name: str, instrument: int, key: str, mode: int, seen: Mapping[str, int]) -> ItemResult:
        modes = self._client.outbox.modes
        if instrument not in modes and len(modes) >= settings.WS_INSTRUMENTS_PER_USER:
            message = f"A connection may follow {settings.WS_INSTRUMENTS_PER_USER} instruments."
            return ItemResult(key, name, "error", instrument, 405, message)
        entry = self._hub.entries.get(instrument)
        dirty = entry is None or seen.get(name) != entry.seq
        is_live = self._hub.subscriptions.add(self._client, instrument, key, mode, dirty=dirty)
        self._keys[instrument] = sys.intern(key)
        return ItemResult(key, name, "active" if is_live else "accepted", instrument)

    async def unsubscribe(self, names: Sequence[str]) -> None:
        """Follow instruments no more; those that are not followed are no error. A contract may have got another key: either names it."""
        held = {key: instrument for key, instrument, _ in self.followed()} | {key: instrument for instrument, key in self._keys.items()}
        held |= {f"{ID_PREFIX}{instrument}": instrument for instrument in self._keys}
        others = [name for name in names if name not in held]
        held |= {name: instrument for name, (instrument, _) in (await resolve(others, self._hub)).items()}
        for name in names:
            instrument = held.get(name)
            if instrument is not None and instrument in self._keys and self._hub.subscriptions.remove(self._client, instrument):
                del self._keys[instrument]
