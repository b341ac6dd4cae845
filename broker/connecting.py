"""Keeps the one connection to the broker: *when* is `upstox.feed.reconnect_delays`, *whether* is the error's kind, this is the loop.

A token that the broker refused is never tried again: the store is asked each few seconds for another one. Authorise calls, of which
every connection needs one, stay inside the broker's limits (`pacing`). What it cannot mend it tells by `lost`, and goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from typing import Protocol

from broker.pacing import AuthorizePacer
from broker.report import first_line
from broker.sessions import Token, token_current
from broker.store_calls import STORE_ERRORS, ask_store
from broker.upstox.feed import FeedConnection, open_feed, reconnect_delays
from broker.upstox.protocol import AuthExpired, BrokerError, RateLimited
from broker.upstox.rest import UpstoxRest
from marketdata.domain.feed_status import FeedState

log = logging.getLogger(__name__)

TOKEN_POLL_SECONDS = 5.0
YIELD_SECONDS = 0.005
"""Receiving does not yield while messages wait: the other loops get their turn after so long."""


class Listener(Protocol):
    """Who is told what becomes of the connection."""

    def opened(self, token: Token) -> None:
        """A connection was made with this token."""

    def take(self, message: bytes | str) -> None:
        """A message came."""

    def gave_data(self) -> bool:
        """Whether the connection that ends now gave real data: only then do the delays begin anew."""

    def lost(self, state: FeedState, detail: str) -> None:
        """There is no connection; also when there was none before, for another reason now."""


class Connector:
    """The connection of one shard.

    Attributes:
        connection: the open one, or None.
    """

    def __init__(self, listener: Listener, *, api_url: str, pacer: AuthorizePacer, counts: Counter[str]) -> None:
        self.connection: FeedConnection | None = None
        self._listener = listener
        self._api_url = api_url
        self._pacer = pacer
        self._counts = counts
        self._dropped = ""
        self._delays = reconnect_delays()
        self._was_connected = False

    async def run(self) -> None:
        """Connect, receive, and connect again, until cancelled."""
        refused = token = Token("", "", 0)
        while True:
            try:
                token = await self._token(token)
                if token.token == refused.token:
                    raise AuthExpired("the broker does not accept the token; waiting for another one")
                await self._connect_once(token)
            except AuthExpired as error:
                if error.status or error.code:
                    refused = token
                self._listener.lost(FeedState.TOKEN_EXPIRED, str(error))
                await asyncio.sleep(TOKEN_POLL_SECONDS)
                continue
            except RateLimited as error:
                self._listener.lost(FeedState.RECONNECTING, str(error))
                await asyncio.sleep(error.retry_after)
                continue
            except (BrokerError, *STORE_ERRORS) as error:
                self._listener.lost(FeedState.RECONNECTING, self._dropped or first_line(error))
                self._dropped = ""
            await asyncio.sleep(next(self._delays))

    async def drop(self, why: str) -> None:
        """End the open connection, so that another one is made; `why` is told as its end."""
        if self.connection is not None:
            log.warning("feed: connecting anew: %s", why)
            self._dropped = why
            await self.connection.close()

    async def _token(self, last: Token) -> Token:
        """Return the token of now; the last one while the store, where sessions are kept, does not answer.

        Raises:
            AuthExpired: there is none.
        """
        try:
            return await ask_store(token_current)
        except STORE_ERRORS:
            if not last.token:
                raise
            return last

    async def _connect_once(self, token: Token) -> None:
        """Authorise, connect, receive until the connection ends.

        Raises:
            BrokerError: always; how it ended.
        """
        while wait := self._pacer.take(time.time()):
            if wait >= 1:
                self._listener.lost(FeedState.RECONNECTING, f"waiting {wait:.0f} s for the broker's limit on authorise calls")
            await asyncio.sleep(wait)
        self._counts["authorize_calls_total"] += 1
        url = await UpstoxRest(self._api_url, token.token).aauthorize()
        connection = await open_feed(url)
        self.connection, self._dropped = connection, ""
        self._counts["reconnects_total"] += self._was_connected
        self._was_connected = True
        log.info("feed: connected")
        try:
            self._listener.opened(token)
            yielded = time.monotonic()
            while True:
                self._listener.take(await connection.receive())
                if time.monotonic() - yielded > YIELD_SECONDS:
                    await asyncio.sleep(0)
                    yielded = time.monotonic()
        finally:
            self.connection = None
            if self._listener.gave_data():
                self._delays = reconnect_delays()
            with contextlib.suppress(Exception):
                await connection.close()
