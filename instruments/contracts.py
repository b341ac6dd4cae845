"""What the subscription rules choose from: contracts, read by PyMongo on Django's connection."""

from __future__ import annotations

from collections.abc import Iterable

from instruments.domain.instrument import INDEX_TYPE, ms_of
from instruments.domain.universe import Contract, Rule
from instruments.store import Document, instruments_collection

_FIELDS = {
    "instrument_key": 1,
    "segment": 1,
    "instrument_type": 1,
    "trading_symbol": 1,
    "underlying_key": 1,
    "underlying_symbol": 1,
    "expiry": 1,
    "weekly": 1,
    "strike_price": 1,
}


def contracts_for(rules: Iterable[Rule], shards: int) -> list[Contract]:
    """Read the active instruments that the rules can mean, with the underlyings of their options, each query by an index.

    Args:
        shards: how many connections there are; an instrument's is its id mod `shards`.
    """
    derivatives = {rule.underlying for rule in rules if rule.what in ("futures", "options")}
    named = {rule.underlying for rule in rules if rule.what in ("index", "equity", "options") and rule.underlying}
    keys = {key for rule in rules for key in rule.keys}
    queries: list[tuple[Document, str]] = [
        ({"underlying_symbol": {"$in": sorted(derivatives)}}, "instrument_chain"),
        ({"trading_symbol": {"$in": sorted(named)}}, "instrument_symbol"),
        ({"instrument_key": {"$in": sorted(keys)}}, "instrument_key_tenure"),
    ]
    if any(rule.what == "index" and not rule.underlying for rule in rules):
        queries.append(({"instrument_type": INDEX_TYPE}, "instrument_type"))
    contracts: dict[str, Contract] = {}
    for query, index in queries:
        for document in instruments_collection().find({"active": True, **query}, _FIELDS, hint=index, batch_size=10_000):
            contract = contract_of(document, shards)
            contracts[contract.key] = contract
    return list(contracts.values())


def contract_of(document: Document, shards: int) -> Contract:
    """The contract that a stored instrument is, on its connection of `shards`."""
    return Contract(
        document["instrument_key"],
        document["segment"],
        document["instrument_type"],
        document["trading_symbol"],
        document["underlying_key"],
        document["underlying_symbol"],
        None if document["expiry"] is None else ms_of(document["expiry"]),
        document["weekly"],
        document["strike_price"],
        document["_id"] % shards,
    )
