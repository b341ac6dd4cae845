"""The channels of one client: `ohlc:<interval>:<key or id:n>`, and the two that need no subscription but may be named."""

from __future__ import annotations

from collections.abc import Sequence

from instruments.selectors import ID_PREFIX
from marketdata.hub import Hub
from marketdata.hub_client import Client
from marketdata.naming import resolve
from marketdata.ohlc_series import Series
from marketdata.wire import OHLC, ChainChannel, ClientError, ItemResult, OhlcChannel, parse_channel

CHARTS_MAX = 50
"""Channels of candles that one connection may follow."""
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
        return sorted(self._named | {_name(series) for series in self._client.outbox.charts})

    async def subscribe(self, channels: Sequence[str], candles: int) -> list[ItemResult]:
        """Follow channels; those of candles begin with the newest `candles`. One result for each, in the order asked."""
        asked: dict[str, OhlcChannel | ClientError] = {}
        for channel in channels:
            try:
                if channel not in NAMED:
                    parsed = parse_channel(channel)
                    if isinstance(parsed, ChainChannel):
                        raise ClientError(400, "This channel comes later.", "channels")
                    asked[channel] = parsed
            except ClientError as error:
                asked[channel] = error
        found = await resolve([each.name for each in asked.values() if isinstance(each, OhlcChannel)], self._hub)
        return [self._subscribe(channel, asked.get(channel), found, candles) for channel in channels]

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
        self._hub.subscribe_chart(self._client, instrument, key, asked.interval, candles)
        return ItemResult(key, channel, "active", instrument)

    def unsubscribe(self, channels: Sequence[str]) -> None:
        """Follow channels no more; those that are not followed are no error."""
        gone = set(channels)
        self._named -= gone
        self._client.outbox.all_gaps = MARKET in self._named
        for series in list(self._client.outbox.charts):
            if gone & {_name(series), f"{OHLC}:{series.interval}:{ID_PREFIX}{series.instrument}"}:
                self._hub.unsubscribe_chart(self._client, series)


def _name(series: Series) -> str:
    return f"{OHLC}:{series.interval}:{series.key}"
