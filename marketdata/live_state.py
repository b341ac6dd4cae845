"""The small state that processes share, and the only direct user of Redis: latest quotes, feed status, demand, counters, task runs.

Every key begins with the namespace. Nothing here is the only copy of anything: Redis may be emptied at any moment.
`a…` names are coroutines for event loops, the others block (tasks, commands, views). All raise `Unavailable` within
two seconds when Redis is down or hung; none waits longer. `leases` and `call_limits` speak to Redis by the four calls here.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Iterable, Mapping
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
"""Lives of a feed's status and of what a hub says (demand, counters), unless written again."""
MAX_SHARDS = 8

_T = TypeVar("_T")
_encoder = msgspec.msgpack.Encoder(enc_hook=int)
_decode_status = msgspec.msgpack.Decoder(FeedStatus).decode
_decode_demand = msgspec.msgpack.Decoder(dict[int, str]).decode
_decode_counters = msgspec.msgpack.Decoder(dict[str, float]).decode
_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, redis.asyncio.Redis] = WeakKeyDictionary()


class Unavailable(Exception):
    """Redis does not answer, or not in time. Worth a retry after a second."""


def key(name: str) -> str:
    """Return a key of this project's namespace."""
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


def aclient() -> redis.asyncio.Redis:
    """Return this event loop's client: connections cannot change loops."""
    loop = asyncio.get_running_loop()
    client = _loops.get(loop)
    if client is None:
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            settings.REDIS_URL,
            max_connections=8,
            timeout=CALL_SECONDS,
            # None: `acall` ends the wait. With a value redis-py sends through asyncio.wait_for, which on Python 3.11 swallows
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


def call(name: str, *args: Any) -> Any:
    """Return the answer to one of redis-py's commands. Raises Unavailable."""
    try:
        return getattr(_client(settings.REDIS_URL), name)(*args)
    except (redis.RedisError, OSError) as error:
        raise Unavailable(str(error)) from error


async def acall(answer: Awaitable[_T]) -> _T:
    """Return what a command of `aclient` answers. Raises Unavailable."""
    try:
        async with asyncio.timeout(1.5 * CALL_SECONDS):
            return await answer
    except (redis.RedisError, OSError, TimeoutError) as error:
        raise Unavailable(str(error) or "no answer in time") from error


async def aeval(script: str, keys: list[str], *args: str | int | float | bytes) -> Any:
    """Return what a Lua script answers, which runs in one step. Raises Unavailable."""
    return await acall(cast("Awaitable[Any]", aclient().eval(script, len(keys), *keys, *args)))


def ping() -> float:
    """Return the seconds that one round trip takes.

    Raises:
        Unavailable: worth a retry.
    """
    start = time.perf_counter()
    call("ping")
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
        await acall(cast("Awaitable[int]", aclient().hset(key("quotes"), mapping=cast("dict[str | bytes, Any]", fields))))


async def aquotes_remove(instruments: Iterable[int]) -> None:
    """Forget instruments that are followed no more, so that the hash does not grow for ever."""
    names = [str(instrument) for instrument in instruments]
    if names:
        await acall(cast("Awaitable[int]", aclient().hdel(key("quotes"), *names)))


async def aquotes_known() -> set[int]:
    """Return the instruments of which a latest quote is there, whoever wrote it.

    Raises:
        Unavailable: worth a retry.
    """
    names = await acall(cast("Awaitable[list[bytes]]", aclient().hkeys(key("quotes"))))
    return {int(name) for name in names}


def quotes_read(instruments: Iterable[int] | None = None) -> dict[int, QuoteEntry]:
    """Return the latest quotes of some instruments, or of all. What is not there is left out.

    Raises:
        Unavailable: worth a retry.
    """
    if instruments is None:
        packed = call("hvals", key("quotes"))
    else:
        names = [str(instrument) for instrument in instruments]
        packed = call("hmget", key("quotes"), names) if names else []
    return {entry.instrument: entry for _epoch, entry in _entries(packed)}


async def aquotes_read(instruments: Iterable[int] | None = None) -> dict[int, QuoteEntry]:
    """Do as `quotes_read` does, for an event loop."""
    return {entry.instrument: entry for _epoch, entry in await astamped_quotes_read(instruments)}


async def astamped_quotes_read(instruments: Iterable[int] | None = None) -> list[tuple[int, QuoteEntry]]:
    """Return (epoch, entry) of some instruments, or of all: what a hub needs to tell older from newer."""
    if instruments is None:
        return _entries(await acall(cast("Awaitable[list[bytes]]", aclient().hvals(key("quotes")))))
    names = [str(instrument) for instrument in instruments]
    return _entries(await acall(cast("Awaitable[list[bytes | None]]", aclient().hmget(key("quotes"), names)))) if names else []


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
    await acall(cast("Awaitable[Any]", aclient().set(key(f"status.{status.shard}"), _encoder.encode(status), ex=STATUS_SECONDS)))


def statuses_read() -> list[FeedStatus]:
    """Return the reports of the last STATUS_SECONDS, by shard; empty when no feed runs.

    Raises:
        Unavailable: worth a retry.
    """
    return _statuses(call("mget", _status_keys()))


async def astatuses_read() -> list[FeedStatus]:
    """Do as `statuses_read` does, for an event loop."""
    return _statuses(await acall(cast("Awaitable[list[bytes | None]]", aclient().mget(_status_keys()))))


def _status_keys() -> list[str]:
    return [key(f"status.{shard}") for shard in range(MAX_SHARDS)]


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
    await aeval(_HUB_WRITE, [key(what), key(f"{what}.{hub}")], hub, HUB_SECONDS, _encoder.encode(dict(content)))


async def ademand_write(hub: str, instruments: Mapping[int, str]) -> None:
    """Say what a hub's clients want. It ends after HUB_SECONDS unless written again.

    Args:
        hub: the hub's own name.
        instruments: instrument id → "ltpc" or "full".
    """
    await _ahub_write("demand", hub, instruments)


async def ademand_read() -> dict[int, str]:
    """Return what all hubs want: instrument id → mode, the greater where they differ. Empty when nobody wants anything."""
    return _demand(await aeval(_HUB_READ, [key("demand")]))


def demand_read() -> dict[int, str]:
    """Do as `ademand_read` does, for tasks."""
    return _demand(call("eval", _HUB_READ, 1, key("demand")))


def _demand(said: Iterable[tuple[bytes, bytes | None]]) -> dict[int, str]:
    wanted: dict[int, str] = {}
    for _hub, packed in said:
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
    return _hub_counters(call("eval", _HUB_READ, 1, key("counters")))


async def ahub_counters_read() -> dict[str, dict[str, float]]:
    """Do as `hub_counters_read` does, for an event loop."""
    return _hub_counters(await aeval(_HUB_READ, [key("counters")]))


def _hub_counters(said: Iterable[tuple[bytes, bytes | None]]) -> dict[str, dict[str, float]]:
    return {name.decode(): _decode_counters(packed) for name, packed in said if packed}


# --- what tasks did ---------------------------------------------------------------------------------------------------
def task_run_write(name: str, *, ok: bool, detail: str, seconds: float) -> None:
    """Note the last run of a task, for `/api/health`.

    Raises:
        Unavailable: the note is lost; the task's work is not.
    """
    run = {"ok": ok, "detail": detail, "seconds": round(seconds, 3), "at_ms": time.time_ns() // 1_000_000}
    call("hset", key("tasks"), name, _encoder.encode(run))


def task_runs_read() -> dict[str, dict[str, Any]]:
    """Return task name → {ok, detail, seconds, at_ms} of its last run.

    Raises:
        Unavailable: worth a retry.
    """
    return {name.decode(): msgspec.msgpack.decode(run) for name, run in call("hgetall", key("tasks")).items()}
