"""What to ask of the broker: wanted against actual, in the fewest requests, within the limits of a connection. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Request(NamedTuple):
    """One request of the feed: `method` is sub, change_mode or unsub; `keys` in a stable order."""

    method: str
    mode: str
    keys: list[str]


def within_limits(wanted: Mapping[str, str], demanded: Mapping[str, str], limits: Mapping[str, int]) -> dict[str, str]:
    """Add demanded keys to the wanted ones as far as each mode's limit lets them.

    Args:
        wanted: key → mode, by the rules; already within the limits.
        demanded: key → mode, by clients; keys that the rules want stay as the rules want them.
        limits: mode → keys on one connection.
    """
    merged = dict(wanted)
    counts = dict.fromkeys(limits, 0)
    for mode in merged.values():
        counts[mode] = counts.get(mode, 0) + 1
    for key, mode in demanded.items():
        if key not in merged and counts.get(mode, 0) < limits.get(mode, 0):
            merged[key] = mode
            counts[mode] += 1
    return merged


def reconcile(actual: Mapping[str, str], wanted: Mapping[str, str]) -> list[Request]:
    """Return the requests that turn `actual` (key → mode) into `wanted`: leave first, so that the limits hold all the time."""
    gone = sorted(key for key in actual if key not in wanted)
    requests = [Request("unsub", "", gone)] if gone else []
    modes = sorted(set(wanted.values()))
    for mode in modes:
        moved = sorted(key for key, to in wanted.items() if to == mode and actual.get(key, mode) != mode)
        if moved:
            requests.append(Request("change_mode", mode, moved))
    for mode in modes:
        new = sorted(key for key, to in wanted.items() if to == mode and key not in actual)
        if new:
            requests.append(Request("sub", mode, new))
    return requests
