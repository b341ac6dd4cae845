"""The prices that the rules are resolved with: anchors, so that windows of strikes stay where they are while a price trembles."""

from __future__ import annotations

from collections.abc import Mapping

from instruments.domain.instrument import OptionType
from instruments.domain.strikes import anchored
from instruments.store import instruments_collection, loads_collection

Ladders = Mapping[str, list[float]]
"""Key of an underlying → the strikes that are listed of it, of whatever expiry, ascending · INR."""

_known: tuple[object, Ladders] = (None, {})


def strike_ladders() -> Ladders:
    """Read the strikes of every underlying that has options; kept in this process until another master is loaded. May block.

    About 100 ms when a master is new, one look at an index else.

    Raises:
        pymongo.errors.PyMongoError: worth a retry.
    """
    global _known
    newest = loads_collection().find_one({}, {"_id": 1}, sort=[("_id", -1)])
    load = None if newest is None else newest["_id"]
    if load is None or _known[0] != load:
        _known = (load, _ladders_read())
    return _known[1]


def _ladders_read() -> Ladders:
    options = {"active": True, "instrument_type": {"$in": [each.value for each in OptionType]}}
    by_underlying = {"_id": "$underlying_key", "strikes": {"$addToSet": "$strike_price"}}
    found = instruments_collection().aggregate([{"$match": options}, {"$group": by_underlying}], hint="instrument_type")
    return {row["_id"]: sorted(strike for strike in row["strikes"] if strike) for row in found if row["_id"]}


def anchors_of(spots: Mapping[str, float], known: Mapping[str, float], ladders: Ladders) -> dict[str, float]:
    """Return the anchors that follow from present prices: of those of `spots` that options are written on.

    Args:
        spots: price by key · INR.
        known: the anchors until now.
    """
    return {key: anchored(known.get(key), price, ladders[key]) for key, price in spots.items() if key in ladders and price > 0}
