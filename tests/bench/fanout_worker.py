"""A process of the fan-out's benchmark: its first line of input is its task, each line is answered with one, all of it JSON."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.fakes.exchange import ROOT
from tradingok.children import die_with, end

ANSWER_SECONDS = 60.0
END_SECONDS = 10.0
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Worker:
    """One such process, as the one that started it sees it. Ended by `with`."""

    def __init__(self, module: str, task: dict[str, Any]) -> None:
        self._name = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
            preexec_fn=die_with(os.getpid()),
        )
        self.tell(json.dumps(task))

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        end(self._process, seconds=END_SECONDS)  # type: ignore[arg-type] # of text instead of bytes

    def tell(self, line: str) -> None:
        """Hand over a line; what it answers is read by `answer`."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def answer(self, seconds: float = ANSWER_SECONDS) -> dict[str, Any]:
        """Return the next answer.

        Raises:
            RuntimeError: it ended, or said nothing in time.
        """
        assert self._process.stdout is not None
        timer = threading.Timer(seconds, self._process.kill)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            raise RuntimeError(f"{self._name} ended or said nothing for {seconds:.0f} s")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, line: str, seconds: float = ANSWER_SECONDS) -> dict[str, Any]:
        """Hand over a line and return the answer."""
        self.tell(line)
        return self.answer(seconds)


def say(**answer: Any) -> None:
    """Answer, within such a process."""
    print(json.dumps(answer), flush=True)


async def asked() -> AsyncIterator[str]:
    """Yield the lines that the process is handed, until its input is closed."""
    reader = asyncio.StreamReader(limit=2**24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield line.decode().strip()


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has taken so far, its threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def resident_mb(pid: int) -> float:
    """Return the memory of a process that no other shares with it, and its share of the rest, in MB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000
