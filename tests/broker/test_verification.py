"""The proof of a day: what is right is clean; what is missing, doubled, altered or gone is found and named."""

from __future__ import annotations

import json
import time
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from bson.datetime_ms import DatetimeMS

from broker.certificate import Certificate
from broker.journal import Journal
from broker.journal_reading import Record
from broker.journal_segments import segment_paths
from broker.position import position_write
from broker.store_writer import StoreWriter
from broker.upstox.decode import decode
from broker.verification import _Verification, day_verify
from instruments.domain.instrument import IST
from marketdata import live_state, store
from marketdata.calendar import sessions_record
from marketdata.domain.candle import day_start_ms
from marketdata.domain.session import Hours
from marketdata.domain.tick import tick_id
from marketdata.models import Gap
from tests.marketdata.api.fixtures import publish_latest, status_of
from tests.payloads import frame, option_feed

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("valkey")]
DAY = date(2026, 11, 20)
OPEN_US = int(datetime(2026, 11, 20, 9, 15, tzinfo=IST).timestamp()) * 1_000_000
NEXT_DAY_MS = OPEN_US // 1000 + 86_400_000
IDS = {"NSE_FO|A": 1, "NSE_FO|B": 2}
BROKER_MS = 1_769_160_569_400
EPOCH_2020_US = 1_577_836_800_000_000


class Day:
    """A day's journal of one shard, and the store its writer filled."""

    def __init__(self, root: Path, shard: int = 0) -> None:
        self.root, self.shard, self.folder = root, shard, root / str(shard)
        self.journal = Journal(self.folder, shard=shard, segment_bytes=1 << 30)
        self.journal.open()
        self.journal.instruments_add(IDS, OPEN_US)
        self.stamps: list[int] = []

    def receive(self, number: int, *, keys: tuple[str, ...] = tuple(IDS), at_us: int = 0) -> int:
        """Journal one frame, a second after the one before."""
        data = frame({key: option_feed(volume=75 * (number + 1)) for key in keys}, broker_ms=BROKER_MS + number)
        return self.take(data, at_us or OPEN_US + number * 1_000_000)

    def take(self, data: bytes, at_us: int) -> int:
        self.stamps.append(self.journal.append(data, at_us))
        return self.stamps[-1]

    def store(self) -> None:
        """Close the journal and let the writer store all of it."""
        self.journal.close()
        writer = StoreWriter(
            self.folder,
            shard=self.shard,
            journal_last_us=self.stamps[-1],
            name_unknown=lambda keys: {},
            batch_ticks=50,
            batch_ms=20,
            queue_ticks=10_000,
        )
        writer.start()
        assert writer.stop(30)

    def verify(self, *, day: date = DAY, now_ms: int = NEXT_DAY_MS, days: int = 3650, shard: int | None = None) -> Certificate:
        return day_verify(day, journal=self.root, shard=shard, retention_days=days, now_ms=now_ms)


@pytest.fixture
def clock_day(tmp_path: Path) -> Day:
    """Ten frames of two instruments, journalled and stored."""
    day = Day(tmp_path)
    for number in range(10):
        day.receive(number)
    day.store()
    return day


def counts_of(certificate: Certificate) -> dict[str, int]:
    return {name: number for name, number in certificate.counts.items() if number}


def assert_it_adds_up(certificate: Certificate) -> None:
    assert [row.holds for row in certificate.sums] == [True] * len(certificate.sums), certificate.text()


def test_a_day_that_is_stored_as_it_was_journalled_is_clean(clock_day: Day) -> None:
    certificate = clock_day.verify()
    assert certificate.clean, certificate.text()
    assert_it_adds_up(certificate)
    assert counts_of(certificate) == {
        "frames_journalled": 10,
        "frames_decoded": 10,
        "ticks_decoded": 20,
        "ticks_expected": 20,
        "ticks_equal": 20,
        "ticks_stored": 20,
        "candles_expected": 2,
        "candles_equal": 2,
    }
    assert [(proof.instrument, proof.key, proof.expected, proof.stored) for proof in certificate.instruments] == [
        (1, "NSE_FO|A", 10, 10),
        (2, "NSE_FO|B", 10, 10),
    ]
    assert certificate.day_hash[0] == certificate.day_hash[1]
    assert certificate.verdict == "CLEAN: 20 ticks of 2 instruments are stored once each as 10 journalled frames say."
    assert [proof.segments for proof in certificate.shards] == [[path.name for path in segment_paths(clock_day.folder)]]


def test_the_hash_of_a_day_is_the_same_each_time_and_another_when_one_figure_differs(clock_day: Day) -> None:
    first = clock_day.verify().day_hash
    assert clock_day.verify().day_hash == first
    store.ticks_collection().update_one({"i": 1}, {"$set": {"p": 101.55}})
    journal, stored = clock_day.verify().day_hash
    assert journal == first[0]
    assert stored != journal


def test_a_deleted_tick_is_named(clock_day: Day) -> None:
    gone = tick_id(clock_day.stamps[4], 1)
    assert store.ticks_collection().delete_one({"_id": gone}).deleted_count == 1
    certificate = clock_day.verify()
    assert_it_adds_up(certificate)
    (finding,) = certificate.findings
    assert finding[:5] == ("ticks_missing", str(gone), 2, "NSE_FO|B", OPEN_US // 1000 + 4000)
    assert certificate.verdict == "NOT CLEAN: 1 missing."
    assert str(gone) in certificate.text()
    assert [(proof.expected, proof.stored) for proof in certificate.instruments] == [(10, 10), (10, 9)]


@pytest.mark.parametrize("distance", [2, 1 << 13, 1 << 16, 5, -(1 << 50), 1 << 50], ids=str)
def test_a_tick_copied_by_hand_is_named_with_what_it_is_a_copy_of(clock_day: Day, distance: int) -> None:
    original = tick_id(clock_day.stamps[4], 0)
    document = store.ticks_collection().find_one({"_id": original})
    assert document is not None
    store.ticks_collection().insert_one({**document, "_id": original + distance})
    certificate = clock_day.verify()
    assert_it_adds_up(certificate)
    (finding,) = certificate.findings
    assert finding[:4] == ("ticks_extra", str(original + distance), 1, "NSE_FO|A")
    assert finding.detail == f"a copy of {original}"
    assert certificate.verdict == "NOT CLEAN: 1 that no frame explains."


def test_a_tick_copied_under_an_id_that_is_no_number_is_named(clock_day: Day) -> None:
    document = store.ticks_collection().find_one({"i": 2}, {"_id": 0})
    assert document is not None
    made = store.ticks_collection().insert_one(document).inserted_id
    (finding,) = clock_day.verify().findings
    assert finding[:4] == ("ticks_extra", str(made), 2, "NSE_FO|B")
    assert finding.detail.startswith("a copy of ")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"$set": {"p": 101.55}}, "p: journal 101.5, store 101.55"),
        ({"$unset": {"oi": 1}}, "oi: journal 12000.0, store nothing"),
        ({"$set": {"note": "x"}}, "note: journal nothing, store 'x'"),
        ({"$set": {"i": 9}}, "i: journal 1, store 9"),
        ({"$set": {"t": DatetimeMS(BROKER_MS)}}, f"t: journal {BROKER_MS + 4}, store {BROKER_MS}"),
        ({"$set": {"r": DatetimeMS(5)}}, f"r: journal {OPEN_US // 1000 + 4000}, store 5"),
    ],
    ids=["a price", "a field taken away", "a field added", "the instrument", "the broker's time", "the time of receipt"],
)
def test_an_altered_tick_is_named_field_by_field(clock_day: Day, change: dict[str, Any], told: str) -> None:
    identifier = tick_id(clock_day.stamps[4], 0)
    assert store.ticks_collection().update_one({"_id": identifier}, change).modified_count == 1
    certificate = clock_day.verify()
    assert_it_adds_up(certificate)
    (finding,) = certificate.findings
    assert finding[:4] == ("ticks_altered", str(identifier), 1, "NSE_FO|A")
    assert finding.detail == told
    assert certificate.verdict == "NOT CLEAN: 1 altered."


def test_equal_values_in_another_bson_type_or_order_are_no_alteration(clock_day: Day) -> None:
    document = store.ticks_collection().find_one({"_id": tick_id(clock_day.stamps[4], 0)})
    assert document is not None
    turned = {"_id": document["_id"]} | dict(reversed(document.items())) | {"q": float(document["q"])}
    store.ticks_collection().replace_one({"_id": document["_id"]}, turned)
    certificate = clock_day.verify()
    assert certificate.clean, certificate.text()
    assert certificate.day_hash[0] == certificate.day_hash[1]


def test_several_faults_at_once_are_told_apart(clock_day: Day) -> None:
    ticks = store.ticks_collection()
    ticks.delete_one({"_id": tick_id(clock_day.stamps[2], 0)})
    ticks.update_one({"_id": tick_id(clock_day.stamps[2], 1)}, {"$set": {"p": 1.0}})
    document = ticks.find_one({"_id": tick_id(clock_day.stamps[9], 1)})
    assert document is not None
    ticks.insert_one({**document, "_id": document["_id"] + 1})
    certificate = clock_day.verify()
    assert_it_adds_up(certificate)
    assert certificate.verdict == "NOT CLEAN: 1 missing, 1 that no frame explains, 1 altered."
    assert {finding.kind for finding in certificate.findings} == {"ticks_missing", "ticks_extra", "ticks_altered"}


def test_what_the_position_has_not_reached_is_waiting_and_not_lost(clock_day: Day) -> None:
    ticks = store.ticks_collection()
    ticks.delete_many({"_id": {"$gte": tick_id(clock_day.stamps[8], 0)}})
    store.collection("broker_feedposition").update_one({}, {"$set": {"received_us": clock_day.stamps[7]}})
    while_it_is_written = clock_day.verify(now_ms=OPEN_US // 1000 + 10_000)
    assert_it_adds_up(while_it_is_written)
    assert while_it_is_written.clean
    assert (while_it_is_written.counts["frames_waiting"], while_it_is_written.counts["ticks_waiting"]) == (2, 4)
    assert while_it_is_written.verdict.endswith("Not stored yet: 2 frames.")
    assert clock_day.verify().verdict == "NOT PROVED: 2 frames are not stored yet."


def test_an_empty_database_is_never_clean(clock_day: Day) -> None:
    database = store.ticks_collection().database
    for name in ("marketdata_markettick", "marketdata_ohlc", "broker_feedposition"):
        assert database[name].delete_many({}).deleted_count > 0
    assert clock_day.verify().verdict == "NOT PROVED: 10 frames are not stored yet."


def test_ticks_past_their_retention_are_said_to_be_gone_and_not_passed(clock_day: Day) -> None:
    store.ticks_collection().delete_many({})
    certificate = clock_day.verify(days=3, now_ms=NEXT_DAY_MS + 5 * 86_400_000)
    assert_it_adds_up(certificate)
    assert not certificate.clean
    assert certificate.counts["ticks_expired"] == 20
    assert certificate.verdict == "NOT PROVED: 20 ticks have passed their retention and are gone from the store."
    assert clock_day.verify(days=30).verdict == "NOT CLEAN: 20 missing."


def test_ticks_whose_segment_was_removed_are_said_to_be_without_proof(clock_day: Day) -> None:
    (first,) = segment_paths(clock_day.folder)
    later = Day(clock_day.root)
    later.receive(100)
    later.store()
    first.unlink()
    certificate = later.verify()
    assert_it_adds_up(certificate)
    assert certificate.verdict == "NOT PROVED: 20 stored ticks: shard 0 has no journal segment of then."
    assert certificate.counts["ticks_equal"] == 2


def test_a_segment_that_was_removed_between_two_others_is_no_fault_of_the_store(clock_day: Day) -> None:
    for first in (20, 30):
        run = Day(clock_day.root)
        for number in range(first, first + 3):
            run.receive(number)
        run.store()
    removed = segment_paths(clock_day.folder)[1]
    removed.unlink()
    certificate = run.verify()
    assert_it_adds_up(certificate)
    assert certificate.verdict == "NOT PROVED: 6 stored ticks: shard 0 has no journal segment of then."
    assert certificate.counts["ticks_equal"] == 26
    store.ticks_collection().insert_one({"_id": tick_id(clock_day.stamps[5] + 8, 0), "i": 1})  # inside of the first segment
    assert run.verify().verdict == "NOT CLEAN: 1 that no frame explains."


def test_a_day_without_journal_and_ticks_is_not_passed(clock_day: Day, tmp_path: Path) -> None:
    assert clock_day.verify(day=date(2026, 11, 12)).verdict == "NOT PROVED: Shard 0 has no journal of this day."
    empty = day_verify(DAY, journal=tmp_path / "nothing", retention_days=7, now_ms=NEXT_DAY_MS)
    assert "There is no journal here." in empty.unproved
    assert not empty.clean


def test_a_holiday_with_a_running_feed_is_clean_and_empty(clock_day: Day) -> None:
    certificate = clock_day.verify(day=date(2026, 11, 21), now_ms=NEXT_DAY_MS + 2 * 86_400_000)
    assert certificate.clean, certificate.text()
    assert counts_of(certificate) == {}


def test_days_are_parted_at_midnight_in_india_by_the_time_of_receipt(tmp_path: Path) -> None:
    midnight_us = int(datetime(2026, 11, 21, tzinfo=IST).timestamp()) * 1_000_000
    day = Day(tmp_path)
    for number, at_us in enumerate((midnight_us - 1_000_000, midnight_us - 8, midnight_us, midnight_us + 1_000_000)):
        day.receive(number, at_us=at_us)
    day.store()
    later_ms = NEXT_DAY_MS + 2 * 86_400_000
    before, after = day.verify(now_ms=later_ms), day.verify(day=date(2026, 11, 21), now_ms=later_ms)
    assert before.clean, before.text()
    assert after.clean, after.text()
    assert before.counts["frames_journalled"] == after.counts["frames_journalled"] == 2
    assert before.counts["ticks_stored"] == after.counts["ticks_stored"] == 4


def test_rejected_frames_and_keys_that_are_no_keys_are_counted_and_wrong_nowhere(tmp_path: Path) -> None:
    day = Day(tmp_path)
    day.receive(0)
    day.take(b"\xff\xff garbage", OPEN_US + 500_000)
    day.receive(1, keys=("NSE_FO|A", "no key"))
    day.store()
    certificate = day.verify()
    assert certificate.clean, certificate.text()
    assert (certificate.counts["frames_rejected"], certificate.counts["ticks_unnamed"]) == (1, 1)
    assert certificate.counts["ticks_decoded"] == 4
    assert_it_adds_up(certificate)


def test_a_damaged_chunk_forbids_a_clean_certificate(clock_day: Day) -> None:
    (path,) = segment_paths(clock_day.folder)
    content = bytearray(path.read_bytes())
    compressed = content.index(b"\x28\xb5\x2f\xfd")  # zstd's magic number: the chunk's records
    content[compressed + 40] ^= 0xFF
    path.write_bytes(bytes(content))
    certificate = clock_day.verify()
    assert certificate.counts["chunks_damaged"] == 1
    assert "1 damaged chunks of the journal" in certificate.verdict
    assert certificate.counts["ticks_extra"] == 20


def test_a_frame_that_ends_the_decoder_with_any_error_is_rejected_as_the_stores_writer_does(tmp_path: Path) -> None:
    day = Day(tmp_path)
    day.receive(0)
    day.journal.instruments_add({"NSE_FO|A": []}, OPEN_US + 1)  # type: ignore[dict-item]  # no id: the decoder ends with a TypeError
    day.take(frame({"NSE_FO|A": option_feed(volume=75)}, broker_ms=BROKER_MS), OPEN_US + 500_000)
    day.journal.instruments_add(IDS, OPEN_US + 2)
    day.receive(2)
    day.store()
    certificate = day.verify()
    assert certificate.clean, certificate.text()
    assert (certificate.counts["frames_rejected"], certificate.counts["frames_decoded"]) == (1, 2)


@pytest.mark.parametrize("record", ["length", "opcode", "chunk", "footer"])
def test_a_flipped_byte_in_the_journals_framing_forbids_a_clean_certificate(clock_day: Day, record: str) -> None:
    (path,) = segment_paths(clock_day.folder)
    content = bytearray(path.read_bytes())
    chunk = content.index(b"\x04\x00\x00\x00zstd") - 37  # Source: mcap.dev/spec: opcode, length, times, size, CRC, compression
    content[{"length": chunk + 1, "opcode": chunk, "chunk": chunk + 12, "footer": len(content) - 20}[record]] ^= 0x10
    path.write_bytes(bytes(content))
    certificate = clock_day.verify()
    assert certificate.counts["chunks_damaged"] == 1
    assert certificate.verdict.startswith("NOT CLEAN: ")
    assert "1 damaged chunks of the journal" in certificate.verdict


def test_a_segment_that_vanishes_while_it_is_read_forbids_a_clean_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for first in (0, 700):  # more than one read of the journal
        day = Day(tmp_path)
        for number in range(first, first + 700):
            day.receive(number)
            if number % 100 == 0:
                day.journal.flush()
        day.store()
    first_segment = segment_paths(day.folder)[0]

    def remove(*_: object) -> None:
        first_segment.unlink(missing_ok=True)

    verification = _Verification(DAY, tmp_path, None, 3650, NEXT_DAY_MS, None)
    monkeypatch.setattr(verification, "_tell", remove)  # called after the first frame
    certificate = verification.run()
    assert not certificate.clean
    assert "1 segments of the journal were removed while they were read." in certificate.unproved


def test_a_segment_without_a_footer_is_noted_and_proved_as_far_as_it_goes(clock_day: Day) -> None:
    (path,) = segment_paths(clock_day.folder)
    later = Day(clock_day.root)
    later.receive(100)
    later.store()
    content = path.read_bytes()
    path.write_bytes(content[:-300])  # within the summary
    certificate = later.verify()
    assert certificate.clean, certificate.text()
    assert certificate.notes == ["1 segments end without a footer: the feed was killed there, or the disk refused."]


def test_a_finished_minute_that_is_missing_or_altered_is_named(clock_day: Day) -> None:
    candles = store.candles_collection()
    missing, altered = candles.find({"n": "1m"}).sort("_id", 1)
    candles.delete_one({"_id": missing["_id"]})
    candles.update_one({"_id": altered["_id"]}, {"$set": {"h": 103.0}})
    certificate = clock_day.verify()
    assert_it_adds_up(certificate)
    assert {(finding.kind, finding.id, finding.key, finding.detail) for finding in certificate.findings} == {
        ("candles_missing", str(missing["_id"]), "NSE_FO|A", ""),
        ("candles_altered", str(altered["_id"]), "NSE_FO|B", "h: journal 102.0, store 103.0"),
    }
    assert certificate.verdict == "NOT CLEAN: 1 candles missing, 1 candles altered."


def test_a_bar_outside_the_session_is_no_candle_and_none_is_missed(clock_day: Day) -> None:
    store.candles_collection().delete_many({})
    assert clock_day.verify().counts["candles_missing"] == 2
    bar_ms = 1_769_160_480_000
    sessions_record([Hours("NFO", day_start_ms(bar_ms), bar_ms - 3_600_000, bar_ms)])
    certificate = clock_day.verify()
    assert_it_adds_up(certificate)
    assert certificate.findings == []
    assert certificate.counts["candles_expected"] == 0


def test_a_minute_that_is_less_certain_than_the_broker_made_it_is_altered(clock_day: Day) -> None:
    store.candles_collection().update_one({"i": 1}, {"$set": {"s": "closed"}})
    (finding,) = clock_day.verify().findings
    assert finding.detail == "s: journal 'confirmed', store 'closed'"


def test_a_minute_that_was_corrected_on_a_later_day_is_no_fault(clock_day: Day) -> None:
    later = datetime.fromtimestamp(NEXT_DAY_MS / 1000 + 86_400, UTC)
    store.candles_collection().update_one({"i": 1}, {"$set": {"c": 5.0, "u": later, "rev": 1}})
    certificate = clock_day.verify()
    assert certificate.clean
    assert (certificate.counts["candles_later"], certificate.counts["candles_equal"]) == (1, 1)


def test_two_shards_are_proved_together_and_each_alone(tmp_path: Path) -> None:
    days = [Day(tmp_path, shard) for shard in (0, 1)]
    for number in range(10):
        for day in days:
            day.receive(number, keys=(tuple(IDS)[day.shard],))
    for day in days:
        day.store()
    together = days[0].verify()
    assert together.clean, together.text()
    assert together.counts["ticks_equal"] == 20
    assert [proof.frames for proof in together.shards] == [10, 10]
    assert days[0].verify(shard=1).counts["ticks_equal"] == 10
    store.ticks_collection().delete_one({"_id": tick_id(days[1].stamps[3], 0)})
    assert days[0].verify(shard=0).clean
    assert days[0].verify(shard=1).verdict == "NOT CLEAN: 1 missing."


def test_ticks_of_a_shard_whose_journal_lies_elsewhere_are_not_passed(clock_day: Day, tmp_path: Path) -> None:
    other = Day(tmp_path / "another machine", 1)
    other.receive(50)
    other.store()
    certificate = clock_day.verify()
    assert certificate.verdict == "NOT PROVED: 2 stored ticks: the journal of shard 1 is not here."
    assert clock_day.verify(shard=0).clean


def test_a_running_day_is_proved_as_far_as_it_has_come(tmp_path: Path) -> None:
    now_us = time.time_ns() // 1000
    today = datetime.fromtimestamp(now_us / 1_000_000, IST).date()
    if datetime.fromtimestamp(now_us / 1_000_000 - 3, IST).date() != today:
        pytest.skip("India's day has just begun")
    day = Day(tmp_path)
    stamp = day.receive(0, at_us=now_us - 3_000_000)
    day.journal.flush()
    data = frame({"NSE_FO|A": option_feed()})
    unread = day.take(data, now_us - 2_000_000)  # appended and stored, not yet on the disk
    for record_stamp, content in ((stamp, frame({key: option_feed(volume=75) for key in IDS}, broker_ms=BROKER_MS)), (unread, data)):
        decoded = decode(content, IDS)
        record = Record(record_stamp, content, IDS)
        store.ticks_write([store.tick_bson(tick, record.received_us, decoded.broker_ms, 1) for tick in decoded.ticks])
        store.candles_write(decoded.bars)
    position_write(0, stamp)
    publish_latest([], status_of(now_ms=now_us // 1000, frames_received_total=2, frames_decoded_total=1, frames_rejected_total=1))
    certificate = day.verify(day=today, now_ms=now_us // 1000)
    day.journal.close()
    assert certificate.clean, certificate.text()
    assert (certificate.counts["ticks_equal"], certificate.counts["ticks_ahead"]) == (2, 1)
    assert certificate.until_ms == now_us // 1000
    assert {row.hop: row.holds for row in certificate.continuity}["feed 0: socket to decoder"] is True


def test_gaps_of_the_day_are_listed(clock_day: Day) -> None:
    opened = datetime.fromtimestamp(OPEN_US / 1_000_000, UTC)
    Gap.objects.create(shard=0, start=opened, end=opened.replace(second=30), cause=Gap.Cause.DISCONNECTED, detail="cut")
    Gap.objects.create(shard=0, start=opened.replace(year=2025), end=opened.replace(year=2025, second=9), cause=Gap.Cause.STALE)
    certificate = clock_day.verify()
    assert [(gap["cause"], gap["detail"]) for gap in certificate.gaps] == [("disconnected", "cut")]
    assert certificate.clean
    assert "gaps 1" in certificate.text()


def test_verifying_changes_nothing(clock_day: Day) -> None:
    def everything() -> list[list[dict[str, Any]]]:
        database = store.ticks_collection().database
        return [list(database[name].find({})) for name in sorted(database.list_collection_names())]

    before = everything()
    clock_day.verify()
    assert everything() == before


def test_a_certificate_is_plain_json(clock_day: Day) -> None:
    store.ticks_collection().delete_one({"i": 2})
    certificate = clock_day.verify()
    told = json.loads(json.dumps(certificate.as_dict()))
    assert told["clean"] is False
    assert told["verdict"] == certificate.verdict == certificate.text().splitlines()[-1]
    assert [finding["kind"] for finding in told["findings"]] == ["ticks_missing"]
    assert told["counts"]["ticks_stored"] == 19
    assert (told["journal_hash"], told["store_hash"]) == certificate.day_hash


def test_redis_away_costs_a_note_only(clock_day: Day, monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    live_state._client.cache_clear()
    certificate = clock_day.verify(now_ms=OPEN_US // 1000 + 3_600_000)
    assert certificate.clean, certificate.text()
    assert certificate.notes == ["The running processes' counters cannot be read: Redis does not answer."]
