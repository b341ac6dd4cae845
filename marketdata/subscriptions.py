"""What the clients of one hub follow: instruments, charts, option chains; and what is therefore demanded of the feed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping

from marketdata.chain_channels import ChainChannels
from marketdata.chain_series import ChainSeries
from marketdata.commands import ChainChannel
from marketdata.followers import Followers
from marketdata.hub_client import Client
from marketdata.hub_notices import HubNotices
from marketdata.ohlc_channels import OhlcChannels
from marketdata.ohlc_series import Series
from marketdata.outbox import Outbox
from marketdata.standing import Standing
from marketdata.wire import QuoteEntry


class Subscriptions:
    """Owned by the hub's loop.

    Args:
        clients: outbox → connection; read, never changed.
        entries: instrument id → newest quote; the same.
        market_ms: returns market time · ms UTC.
        wake: wakes clients that were given something.
        is_live: whether a quote of an instrument has come from a feed that runs.

    Attributes:
        followers, charts, chains: who follows what.
        unfollowed: `Standing.unfollowed`; read, never changed.
        notices: what they are told of it beside quotes.
        demand_changed: set when what is demanded has changed.
    """

    def __init__(
        self,
        clients: Mapping[Outbox, Client],
        entries: Mapping[int, QuoteEntry],
        market_ms: Callable[[], int],
        wake: Callable[[Iterable[Outbox]], None],
        is_live: Callable[[int], bool],
    ) -> None:
        self._entries, self._is_live = entries, is_live
        self.followers = Followers()
        self.charts = OhlcChannels(market_ms, wake)
        standing = Standing()
        self.unfollowed: Collection[int] = standing.unfollowed
        self.chains = ChainChannels(entries, self.unfollowed, market_ms, wake, self._want)
        self.notices = HubNotices(clients, entries, self.followers, self.charts, self.chains, standing, self.remove)
        self.demand_changed = asyncio.Event()

    def add(self, client: Client, instrument: int, key: str, mode: int, *, dirty: bool = True) -> bool:
        """Let a client follow an instrument; it is owed the whole quote then, unless `dirty` is False.

        Returns:
            Whether it is live. If not, it is demanded, and a `subscription` push follows.
        """
        known, is_live = instrument in self._entries, self._is_live(instrument)
        client.outbox.subscribe(instrument, mode, dirty=dirty and known)
        if self.followers.add(client.outbox, instrument, mode):
            self.demand_changed.set()
        if known:
            client.wake()
        if not is_live:
            self.notices.wait(client.outbox, instrument, key, time.monotonic())
        return is_live

    def remove(self, client: Client, instrument: int) -> bool:
        """Let a client follow an instrument no more. False: it did not."""
        followed = client.outbox.unsubscribe(instrument)
        if self.followers.remove(client.outbox, instrument):
            self.demand_changed.set()
        return followed

    def add_chart(self, client: Client, instrument: int, key: str, interval: str, candles: int) -> Series:
        """Let a client follow the candles of an instrument, which is demanded: it is owed the newest `candles`, then what changes."""
        is_new = all((series.instrument, series.interval) != (instrument, interval) for series in client.outbox.charts)
        series = self.charts.follow(client.outbox, instrument, key, interval, candles)
        if is_new and self.followers.add_chart(instrument):
            self.demand_changed.set()
        client.wake()
        return series

    def remove_chart(self, client: Client, series: Series) -> bool:
        """Let a client follow a chart no more. False: it did not."""
        followed = self.charts.unfollow(client.outbox, series)
        if followed and self.followers.remove_chart(series.instrument):
            self.demand_changed.set()
        return followed

    async def add_chain(self, client: Client, channel: ChainChannel) -> ChainSeries:
        """Let a client follow an option chain, whose contracts are demanded: it is owed the whole, then what changes. The reply wakes it.

        Raises:
            NoSuchChain, pymongo.errors.PyMongoError, django.db.DatabaseError: as `ChainChannels.follow` does.
        """
        return await self.chains.follow(client.outbox, channel)

    def remove_chain(self, client: Client, series: ChainSeries) -> bool:
        """Let a client follow a chain no more. False: it did not."""
        return self.chains.unfollow(client.outbox, series)

    def remove_all(self, client: Client) -> None:
        """Let a client that has gone follow nothing."""
        for instrument in list(client.outbox.modes):
            self.remove(client, instrument)
        for chart in list(client.outbox.charts):
            self.remove_chart(client, chart)
        for chain in list(client.outbox.chains):
            self.remove_chain(client, chain)

    def _want(self, added: Iterable[int], gone: Iterable[int]) -> None:
        """Note what chains demand from now on, and what no more."""
        changed = [self.followers.add_chart(instrument) for instrument in added]
        changed += [self.followers.remove_chart(instrument) for instrument in gone]
        if any(changed):
            self.demand_changed.set()
