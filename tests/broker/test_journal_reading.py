"""Reading the journal: while it is written, torn, damaged at any byte, or removed."""

from __future__ import annotations

from pathlib import Path

import pytest
from mcap.reader import make_reader
from mcap.records import Footer
from mcap.stream_reader import StreamReader

from broker.journal_reading import JournalReader
from broker.journal_segments import segment_paths
from tests.broker.journalled import NOW_US, RANDOM, frames_read, journal_opened


def test_a_reader_follows_a_journal_that_is_being_written(tmp_path: Path) -> None:
    journal = journal_opened(tmp_path, segment_bytes=3000)
    reader = JournalReader(tmp_path)
    got: list[bytes] = []
    for number in range(60):
        journal.append(b"%d" % number, NOW_US + number * 1000)
        journal.flush()
        got.extend(record.data for record in reader.read())
    journal.close()
    got.extend(record.data for record in reader.read())
    assert got == [b"%d" % number for number in range(60)]


def test_a_torn_tail_is_the_end_and_the_next_run_goes_on(tmp_path: Path) -> None:
    journal = journal_opened(tmp_path)
    journal.append(b"whole", NOW_US)
    journal.flush()
    size = segment_paths(tmp_path)[0].stat().st_size
    journal.append(RANDOM, NOW_US + 1000)
    journal.close()
    path = segment_paths(tmp_path)[0]
    for cut in range(size + 1, size + len(RANDOM), 3):
        content = path.read_bytes()[:cut]
        torn = tmp_path / f"cut{cut}"
        torn.mkdir()
        (torn / path.name).write_bytes(content)
        again = journal_opened(torn)
        again.append(b"next", NOW_US + 2000)
        again.close()
        assert [record.data for record in frames_read(torn)] == [b"whole", b"next"], cut


def test_a_flipped_byte_costs_its_chunk_and_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = journal_opened(tmp_path)
    for number in range(3):
        journal.append(RANDOM + bytes([number]), NOW_US + number * 1000)
        journal.flush()
    journal.close()
    path = segment_paths(tmp_path)[0]
    content = bytearray(path.read_bytes())
    middle = content.index(RANDOM[100:120], len(content) // 3)  # zstd leaves random bytes as they are
    content[middle] ^= 1
    path.write_bytes(content)
    reader = JournalReader(tmp_path)
    records = reader.read(10)
    assert reader.damaged_chunks == 1
    assert len(records) == 2
    assert "damaged" in caplog.text


def _flushed_frames(folder: Path, *, finished: bool) -> tuple[Path, dict[str, list[int]], int]:
    """Journal ten frames in ten chunks; return the segment, where its records begin (by mcap's own reader), the end of the last chunk."""
    journal = journal_opened(folder)
    for number in range(10):
        journal.append(RANDOM + bytes([number]), NOW_US + number * 1000)
        journal.flush()
    (path,) = segment_paths(folder)
    flushed = path.stat().st_size
    journal.close()
    content = path.read_bytes()
    places: dict[str, list[int]] = {}
    with path.open("rb") as stream:
        at = 8
        for record in StreamReader(stream, emit_chunks=True).records:
            places.setdefault(type(record).__name__, []).append(at)
            at = stream.tell() if not isinstance(record, Footer) else at
    assert len(places["Chunk"]) == 10
    if not finished:
        path.write_bytes(content[:flushed])
    return path, places, flushed


def _damage_of(folder: Path) -> tuple[int, int, int]:
    reader = JournalReader(folder)
    frames = 0
    while found := reader.read(3):
        frames += len(found)
    assert reader.read() == []
    return frames, reader.damaged_chunks, reader.segments_torn


@pytest.mark.parametrize("finished", [True, False], ids=["a finished segment", "a killed run's"])
@pytest.mark.parametrize("last", [True, False], ids=["the last", "with a later one"])
def test_whatever_byte_of_a_chunks_head_is_flipped_is_told_and_costs_that_chunk_at_most(tmp_path: Path, finished: bool, last: bool) -> None:
    path, places, _ = _flushed_frames(tmp_path, finished=finished)
    content = path.read_bytes()
    later = 0
    if not last:
        journal = journal_opened(tmp_path)
        journal.append(b"later", NOW_US + 60_000_000)
        journal.close()
        later = 1
    torn = int(not finished and not last)
    assert _damage_of(tmp_path) == (10 + later, 0, torn)
    for at in range(places["Chunk"][4], places["Chunk"][4] + 53):  # opcode, length, times, size, CRC, compression, length
        for flip in (0x01, 0x10, 0xFF):
            path.write_bytes(content[:at] + bytes([content[at] ^ flip]) + content[at + 1 :])
            frames, damaged, torn_segments = _damage_of(tmp_path)
            assert (damaged, torn_segments) == (1, torn), (at - places["Chunk"][4], flip)
            assert frames >= 9 + later, (at - places["Chunk"][4], flip)


@pytest.mark.parametrize(("name", "size"), [("MessageIndex", 9), ("DataEnd", 9), ("Header", 9), ("Statistics", 20), ("Footer", 37)])
def test_a_flipped_byte_in_any_other_record_is_told_and_costs_no_frame(tmp_path: Path, name: str, size: int) -> None:
    path, places, _ = _flushed_frames(tmp_path, finished=True)
    content = path.read_bytes()
    for at in range(places[name][0], places[name][0] + size):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
        assert _damage_of(tmp_path) == (10, 1, 0), at - places[name][0]


def test_a_chunk_that_was_cut_out_is_told_by_the_segments_own_count(tmp_path: Path) -> None:
    path, places, _ = _flushed_frames(tmp_path, finished=True)
    content = path.read_bytes()
    path.write_bytes(content[: places["Chunk"][3]] + content[places["Chunk"][4] :])
    assert _damage_of(tmp_path) == (9, 1, 0)


def test_a_segment_cut_off_anywhere_is_torn_and_not_damaged(tmp_path: Path) -> None:
    path, places, flushed = _flushed_frames(tmp_path, finished=True)
    content = path.read_bytes()
    journal = journal_opened(tmp_path)
    journal.append(b"later", NOW_US + 60_000_000)
    journal.close()
    for size in (
        *range(1, places["Chunk"][1] + 60),
        *range(flushed - 60, len(content) - 8, 7),
        *range(len(content) - 50, len(content) - 8),
    ):
        path.write_bytes(content[:size])
        frames, damaged, torn = _damage_of(tmp_path)
        assert (damaged, torn) == (0, 1), size
        assert frames == 1 + sum(at + 9 + int.from_bytes(content[at + 1 : at + 9], "little") <= size for at in places["Chunk"])


def test_a_tail_of_zeros_is_damage(tmp_path: Path) -> None:
    path, _, _ = _flushed_frames(tmp_path, finished=False)
    path.write_bytes(path.read_bytes() + bytes(4096))  # what a file system may leave of a write when the power goes
    assert _damage_of(tmp_path) == (10, 1, 0)


def test_a_frame_that_two_segments_hold_is_read_once(tmp_path: Path) -> None:
    """The disk took a chunk but not its index; a reader was quicker than the cut, and the chunk came again."""
    for name, numbers in (("a", range(10)), ("b", range(5, 15))):
        journal = journal_opened(tmp_path / name)
        for number in numbers:
            journal.append(bytes([number]), NOW_US + number * 1000)
        journal.close()
        for path in segment_paths(tmp_path / name):
            path.rename(tmp_path / path.name)
    assert [record.data[0] for record in frames_read(tmp_path)] == list(range(15))


def test_a_reader_goes_on_behind_segments_that_were_removed(tmp_path: Path) -> None:
    journal = journal_opened(tmp_path, segment_bytes=1500)
    journal.instruments_add({"A": 1}, NOW_US)
    for number in range(12):
        journal.append(RANDOM + bytes([number]), NOW_US + number * 1000)
        journal.flush()
    paths = segment_paths(tmp_path)
    reader = JournalReader(tmp_path)
    assert [record.data[-1] for record in reader.read(1)] == [0]
    for path in paths[:2]:
        path.unlink()
    rest = [record.data[-1] for record in reader.read(100)]
    assert reader.segments_vanished == 1  # the one that it was in
    with paths[2].open("rb") as stream:
        (first, *_) = (message.data[-1] for _, _, message in make_reader(stream).iter_messages(topics=["frames"]))
    assert rest == list(range(first, 12))
    assert first > 1
    journal.close()
