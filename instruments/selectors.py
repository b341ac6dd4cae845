"""What is read of instruments. Look-ups that the feed and the API make often go by PyMongo on Django's connection."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from instruments.domain.instrument import split_key
from instruments.models import Instrument
from instruments.store import instruments_collection

ID_PREFIX = "id:"


class UnknownInstrument(Exception):
    """No instrument has this name (at that time). The message is for a person."""

    code = "unknown_instrument"


def instrument_ids(keys: Iterable[str]) -> dict[str, int]:
    """Return the id of the active instrument under each key; keys that nobody holds are left out."""
    held = {"instrument_key": {"$in": list(keys)}, "active": True}
    documents = instruments_collection().find(held, {"instrument_key": 1}, hint="instrument_key_tenure", batch_size=10_000)
    return {document["instrument_key"]: document["_id"] for document in documents}


def instrument_keys(ids: Iterable[int]) -> dict[int, str]:
    """Return the key that each instrument has, or had last; unknown ids are left out."""
    documents = instruments_collection().find({"_id": {"$in": list(ids)}}, {"instrument_key": 1}, batch_size=10_000)
    return {document["_id"]: document["instrument_key"] for document in documents}


def instrument_resolve(name: str, *, as_of: datetime | None = None) -> Instrument:
    """Find an instrument by its name in the API.

    Args:
        name: a broker's key (`NSE_FO|51420`), or `id:<n>` for ever.
        as_of: whom a key meant then (aware); default: who holds it now. `id:<n>` does not depend on it.

    Raises:
        UnknownInstrument: nobody has that name (then); trying again does not help.
    """
    if name.startswith(ID_PREFIX):
        number = name[len(ID_PREFIX) :]
        found = Instrument.objects.filter(pk=int(number)).first() if number.isascii() and number.isdigit() and len(number) < 19 else None
    else:
        found = _holder(name, as_of)
    if found is None:
        when = "" if as_of is None else f" as of {as_of.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        raise UnknownInstrument(f"no instrument is called {name[:80]!r}{when}")
    return found


def _holder(key: str, as_of: datetime | None) -> Instrument | None:
    try:
        split_key(key)
    except ValueError as error:
        raise UnknownInstrument(str(error)) from error
    if as_of is None:
        document = instruments_collection().find_one({"instrument_key": key, "active": True}, {"_id": 1}, hint="instrument_key_tenure")
    else:
        began = {"instrument_key": key, "active_from": {"$lte": as_of}}
        not_ended = {"$or": [{"active_to": None}, {"active_to": {"$gt": as_of}}]}
        document = instruments_collection().find_one(
            began | not_ended, {"_id": 1}, sort=[("active_from", -1)], hint="instrument_key_tenure"
        )
    return None if document is None else Instrument.objects.get(pk=document["_id"])
