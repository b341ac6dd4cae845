"""Instruments in MongoDB by PyMongo on Django's own connection: documents, ids, and the lock of a refresh.

No rule lives here. Whatever is written is acknowledged by a majority.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, NamedTuple

from bson.codec_options import CodecOptions
from django.db import connections
from django.db.models import Model
from django_mongodb_backend import transaction
from pymongo import InsertOne, ReturnDocument, UpdateOne, WriteConcern
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import BulkWriteError

from instruments.domain.change import Change, Known, Passing
from instruments.domain.instrument import PLACEHOLDER_TYPE, InstrumentRow, placeholder_identity, split_key
from instruments.models import Instrument, InstrumentVersion, MasterLoad, UniverseChange

Document = dict[str, Any]

DUPLICATE_KEY = 11000
CHUNK = 2000
"""Documents in one bulk write."""
MAJORITY = WriteConcern(w="majority", wtimeout=20_000)
AWARE: CodecOptions[Document] = CodecOptions(tz_aware=True)
UNIQUE: Document = {"$type": "string"}
"""A unique field's index is partial on MongoDB; only a query that says this of the field may use it."""
STATE = "instruments_state"
"""Collection without a model: the id counter, the refresh's lock, the spots that the feeds last resolved their rules with."""
ID_COUNTER = "instrument_id"
SPOTS = "spots"
REFRESH_BEGUN = "refresh_begun"


def instruments_collection() -> Collection[Document]:
    """Return the collection of Instrument."""
    return _collection(Instrument._meta.db_table)


def versions_collection() -> Collection[Document]:
    """Return the collection of InstrumentVersion."""
    return _collection(InstrumentVersion._meta.db_table)


def loads_collection() -> Collection[Document]:
    """Return the collection of MasterLoad."""
    return _collection(MasterLoad._meta.db_table)


def changes_collection() -> Collection[Document]:
    """Return the collection of UniverseChange."""
    return _collection(UniverseChange._meta.db_table)


def state_collection() -> Collection[Document]:
    """Return the collection of the app's small state."""
    return _collection(STATE)


def _collection(name: str) -> Collection[Document]:
    return _database().get_collection(name, codec_options=AWARE, write_concern=MAJORITY)


def _database() -> Database[Document]:
    database: Database[Document] = connections["default"].database  # type: ignore[attr-defined]
    return database


def known_instruments() -> list[Known]:
    """Read what a refresh has to know of every active instrument."""
    fields = {"identity": 1, "instrument_key": 1, "exchange": 1, "fingerprint": 1, "placeholder": 1}
    documents = instruments_collection().find({"active": True}, fields, batch_size=10_000)
    return [
        Known(
            document["_id"],
            document["identity"],
            document["instrument_key"],
            document["exchange"],
            document["fingerprint"],
            document["placeholder"],
        )
        for document in documents
    ]


def retired_ids(identities: Sequence[str]) -> dict[str, int]:
    """Return the ids of those identities that were active once and are not now."""
    found: dict[str, int] = {}
    for start in range(0, len(identities), CHUNK):
        wanted = {"identity": {"$in": list(identities[start : start + CHUNK]), **UNIQUE}, "active": False}
        documents = instruments_collection().find(wanted, {"identity": 1}, hint="instrument_identity")
        found.update((document["identity"], document["_id"]) for document in documents)
    return found


def refresh_begin(as_of: datetime) -> None:
    """Remember that a refresh as of this time has begun to write; it may be killed before it has recorded its load."""
    state_collection().update_one({"_id": REFRESH_BEGUN}, {"$max": {"as_of": as_of}}, upsert=True)


def refresh_begun() -> datetime | None:
    """The newest `as_of` of which anything can have been written; None while there has been no refresh."""
    found = state_collection().find_one({"_id": REFRESH_BEGUN})
    return None if found is None else found["as_of"]


def ids_reserve(count: int) -> range:
    """Reserve `count` ids that nobody has had or will have. Safe from any number of processes: one `$inc` takes the whole block."""
    counter = state_collection()
    if counter.find_one({"_id": ID_COUNTER}) is None:
        highest = instruments_collection().find_one({}, {"_id": 1}, sort=[("_id", -1)])
        counter.update_one({"_id": ID_COUNTER}, {"$setOnInsert": {"last": highest["_id"] if highest else 0}}, upsert=True)
    block = {"$inc": {"last": count}}
    after: Document = counter.find_one_and_update({"_id": ID_COUNTER}, block, return_document=ReturnDocument.AFTER) or {}
    last: int = after["last"]
    return range(last - count + 1, last + 1)


def mark(name: str) -> None:
    """Remember for ever that something has been done."""
    state_collection().update_one({"_id": f"done:{name}"}, {"$setOnInsert": {"at": datetime.now(UTC)}}, upsert=True)


def is_marked(name: str) -> bool:
    """True once `mark(name)` was called by any process."""
    return state_collection().find_one({"_id": f"done:{name}"}) is not None


class RecordedSpots(NamedTuple):
    """Anchors that the feeds recorded, each of the underlyings that it follows: see instruments.anchors.

    Attributes:
        spots: anchor by the underlying's key · INR; of several feeds' the one that was seen last.
        at_ms: market time of the newest record, ms UTC; `written_at`: when that was, by our clock. None: there is none.
        shards: how many feeds there were then.
        priced: how many of these have recorded prices.
    """

    spots: dict[str, float]
    at_ms: int | None
    written_at: datetime | None
    shards: int = 1
    priced: int = 0


def spots_write(anchors: Mapping[str, float], at_ms: int, *, shard: int, shards: int, priced: bool, underlyings: Container[str]) -> None:
    """Record a feed's anchors beside those that it has seen before.

    Args:
        priced: whether it has any prices, of underlyings or others.
        underlyings: what has options; anchors of others are dropped.
    """
    now = datetime.now(UTC)
    record: Document = {"at_ms": at_ms, "written_at": now, "shard": shard, "shards": shards}
    own: Document = {"_id": f"{SPOTS}:{shard}"}
    if priced:
        before = _spots_of(state_collection().find_one(own) or {})
        known = {key: (anchor, seen) for key, anchor, seen in before if key in underlyings}
        known |= {key: (anchor, now) for key, anchor in anchors.items()}
        record["spots"] = [[key, *known[key]] for key in known]  # keys may hold dots, which field names may not
        record["priced"] = True
    state_collection().update_one(own, {"$set": record}, upsert=True)


def spots_read() -> RecordedSpots:
    """Return what the feeds recorded last, as one."""
    found = list(state_collection().find({"_id": {"$gte": SPOTS, "$lt": SPOTS + ";"}}))  # also one of before there were shards
    if not found:
        return RecordedSpots({}, None, None)
    found.sort(key=lambda record: record["written_at"])
    seen = sorted((each for record in found for each in _spots_of(record)), key=lambda each: each[2])
    newest = found[-1]
    shards = newest.get("shards", 1)
    priced = sum(bool(record.get("spots") or record.get("priced")) for record in found if record.get("shard", shards) < shards)
    return RecordedSpots({key: anchor for key, anchor, _ in seen}, newest["at_ms"], newest["written_at"], shards, priced)


def _spots_of(record: Document) -> list[tuple[str, float, datetime]]:
    """Key, anchor, and when it was seen, by our clock; of records before there were anchors, when they were written."""
    return [(each[0], each[1], each[2] if len(each) > 2 else record["written_at"]) for each in record.get("spots", ())]


def row_fields(row: InstrumentRow) -> Document:
    """The part of an instrument's document that its row decides."""
    return {
        "instrument_key": row.instrument_key,
        "segment": row.segment,
        "exchange": row.exchange,
        "instrument_type": row.instrument_type,
        "trading_symbol": row.trading_symbol,
        "name": row.name,
        "underlying_key": row.underlying_key,
        "underlying_symbol": row.underlying_symbol,
        "expiry": None if row.expiry_ms is None else datetime.fromtimestamp(row.expiry_ms / 1000, UTC),
        "weekly": row.weekly,
        "strike_price": row.strike_price,
        "lot_size": row.lot_size,
        "tick_size": row.tick_size,
        "freeze_quantity": row.freeze_quantity,
        "exchange_token": row.exchange_token,
        "isin": row.isin,
        "cas_eligible": row.cas_eligible,
    }


def _new_document(change: Change, instrument: int, as_of: datetime) -> Document:
    tenure = {"placeholder": False, "active": True, "active_from": as_of, "active_to": None}
    return {"_id": instrument, "identity": change.identity, **row_fields(change.row), **tenure, "fingerprint": change.fingerprint}


def _placeholder_document(key: str, instrument: int, at: datetime) -> Document:
    segment, _ = parts = split_key(key)
    row = InstrumentRow(key, segment, parts.exchange, PLACEHOLDER_TYPE, trading_symbol=key, name=key)
    document = _new_document(Change(placeholder_identity(key, instrument), row, 0, instrument), instrument, at)
    return {**document, "placeholder": True}


def _replace_states(changes: Iterable[Change], as_of: datetime, session: ClientSession) -> list[UpdateOne]:
    """Keep what stored instruments were as versions, where they become something else; return the writes that make them so.

    In one transaction, so that versions and row always follow each other without overlap, wherever a refresh is killed.
    """
    changes = list(changes)
    ids = [change.id for change in changes]
    before = {document["_id"]: document for document in _transactional(Instrument).find({"_id": {"$in": ids}}, session=session)}
    versions: list[Document] = []
    updates: list[UpdateOne] = []
    for change in changes:
        document, fields = before[change.id], row_fields(change.row)
        renewed: Document = {"active": True, "active_to": None, "fingerprint": change.fingerprint}
        until = document["active_to"] or as_of
        if until < as_of or any(document.get(name) != value for name, value in fields.items()):
            renewed["active_from"] = as_of
            if document["active_from"] < until:
                kept = {name: document.get(name) for name in fields}
                versions.append({"instrument": change.id, **kept, "active_from": document["active_from"], "active_to": until})
        updates.append(UpdateOne({"_id": change.id}, {"$set": {**fields, **renewed}}))
    if versions:
        _transactional(InstrumentVersion).insert_many(versions, session=session)
    return updates


def instruments_insert(changes: Sequence[Change], as_of: datetime) -> int:
    """Insert new instruments under ids of their own, as far as nobody has taken their keys meanwhile.

    Returns:
        how many were inserted; fewer than asked when a key was taken at the same moment (a placeholder): plan again.
    """
    documents = [_new_document(change, instrument, as_of) for change, instrument in zip(changes, ids_reserve(len(changes)), strict=True)]
    return _insert_unless_held(documents)


def placeholders_insert(keys: Sequence[str], at: datetime) -> int:
    """Insert placeholders for keys that nobody holds; returns how many, fewer than asked when another process was faster."""
    return _insert_unless_held([_placeholder_document(key, number, at) for key, number in zip(keys, ids_reserve(len(keys)), strict=True)])


def _insert_unless_held(documents: list[Document]) -> int:
    try:
        return len(instruments_collection().insert_many(documents, ordered=False).inserted_ids)
    except BulkWriteError as error:
        if any(failure["code"] != DUPLICATE_KEY for failure in error.details["writeErrors"]) or error.details["writeConcernErrors"]:
            raise
        return int(error.details["nInserted"])


def instruments_update(changes: Sequence[Change], as_of: datetime) -> None:
    """Write known instruments' rows and keep what they were, all in one transaction or not at all.

    Raises:
        BulkWriteError, OperationFailure: nothing was changed, as when a key was taken at the same moment; worth planning again.
    """
    with transaction.atomic():
        session: ClientSession = connections["default"].session  # type: ignore[attr-defined]
        _transactional(Instrument).bulk_write(_replace_states(changes, as_of, session), ordered=True, session=session)


def instruments_retire(ids: Sequence[int], as_of: datetime) -> int:
    """End the tenure of instruments; returns how many were active."""
    ended = {"$set": {"active": False, "active_to": as_of}}
    return instruments_collection().update_many({"_id": {"$in": list(ids)}, "active": True}, ended).modified_count


def keys_pass(groups: Iterable[Passing], as_of: datetime) -> None:
    """Pass keys from the instruments that leave them to those that take them, all in one transaction or not at all.

    Changes without an id are new instruments; their ids are reserved before the transaction begins.

    Raises:
        BulkWriteError, OperationFailure: nothing was changed; worth planning again.
    """
    leaving = [instrument for group in groups for instrument in group.leaving]
    taking = [change for group in groups for change in group.taking]
    ids = iter(ids_reserve(sum(change.id is None for change in taking)))
    fresh = [InsertOne(_new_document(change, next(ids), as_of)) for change in taking if change.id is None]
    with transaction.atomic():
        session: ClientSession = connections["default"].session  # type: ignore[attr-defined]
        updates = _replace_states([change for change in taking if change.id is not None], as_of, session)
        ended = {"$set": {"active": False, "active_to": as_of}}
        _transactional(Instrument).update_many({"_id": {"$in": leaving}}, ended, session=session)
        _transactional(Instrument).bulk_write([*updates, *fresh], ordered=True, session=session)


def _transactional(model: type[Model]) -> Collection[Document]:
    """A collection without a write concern of its own: in a transaction only the commit may have one (the server's is majority)."""
    return _database().get_collection(model._meta.db_table, codec_options=AWARE)


class LockLost(Exception):
    """Another process has taken the lock because this one was too slow to renew it. Nothing more may be written; start again."""


class LockHeld(Exception):
    """Another process holds the lock and did not let go in time. Worth a retry."""


class Lock:
    """A lock in MongoDB that ends by itself, so that a killed holder cannot block for ever; timed by the server's clock alone.

    Args:
        name: what is locked.
        seconds: how long it holds without `renew()`.
        wait: how long `with` waits for another holder; LockHeld after it.
    """

    def __init__(self, name: str, *, seconds: float, wait: float) -> None:
        self._id = f"lock:{name}"
        self._seconds = seconds
        self._wait = wait
        self._token = uuid.uuid4().hex

    def __enter__(self) -> Lock:
        locks = state_collection()
        locks.update_one({"_id": self._id}, {"$setOnInsert": {"until": datetime(2000, 1, 1, tzinfo=UTC), "token": ""}}, upsert=True)
        deadline = time.monotonic() + self._wait
        while not self._take({"$expr": {"$lt": ["$until", "$$NOW"]}}):
            if time.monotonic() > deadline:
                raise LockHeld(f"{self._id} is held by another process")
            time.sleep(0.25)
        return self

    def renew(self) -> None:
        """Hold it for `seconds` from now.

        Raises:
            LockLost: it is another's by now.
        """
        if not self._take({"token": self._token}):
            raise LockLost(f"{self._id} was lost: this process was stopped for longer than {self._seconds:g} s")

    def _take(self, condition: Document) -> bool:
        until = {"$add": ["$$NOW", round(self._seconds * 1000)]}
        taken = state_collection().update_one({"_id": self._id, **condition}, [{"$set": {"token": self._token, "until": until}}])
        return taken.matched_count == 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        state_collection().update_one(
            {"_id": self._id, "token": self._token}, {"$set": {"until": datetime(2000, 1, 1, tzinfo=UTC), "token": ""}}
        )
