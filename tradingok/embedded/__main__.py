"""`python -m tradingok.embedded [--temporary] -- COMMAND ARGS`: run a command with the servers up and their addresses in its environment.

Servers that run already on the data folder are used. With `--temporary` it gets fresh, empty ones, which are thrown away after it.
The exit code is the command's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tradingok.children import die_with
from tradingok.embedded import EmbeddedServerError, embedded_servers
from tradingok.embedded.errors import make_folders

DEFAULT_VAR = Path(__file__).resolve().parents[2] / "var"
USAGE = "usage: python -m tradingok.embedded [--temporary] -- COMMAND ARGS…"


def run(arguments: Sequence[str]) -> int:
    """Run the command line `arguments`. Returns the exit code: the command's own, 1 when the servers cannot be had, 2 for wrong usage."""
    options, separator, command = _split(list(arguments))
    if not separator or not command or set(options) - {"--temporary"}:
        sys.stderr.write(USAGE + "\n")
        return 2
    try:
        with ExitStack() as stack:
            if options:
                os.environ["TRADINGOK_VAR"] = stack.enter_context(tempfile.TemporaryDirectory(prefix="tradingok-"))
            var = Path(os.environ.get("TRADINGOK_VAR") or DEFAULT_VAR).expanduser().absolute()
            make_folders(var)
            return _run_command(command, stack.enter_context(embedded_servers(var)))
    except EmbeddedServerError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _split(arguments: list[str]) -> tuple[list[str], bool, list[str]]:
    if "--" not in arguments:
        return arguments, False, []
    place = arguments.index("--")
    return arguments[:place], True, arguments[place + 1 :]


def _run_command(command: list[str], addresses: dict[str, str]) -> int:
    """The command shares our terminal, so Ctrl-C reaches it by itself; SIGTERM is handed on. It ends before the servers do."""
    try:
        child = subprocess.Popen(command, env={**os.environ, **addresses}, preexec_fn=die_with(os.getpid()))
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        return 127
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    code = child.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
