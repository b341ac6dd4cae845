"""What MongoDB did for a query: read from the profiler, so that the very queries of the code are judged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connections

Entry = dict[str, Any]


@contextmanager
def profiled(*collections: str) -> Iterator[list[Entry]]:
    """Give the profiler's entry of each query on these collections inside the block, once the block has ended."""
    database = connections["default"].database  # type: ignore[attr-defined]
    entries: list[Entry] = []
    database.command("profile", 0)
    database["system.profile"].drop()
    database.command("profile", 2)
    try:
        yield entries
    finally:
        database.command("profile", 0)
        names = [f"{database.name}.{collection}" for collection in collections]
        wanted = {"ns": {"$in": names}, "op": {"$in": ["query", "command", "getmore"]}}
        entries.extend(database["system.profile"].find(wanted))
        database["system.profile"].drop()


def assert_by_index(entries: list[Entry], *, at_most: int) -> None:
    """Each query used an index, sorted nothing in memory, and examined no more documents than `at_most`."""
    assert entries
    for entry in entries:
        summary = entry.get("planSummary", "")
        assert "COLLSCAN" not in summary, entry["command"]
        assert summary, entry["command"]
        assert not entry.get("hasSortStage"), entry["command"]
        assert entry.get("docsExamined", 0) <= at_most, (entry["docsExamined"], at_most, entry["command"])
