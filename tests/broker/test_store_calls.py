"""Calls of the store: their answer or their error, and never longer than allowed, though the store hangs."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from broker import store_calls
from broker.store_calls import STORE_ERRORS, ask_store
from instruments.models import Instrument


@pytest.mark.django_db(transaction=True)
async def test_the_answer_and_the_error_come_through() -> None:
    assert await ask_store(Instrument.objects.count) == 0
    with pytest.raises(ZeroDivisionError):
        await ask_store(lambda: 1 // 0)


async def test_a_store_that_hangs_is_given_up_and_its_thread_is_free_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_calls, "STORE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute, MongoClient[dict[str, object]](port=mute.getsockname()[1]) as client:
        began = time.monotonic()
        calls = [ask_store(lambda: client["any"]["thing"].find_one()) for _ in range(20)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(answer, PyMongoError) for answer in answers)
        assert time.monotonic() - began < 25, "pymongo's own patience is 30 s for each"
    assert issubclass(PyMongoError, STORE_ERRORS)
