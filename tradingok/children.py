"""Child processes that cannot outlive us: started in a session of their own, ended in bounded time.

A child gets SIGTERM from the kernel when the *thread* that started it ends, so even after `kill -9` of its parent:
start children from the main thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1  # Source: prctl(2), linux/prctl.h
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with(parent: int) -> Callable[[], None]:
    """What the child runs between fork and exec. It calls nothing but two system calls: other threads may hold any lock."""

    def ask_for_the_signal() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:  # it ended before the line above: nobody will ever signal us
            os._exit(127)

    return ask_for_the_signal


def spawn(
    command: Sequence[str],
    *,
    output: IO[bytes] | int,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start `command` so that it gets SIGTERM when we end, however we end.

    It reads nothing, writes both its streams to `output`, and does not hear the terminal's Ctrl-C: whoever started it ends it.

    Raises:
        OSError: the program cannot be started at all.
    """
    return subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        env=environment,
        start_new_session=True,
        preexec_fn=die_with(os.getpid()),
    )


def end(child: subprocess.Popen[bytes], *, seconds: float) -> int:
    """End a child: SIGTERM, and SIGKILL after `seconds`. Returns its exit code (negative: the signal that ended it)."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.kill()
    return child.wait()


def process_ended(pid: int) -> bool:
    """Whether no process `pid` runs. One that waits to be collected counts as ended once its last thread is gone: until then it
    holds its ports and files, although its first thread reads as ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state in {"Z", "X"} and len(os.listdir(f"/proc/{pid}/task")) <= 1
    except (OSError, IndexError):
        return True


def process_folder(pid: int) -> Path | None:
    """The working folder of process `pid`, by which a server of ours is told from a recycled pid; None when it cannot be known."""
    try:
        return Path(os.readlink(f"/proc/{pid}/cwd"))
    except OSError:
        return None


def process_parent(pid: int) -> int | None:
    """The parent's pid of process `pid`; None when there is no such process."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return None


def processes_with(name: str, value: str) -> list[int]:
    """The pids of other processes of ours that were started with `name=value` in their environment."""
    wanted = f"{name}={value}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended, or belongs to somebody else
            continue
        if wanted in variables and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def end_strangers(pids: Sequence[int], *, seconds: float) -> None:
    """End processes that are not our children: SIGTERM, and SIGKILL for what is left after `seconds`."""
    _signal_all(pids, signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not all(process_ended(pid) for pid in pids):
        time.sleep(0.05)
    _signal_all([pid for pid in pids if not process_ended(pid)], signal.SIGKILL)


def _signal_all(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
