"""The certificate of a replayed real day: clean where all is well, and a spoiled store is caught and each fault named.

What is expected comes from the captures (read with the official SDK's module, or JSON as their recorders wrote it) and, for arrival, from
the journal as MCAP's own reader reads it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from instruments.selectors import instrument_ids
from marketdata import store
from tests.fakes.exchange import ROOT, StartExchange, start_exchange  # noqa: F401 - a fixture
from tests.fakes.feed import StartFeed, start_feed  # noqa: F401 - a fixture
from tests.payloads import real_data
from tests.payloads.figures import Figures, expected_ids
from tests.replay.test_real_data import read_hundred_frames, run_replay

pytestmark = [pytest.mark.django_db, pytest.mark.realdata, pytest.mark.usefixtures("valkey")]


def verify(var: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `manage.py verify` as a person does, over the data folder `var`."""
    environment = {**os.environ, "TRADINGOK_VAR": str(var), "SECRET_KEY": settings.SECRET_KEY}
    command = [sys.executable, "manage.py", "verify", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=250, check=False)


def assert_clean(var: Path, journal: Path, source: dict[str, list[Figures]]) -> dict[str, Any]:
    """The certificate is clean, and its figures are those of the captures."""
    done = verify(var, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    certificate: dict[str, Any] = json.loads(done.stdout)
    ticks = sum(map(len, source.values()))
    counts = certificate["counts"]
    assert counts["ticks_expected"] == counts["ticks_stored"] == counts["ticks_equal"] == ticks == expected_ids(journal).total()
    assert {row["key"]: row["expected"] for row in certificate["instruments"]} == {key: len(rows) for key, rows in source.items()}
    assert {row["key"]: row["instrument"] for row in certificate["instruments"]} == instrument_ids(source)
    assert all(row["journal_hash"] == row["store_hash"] for row in certificate["instruments"])
    assert [row["hop"] for row in certificate["sums"] if row["holds"] is not True] == []
    assert counts["frames_rejected"] == counts["chunks_damaged"] == counts["frames_waiting"] == 0
    assert certificate["findings"] == []
    assert {row["hop"]: row["equation"] for row in certificate["continuity"] if row["holds"] is False} == {}
    assert (
        counts["candles_equal"]
        == counts["candles_expected"]
        == store.candles_collection().count_documents({"n": "1m", "s": "confirmed"})
        > 0
    )
    print("\n".join(done.stderr.splitlines()[-1:]), certificate["verdict"])
    return certificate


def spoil() -> dict[str, tuple[str, str]]:
    """Delete a tick, double one by hand, alter one; return kind → (the id of its finding, what its detail must say)."""
    ticks = store.ticks_collection()
    identifiers = [row["_id"] for row in ticks.find({}, {"_id": 1}).sort("_id", 1)]
    gone, original, altered = (identifiers[len(identifiers) * part // 4] for part in (1, 2, 3))
    ticks.delete_one({"_id": gone})
    document = ticks.find_one({"_id": original})
    assert document is not None
    copy = identifiers[-1] + (1 << 16)
    ticks.insert_one({**document, "_id": copy})
    old = ticks.find_one_and_update({"_id": altered}, {"$set": {"p": 12345.5}})
    assert old is not None
    return {
        "ticks_missing": (str(gone), ""),
        "ticks_extra": (str(copy), f"a copy of {original}"),
        "ticks_altered": (str(altered), f"p: journal {old['p']}, store 12345.5"),
    }


@pytest.mark.long
def test_a_replayed_day_is_clean_and_a_spoiled_store_is_caught_and_named(
    start_exchange: StartExchange,  # noqa: F811
    start_feed: StartFeed,  # noqa: F811
) -> None:
    source = read_hundred_frames()
    exchange = start_exchange("--replay", str(real_data("nifty_banknifty_100frames_2026-01-23.frames.bin")), "--speed", "0")
    feed = run_replay(exchange, start_feed, list(source))
    assert feed.stop() == 0, feed.log()
    clean = assert_clean(feed.var, feed.journal, source)
    assert clean["verdict"].startswith("CLEAN: 859 ticks")

    spoiled = spoil()
    done = verify(feed.var, "--json", "--shard", "0")
    assert done.returncode == 1, done.stdout + done.stderr
    certificate = json.loads(done.stdout)
    assert {row["kind"]: (row["id"], row["detail"]) for row in certificate["findings"]} == spoiled
    assert len(certificate["findings"]) == 3
    assert all(row["key"] in source for row in certificate["findings"])
    assert certificate["verdict"] == "NOT CLEAN: 1 missing, 1 that no frame explains, 1 altered."
    assert [row["hop"] for row in certificate["sums"] if row["holds"] is not True] == []
    assert certificate["journal_hash"] == clean["journal_hash"]
    assert certificate["store_hash"] != clean["store_hash"]

    printed = verify(feed.var)
    assert printed.returncode == 1
    assert all(identifier in printed.stdout for identifier, _ in spoiled.values())
    assert printed.stdout.splitlines()[-1] == certificate["verdict"]
    print(printed.stdout)


@pytest.mark.long
def test_another_day_than_that_of_receipt_is_not_passed(
    start_exchange: StartExchange,  # noqa: F811
    start_feed: StartFeed,  # noqa: F811
) -> None:
    source = read_hundred_frames()
    exchange = start_exchange("--replay", str(real_data("nifty_banknifty_100frames_2026-01-23.frames.bin")), "--speed", "0")
    feed = run_replay(exchange, start_feed, list(source))
    assert feed.stop() == 0, feed.log()
    done = verify(feed.var, "--date", "2026-01-23")  # the market's day: what counts is when we received it
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "NOT PROVED: Shard 0 has no journal of this day."
