"""What every scenario may use. None of them touches the test run's own database: each has servers of its own."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.faults.system import System, seeded

MOST_UPDATES = 10_000
"""A system that has stored so many is replaced: the oracle looks at all of them each time."""
SystemHolder = list[System]


@pytest.fixture(scope="session")
def kept_system() -> Iterator[SystemHolder]:
    """The running system, at most one: starting it takes longer than most scenarios."""
    holder: SystemHolder = []
    yield holder
    for system in holder:
        system.stop()


@pytest.fixture(scope="module")
def system_class() -> type[System]:
    """What `system` is; a module may have another."""
    return System


@pytest.fixture
def system(kept_system: SystemHolder, system_class: type[System], tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A running system, proved whole: that of the test before, or another one where it is of another class, spoiled or full."""
    if kept_system and not (
        type(kept_system[0]) is system_class and kept_system[0].proved and kept_system[0].ticks_stored() < MOST_UPDATES
    ):
        kept_system.pop().stop()
    if not kept_system:
        kept_system.append(system_class(tmp_path_factory.mktemp("system")))
    running = kept_system[0]
    running.proved = False
    yield running
    if not running.proved:
        print(f"\nfeed:\n{running.feed.told()}\nweb:\n{running.web.told()}")


@pytest.fixture
def moments() -> random.Random:
    """Random moments, by a seed that is printed; FAULTS_SEED repeats a run."""
    seed = seeded()
    print(f"\n  FAULTS_SEED={seed}")
    return random.Random(seed)
