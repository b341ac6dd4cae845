"""The journal: what was appended is read back, torn and damaged files included, and stamps only rise."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict
from mcap.exceptions import EndOfFile
from mcap.reader import NonSeekingReader, make_reader
from mcap.records import Footer
from mcap.stream_reader import StreamReader
from mcap_protobuf.decoder import DecoderFactory

from broker.journal import Journal, JournalBusy, JournalReader, Record, segment_paths, segment_stamp
from marketdata.domain.tick import EPOCH_2020_US
from tests.payloads import frame, option_feed

NOW_US = 1_769_160_569_400_000
RANDOM = random.Random(1).randbytes(400)


def _journal(folder: Path, **changes: int) -> Journal:
    journal = Journal(folder, shard=changes.get("shard", 0), segment_bytes=changes.get("segment_bytes", 1 << 30))
    journal.open()
    return journal


def _read_all(folder: Path, after_us: int = 0) -> list[Record]:
    reader = JournalReader(folder, after_us=after_us)
    records: list[Record] = []
    while found := reader.read(7):
        records.extend(found)
    return records


def test_frames_come_back_in_order_with_the_map_of_their_time(tmp_path: Path) -> None:
    journal = _journal(tmp_path)
    journal.instruments_add({"A": 1}, NOW_US)
    first = journal.append(b"one", NOW_US)
    journal.instruments_add({"A": 2, "B": 3}, NOW_US + 1)
    second = journal.append(b"two", NOW_US + 2)
    journal.close()
    assert _read_all(tmp_path) == [Record(first, b"one", {"A": 1}), Record(second, b"two", {"A": 2, "B": 3})]


def test_stamps_rise_when_the_clock_steps_back_and_over_a_restart(tmp_path: Path) -> None:
    journal = _journal(tmp_path, shard=3)
    stamps = [journal.append(b"x", now) for now in (NOW_US, NOW_US, NOW_US - 60_000_000, NOW_US + 100)]
    journal.close()
    again = _journal(tmp_path, shard=3)
    assert again.last_us == stamps[-1]
    stamps.append(again.append(b"x", NOW_US - 3_600_000_000))
    again.close()
    assert stamps == sorted(set(stamps))
    assert {stamp & 7 for stamp in stamps} == {3}
    assert abs(stamps[0] + EPOCH_2020_US - NOW_US) < 8


def test_a_segment_rotates_and_carries_the_whole_map(tmp_path: Path) -> None:
    journal = _journal(tmp_path, segment_bytes=2000)
    journal.instruments_add({"A": 1, "B": 2}, NOW_US)
    for number in range(20):
        journal.append(bytes([number]) * 50, NOW_US + number * 1000)
        journal.flush()
    journal.close()
    paths = segment_paths(tmp_path)
    assert len(paths) > 2
    records = _read_all(tmp_path)
    assert [record.data[0] for record in records] == list(range(20))
    assert _read_all(tmp_path, after_us=records[14].received_us) == records[15:]
    for path in paths:
        path.unlink()
        break
    assert all(record.instruments == {"A": 1, "B": 2} for record in _read_all(tmp_path))


def test_a_reader_follows_a_journal_that_is_being_written(tmp_path: Path) -> None:
    journal = _journal(tmp_path, segment_bytes=3000)
    reader = JournalReader(tmp_path)
    got: list[bytes] = []
    for number in range(60):
        journal.append(b"%d" % number, NOW_US + number * 1000)
        journal.flush()
        got.extend(record.data for record in reader.read())
    journal.close()
    got.extend(record.data for record in reader.read())
    assert got == [b"%d" % number for number in range(60)]


def test_a_killed_writer_leaves_all_that_was_flushed(tmp_path: Path) -> None:
    script = (
        "import os,sys,django; os.environ['DJANGO_SETTINGS_MODULE']='tradingok.settings'; django.setup()\n"
        "from pathlib import Path; from broker.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]), shard=0, segment_bytes=1 << 30); journal.open()\n"
        "for number in range(1000): journal.append(b'%d' % number, 1769160569400000 + number * 1000)\n"
        "journal.flush(); journal.append(b'not flushed', 1769160579400000); os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert ended.returncode == -9
    assert [record.data for record in _read_all(tmp_path)] == [b"%d" % number for number in range(1000)]


def test_a_torn_tail_is_the_end_and_the_next_run_goes_on(tmp_path: Path) -> None:
    journal = _journal(tmp_path)
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
        again = _journal(torn)
        again.append(b"next", NOW_US + 2000)
        again.close()
        assert [record.data for record in _read_all(torn)] == [b"whole", b"next"], cut


def test_a_flipped_byte_costs_its_chunk_and_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = _journal(tmp_path)
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
    journal = _journal(folder)
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
        journal = _journal(tmp_path)
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
    journal = _journal(tmp_path)
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


def test_other_mcap_tools_decode_a_finished_segment_by_the_schema_inside(tmp_path: Path) -> None:
    from upstox_client.feeder.proto import MarketDataFeedV3_pb2 as sdk

    frames = [frame({"NSE_FO|1": option_feed(last_price=101.5 + number), "NSE_INDEX|Nifty 50": option_feed()}) for number in range(20)]
    journal = _journal(tmp_path)
    journal.instruments_add({"NSE_FO|1": 1}, NOW_US)
    stamps = [journal.append(data, NOW_US + number * 1000) for number, data in enumerate(frames)]
    journal.event({"event": "closed"}, NOW_US + 60_000)
    journal.close()
    with segment_paths(tmp_path)[0].open("rb") as stream:
        reader = make_reader(stream, validate_crcs=True, decoder_factories=[DecoderFactory()])
        decoded = list(reader.iter_decoded_messages(topics=["frames"]))
        others = [(channel.topic, json.loads(message.data)) for _, channel, message in reader.iter_messages(["instruments", "connection"])]
        summary = reader.get_summary()
    assert [schema.name for schema, _, _, _ in decoded if schema] == [sdk.FeedResponse.DESCRIPTOR.full_name] * 20
    assert [message.log_time for _, _, message, _ in decoded] == [(stamp + EPOCH_2020_US) * 1000 for stamp in stamps]
    assert [MessageToDict(content) for _, _, _, content in decoded] == [MessageToDict(sdk.FeedResponse.FromString(data)) for data in frames]
    assert others == [("instruments", {}), ("instruments", {"NSE_FO|1": 1}), ("connection", {"event": "closed"})]
    assert summary is not None
    assert summary.statistics is not None
    assert summary.statistics.channel_message_counts == {1: 20, 2: 2, 3: 1}
    assert all(chunk.message_index_offsets for chunk in summary.chunk_indexes)  # Foxglove's reader refuses a chunk without


def test_other_mcap_tools_read_a_killed_segment_as_far_as_its_last_whole_chunk(tmp_path: Path) -> None:
    journal = _journal(tmp_path)
    for number in range(30):
        journal.append(b"%d" % number + RANDOM, NOW_US + number * 1000)
        if number % 10 == 9:
            journal.flush()
    path = segment_paths(tmp_path)[0]
    killed = tmp_path / "killed.mcap"
    killed.write_bytes(path.read_bytes()[:-200])  # the third chunk is torn
    journal.close()
    read: list[bytes] = []
    with killed.open("rb") as stream:
        messages = NonSeekingReader(stream, validate_crcs=True).iter_messages(topics=["frames"], log_time_order=False)
        with pytest.raises(EndOfFile):
            read.extend(message.data for _, _, message in messages)
    assert read == [b"%d" % number + RANDOM for number in range(20)]


def test_fields_of_a_newer_schema_survive(tmp_path: Path) -> None:
    from upstox_client.feeder.proto import MarketDataFeedV3_pb2 as sdk

    known = frame({"NSE_FO|1": option_feed()})
    newer = known + b"\xc2\x3e\x05later" + b"\x98\x06\x96\x01"  # field 1000, of bytes; field 99, a varint
    assert MessageToDict(sdk.FeedResponse.FromString(newer)) == MessageToDict(sdk.FeedResponse.FromString(known))
    journal = _journal(tmp_path)
    journal.append(newer, NOW_US)
    journal.close()
    with segment_paths(tmp_path)[0].open("rb") as stream:
        (message,) = (message for _, _, message in make_reader(stream).iter_messages(topics=["frames"]))
    assert message.data == newer
    assert [record.data for record in _read_all(tmp_path)] == [newer]


def test_a_writer_killed_at_any_moment_leaves_what_it_had_flushed(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from broker.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]), shard=0, segment_bytes=200_000); journal.open()\n"
        "for number in range(10**9):\n"
        "    journal.append(number.to_bytes(4) + bytes(500), 1769160569400000 + number * 10)\n"
        "    if number % 50 == 49: journal.flush(); print(number, flush=True)\n"
    )
    flushed = 0
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        while flushed < 20_000:
            flushed = int(writer.stdout.readline())
        writer.kill()
        flushed = int((writer.stdout.read().split() or [b"%d" % flushed])[-1])  # the last it told before it was gone
    numbers = [int.from_bytes(record.data[:4]) for record in _read_all(tmp_path)]
    assert writer.returncode == -9
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > flushed


def test_frames_are_journalled_or_waiting_at_any_moment(tmp_path: Path) -> None:
    journal = _journal(tmp_path)
    for number in range(1, 41):
        journal.append(RANDOM * 200, NOW_US + number * 1000)  # a chunk of 1 MB is full at the 14th
        assert journal.counts["frames_journalled_total"] + journal.frames_waiting == number
        assert journal.holds(journal.last_us)
    assert 0 < journal.frames_waiting < 14
    journal.flush()
    assert (journal.counts["frames_journalled_total"], journal.frames_waiting, journal.failing) == (40, 0, None)
    assert journal.bytes_written == segment_paths(tmp_path)[0].stat().st_size
    journal.close()


def test_a_segment_ends_with_the_day_in_india(tmp_path: Path) -> None:
    midnight_us = 1_769_193_000_000_000  # 2026-01-24 00:00 IST
    journal = _journal(tmp_path)
    stamps = []
    for after_us in (-2_000_000, -8, 8, 5_000_000):
        stamps.append(journal.append(b"x", midnight_us + after_us))
        journal.flush()
    journal.close()
    assert [segment_stamp(path) for path in segment_paths(tmp_path)] == [stamps[0], stamps[2]]
    assert [record.received_us for record in _read_all(tmp_path)] == stamps


def test_a_frame_that_two_segments_hold_is_read_once(tmp_path: Path) -> None:
    """The disk took a chunk but not its index; a reader was quicker than the cut, and the chunk came again."""
    for name, numbers in (("a", range(10)), ("b", range(5, 15))):
        journal = _journal(tmp_path / name)
        for number in numbers:
            journal.append(bytes([number]), NOW_US + number * 1000)
        journal.close()
        for path in segment_paths(tmp_path / name):
            path.rename(tmp_path / path.name)
    assert [record.data[0] for record in _read_all(tmp_path)] == list(range(15))


def test_a_reader_goes_on_behind_segments_that_were_removed(tmp_path: Path) -> None:
    journal = _journal(tmp_path, segment_bytes=1500)
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


def test_a_segment_that_vanishes_before_the_start_is_as_if_it_had_never_been(tmp_path: Path) -> None:
    journal = _journal(tmp_path)
    stamp = journal.append(b"x", NOW_US)
    journal.close()
    (tmp_path / f"{stamp + 8:016d}.mcap").symlink_to(tmp_path / "gone")
    again = _journal(tmp_path)
    assert again.last_us == stamp
    again.close()


def test_an_empty_file_that_a_broken_disk_left_is_used(tmp_path: Path) -> None:
    journal = _journal(tmp_path)
    stamp = journal.append(b"x", NOW_US)
    (tmp_path / f"{stamp:016d}.mcap").touch()
    journal.close()
    assert journal.failing is None
    assert [record.received_us for record in _read_all(tmp_path)] == [stamp]


def test_a_second_writer_is_refused_until_the_first_has_closed(tmp_path: Path) -> None:
    journal = _journal(tmp_path)
    with pytest.raises(JournalBusy, match="another feed"):
        _journal(tmp_path)
    journal.close()
    _journal(tmp_path).close()
