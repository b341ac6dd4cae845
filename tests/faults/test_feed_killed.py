"""The feed is killed: nothing that it had journalled is lost or doubled."""

from __future__ import annotations

import random
import time

from tests.faults.system import System


def test_a_feed_killed_at_random_moments_loses_nothing_journalled(system: System, moments: random.Random, full: bool) -> None:
    with system.memory_bounded():
        for _ in range(10 if full else 2):
            time.sleep(moments.uniform(0.2, 3))
            system.kill(system.feed)
            system.feed.start()
            system.wait_for(system.is_live)
        system.prove()
