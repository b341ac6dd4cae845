"""What a check found, and how it is shown: shared by `doctor` and `selftest`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is: nothing to do, something to know, something to do."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """One finding: `what` was looked at, its `text` says what is so, `way_out` what to do about it (empty when ok)."""

    level: Level
    what: str
    text: str
    way_out: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return it as plain values for JSON."""
        return {"level": self.level.value, "what": self.what, "text": self.text, "way_out": self.way_out}


def ok(what: str, text: str) -> Finding:
    """Make a finding that needs nothing."""
    return Finding(Level.OK, what, text)


def warn(what: str, text: str, way_out: str) -> Finding:
    """Make a finding that one should know."""
    return Finding(Level.WARN, what, text, way_out)


def fail(what: str, text: str, way_out: str) -> Finding:
    """Make a finding that something must be done about."""
    return Finding(Level.FAIL, what, text, way_out)


def format_finding(finding: Finding) -> str:
    """Format one finding for a terminal: a line, and one with the way out where there is one."""
    line = f"{finding.level.value:<5} {finding.what:<16} {finding.text}"
    return f"{line}\n{'':23}→ {finding.way_out}" if finding.way_out else line


def verdict(findings: Iterable[Finding]) -> tuple[str, int]:
    """Return the last line for a terminal, and the exit code: 1 when anything failed."""
    levels = [finding.level for finding in findings]
    failed, warned = levels.count(Level.FAIL), levels.count(Level.WARN)
    if failed:
        return f"{failed} of {len(levels)} failed", 1
    return (f"all {len(levels)} fine" if not warned else f"nothing failed, {warned} of {len(levels)} to know about"), 0
