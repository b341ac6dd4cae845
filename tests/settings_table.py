"""`python -m tests.settings_table`: whether the README's table of settings is what the code declares. `--write` makes it so."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from tradingok import env

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- settings -->\n", "<!-- /settings -->"
HEAD = "| name | default | takes | meaning |\n|---|---|---|---|\n"
NOT_A_VALUE = {"embedded"}
"""Defaults that are words about a value."""


def declared_table() -> str:
    """Return the table as the code declares it, in the order of tradingok/settings.py, which must have been imported."""
    return HEAD + "".join(_row(setting) for setting in env.DECLARED.values())


def written_table() -> str:
    """Return what stands between the README's marks."""
    return README.read_text().partition(BEGIN)[2].partition(END)[0]


def _row(setting: env.Setting) -> str:
    return f"| `{setting.name}` | {_default(setting.default)} | {setting.kind} | {setting.meaning} |\n"


def _default(text: str) -> str:
    if not text:
        return "–"
    return text if text in NOT_A_VALUE or "`" in text else f"`{text}`"


def main(arguments: list[str]) -> int:
    """Compare, or write. Returns the exit code."""
    os.environ.pop("TRADINGOK_EXCHANGE_URL", None)  # while there is an exchange, the broker's own addresses are not declared
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRADINGOK_VAR"] = folder  # a running copy's folder remembers one
        import tradingok.settings  # noqa: F401 - after that: importing it reads the environment

    if written_table() == declared_table():
        return 0
    if "--write" not in arguments:
        sys.stderr.write("The README's settings differ from the code's. Run: .venv/bin/python -m tests.settings_table --write\n")
        return 1
    before, _, rest = README.read_text().partition(BEGIN)
    README.write_text(before + BEGIN + declared_table() + END + rest.partition(END)[2])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
