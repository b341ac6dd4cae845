"""`python -m tests.settings_table`: whether README's table of settings is what the code declares. `--write` makes it so."""

from __future__ import annotations

import sys
from pathlib import Path

from tradingok import env, settings

README = settings.BASE_DIR / "README.md"
BEGIN, END = "<!-- settings -->\n", "<!-- /settings -->"


def table() -> str:
    """Return the table that the declared settings give, in the order of their declaration."""
    lines = ["| name | default | takes | meaning |", "|---|---|---|---|"]
    lines += [f"| `{each.name}` | {_default(each)} | {each.kind} | {each.meaning} |" for each in env.DECLARED.values()]
    return "\n".join(lines) + "\n"


def _default(setting: env.Setting) -> str:
    if not setting.default:
        return "–"
    return setting.default if setting.default == "embedded" or setting.default.startswith("`") else f"`{setting.default}`"


def documented(file: Path = README) -> str:
    """Return the table as the README has it. Raises ValueError where it has none."""
    text = file.read_text()
    return text[text.index(BEGIN) + len(BEGIN) : text.index(END)]


def main(arguments: list[str]) -> int:
    """Check, or write. Returns the exit code."""
    if arguments == ["--write"]:
        README.write_text(README.read_text().replace(documented(), table()))
        return 0
    if documented() == table():
        return 0
    sys.stderr.write("README's table of settings is not what the code declares. Run: .venv/bin/python -m tests.settings_table --write\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
