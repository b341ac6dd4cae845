"""The journal: what was appended is read back, torn and damaged files included, and stamps only rise."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from mcap.reader import make_reader

from broker.journal import Journal, JournalBusy, JournalReader, Record, segment_paths
from marketdata.domain.tick import EPOCH_2020_US

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


def test_other_mcap_tools_open_a_finished_segment_schema_included(tmp_path: Path) -> None:
    journal = _journal(tmp_path)
    journal.instruments_add({"A": 1}, NOW_US)
    stamp = journal.append(b"\x18\x05", NOW_US)
    journal.close()
    with segment_paths(tmp_path)[0].open("rb") as stream:
        reader = make_reader(stream)
        (schema, channel, message) = next(iter(reader.iter_messages(topics=["frames"])))
    assert schema is not None
    assert schema.encoding == "protobuf"
    assert schema.name.endswith("FeedResponse")
    assert channel.message_encoding == "protobuf"
    assert message.log_time == (stamp + EPOCH_2020_US) * 1000


def test_a_second_writer_is_refused_until_the_first_has_closed(tmp_path: Path) -> None:
    journal = _journal(tmp_path)
    with pytest.raises(JournalBusy, match="another feed"):
        _journal(tmp_path)
    journal.close()
    _journal(tmp_path).close()
