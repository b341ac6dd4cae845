"""The hub of each event loop: started by the first who asks, closed by the web server; and the newest quotes for sync code."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterable
from weakref import WeakKeyDictionary

from asgiref.sync import SyncToAsync

from marketdata import live_state
from marketdata.client_errors import CloseCode
from marketdata.domain.candle import Candle
from marketdata.fan_out import Hub
from marketdata.feed_board import FeedBoard
from marketdata.hub_quotes import stored_entries
from marketdata.wire import QuoteEntry

__all__ = ["Hub", "close_hub", "current_hub", "followed_entries", "get_hub", "latest_entries", "recent_minutes"]

START_SECONDS = 5.0
"""A sync view waits so long for the first start."""

_starting: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Future[Hub]] = WeakKeyDictionary()


async def get_hub() -> Hub:
    """Return this event loop's hub, started by the first who asks."""
    loop = asyncio.get_running_loop()
    future = _starting.get(loop)
    if future is None:
        future = _starting[loop] = asyncio.ensure_future(_start())
    return await asyncio.shield(future)


async def _start() -> Hub:
    hub = Hub()
    try:
        await hub.start()
    except BaseException:
        _starting.pop(asyncio.get_running_loop(), None)  # the next who asks tries again
        raise
    return hub


async def close_hub(code: int = CloseCode.RESTART) -> None:
    """Close this event loop's hub, if it has one; the next `get_hub` starts another."""
    future = _starting.pop(asyncio.get_running_loop(), None)
    if future is not None:
        await (await future).close(code)


def current_hub() -> Hub | None:
    """Return this process's running hub, from any thread, for reading only; None when there is none."""
    for loop, future in list(_starting.items()):
        if loop.is_running() and future.done() and not future.cancelled() and future.exception() is None:
            return future.result()
    return None


def latest_entries(instruments: Iterable[int]) -> tuple[dict[int, QuoteEntry], str]:
    """Return the newest known quotes of some instruments, and the feed's state. For sync code; never raises for a server that is away.

    In a web process they come from the hub's memory, which is started where the request's event loop has none; elsewhere
    from the shared state, or from MongoDB when that is away.
    """
    wanted = list(instruments)
    hub = current_hub() or _hub_of_request()
    if hub is not None:
        entries = hub.entries
        return {instrument: entries[instrument] for instrument in wanted if instrument in entries}, hub.feed_view().state
    board = FeedBoard()
    try:
        found = live_state.quotes_read(wanted)
        for status in live_state.statuses_read():
            board.take(status)
    except live_state.Unavailable:
        found = {}
    missing = [instrument for instrument in wanted if instrument not in found]
    if missing:
        found |= {entry.instrument: entry for _epoch, entry in stored_entries(missing)}
    return found, board.view(None).state


def followed_entries(instruments: Iterable[int]) -> tuple[dict[int, QuoteEntry], str]:
    """Do as `latest_entries` does, without what the feed follows no more though trading in it goes on: for what counts the market of now.

    Outside of a web process nobody hears what has left: there it is the same as `latest_entries`.
    """
    found, state = latest_entries(instruments)
    hub = current_hub()
    unfollowed: Container[int] = () if hub is None else hub.unfollowed
    return {instrument: entry for instrument, entry in found.items() if instrument not in unfollowed}, state


def recent_minutes(instrument: int) -> list[Candle]:
    """Return the newest 1-minute candles of an instrument that the feed has told, oldest first. For sync code.

    None outside of a web process. A hub that is started for the request knows them from its next batches on.
    """
    hub = current_hub() or _hub_of_request()
    return hub.recent_minutes(instrument) if hub is not None else []


def _hub_of_request() -> Hub | None:
    """Start the hub of the event loop that this sync view was called from; None in a thread that belongs to none."""
    loop: asyncio.AbstractEventLoop | None = getattr(SyncToAsync.threadlocal, "main_event_loop", None)
    if loop is None or not loop.is_running():
        return None
    try:
        return asyncio.run_coroutine_threadsafe(get_hub(), loop).result(timeout=START_SECONDS)
    except TimeoutError:
        return None
