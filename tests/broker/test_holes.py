"""Holes: exactly one gap each, none for a night; kept over a crash and over an absent store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from broker import holes as module
from broker.holes import Hole, Holes, gap_record
from broker.journal import Journal
from marketdata.calendar import sessions_record
from marketdata.domain.session import Hours
from marketdata.domain.tick import stamp_to_ms
from marketdata.models import Gap
from marketdata.store import market_status_write, time_ms

IST = timezone(timedelta(hours=5, minutes=30))


def ist(day: int, hour: int, minute: int = 0) -> int:
    """A time of November 2026, in which the 22nd is a Sunday; ms UTC."""
    return round(datetime(2026, 11, day, hour, minute, tzinfo=IST).timestamp() * 1000)


def made(tmp_path: Path) -> Holes:
    return Holes(tmp_path / "holes.json", shard=2)


def hole(start_ms: int, end_ms: int, *, traded: bool | None = False) -> Hole:
    return Hole(start_ms, end_ms, "disconnected", "the feed's connection broke", traded, ["NSE_FO"])


def record(holes: Holes) -> None:
    """Bring what waits into the store as the recorder does."""
    for waiting in list(holes.waiting):
        holes.saved(waiting, is_gap=gap_record(waiting, 2))


@pytest.mark.django_db
def test_a_hole_becomes_one_gap_however_often_the_loss_is_told(tmp_path: Path) -> None:
    holes = made(tmp_path)
    for at, detail in ((1_000, "the feed's connection broke"), (2_000, "refused"), (3_000, "refused")):
        holes.begin(at, detail, traded=True)
    holes.end(60_000, segments={"NSE_FO"}, traded=True)
    holes.end(61_000, segments={"NSE_FO"}, traded=True)
    record(holes)
    (gap,) = Gap.objects.all()
    assert (gap.shard, time_ms(gap.start), gap.cause, gap.detail) == (2, 1_000, "disconnected", "the feed's connection broke")
    assert gap.end is not None
    assert time_ms(gap.end) == 60_000
    assert holes.counts == {"gaps_total": 1, "holes_idle_total": 0, "gaps_dropped_total": 0}
    assert holes.waiting == []


@pytest.mark.django_db
def test_a_silence_is_a_gap_also_while_a_hole_is_open(tmp_path: Path) -> None:
    holes = made(tmp_path)
    holes.begin(9_000, "broken", traded=True)
    holes.silence(1_000, 3_000, {"NSE_FO", "NSE_EQ"})
    assert [waiting.segments for waiting in holes.waiting] == [["NSE_EQ", "NSE_FO"]]
    again = made(tmp_path)
    again.load(20_000)
    assert again.open is not None
    record(again)
    (gap,) = Gap.objects.all()
    assert gap.end is not None
    assert (time_ms(gap.start), time_ms(gap.end), gap.cause, gap.shard) == (1_000, 3_000, "silent", 2)
    assert again.counts["gaps_total"] == 1


@pytest.mark.django_db
def test_minutes_that_were_found_missing_are_another_gap_though_they_begin_with_the_hole() -> None:
    for end_ms in (60_000, 120_000):
        Gap.objects.create(shard=2, start=datetime.fromtimestamp(0, UTC), end=datetime.fromtimestamp(end_ms / 1000, UTC), cause="missing")
    assert gap_record(hole(0, 90_000, traded=True), 2)
    assert Gap.objects.filter(cause="disconnected", heal_state="open").count() == 1


@pytest.mark.django_db
def test_saving_again_changes_nothing() -> None:
    broken = hole(1_000, 2_000, traded=True)
    assert gap_record(broken, 2)
    assert gap_record(broken, 2)
    assert gap_record(broken, 3), "another shard has holes of its own"
    assert sorted(Gap.objects.values_list("shard", flat=True)) == [2, 3]


def test_a_crash_keeps_what_is_open_and_what_waits(tmp_path: Path) -> None:
    holes = made(tmp_path)
    holes.begin(1_000, "first", traded=True)
    holes.end(2_000, segments={"NSE_FO"}, traded=True)
    holes.begin(5_000, "second", traded=True)
    again = made(tmp_path)
    again.load(9_000)
    assert [(waiting.start_ms, waiting.end_ms, waiting.detail) for waiting in again.waiting] == [(1_000, 2_000, "first")]
    assert again.open is not None
    assert (again.open.start_ms, again.open.detail) == (5_000, "second"), "the true beginning, not the end of the journal"


def test_the_end_of_the_last_runs_journal_begins_a_hole(tmp_path: Path) -> None:
    first, later = made(tmp_path), made(tmp_path)
    first.load(0)
    assert first.open is None, "the very first run misses nothing"
    later.load(7_000)
    assert later.open is not None
    assert (later.open.start_ms, later.open.cause, later.open.traded) == (7_000, "stopped", None)


def test_restarts_without_data_between_keep_the_holes_beginning(tmp_path: Path) -> None:
    start_us = 1_769_160_569_400_000
    journal = Journal(tmp_path, shard=2, segment_bytes=1 << 30)
    journal.open()
    last_us = journal.append(b"the last frame", start_us)
    journal.close()
    for minutes in (5, 10, 15):
        journal = Journal(tmp_path, shard=2, segment_bytes=1 << 30)
        journal.open()
        holes = made(tmp_path)
        holes.load(stamp_to_ms(journal.last_us))
        journal.instruments_add({"A": 1}, start_us + minutes * 60_000_000)
        journal.close()
        assert holes.open is not None
        assert (holes.open.start_ms, holes.open.cause, holes.open.traded) == (stamp_to_ms(last_us), "stopped", None)
    assert journal.last_us > last_us + 14 * 60_000_000


@pytest.mark.parametrize(
    "content", [b"", b"{", b'[{"start_ms": "x"}]', b"\xff\xfe", b'[{"start_ms":1,"end_ms":0,"cause":"x","detail":"\xff"}]']
)
def test_a_torn_file_is_told_and_done_without(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "holes.json").write_bytes(content)
    holes = made(tmp_path)
    holes.load(7_000)
    assert "holes.json cannot be read" in caplog.text
    assert holes.open is not None


def test_without_a_disk_memory_has_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    holes = Holes(tmp_path / "no such folder" / "holes.json", shard=0)
    holes.begin(1_000, "broken", traded=True)
    holes.end(2_000, segments=(), traded=True)
    assert len(holes.waiting) == 1
    assert "cannot be written" in caplog.text


def test_they_are_bounded_and_the_loss_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_UNSAVED", 3)
    holes = made(tmp_path)
    for number in range(5):
        holes.begin(number * 10, "broken", traded=True)
        holes.end(number * 10 + 5, segments=(), traded=True)
    assert [waiting.start_ms for waiting in holes.waiting] == [20, 30, 40]
    assert holes.counts["gaps_dropped_total"] == 2


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("name", "start", "end", "before", "after", "gap"),
    [
        ("a night", ist(23, 18), ist(24, 8, 50), "NORMAL_CLOSE", False, False),
        ("a weekend", ist(20, 16), ist(23, 9, 5), "NORMAL_CLOSE", False, False),
        ("until after the open", ist(23, 18), ist(24, 9, 30), "NORMAL_CLOSE", True, True),
        ("a crash in hours", ist(23, 11), ist(23, 11, 5), "NORMAL_OPEN", True, True),
        ("over the close", ist(23, 15), ist(23, 20), "NORMAL_OPEN", False, True),
        ("a whole session, asleep before and after", ist(23, 8), ist(23, 16), "NORMAL_CLOSE", False, True),
        ("a Sunday", ist(22, 8), ist(22, 16), "NORMAL_CLOSE", False, False),
        ("a time of which nothing is known", ist(22, 8), ist(22, 16), "", False, False),
    ],
)
@pytest.mark.parametrize("stopped", [True, False])
def test_only_a_hole_in_which_something_traded_is_a_gap(
    name: str, start: int, end: int, before: str, after: bool, gap: bool, stopped: bool
) -> None:
    """A run that was stopped knows what was before by the store alone."""
    if before:
        market_status_write("NSE_FO", before, start - 3_600_000)
    market_status_write("MCX_FO", "NORMAL_OPEN", start - 3_600_000)  # nobody follows it
    traded = after or (None if stopped else before == "NORMAL_OPEN")
    assert gap_record(hole(start, end, traded=traded), 0) is gap
    assert Gap.objects.exists() is gap


@pytest.mark.django_db
def test_a_session_that_was_recorded_meanwhile_is_missed() -> None:
    market_status_write("NSE_FO", "NORMAL_CLOSE", ist(21, 8))
    market_status_write("NSE_FO", "NORMAL_OPEN", ist(21, 12))  # a special session on a Saturday
    market_status_write("NSE_FO", "NORMAL_CLOSE", ist(21, 13))
    assert gap_record(hole(ist(21, 9), ist(21, 16)), 0)
    assert not gap_record(hole(ist(21, 14), ist(21, 16)), 0)


def day(date: int, opens: tuple[int, int] | None, closes: tuple[int, int] = (0, 0)) -> Hours:
    """A known day of NFO in November 2026."""
    return Hours("NFO", ist(date, 0), ist(date, *opens) if opens else 0, ist(date, *closes) if opens else 0)


KNOWN = [
    day(8, (18, 0), (19, 15)),  # Muhurat, a Sunday
    day(20, (9, 15), (15, 40)),
    day(21, None),
    day(22, None),
    day(23, (9, 15), (15, 40)),
    day(24, None),  # Guru Nanak Jayanti, a Tuesday
    day(25, (9, 15), (15, 40)),
]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("name", "start", "end", "gap"),
    [
        ("a holiday", ist(23, 16), ist(25, 9, 10), False),
        ("a whole session", ist(20, 16), ist(23, 16), True),
        ("Muhurat", ist(8, 12), ist(8, 20), True),
        ("a Sunday's morning", ist(8, 8), ist(8, 17), False),
        ("the end of a session", ist(23, 15, 39), ist(24, 8), True),
        ("within it, the feed said that nothing trades", ist(23, 11), ist(23, 12), False),
        ("after its end", ist(23, 15, 40), ist(24, 8), False),
        ("the first minute", ist(23, 8), ist(23, 9, 16), True),
        ("a weekday that is not known", ist(25, 16), ist(26, 16), True),
        ("the night before it", ist(25, 16), ist(26, 9, 15), False),
        ("a weekend that is not known", ist(28, 8), ist(29, 20), False),
    ],
)
def test_the_calendar_says_what_a_hole_has_missed(name: str, start: int, end: int, gap: bool) -> None:
    sessions_record(KNOWN)
    assert gap_record(hole(start, end), 0) is gap


@pytest.mark.django_db
def test_of_a_run_that_ended_within_a_session_the_calendar_knows_where_no_status_is_kept() -> None:
    sessions_record(KNOWN)
    assert gap_record(hole(ist(23, 11), ist(23, 12), traded=None), 0)
    assert not gap_record(hole(ist(24, 11), ist(24, 12), traded=None), 0)
    market_status_write("NSE_FO", "NORMAL_CLOSE", ist(23, 10))
    assert not gap_record(hole(ist(23, 11), ist(23, 12), traded=None), 1)


@pytest.mark.django_db
def test_a_session_of_what_nobody_follows_is_not_missed() -> None:
    sessions_record([day(24, None), Hours("MCX", ist(24, 0), ist(24, 17), ist(24, 23, 30), "")])
    assert not gap_record(hole(ist(24, 8), ist(24, 20)), 0)
    metals = hole(ist(24, 8), ist(24, 20))
    metals.segments = ["MCX_FO"]
    assert gap_record(metals, 0)
