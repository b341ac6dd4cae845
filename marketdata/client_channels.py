"""The channels of one client: `ohlc:<interval>:<key or id:n>`, `chain:<underlying>:<expiry>:<strikes>`, and two that everybody has."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from django.db import DatabaseError
from pymongo.errors import PyMongoError

from instruments.chain_listing import NoSuchChain
from instruments.selectors import ID_PREFIX
from marketdata.client_errors import ClientError
from marketdata.commands import CHAIN, OHLC, ChainChannel, OhlcChannel, parse_channel
from marketdata.hub import Hub
from marketdata.hub_client import Client
from marketdata.naming import resolve
from marketdata.ohlc_series import Series
from marketdata.wire import ItemResult

CHARTS_MAX = 50
"""Channels of candles that one connection may follow."""
CHAINS_MAX = 20
"""Channels of option chains that one connection may follow."""
MARKET = "market"
NAMED = (MARKET, "feed")
"""Every client gets their pushes anyway; who names `market` is told of every gap too."""


class ClientChannels:
    """What one client has subscribed by `channels`."""

    def __init__(self, client: Client, hub: Hub) -> None:
        self._client, self._hub = client, hub
        self._named: set[str] = set()

    def names(self) -> list[str]:
        """Return the names of all channels, those of candles with the instrument's key."""
        outbox = self._client.outbox
        return sorted(self._named | {_name(series) for series in outbox.charts} | {series.channel.name for series in outbox.chains})

    async def subscribe(self, channels: Sequence[str], candles: int) -> list[ItemResult]:
        """Follow channels; those of candles begin with the newest `candles`. One result for each, in the order asked."""
        asked: dict[str, OhlcChannel | ChainChannel | ClientError] = {}
        for channel in channels:
            try:
                if channel not in NAMED:
                    asked[channel] = parse_channel(channel)
            except ClientError as error:
                asked[channel] = error
        found = await resolve([each.name for each in asked.values() if isinstance(each, OhlcChannel)], self._hub)
        held = {series.channel for series in self._client.outbox.chains}
        room = CHAINS_MAX - len(held)
        results = []
        for channel in channels:
            one = asked.get(channel)
            if isinstance(one, ChainChannel):
                room -= one not in held  # one that there is not takes its place too: each may be a search in the store
                results.append(await self._subscribe_chain(channel, one, is_within=room >= 0 or one in held))
            else:
                results.append(self._subscribe(channel, one, found, candles))
        return results

    async def _subscribe_chain(self, item: str, channel: ChainChannel, *, is_within: bool) -> ItemResult:
        code, message = 405, f"A connection may follow {CHAINS_MAX} option chains."
        if is_within:
            try:
                await self._hub.subscriptions.add_chain(self._client, channel)
            except NoSuchChain as error:
                code, message = 411, f"{str(error)[:1].upper()}{str(error)[1:]}."
            except (PyMongoError, DatabaseError):
                code, message = 500, "The list of contracts cannot be read now; try again."
            else:
                return ItemResult(channel.name, item, "active")
        return ItemResult(channel.name, item, "error", code=code, message=message, field="channels")

    def _subscribe(
        self, channel: str, asked: OhlcChannel | ClientError | None, found: dict[str, tuple[int, str]], candles: int
    ) -> ItemResult:
        if asked is None:
            self._named.add(channel)
            self._client.outbox.all_gaps = MARKET in self._named
            return ItemResult(channel, channel, "active")
        if isinstance(asked, ClientError):
            return ItemResult(channel, channel, "error", code=asked.code, message=asked.message, field=asked.field)
        if asked.name not in found:
            return ItemResult(channel, channel, "error", code=411, message="No instrument is called so.", field="channels")
        instrument, key = found[asked.name]
        charts = self._client.outbox.charts
        if len(charts) >= CHARTS_MAX and not any((each.instrument, each.interval) == (instrument, asked.interval) for each in charts):
            message = f"A connection may follow {CHARTS_MAX} channels of candles."
            return ItemResult(key, channel, "error", instrument, 405, message, "channels")
        self._hub.subscriptions.add_chart(self._client, instrument, key, asked.interval, candles)
        return ItemResult(key, channel, "active", instrument)

    def unsubscribe(self, channels: Sequence[str]) -> None:
        """Follow channels no more; those that are not followed are no error."""
        gone = set(channels)
        self._named -= gone
        self._client.outbox.all_gaps = MARKET in self._named
        for series in list(self._client.outbox.charts):
            if gone & {_name(series), f"{OHLC}:{series.interval}:{ID_PREFIX}{series.instrument}"}:
                self._hub.subscriptions.remove_chart(self._client, series)
        if self._client.outbox.chains:
            self._unsubscribe_chains(gone)

    def _unsubscribe_chains(self, names: set[str]) -> None:
        gone = set()
        for name in names:
            if name.startswith(f"{CHAIN}:"):
                with contextlib.suppress(ClientError):
                    gone.add(parse_channel(name))
        for series in list(self._client.outbox.chains):
            if series.channel in gone:
                self._hub.subscriptions.remove_chain(self._client, series)


def _name(series: Series) -> str:
    return f"{OHLC}:{series.interval}:{series.key}"
