"""What to ask of the broker: wanted against actual, in the fewest requests, within a connection's limits at every moment. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from instruments.domain.limits import STRENGTH, Limits, shift


class Request(NamedTuple):
    """One request of the feed: `method` is sub, change_mode or unsub; `keys` in a stable order."""

    method: str
    mode: str
    keys: list[str]


class Fitted(NamedTuple):
    """What is to be followed. `wanted`: key → mode · `refused`: demanded key → why there is no room for it."""

    wanted: dict[str, str]
    refused: dict[str, str]


def fit(rules: Mapping[str, str], demanded: Mapping[str, str], limits: Limits) -> Fitted:
    """Give clients' demand the room that the rules leave.

    A mode that is not in use yet may lower the limits of those that are: then a key that is demanded in it is followed in full mode,
    which carries all that is asked for, where that has room.

    Args:
        rules: key → mode; within the limits already, and never touched, but that a key may be followed in a stronger mode.
        demanded: key → mode, who came first first.
        limits: of the connection.
    """
    wanted, counts = dict(rules), Counter(rules.values())
    refused = {}
    for key, mode in demanded.items():
        present = wanted.get(key)
        if present is not None and STRENGTH[present] >= STRENGTH[mode]:
            continue
        taken = next((each for each in dict.fromkeys((mode, "full")) if _has_room(counts, present, each, limits)), None)
        if taken is not None:
            shift(counts, present, taken)
            wanted[key] = taken
        elif present is None:
            reason = limits.refusal(counts, mode)
            refused[key] = f"{reason[0].upper()}{reason[1:]}."
    return Fitted(wanted, refused)


def _has_room(counts: Counter[str], present: str | None, mode: str, limits: Limits) -> bool:
    moved = counts.copy()
    shift(moved, present, mode)
    return limits.hold(moved)


def reconcile(actual: Mapping[str, str], wanted: Mapping[str, str], limits: Limits) -> list[Request]:
    """Return the requests that turn `actual` (key → mode) into `wanted`; both are within the limits, and so is whatever lies between.

    Keys that stay in their mode are in no request. First leaves what goes; then modes are changed, key by key within the limits; last
    comes what is new. A key whose mode cannot be changed without passing a limit on the way (both modes are full, or the first key
    of a second mode lowers the limit of the first) leaves with the others and comes back with the new ones.
    """
    leaving = {key for key in actual if key not in wanted}
    counts = Counter(mode for key, mode in actual.items() if key not in leaving)
    moving: dict[str, list[str]] = defaultdict(list)
    for key in sorted(wanted, key=lambda key: (wanted[key], key)):
        mode, present = wanted[key], actual.get(key)
        if present is None or present == mode:
            continue
        if _has_room(counts, present, mode, limits):
            shift(counts, present, mode)
            moving[mode].append(key)
        else:
            counts[present] -= 1
            leaving.add(key)
    coming: dict[str, list[str]] = defaultdict(list)
    for key in sorted(wanted):
        if key not in actual or key in leaving:
            coming[wanted[key]].append(key)
    return [
        *([Request("unsub", "", sorted(leaving))] if leaving else []),
        *(Request("change_mode", mode, keys) for mode, keys in moving.items()),
        *(Request("sub", mode, coming[mode]) for mode in sorted(coming)),
    ]
