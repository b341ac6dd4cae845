"""What one process holds for a time, so that no other does: locks, a feed's shard, a user's places for connections.

All raise `Unavailable` within two seconds when Redis is down or hung. Leases end by Redis's own clock, so machines need not agree.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Awaitable, Iterable
from types import TracebackType
from typing import Any, cast

from marketdata.live_state import MAX_SHARDS, Unavailable, acall, aclient, aeval, call, key

CONNECTION_SECONDS = 30
"""Life of a client's place, unless it is taken again."""


class ShardsDisagree(Exception):
    """Feeds that run with the same Redis split the instruments otherwise."""


# --- one at a time ----------------------------------------------------------------------------------------------------
_LOCK_RENEW = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) else return 0 end"
_LOCK_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end"


class Lock:
    """A lock of all processes with an end: `with Lock("roll_up", 60) as lock: if lock.acquired: …`.

    A thread renews it while it is held; only its owner releases it. `acquired` is False when another holds it, and turns
    False when it was lost on the way (Redis emptied or away for longer than `seconds`).

    Raises:
        Unavailable: on entry, when Redis does not answer; worth a retry.
    """

    def __init__(self, name: str, seconds: float) -> None:
        self.acquired = False
        self._key = key(f"lock.{name}")
        self._life_ms = int(seconds * 1000)
        self._token = secrets.token_hex(16)
        self._released = threading.Event()
        self._renewer = threading.Thread(target=self._renew_until_released, name=f"lock {name}", daemon=True)

    def __enter__(self) -> Lock:
        self.acquired = bool(call("set", self._key, self._token, None, self._life_ms, True))
        if self.acquired:
            self._renewer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._renewer.is_alive():
            return
        self._released.set()
        self._renewer.join()
        self.acquired = False
        with contextlib.suppress(Unavailable):  # it ends by itself
            call("eval", _LOCK_RELEASE, 1, self._key, self._token)

    def _renew_until_released(self) -> None:
        held_until = time.monotonic() + self._life_ms / 1000
        while self.acquired and not self._released.wait(self._life_ms / 3000):
            try:
                self.acquired = bool(call("eval", _LOCK_RENEW, 1, self._key, self._token, self._life_ms))
                held_until = time.monotonic() + self._life_ms / 1000
            except Unavailable:
                self.acquired = time.monotonic() < held_until


class ALease:
    """A lock whose owner renews it itself, for event loops: the feed's shard.

    All raise `Unavailable` when Redis does not answer; worth a retry.
    """

    def __init__(self, name: str, seconds: float, token: str = "") -> None:
        """`token`: the owner's own word; one that outlives a crash takes the lease again at once by `renew`."""
        self._key = key(f"lock.{name}")
        self._life_ms = int(seconds * 1000)
        self._token = token or secrets.token_hex(16)

    async def acquire(self) -> bool:
        """Take it. False: another holds it."""
        return bool(await acall(cast("Awaitable[Any]", aclient().set(self._key, self._token, px=self._life_ms, nx=True))))

    async def renew(self) -> bool:
        """Keep it for `seconds` more. False: it was lost."""
        return bool(await aeval(_LOCK_RENEW, [self._key], self._token, self._life_ms))

    async def release(self) -> None:
        """Give it back, if it is still ours."""
        await aeval(_LOCK_RELEASE, [self._key], self._token)


class ShardLease(ALease):
    """The lease of one feed shard. It says how many shards there are, and all that are held must agree on that."""

    def __init__(self, shard: int, shards: int, seconds: float, token: str) -> None:
        """`token`: as of ALease."""
        super().__init__(f"feed.{shard}", seconds, f"{shards}/{token}")
        self._shards = shards

    async def acquire(self) -> bool:
        """Take it. False: another holds it.

        Raises:
            ShardsDisagree: feeds run that count otherwise. Final until they end.
        """
        await self.agree()  # before, too: what runs must not see us
        if not await super().acquire():
            return False
        try:
            await self.agree()
        except ShardsDisagree:
            await self.release()
            raise
        return True

    async def agree(self) -> None:
        """Compare with the other shards' leases. Raises ShardsDisagree as `acquire` does."""
        held = await acall(cast("Awaitable[list[bytes | None]]", aclient().mget([key(f"lock.feed.{n}") for n in range(MAX_SHARDS)])))
        for shard, token in enumerate(held):
            shards = int(token.partition(b"/")[0]) if token is not None else self._shards
            if shards != self._shards:
                raise ShardsDisagree(f"feed {shard + 1} of {shards} runs with the same Redis, so this cannot be one of {self._shards}")


# --- places of connections, per user, over all web processes ------------------------------------------------------------
_CONNECTION_ACQUIRE = """
local now = redis.call('TIME')[1]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) and not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 0 end
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
"""


async def aconnection_acquire(user: str, connection: str, limit: int) -> bool:
    """Take one of a user's connections, for CONNECTION_SECONDS. False: all `limit` are taken. Renewing is acquiring again."""
    return bool(await aeval(_CONNECTION_ACQUIRE, [key(f"connections.{user}")], connection, limit, CONNECTION_SECONDS))


async def aconnection_renew(connections: Iterable[tuple[str, str]]) -> None:
    """Renew the leases of (user, connection) pairs in one round trip; one that was lost is taken again, whatever the limit."""
    pipe = aclient().pipeline(transaction=False)
    for user, connection in connections:
        pipe.eval(_CONNECTION_ACQUIRE, 1, key(f"connections.{user}"), connection, 1_000_000, CONNECTION_SECONDS)
    await acall(pipe.execute())


async def aconnection_release(user: str, connection: str) -> None:
    """Give one connection back."""
    await acall(cast("Awaitable[int]", aclient().zrem(key(f"connections.{user}"), connection)))
