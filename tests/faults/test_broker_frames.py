"""What the broker sends is wrong, odd or newer than we know: the feed lives through it on one connection, and each tick is stored once."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.proxied import ProxiedSystem
from tests.faults.servers import until

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def system_class() -> type[ProxiedSystem]:
    return ProxiedSystem


REJECTED: list[dict[str, Any]] = [
    {"kind": "garbage", "count": 5, "size": 300},
    {"kind": "garbage", "count": 1, "size": 1 << 20},
    {"kind": "truncated", "count": 5, "every": 2},
]


def test_what_is_no_frame_is_journalled_and_rejected_and_nothing_else_is_touched(system: ProxiedSystem, full: bool) -> None:
    opened = system.opened()
    for fault in REJECTED * (10 if full else 1):
        before = system.counter("frames_rejected_total")
        assert system.inject(times=fault["count"], **fault) == fault["count"]
        system.wait_for(lambda before=before, fault=fault: system.counter("frames_rejected_total") == before + fault["count"])  # type: ignore[misc]
    print(f"\n  {', '.join(f'{kind} {system.happened(kind)}' for kind in ('garbage', 'truncated'))}: each rejected once")
    assert system.opened() == opened
    system.prove()


ODD: list[dict[str, Any]] = [
    {"kind": "oversized", "size": 12 << 20, "every": 5},
    {"kind": "duplicate", "every": 1},
    {"kind": "duplicate", "every": 1, "new_frame": True},
    {"kind": "reorder", "every": 1},
    {"kind": "newer_schema", "every": 1},
    {"kind": "partial", "every": 2, "keep": "ltpc"},
    {"kind": "partial", "every": 2, "keep": "depth"},
    {"kind": "zeroes", "every": 2},
]
"""Frames that are legal all the same."""
COUNTED = {"duplicate": "repeated_total", "reorder": "out_of_order_total"}
"""Kinds that the feed counts by itself, at least once for each frame."""


def test_odd_frames_are_taken_and_no_quote_steps_back_or_is_blanked(system: ProxiedSystem, full: bool) -> None:
    rejected, opened = system.counter("frames_rejected_total"), system.opened()
    with system.watched() as watcher, system.memory_bounded():
        for fault in ODD:
            times = (2 if fault["kind"] == "oversized" else 5) * (8 if full else 1)
            counter = COUNTED.get(fault["kind"], "frames_received_total")
            before = system.counter(counter)
            happened = system.inject(times=times, **fault)
            system.wait_for(lambda counter=counter, before=before, times=times: system.counter(counter) >= before + times)  # type: ignore[misc]
            system.exchange.fault(kind="clear")
            print(f"\n  {happened} × {fault}: {counter} {system.counter(counter) - before:+.0f}", end="")
            if full:
                system.prove()
        print(f"\n  the client got {watcher.counts['ticks']} ticks")
        system.prove()
        assert watcher.stepped_back == []
        assert {figure for _, figure in watcher.blanked} == {"bid_price"}, "a best bid of 0 (`zeroes`) is none; nothing else is unlearned"
    assert (system.counter("frames_rejected_total"), system.opened()) == (rejected, opened)


def test_a_key_that_nobody_asked_for_gets_a_placeholder_and_its_ticks_are_kept(system: ProxiedSystem, full: bool) -> None:
    before, had = system.counter("ticks_unknown_total"), system.happened("unknown_keys")
    system.inject("unknown_keys", 100 if full else 10, key="NSE_FO|999000999", every=1)
    system.exchange.fault(kind="clear")
    happened = system.happened("unknown_keys") - had
    system.wait_for(lambda: system.counter("ticks_unknown_total") == before + happened)
    placeholders = system.database["instruments_instrument"]
    until(lambda: placeholders.count_documents({"instrument_key": "NSE_FO|999000999"}) == 1, "it has its placeholder")
    placeholder = placeholders.find_one({"instrument_key": "NSE_FO|999000999"}) or {}
    until(lambda: system.database["marketdata_markettick"].count_documents({"i": placeholder["_id"]}) == happened, "its ticks are stored")
    print(f"\n  {happened} frames with it, and no quote of it")
    assert system.get("/api/marketdata/ticks/latest/", instruments="NSE_FO|999000999")["results"] == []
    system.prove()


def test_a_text_frame_is_logged_and_nothing_is_lost(system: ProxiedSystem) -> None:
    before, opened = system.counter("text_frames_total"), system.opened()
    assert system.inject("text_frame", 1) == 1
    assert system.inject("text_frame", 1, text="<html>not JSON at all" + "é" * 5000) == 1
    system.wait_for(lambda: system.counter("text_frames_total") == before + 2)
    assert "the feed refused sub" in system.log(system.feed)
    assert system.opened() == opened
    system.prove()


def test_all_of_it_at_once(system: ProxiedSystem, full: bool) -> None:
    kinds = ["truncated", "duplicate", "reorder", "unknown_keys", "newer_schema", "partial", "zeroes"]
    before = {kind: system.happened(kind) for kind in kinds}
    for place, kind in enumerate(kinds):
        system.exchange.fault(kind=kind, every=3 + place)
    times = 50 if full else 10
    system.wait_for(lambda: all(system.happened(kind) >= before[kind] + times for kind in kinds))
    system.exchange.fault(kind="clear")
    print("\n  " + ", ".join(f"{kind} {system.happened(kind) - before[kind]}" for kind in kinds))
    system.prove()


def test_a_frame_past_the_greatest_size_ends_the_connection_and_another_is_made(system: ProxiedSystem) -> None:
    opened, reconnects = system.opened(), system.counter("reconnects_total")
    assert system.inject("oversized", 1, size=17 << 20, every=1, count=1) == 1
    system.wait_for(lambda: system.is_reconnected(opened))
    system.wait_for(lambda: system.counter("reconnects_total") == reconnects + 1)
    print(f"\n  17 MiB: {system.opened() - opened} new connection")
    assert system.opened() == opened + 1
    system.prove()
