"""How far the store has got with the journals of a feed shard. Each journal has a position of its own, which only moves forward."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from pathlib import Path

from broker.models import FeedPosition
from marketdata.store import collection


def journal_id(folder: Path) -> str:
    """Return the id that lies in a journal's folder, made where there is none: a shard that moves to another machine has another journal.

    Raises:
        OSError: the folder cannot be read or written.
    """
    file = folder / "id"
    identifier = file.read_text() if file.exists() else ""
    if not identifier:  # a disk that was full leaves an empty file
        identifier = secrets.token_hex(8)
        file.write_text(identifier)
    return identifier


def position_read(shard: int, journal: str | None = None) -> int:
    """Return the stamp up to which the store holds every tick of the shard's journal; 0 where nothing of it was stored yet.

    Args:
        shard: its number.
        journal: the journal's id; None for the furthest of the shard's. The first one that asks takes over the position of a
            shard that was kept when positions had no ids.
    """
    row = collection(FeedPosition._meta.db_table).find_one({"_id": shard})
    if row is None:
        return 0
    if journal is None or "journals" not in row:
        return int(row["received_us"])
    return int(row["journals"].get(journal, 0))


def position_write(shard: int, received_us: int, journal: str | None = None) -> None:
    """Move the position of one of the shard's journals forward; never back."""
    positions = {"received_us": received_us} | ({f"journals.{journal}": received_us} if journal else {})
    collection(FeedPosition._meta.db_table).update_one(
        {"_id": shard}, {"$max": positions, "$set": {"updated_at": datetime.now(UTC)}}, upsert=True
    )
