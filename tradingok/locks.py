"""A lock between processes of one machine: a locked file that names its holder. The kernel frees it when the holder ends."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self


class LockHeld(Exception):
    """Another process has the lock; `holder` is its pid as it wrote it, None when it has not yet."""

    def __init__(self, path: Path, holder: int | None) -> None:
        super().__init__(f"{path} is held by process {holder or '(unknown)'}")
        self.path = path
        self.holder = holder


class FileLock:
    """An exclusive lock on `path`, whose folder must exist. Not for two users inside one process.

    Args:
        path: the file; it stays when the lock is released, so that no two processes ever lock two files of one name.
        wait_seconds: how long `with` waits for another holder before it raises LockHeld.
    """

    def __init__(self, path: Path, *, wait_seconds: float = 0.0) -> None:
        self.path = path
        self.wait_seconds = wait_seconds
        self._descriptor = -1

    def __enter__(self) -> Self:
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + self.wait_seconds
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    holder = self.holder()
                    os.close(self._descriptor)
                    raise LockHeld(self.path, holder) from None
                time.sleep(0.05)
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)

    def holder(self) -> int | None:
        """The pid that the file names; None when it names none."""
        try:
            return int(self.path.read_text())
        except (OSError, ValueError):
            return None
