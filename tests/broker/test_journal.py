"""The journal: what was appended is on the disk, a run that was killed included, other tools read it, and stamps only rise."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict
from mcap.exceptions import EndOfFile
from mcap.reader import NonSeekingReader, make_reader
from mcap_protobuf.decoder import DecoderFactory

from broker.journal import JournalBusy
from broker.journal_reading import Record
from broker.journal_segments import segment_paths, segment_stamp
from marketdata.domain.tick import EPOCH_2020_US
from tests.broker.journalled import NOW_US, RANDOM, frames_read, journal_opened
from tests.payloads import frame, option_feed


def test_frames_come_back_in_order_with_the_map_of_their_time(tmp_path: Path) -> None:
    journal = journal_opened(tmp_path)
    journal.instruments_add({"A": 1}, NOW_US)
    first = journal.append(b"one", NOW_US)
    journal.instruments_add({"A": 2, "B": 3}, NOW_US + 1)
    second = journal.append(b"two", NOW_US + 2)
    journal.close()
    assert frames_read(tmp_path) == [Record(first, b"one", {"A": 1}), Record(second, b"two", {"A": 2, "B": 3})]


def test_stamps_rise_when_the_clock_steps_back_and_over_a_restart(tmp_path: Path) -> None:
    journal = journal_opened(tmp_path, shard=3)
    stamps = [journal.append(b"x", now) for now in (NOW_US, NOW_US, NOW_US - 60_000_000, NOW_US + 100)]
    journal.close()
    again = journal_opened(tmp_path, shard=3)
    assert again.last_us == stamps[-1]
    stamps.append(again.append(b"x", NOW_US - 3_600_000_000))
    again.close()
    assert stamps == sorted(set(stamps))
    assert {stamp & 7 for stamp in stamps} == {3}
    assert abs(stamps[0] + EPOCH_2020_US - NOW_US) < 8


def test_a_segment_rotates_and_carries_the_whole_map(tmp_path: Path) -> None:
    journal = journal_opened(tmp_path, segment_bytes=2000)
    journal.instruments_add({"A": 1, "B": 2}, NOW_US)
    for number in range(20):
        journal.append(bytes([number]) * 50, NOW_US + number * 1000)
        journal.flush()
    journal.close()
    paths = segment_paths(tmp_path)
    assert len(paths) > 2
    records = frames_read(tmp_path)
    assert [record.data[0] for record in records] == list(range(20))
    assert frames_read(tmp_path, after_us=records[14].received_us) == records[15:]
    for path in paths:
        path.unlink()
        break
    assert all(record.instruments == {"A": 1, "B": 2} for record in frames_read(tmp_path))


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
    assert [record.data for record in frames_read(tmp_path)] == [b"%d" % number for number in range(1000)]


def test_other_mcap_tools_decode_a_finished_segment_by_the_schema_inside(tmp_path: Path) -> None:
    from upstox_client.feeder.proto import MarketDataFeedV3_pb2 as sdk

    frames = [frame({"NSE_FO|1": option_feed(last_price=101.5 + number), "NSE_INDEX|Nifty 50": option_feed()}) for number in range(20)]
    journal = journal_opened(tmp_path)
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
    journal = journal_opened(tmp_path)
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
    journal = journal_opened(tmp_path)
    journal.append(newer, NOW_US)
    journal.close()
    with segment_paths(tmp_path)[0].open("rb") as stream:
        (message,) = (message for _, _, message in make_reader(stream).iter_messages(topics=["frames"]))
    assert message.data == newer
    assert [record.data for record in frames_read(tmp_path)] == [newer]


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
    numbers = [int.from_bytes(record.data[:4]) for record in frames_read(tmp_path)]
    assert writer.returncode == -9
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > flushed


def test_frames_are_journalled_or_waiting_at_any_moment(tmp_path: Path) -> None:
    journal = journal_opened(tmp_path)
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
    journal = journal_opened(tmp_path)
    stamps = []
    for after_us in (-2_000_000, -8, 8, 5_000_000):
        stamps.append(journal.append(b"x", midnight_us + after_us))
        journal.flush()
    journal.close()
    assert [segment_stamp(path) for path in segment_paths(tmp_path)] == [stamps[0], stamps[2]]
    assert [record.received_us for record in frames_read(tmp_path)] == stamps


def test_a_segment_that_vanishes_before_the_start_is_as_if_it_had_never_been(tmp_path: Path) -> None:
    journal = journal_opened(tmp_path)
    stamp = journal.append(b"x", NOW_US)
    journal.close()
    (tmp_path / f"{stamp + 8:016d}.mcap").symlink_to(tmp_path / "gone")
    again = journal_opened(tmp_path)
    assert again.last_us == stamp
    again.close()


def test_an_empty_file_that_a_broken_disk_left_is_used(tmp_path: Path) -> None:
    journal = journal_opened(tmp_path)
    stamp = journal.append(b"x", NOW_US)
    (tmp_path / f"{stamp:016d}.mcap").touch()
    journal.close()
    assert journal.failing is None
    assert [record.received_us for record in frames_read(tmp_path)] == [stamp]


def test_a_second_writer_is_refused_until_the_first_has_closed(tmp_path: Path) -> None:
    journal = journal_opened(tmp_path)
    with pytest.raises(JournalBusy, match="another feed"):
        journal_opened(tmp_path)
    journal.close()
    journal_opened(tmp_path).close()
