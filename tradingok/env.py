"""Typed readers of the environment.

Each reader declares a setting (name, type, default, meaning), so that one table documents all of them, and never raises:
a wrong value is kept as a `Problem`, the default is used, and `manage.py check` reports it with the way out.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Setting:
    """One declared environment variable.

    Attributes:
        name: the variable's name.
        kind: what a value looks like, in words for a person (`"integer 1–8"`).
        default: the default as text; empty where there is none.
        meaning: one sentence; unit included.
    """

    name: str
    kind: str
    default: str
    meaning: str


@dataclass(frozen=True)
class Problem:
    """A value that was refused: `name` got `value`, and `expected` says what it takes. Secrets are never in `value`."""

    name: str
    value: str
    expected: str


DECLARED: dict[str, Setting] = {}
PROBLEMS: list[Problem] = []


def _declare(name: str, kind: str, default: str, meaning: str) -> str | None:
    DECLARED[name] = Setting(name, kind, default, meaning)
    raw = os.environ.get(name)
    return raw.strip() if raw is not None and raw.strip() else None


def text(name: str, default: str, meaning: str, *, choices: tuple[str, ...] = ()) -> str:
    """Read a word or sentence. With `choices`, any other value is a Problem."""
    kind = " or ".join(f"`{choice}`" for choice in choices) if choices else "text"
    raw = _declare(name, kind, default, meaning)
    if raw is None:
        return default
    if choices and raw not in choices:
        PROBLEMS.append(Problem(name, raw, f"one of {', '.join(choices)}"))
        return default
    return raw


def secret(name: str, meaning: str) -> str:
    """Read a secret; empty when unset. Its value is never kept in a Problem."""
    return _declare(name, "secret", "", meaning) or ""


def integer(name: str, default: int, meaning: str, *, low: int, high: int) -> int:
    """Read a whole number in [low, high]."""
    raw = _declare(name, f"integer {low}–{high}", str(default), meaning)
    if raw is None:
        return default
    try:
        value = int(raw)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        PROBLEMS.append(Problem(name, raw, f"a whole number from {low} to {high}"))
        return default
    return value


def number(name: str, default: float, meaning: str, *, low: float, high: float) -> float:
    """Read a number in [low, high]; NaN and infinities are Problems."""
    raw = _declare(name, f"number {low:g}–{high:g}", f"{default:g}", meaning)
    if raw is None:
        return default
    try:
        value = float(raw)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        PROBLEMS.append(Problem(name, raw, f"a number from {low:g} to {high:g}"))
        return default
    return value


def boolean(name: str, default: bool, meaning: str) -> bool:
    """Read yes or no, as 1/0, true/false, yes/no, on/off."""
    raw = _declare(name, "`yes` or `no`", "yes" if default else "no", meaning)
    if raw is None:
        return default
    if raw.lower() in {"1", "true", "yes", "on"}:
        return True
    if raw.lower() in {"0", "false", "no", "off"}:
        return False
    PROBLEMS.append(Problem(name, raw, "yes or no"))
    return default


def words(name: str, default: str, meaning: str) -> list[str]:
    """Read a comma-separated list; blanks are dropped."""
    raw = _declare(name, "comma-separated", default, meaning)
    return [word.strip() for word in (default if raw is None else raw).split(",") if word.strip()]


def path(name: str, default: Path, meaning: str, *, shown: str) -> Path:
    """Read a folder or file path, made absolute. `shown` is the default as the table prints it."""
    raw = _declare(name, "path", shown, meaning)
    return Path(raw).expanduser().absolute() if raw else default


def url(name: str, default: str, meaning: str, *, schemes: tuple[str, ...], shown: str | None = None) -> str:
    """Read a URL with one of `schemes`. Credentials in it are never kept in a Problem."""
    raw = _declare(name, " or ".join(f"`{scheme}://…`" for scheme in schemes), default if shown is None else shown, meaning)
    if raw is None:
        return default
    try:
        parts = urlsplit(raw)
        bad = parts.scheme not in schemes or not parts.netloc
    except ValueError:
        bad = True
    if bad:
        PROBLEMS.append(Problem(name, "(not shown)", f"a URL that begins with {' or '.join(s + '://' for s in schemes)}"))
        return default
    return raw
