"""Holds the lease of one feed shard, so that no second feed writes it; its token lies beside the journal."""

from __future__ import annotations

import logging
import secrets
from pathlib import Path

from marketdata.leases import ShardLease
from marketdata.live_state import Unavailable

log = logging.getLogger(__name__)

LEASE_SECONDS = 10.0


class ShardTaken(Exception):
    """Another feed holds the lease of this shard; final until it ends."""


class ShardHolder:
    """Takes the lease, keeps it each second, gives it back."""

    def __init__(self, folder: Path, *, shard: int, shards: int) -> None:
        self._folder = folder
        self._shard, self._shards = shard, shards
        self._lease: ShardLease | None = None

    async def take(self) -> None:
        """Take the lease. A restart after a crash has it at once; without Redis the journal's lock stands alone.

        Raises:
            ShardTaken, ShardsDisagree: other feeds run.
        """
        file = self._folder / "lease"
        if not file.exists():
            file.write_text(secrets.token_hex(16))
        self._lease = ShardLease(self._shard, self._shards, LEASE_SECONDS, token=file.read_text())
        try:
            if not (await self._lease.renew() or await self._lease.acquire()):
                raise ShardTaken(
                    f"another feed runs shard {self._shard} with the same Redis; stop it or choose another TRADINGOK_FEED_SHARD"
                )
            await self._lease.agree()
        except Unavailable:
            log.warning("feed: Redis does not answer; the journal's file lock alone keeps a second feed away")

    async def keep(self) -> None:
        """Keep the lease, or take it again where it was lost on the way.

        Raises:
            ShardTaken: another feed has it.
            Unavailable: worth a retry.
        """
        if self._lease is not None and not await self._lease.renew() and not await self._lease.acquire():
            raise ShardTaken("another feed has taken this shard")

    async def release(self) -> None:
        """Give the lease back. Raises Unavailable: it ends by itself."""
        if self._lease is not None:
            await self._lease.release()
