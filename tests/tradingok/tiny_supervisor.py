"""A real supervisor over tiny programs, as a process of its own.

python -m tests.tradingok.tiny_supervisor FOLDER [--servers] [--patient] NAME=CODE…

Each CODE is a Python program; `NAME?=CODE` runs once, `NAME!=CODE` once and is required. It prints what the supervisor says.
A program has STOP_SECONDS to end, fewer than in earnest; with --patient longer than any test lasts.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tradingok import supervisor as supervisor_module
from tradingok.embedded import needed_servers
from tradingok.supervisor import Program, Supervisor

STOP_SECONDS = 6.0


def programs(words: list[str]) -> Iterator[Program]:
    """The plan that the command line describes."""
    for word in words:
        matched = re.fullmatch(r"(\w+)([?!]?)=(.*)", word, re.DOTALL)
        assert matched is not None, word
        name, kind, code = matched.groups()
        yield Program(name, [sys.executable, "-c", code], once=bool(kind), required=kind == "!")


def main() -> int:
    """Run the plan until a signal. Returns the exit code."""
    supervisor_module.STOP_SECONDS = 600.0 if "--patient" in sys.argv else STOP_SECONDS
    folder = Path(sys.argv[1])
    words = [word for word in sys.argv[2:] if not word.startswith("--")]
    folder.mkdir(parents=True, exist_ok=True)
    supervisor = Supervisor(
        environment=dict(os.environ),
        logs=folder,
        say=lambda line: print(line, flush=True),
        marker=str(folder),
    )
    servers = needed_servers(folder) if "--servers" in sys.argv else []
    (folder / "log").mkdir(exist_ok=True)
    return supervisor.run(servers, lambda _: programs(words), lambda: print("announced", flush=True))


if __name__ == "__main__":
    sys.exit(main())
