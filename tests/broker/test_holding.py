"""One feed a shard: who holds the lease, who is refused, who has it again."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.holding import ShardHolder, ShardTaken
from marketdata import live_state

pytestmark = pytest.mark.usefixtures("valkey")


def holder(folder: Path) -> ShardHolder:
    folder.mkdir(exist_ok=True)
    return ShardHolder(folder, shard=0, shards=1)


async def test_a_second_feed_is_refused_until_the_first_has_gone(tmp_path: Path) -> None:
    first, second = holder(tmp_path / "a"), holder(tmp_path / "b")
    await first.take()
    with pytest.raises(ShardTaken, match="another feed runs shard 0"):
        await second.take()
    await first.keep()
    await first.release()
    await second.take()
    with pytest.raises(ShardTaken, match="another feed has taken this shard"):
        await first.keep()
    await second.release()
    await live_state.aclose()


async def test_a_restart_after_a_crash_has_the_lease_at_once(tmp_path: Path) -> None:
    await holder(tmp_path).take()  # and never gives it back
    again = holder(tmp_path)
    await again.take()
    await again.keep()
    await again.release()
    await live_state.aclose()
