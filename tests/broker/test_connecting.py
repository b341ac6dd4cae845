"""The connector: 401 is never tried again, other refusals back off, limits are kept, and each end is told once as what it was."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from django.test import override_settings
from websockets.asyncio.server import ServerConnection

from broker import connecting, pacing, sessions
from broker.connecting import Connector
from broker.pacing import AuthorizePacer
from broker.report import COUNTS
from broker.sessions import Token
from broker.upstox import feed
from marketdata.domain.feed_status import FeedState
from tests.broker.scripted_broker import (
    BLOCKED,
    FORBIDDEN,
    PAGE,
    UNAUTHORIZED,
    Answer,
    ScriptedBroker,
    Serve,
    hold,
    limited,
    scripted_broker,
    until,
)  # fmt: skip

pytestmark = pytest.mark.django_db(transaction=True)


class Listener:
    """Remembers what it was told."""

    def __init__(self, *, real_data: bool = True) -> None:
        self.told: list[tuple[str, str]] = []
        self.tokens: list[str] = []
        self.messages: list[bytes | str] = []
        self.real_data = real_data

    def opened(self, token: Token) -> None:
        self.tokens.append(token.token)

    def take(self, message: bytes | str) -> None:
        self.messages.append(message)

    def gave_data(self) -> bool:
        return self.real_data and bool(self.messages)

    def lost(self, state: FeedState, detail: str) -> None:
        self.told.append((state.value, detail))


class Running:
    """A connector at work against a scripted broker."""

    def __init__(self, broker: ScriptedBroker, listener: Listener, folder: Path) -> None:
        self.broker, self.listener = broker, listener
        self.counts = Counter(dict.fromkeys(COUNTS, 0))
        self.connector = Connector(listener, api_url=broker.url, pacer=AuthorizePacer(folder / "authorize.json"), counts=self.counts)
        self.task = asyncio.create_task(self.connector.run())


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delays of milliseconds; the broker's limits out of the way."""
    monkeypatch.setattr(connecting, "TOKEN_POLL_SECONDS", 0.05)
    monkeypatch.setattr(feed, "FIRST_DELAY_SECONDS", 0.01)
    monkeypatch.setattr(pacing, "WINDOWS", ((1800.0, 1000),))


@asynccontextmanager
async def running(
    folder: Path,
    *,
    authorize: Sequence[Answer | None] = (),
    upgrade: Sequence[Answer | None] = (),
    served: Serve = hold,
    real_data: bool = True,
) -> AsyncIterator[Running]:
    async with scripted_broker(authorize=authorize, upgrade=upgrade, served=served) as broker:
        with override_settings(EXCHANGE_URL=broker.url, UPSTOX_ACCESS_TOKEN=""):
            made = Running(broker, Listener(real_data=real_data), folder)
            yield made
            made.task.cancel()
            await asyncio.gather(made.task, return_exceptions=True)


@pytest.mark.parametrize("at", ["authorize", "upgrade"])
async def test_a_refused_token_is_asked_for_once_and_another_one_is_taken_up(tmp_path: Path, at: str) -> None:
    refusal: dict[str, list[Answer | None]] = {at: [UNAUTHORIZED]}
    async with running(tmp_path, **refusal) as made:  # type: ignore[arg-type]
        await until(lambda: len(made.listener.told) >= 5)
        assert len(made.broker.authorized) == 1, "the store is asked, the broker is not"
        assert {state for state, _ in made.listener.told} == {"token_expired"}
        await asyncio.to_thread(sessions.session_store, "another-token")
        await until(lambda: made.connector.connection)
        assert [token for _, token in made.broker.authorized] == [sessions.SIMULATED_TOKEN, "another-token"]
        assert made.listener.tokens == ["another-token"]
        assert made.counts["authorize_calls_total"] == 2


@pytest.mark.parametrize(("answer", "word"), [(FORBIDDEN, "Forbidden"), (BLOCKED, "a page instead of JSON"), (PAGE, "envelope")])
async def test_refusals_and_pages_back_off(tmp_path: Path, answer: Answer, word: str) -> None:
    async with running(tmp_path, authorize=[answer] * 6) as made:
        await until(lambda: made.connector.connection)
        times = [at for at, _ in made.broker.authorized]
        pauses = [after - before for before, after in pairwise(times)]
        assert len(pauses) == 6
        assert all(pause >= 0.005 * 2**number for number, pause in enumerate(pauses)), "each at least half of the doubled delay"
        assert [state for state, _ in made.listener.told] == ["reconnecting"] * 6
        assert word in made.listener.told[0][1]


async def test_a_limit_is_waited_for_as_long_as_the_broker_says(tmp_path: Path) -> None:
    async with running(tmp_path, authorize=[limited(1)]) as made:
        await until(lambda: made.connector.connection)
        (first, _), (second, _) = made.broker.authorized
        assert second - first >= 1


async def test_an_upgrade_that_is_refused_takes_a_fresh_code_and_backs_off(tmp_path: Path) -> None:
    async with running(tmp_path, upgrade=[FORBIDDEN] * 3) as made:
        await until(lambda: made.connector.connection)
        assert len(made.broker.authorized) == 4
        assert made.broker.connections == 1
        assert not [detail for _, detail in made.listener.told if "secret-code" in detail]


async def test_the_delays_begin_anew_after_real_data_only(tmp_path: Path) -> None:
    async def served(connection: ServerConnection) -> None:
        await connection.send(b"a frame")
        await connection.close()

    pauses = {}
    for real_data in (True, False):
        async with running(tmp_path, served=served, real_data=real_data) as made:
            await until(lambda made=made: len(made.broker.authorized) == 8)  # type: ignore[misc]
            times = [at for at, _ in made.broker.authorized]
            pauses[real_data] = times[7] - times[6]
            assert made.counts["reconnects_total"] in (6, 7)
    assert pauses[False] >= 0.01 * 2**6 / 2
    assert len(made.listener.messages) >= 7


async def test_calls_wait_for_the_limits_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "WINDOWS", ((2.0, 2),))
    async with running(tmp_path, authorize=[FORBIDDEN] * 2) as made:
        await until(lambda: made.connector.connection)
        times = [at for at, _ in made.broker.authorized]
        assert len(times) == 3
        assert times[2] - times[0] >= 1.5  # when they arrived: the first may have been late
        assert any("limit on authorise calls" in detail for _, detail in made.listener.told)


async def test_a_dropped_connection_tells_why_and_is_made_anew(tmp_path: Path) -> None:
    async with running(tmp_path) as made:
        await until(lambda: made.connector.connection)
        await made.connector.drop("open but mute")
        await until(lambda: made.counts["reconnects_total"] == 1)
        assert made.listener.told == [("reconnecting", "open but mute")]
        assert made.broker.connections == 2


async def test_messages_come_in_order_and_the_other_tasks_get_their_turn(tmp_path: Path) -> None:
    turns = 0

    async def served(connection: ServerConnection) -> None:
        for number in range(20_000):
            await connection.send(b"%d" % number)
        await connection.wait_closed()

    async with running(tmp_path, served=served) as made:
        async with asyncio.timeout(60):
            while len(made.listener.messages) < 20_000:
                await asyncio.sleep(0)
                turns += 1
        assert made.listener.messages == [b"%d" % number for number in range(20_000)]
        assert turns > 10
