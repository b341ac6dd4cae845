"""A connection does not outlive its credentials."""

from __future__ import annotations

from typing import Any

import pytest
from channels.db import database_sync_to_async
from django.db import DatabaseError
from django.utils import timezone
from websockets.asyncio.client import connect

from accounts.models import ApiKey, User
from accounts.services import Credential, digest_of
from marketdata import credential_watch
from marketdata.hub import Hub
from tests.marketdata.recording import client_of
from tests.marketdata.way_out import api_key, auntil, farewell, market_client, web_server

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]


@database_sync_to_async
def revoke_elsewhere(secret: str) -> None:
    """Revoke a key as another process does: nothing in this one is told."""
    ApiKey.objects.filter(pk=digest_of(secret)).update(revoked_at=timezone.now())


async def test_a_revoked_key_ends_its_open_connection_and_no_other(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credential_watch, "CHECK_SECONDS", 0.05)
    revoked, good = await api_key(), await api_key("other")
    with web_server() as server:
        async with (
            connect(server.url, additional_headers={"Authorization": f"Bearer {revoked}"}) as connection,
            market_client(server.url, good) as other,
        ):
            await auntil(lambda: len(server.hub.clients) == 2)
            await revoke_elsewhere(revoked)
            messages, code = await farewell(connection)
            assert code == 4101
            assert [(message["event"], message["code"]) for message in messages[-2:]] == [("error", 401), ("bye", 4101)]
            assert (messages[-2]["retry"], messages[-1]["reconnect"]) == (False, False)
            await other.send(op="ping", id=1)
            assert (await other.next(id=1))["op"] == "pong"


async def test_nobody_is_sent_off_while_the_database_is_away(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credential_watch, "CHECK_SECONDS", 0.0)
    hub = Hub()
    client, page = client_of(hub), client_of(hub)
    client.credential = Credential("000000000000000000000000")  # of nobody
    watch = credential_watch.CredentialWatch(hub.clients)

    def away(**_: Any) -> Any:
        raise DatabaseError("away")

    with monkeypatch.context() as broken:
        broken.setattr(User.objects, "filter", away)
        await watch.step()
    assert client.closed == []
    await watch.step()
    assert (client.closed, page.closed) == ([4101], [])
