"""Positions: each journal's own, forward only; the one that was kept before journals had ids goes to the first that asks."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.models import FeedPosition
from broker.position import journal_id, position_read, position_write

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_journal_keeps_its_id_and_another_folder_has_another(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
    assert len({journal_id(one), journal_id(one), journal_id(other), journal_id(other)}) == 2
    moved = one.rename(tmp_path / "moved")
    before = journal_id(moved)
    (moved / "id").write_text("")  # as a full disk leaves it
    assert journal_id(moved) not in ("", before)
    assert journal_id(moved) == journal_id(moved)


def test_a_position_only_moves_forward() -> None:
    assert (position_read(0), position_read(0, "a")) == (0, 0)
    for received_us in (80, 160, 96):
        position_write(0, received_us, "a")
    assert (position_read(0), position_read(0, "a"), position_read(1)) == (160, 160, 0)


def test_what_another_machine_stored_of_a_shard_skips_nothing_of_this_ones_journal() -> None:
    position_write(0, 800, "a")
    assert position_read(0, "b") == 0
    position_write(0, 8000, "b")
    assert (position_read(0, "a"), position_read(0, "b")) == (800, 8000)
    position_write(0, 880, "a")
    assert (position_read(0, "a"), position_read(0)) == (880, 8000)
    assert FeedPosition.objects.get(shard=0).received_us == 8000, "the admin shows the furthest"


def test_a_position_of_before_journals_had_ids_is_taken_over_by_the_first() -> None:
    position_write(0, 800)
    assert position_read(0, "a") == 800
    position_write(0, 880, "a")
    assert (position_read(0, "a"), position_read(0, "b")) == (880, 0)
