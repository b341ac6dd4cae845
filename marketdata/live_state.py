"""The small state that processes share, and the only direct user of Redis: latest quotes, feed status, demand, locks.

Every key begins with the namespace. Nothing here is the only copy of anything: Redis may be emptied at any moment.
`a…` names are coroutines for event loops, the others block (tasks, commands, views). All raise `Unavailable` within
two seconds when Redis is down or hung; none waits longer. Leases end by Redis's own clock, so machines need not agree.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
import threading
import time
from collections.abc import Awaitable, Iterable, Mapping
from types import TracebackType
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import msgspec
import redis
import redis.asyncio
from django.conf import settings
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from marketdata.domain.feed_status import FeedStatus
from marketdata.wire import QuoteEntry, entry_pack, entry_unpack

CALL_SECONDS = 1.0
"""Longest wait for one answer; a hung server is given up after it."""
STATUS_SECONDS = 60
HUB_SECONDS = 20
CONNECTION_SECONDS = 30
"""Lives of a feed's status, of what a hub says (demand, counters) and of a client's connection, unless written again."""
MAX_SHARDS = 8

_T = TypeVar("_T")
_encoder = msgspec.msgpack.Encoder(enc_hook=int)
_decode_status = msgspec.msgpack.Decoder(FeedStatus).decode
_decode_demand = msgspec.msgpack.Decoder(dict[int, str]).decode
_decode_counters = msgspec.msgpack.Decoder(dict[str, float]).decode
_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, redis.asyncio.Redis] = WeakKeyDictionary()


class Unavailable(Exception):
    """Redis does not answer, or not in time. Worth a retry after a second."""


class ShardsDisagree(Exception):
    """Feeds that run with the same Redis split the instruments otherwise."""


def _key(name: str) -> str:
    return f"{settings.NAMESPACE}.{name}"


@functools.lru_cache(maxsize=2)
def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(
        url,
        socket_timeout=CALL_SECONDS,
        socket_connect_timeout=CALL_SECONDS / 2,
        # One more try on a connection that a restarted server has closed; none on silence.
        retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
    )


def _aclient() -> redis.asyncio.Redis:
    """Return this event loop's client: connections cannot change loops."""
    loop = asyncio.get_running_loop()
    client = _loops.get(loop)
    if client is None:
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            settings.REDIS_URL,
            max_connections=8,
            timeout=CALL_SECONDS,
            # None: `_acall` ends the wait. With a value redis-py sends through asyncio.wait_for, which on Python 3.11 swallows
            # a cancellation that comes as the sending is done (bpo-37658): one task in four went on after its cancel().
            socket_timeout=None,
            socket_connect_timeout=CALL_SECONDS / 2,
            retry=AsyncRetry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        )
        client = _loops[loop] = redis.asyncio.Redis.from_pool(pool)
    return client


async def aclose() -> None:
    """Close this event loop's connections; the next call opens them again."""
    client = _loops.pop(asyncio.get_running_loop(), None)
    if client is not None:
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await client.aclose()
        except (redis.RedisError, OSError, TimeoutError):
            pass  # they are gone already


def _call(name: str, *args: Any) -> Any:
    try:
        return getattr(_client(settings.REDIS_URL), name)(*args)
    except (redis.RedisError, OSError) as error:
        raise Unavailable(str(error)) from error


async def _acall(call: Awaitable[_T]) -> _T:
    try:
        async with asyncio.timeout(1.5 * CALL_SECONDS):
            return await call
    except (redis.RedisError, OSError, TimeoutError) as error:
        raise Unavailable(str(error) or "no answer in time") from error


async def _aeval(script: str, keys: list[str], *args: str | int | float | bytes) -> Any:
    return await _acall(cast("Awaitable[Any]", _aclient().eval(script, len(keys), *keys, *args)))


def ping() -> float:
    """Return the seconds that one round trip takes.

    Raises:
        Unavailable: worth a retry.
    """
    start = time.perf_counter()
    _call("ping")
    return time.perf_counter() - start


# --- latest quotes ----------------------------------------------------------------------------------------------------
async def aquotes_write(entries: Iterable[QuoteEntry], epoch: int = 0) -> None:
    """Write the latest quotes of some instruments; the feed does it each second with those that changed.

    Args:
        entries: the newest of each instrument.
        epoch: the run of the feed that their `seq` belongs to.
    """
    fields = {str(entry.instrument): entry_pack(entry, epoch) for entry in entries}
    if fields:
        await _acall(cast("Awaitable[int]", _aclient().hset(_key("quotes"), mapping=cast("dict[str | bytes, Any]", fields))))


async def aquotes_remove(instruments: Iterable[int]) -> None:
    """Forget instruments that are followed no more, so that the hash does not grow for ever."""
    names = [str(instrument) for instrument in instruments]
    if names:
        await _acall(cast("Awaitable[int]", _aclient().hdel(_key("quotes"), *names)))


def quotes_read(instruments: Iterable[int] | None = None) -> dict[int, QuoteEntry]:
    """Return the latest quotes of some instruments, or of all. What is not there is left out.

    Raises:
        Unavailable: worth a retry.
    """
    if instruments is None:
        packed = _call("hvals", _key("quotes"))
    else:
        names = [str(instrument) for instrument in instruments]
        packed = _call("hmget", _key("quotes"), names) if names else []
    return {entry.instrument: entry for _epoch, entry in _entries(packed)}


async def aquotes_read(instruments: Iterable[int] | None = None) -> dict[int, QuoteEntry]:
    """Do as `quotes_read` does, for an event loop."""
    return {entry.instrument: entry for _epoch, entry in await astamped_quotes_read(instruments)}


async def astamped_quotes_read(instruments: Iterable[int] | None = None) -> list[tuple[int, QuoteEntry]]:
    """Return (epoch, entry) of some instruments, or of all: what a hub needs to tell older from newer."""
    if instruments is None:
        return _entries(await _acall(cast("Awaitable[list[bytes]]", _aclient().hvals(_key("quotes")))))
    names = [str(instrument) for instrument in instruments]
    return _entries(await _acall(cast("Awaitable[list[bytes | None]]", _aclient().hmget(_key("quotes"), names)))) if names else []


def _entries(packed: Iterable[bytes | None]) -> list[tuple[int, QuoteEntry]]:
    found = []
    for value in packed:
        if value is not None:
            try:
                found.append(entry_unpack(value))
            except ValueError:
                continue  # written by another version; the feed writes it again
    return found


# --- feed status ------------------------------------------------------------------------------------------------------
async def astatus_write(status: FeedStatus) -> None:
    """Write a feed's report; it is forgotten after STATUS_SECONDS."""
    await _acall(cast("Awaitable[Any]", _aclient().set(_key(f"status.{status.shard}"), _encoder.encode(status), ex=STATUS_SECONDS)))


def statuses_read() -> list[FeedStatus]:
    """Return the reports of the last STATUS_SECONDS, by shard; empty when no feed runs.

    Raises:
        Unavailable: worth a retry.
    """
    return _statuses(_call("mget", _status_keys()))


async def astatuses_read() -> list[FeedStatus]:
    """Do as `statuses_read` does, for an event loop."""
    return _statuses(await _acall(cast("Awaitable[list[bytes | None]]", _aclient().mget(_status_keys()))))


def _status_keys() -> list[str]:
    return [_key(f"status.{shard}") for shard in range(MAX_SHARDS)]


def _statuses(packed: Iterable[bytes | None]) -> list[FeedStatus]:
    return [_decode_status(value) for value in packed if value is not None]


# --- what hubs say: their clients' demand, their counters -------------------------------------------------------------
_HUB_WRITE = """
local now = redis.call('TIME')[1]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('SET', KEYS[2], ARGV[3], 'EX', ARGV[2])
"""
_HUB_READ = """
local hubs = redis.call('ZRANGEBYSCORE', KEYS[1], redis.call('TIME')[1], '+inf')
local said = {}
for i, hub in ipairs(hubs) do said[i] = {hub, redis.call('GET', KEYS[1] .. '.' .. hub)} end
return said
"""


async def _ahub_write(what: str, hub: str, content: Mapping[Any, Any]) -> None:
    await _aeval(_HUB_WRITE, [_key(what), _key(f"{what}.{hub}")], hub, HUB_SECONDS, _encoder.encode(dict(content)))


async def ademand_write(hub: str, instruments: Mapping[int, str]) -> None:
    """Say what a hub's clients want. It ends after HUB_SECONDS unless written again.

    Args:
        hub: the hub's own name.
        instruments: instrument id → "ltpc" or "full".
    """
    await _ahub_write("demand", hub, instruments)


async def ademand_read() -> dict[int, str]:
    """Return what all hubs want: instrument id → mode, the greater where they differ. Empty when nobody wants anything."""
    wanted: dict[int, str] = {}
    for _hub, packed in await _aeval(_HUB_READ, [_key("demand")]):
        if packed:
            for instrument, mode in _decode_demand(packed).items():
                if wanted.get(instrument) != "full":
                    wanted[instrument] = mode
    return wanted


async def ahub_counters_write(name: str, counters: Mapping[str, float]) -> None:
    """Write a hub's counters, for whoever adds up all of them. They end after HUB_SECONDS unless written again.

    Args:
        name: the hub's own name.
        counters: counter → value; totals of the hub's whole life.
    """
    await _ahub_write("counters", name, counters)


def hub_counters_read() -> dict[str, dict[str, float]]:
    """Return hub → its counters, for the hubs of all web processes; empty when none runs.

    Raises:
        Unavailable: worth a retry.
    """
    return _hub_counters(_call("eval", _HUB_READ, 1, _key("counters")))


async def ahub_counters_read() -> dict[str, dict[str, float]]:
    """Do as `hub_counters_read` does, for an event loop."""
    return _hub_counters(await _aeval(_HUB_READ, [_key("counters")]))


def _hub_counters(said: Iterable[tuple[bytes, bytes | None]]) -> dict[str, dict[str, float]]:
    return {name.decode(): _decode_counters(packed) for name, packed in said if packed}


# --- connections per user, over all web processes ---------------------------------------------------------------------
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
    return bool(await _aeval(_CONNECTION_ACQUIRE, [_key(f"connections.{user}")], connection, limit, CONNECTION_SECONDS))


async def aconnection_renew(connections: Iterable[tuple[str, str]]) -> None:
    """Renew the leases of (user, connection) pairs in one round trip; one that was lost is taken again, whatever the limit."""
    pipe = _aclient().pipeline(transaction=False)
    for user, connection in connections:
        pipe.eval(_CONNECTION_ACQUIRE, 1, _key(f"connections.{user}"), connection, 1_000_000, CONNECTION_SECONDS)
    await _acall(pipe.execute())


async def aconnection_release(user: str, connection: str) -> None:
    """Give one connection back."""
    await _acall(cast("Awaitable[int]", _aclient().zrem(_key(f"connections.{user}"), connection)))


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
        self._key = _key(f"lock.{name}")
        self._life_ms = int(seconds * 1000)
        self._token = secrets.token_hex(16)
        self._released = threading.Event()
        self._renewer = threading.Thread(target=self._renew_until_released, name=f"lock {name}", daemon=True)

    def __enter__(self) -> Lock:
        self.acquired = bool(_call("set", self._key, self._token, None, self._life_ms, True))
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
            _call("eval", _LOCK_RELEASE, 1, self._key, self._token)

    def _renew_until_released(self) -> None:
        held_until = time.monotonic() + self._life_ms / 1000
        while self.acquired and not self._released.wait(self._life_ms / 3000):
            try:
                self.acquired = bool(_call("eval", _LOCK_RENEW, 1, self._key, self._token, self._life_ms))
                held_until = time.monotonic() + self._life_ms / 1000
            except Unavailable:
                self.acquired = time.monotonic() < held_until


class ALease:
    """A lock whose owner renews it itself, for event loops: the feed's shard.

    All raise `Unavailable` when Redis does not answer; worth a retry.
    """

    def __init__(self, name: str, seconds: float, token: str = "") -> None:
        """`token`: the owner's own word; one that outlives a crash takes the lease again at once by `renew`."""
        self._key = _key(f"lock.{name}")
        self._life_ms = int(seconds * 1000)
        self._token = token or secrets.token_hex(16)

    async def acquire(self) -> bool:
        """Take it. False: another holds it."""
        return bool(await _acall(cast("Awaitable[Any]", _aclient().set(self._key, self._token, px=self._life_ms, nx=True))))

    async def renew(self) -> bool:
        """Keep it for `seconds` more. False: it was lost."""
        return bool(await _aeval(_LOCK_RENEW, [self._key], self._token, self._life_ms))

    async def release(self) -> None:
        """Give it back, if it is still ours."""
        await _aeval(_LOCK_RELEASE, [self._key], self._token)


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
        held = await _acall(cast("Awaitable[list[bytes | None]]", _aclient().mget([_key(f"lock.feed.{n}") for n in range(MAX_SHARDS)])))
        for shard, token in enumerate(held):
            shards = int(token.partition(b"/")[0]) if token is not None else self._shards
            if shards != self._shards:
                raise ShardsDisagree(f"feed {shard + 1} of {shards} runs with the same Redis, so this cannot be one of {self._shards}")


# --- what tasks did ---------------------------------------------------------------------------------------------------
def task_run_write(name: str, *, ok: bool, detail: str, seconds: float) -> None:
    """Note the last run of a task, for `/api/health`.

    Raises:
        Unavailable: the note is lost; the task's work is not.
    """
    run = {"ok": ok, "detail": detail, "seconds": round(seconds, 3), "at_ms": time.time_ns() // 1_000_000}
    _call("hset", _key("tasks"), name, _encoder.encode(run))


def task_runs_read() -> dict[str, dict[str, Any]]:
    """Return task name → {ok, detail, seconds, at_ms} of its last run.

    Raises:
        Unavailable: worth a retry.
    """
    return {name.decode(): msgspec.msgpack.decode(run) for name, run in _call("hgetall", _key("tasks")).items()}


# --- calls to the broker ----------------------------------------------------------------------------------------------
_CALL_TAKE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local wait = math.max(redis.call('PTTL', KEYS[2]), 0)
local longest = 0
for i = 1, #ARGV, 2 do
  local window, most = tonumber(ARGV[i]), tonumber(ARGV[i + 1])
  longest = math.max(longest, window)
  local last = redis.call('ZREVRANGE', KEYS[1], most - 1, most - 1, 'WITHSCORES')
  if last[2] then wait = math.max(wait, last[2] + window - now) end
end
if wait > 0 then return wait end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - longest)
redis.call('ZADD', KEYS[1], now, now .. '.' .. redis.call('INCR', KEYS[1] .. '.n'))
redis.call('PEXPIRE', KEYS[1], longest)
redis.call('PEXPIRE', KEYS[1] .. '.n', longest)
return 0
"""


def call_take(name: str, windows: Iterable[tuple[float, int]]) -> float:
    """Note a call that is about to be made, of all processes together; or note nothing, where one more would be too many.

    Args:
        name: what is limited.
        windows: (seconds, calls within any stretch of so many seconds, at least 1), by Redis's own clock.

    Returns:
        0: it may be made now. Else the seconds after which to ask again.

    Raises:
        Unavailable: nothing is known.
    """
    limits = [round(number) for seconds, most in windows for number in (seconds * 1000, most)]
    return float(_call("eval", _CALL_TAKE, 2, _key(f"calls.{name}"), _key(f"calls.{name}.pause"), *limits)) / 1000


def calls_pause(name: str, seconds: float) -> None:
    """Let nobody make such a call for so long; a pause that ends later stays.

    Raises:
        Unavailable: nobody else knows.
    """
    _call("set", _key(f"calls.{name}.pause"), 1, None, round(seconds * 1000), True)
    _call("pexpire", _key(f"calls.{name}.pause"), round(seconds * 1000), False, False, True)
