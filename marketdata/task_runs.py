"""How every scheduled task runs: one at a time in all workers, and its outcome noted for `/api/health`.

A failure that can be expected (a server away, the broker's no) is noted and logged when it begins and when it ends, and does not raise:
the next run comes anyway. Any other exception is noted and raised.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from pymongo.errors import PyMongoError

from marketdata import leases, live_state

logger = logging.getLogger(__name__)

BUSY = "busy"
LOCK_SECONDS = 60.0
"""The lock ends so long after its owner died; while the owner lives it is renewed."""
DETAIL_CHARACTERS = 300


def run_once(name: str, work: Callable[[], str], *, expected: tuple[type[Exception], ...] = ()) -> str:
    """Do `work` unless another worker is at it, and note how it went.

    Args:
        name: of the task, as `/api/health` shows it; also the lock's.
        work: does it and returns one sentence on what it did.
        expected: errors of outside systems, beside MongoDB's and Redis's, that do not raise.

    Returns:
        The sentence; `BUSY` when another worker is at it and nothing was done; the error's text when an expected one came.
    """
    foreseen: tuple[type[Exception], ...] = (PyMongoError, live_state.Unavailable, *expected)
    begin = time.monotonic()
    try:
        with leases.Lock(f"task.{name}", LOCK_SECONDS) as lock:
            if not lock.acquired:
                return BUSY
            begin = time.monotonic()
            detail = work()
    except foreseen as error:
        detail = str(error) or type(error).__name__
        _note(name, ok=False, detail=detail, seconds=time.monotonic() - begin)
        return detail
    except Exception as error:
        _note(name, ok=False, detail=f"{type(error).__name__}: {error}", seconds=time.monotonic() - begin)
        raise
    _note(name, ok=True, detail=detail, seconds=time.monotonic() - begin)
    return detail


def _note(name: str, *, ok: bool, detail: str, seconds: float) -> None:
    """Write the outcome; a log line only where it differs from the last one. Redis away: the note is lost, the work is not."""
    detail = detail[:DETAIL_CHARACTERS]
    try:
        last = live_state.task_runs_read().get(name)
        live_state.task_run_write(name, ok=ok, detail=detail, seconds=seconds)
    except live_state.Unavailable as error:
        logger.warning("task %s: %s; its outcome (%s) cannot be noted: %s", name, "done" if ok else "failed", detail, error)
        return
    was_ok = last is None or last["ok"]
    if was_ok and not ok:
        logger.warning("task %s fails: %s", name, detail)
    elif ok and not was_ok:
        logger.info("task %s works again: %s", name, detail)
