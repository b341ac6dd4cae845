"""How far the store has got with the journal of a feed shard. The position only moves forward."""

from __future__ import annotations

from datetime import UTC, datetime

from broker.models import FeedPosition
from marketdata.store import collection


def position_read(shard: int) -> int:
    """Return the stamp up to which the store holds every tick of the shard; 0 where nothing was stored yet."""
    row = collection(FeedPosition._meta.db_table).find_one({"_id": shard})
    return int(row["received_us"]) if row else 0


def position_write(shard: int, received_us: int) -> None:
    """Move the shard's committed position forward; never back."""
    collection(FeedPosition._meta.db_table).update_one(
        {"_id": shard}, {"$max": {"received_us": received_us}, "$set": {"updated_at": datetime.now(UTC)}}, upsert=True
    )
