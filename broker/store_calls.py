"""Calls of the store from the event loop: in a thread, and none longer than STORE_SECONDS, as a hung MongoDB must hold up nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import pymongo
from django.db import Error as DjangoError
from pymongo.errors import PyMongoError

STORE_ERRORS = (PyMongoError, DjangoError)
"""What a store raises that is away, hung or unwilling; worth a retry."""
STORE_SECONDS = 5.0

_T = TypeVar("_T")


async def ask_store(work: Callable[[], _T]) -> _T:
    """Return what `work` returns, which may block.

    Raises:
        pymongo.errors.PyMongoError, django.db.Error: not done, or not in time; worth a retry.
    """
    return await asyncio.to_thread(_bounded, work)


def _bounded(work: Callable[[], _T]) -> _T:
    with pymongo.timeout(STORE_SECONDS):
        return work()
