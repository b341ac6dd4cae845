"""Ends connections whose credentials work no more: a revoked API key, a user who may not come in any longer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from channels.db import database_sync_to_async
from django.db import DatabaseError
from pymongo.errors import PyMongoError

from accounts.services import credentials_working
from marketdata.client_errors import ClientError, CloseCode
from marketdata.hub_client import Client
from marketdata.outbox import Outbox

logger = logging.getLogger(__name__)

CHECK_SECONDS = 30.0
"""So long a connection may outlive its credentials. Two queries for all connections of a process."""


class CredentialWatch:
    """Looks after the credentials of one hub's clients. While the database is away nobody is sent off."""

    def __init__(self, clients: Mapping[Outbox, Client]) -> None:
        self._clients = clients

    async def step(self) -> None:
        """Wait CHECK_SECONDS, then say error 401 and bye 4101 to whom the credentials let in no more."""
        await asyncio.sleep(CHECK_SECONDS)
        held = {client: client.credential for client in self._clients.values() if client.credential is not None}
        if not held:
            return
        try:
            working = await database_sync_to_async(credentials_working, thread_sensitive=False)(set(held.values()))
        except (PyMongoError, DatabaseError) as error:
            logger.debug("credentials could not be checked: %s", error)
            return
        why = ClientError(401, "Your API key was revoked, or your user may not come in any longer.").push()
        for client, credential in held.items():
            if credential not in working:
                logger.info("client closed: its credentials work no more")
                client.close(CloseCode.BAD_CREDENTIALS, why)
