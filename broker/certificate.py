"""The certificate of one day: what the journal says, what the store has, and the verdict. Pure: it counts and writes text.

`broker.verification` fills it. A verdict is one of three: clean; not clean (something is missing, unexplained or altered); not proved
(nothing is wrong, but what would prove it is gone).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

from instruments.domain.instrument import IST
from marketdata.domain.continuity import Row, broken, continuity_text, hops_judge

NAMED = 1000
"""So many findings are named one by one; the rest are counted."""
PRINTED = 20
"""So many of each kind are printed; the rest of those that are named are in the JSON."""

HOPS = (
    ("journal to frames", ("frames_journalled",), ("frames_decoded", "frames_rejected")),
    ("frames to ticks", ("ticks_decoded",), ("ticks_expected", "ticks_unnamed")),
    ("ticks to store", ("ticks_expected",), ("ticks_equal", "ticks_altered", "ticks_missing", "ticks_waiting", "ticks_expired")),
    ("store to ticks", ("ticks_stored",), ("ticks_equal", "ticks_altered", "ticks_extra", "ticks_ahead", "ticks_unproved")),
    (
        "bars to candles",
        ("candles_expected",),
        ("candles_equal", "candles_altered", "candles_missing", "candles_waiting", "candles_later"),
    ),
)
"""What must add up inside a certificate."""
COUNTS = (*dict.fromkeys(name for _, into, out in HOPS for name in (*into, *out)), "chunks_damaged", "frames_waiting")
MEANINGS = {
    "ticks_missing": "missing",
    "ticks_extra": "that no frame explains",
    "ticks_altered": "altered",
    "candles_missing": "candles missing",
    "candles_altered": "candles altered",
    "chunks_damaged": "damaged chunks of the journal",
}
"""The counts that make a day not clean, and their words."""


class Finding(NamedTuple):
    """One tick or candle that is not as the journal says.

    Attributes:
        kind: a name of MEANINGS.
        id: `_id` of the document, as text: an id made by hand may be no number.
        instrument: its id; None where the document names none.
        key: the broker's key, or "".
        time_ms: when it was received (a candle: its start), ms UTC; None where the document does not say.
        detail: what differs, or what it is a copy of.
    """

    kind: str
    id: str
    instrument: int | None
    key: str
    time_ms: int | None
    detail: str


@dataclass(slots=True)
class InstrumentProof:
    """One instrument's day. The hashes are SHA-256 over its documents' BSON in order of id: as the journal gives them, as stored."""

    instrument: int
    key: str = ""
    expected: int = 0
    stored: int = 0
    journal_hash: str = ""
    store_hash: str = ""


@dataclass(slots=True)
class ShardProof:
    """One feed shard's day.

    Attributes:
        segments: names of the journal segments that were read.
        begins_ms: when the oldest segment that is left begins, ms UTC; None without any.
        frames: in the day.
        last_ms: when the newest of them was received, ms UTC; None without any.
        stored_until_ms: the committed position, ms UTC; None where nothing was ever stored.
    """

    shard: int
    segments: list[str]
    begins_ms: int | None
    frames: int = 0
    last_ms: int | None = None
    stored_until_ms: int | None = None


@dataclass(slots=True)
class Certificate:
    """A day's proof.

    Attributes:
        day: of receipt, IST.
        from_ms, until_ms: what was looked at, ms UTC, the second not included.
        counts: by the names of COUNTS.
        findings: the first NAMED, in the order they were found.
        unproved: sentences on what cannot be proved; any of them forbids the verdict "clean".
        notes: sentences that change no verdict.
        gaps: recorded stretches without data.
        continuity: the running feeds' counters, judged.
        seconds: that it took.
    """

    day: date
    from_ms: int
    until_ms: int
    shards: list[ShardProof] = field(default_factory=list)
    instruments: list[InstrumentProof] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(COUNTS, 0)))
    findings: list[Finding] = field(default_factory=list)
    unproved: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    gaps: list[dict[str, Any]] = field(default_factory=list)
    continuity: list[Row] = field(default_factory=list)
    seconds: float = 0.0

    def find(self, finding: Finding) -> None:
        """Count what is wrong, and name it while there is room."""
        self.counts[finding.kind] += 1
        if len(self.findings) < NAMED:
            self.findings.append(finding)

    @property
    def sums(self) -> list[Row]:
        """The hops of this certificate, judged."""
        return hops_judge("day", self.counts, HOPS)

    @property
    def faults(self) -> dict[str, int]:
        """What is wrong, by its words; empty when nothing is."""
        found = {words: self.counts[name] for name, words in MEANINGS.items() if self.counts[name]}
        return found | {f"sums that differ ({row.hop})": 1 for row in broken(self.sums)}

    @property
    def clean(self) -> bool:
        """Whether the day is proved."""
        return not self.faults and not self.unproved

    @property
    def day_hash(self) -> tuple[str, str]:
        """SHA-256 over the instruments' hashes in order of id: as the journal says, as stored."""
        ordered = sorted(self.instruments, key=lambda proof: proof.instrument)
        journal, store = (
            hashlib.sha256("".join(f"{proof.instrument}:{getattr(proof, name)}\n" for proof in ordered).encode()).hexdigest()
            for name in ("journal_hash", "store_hash")
        )
        return journal, store

    @property
    def verdict(self) -> str:
        """One line."""
        counts = self.counts
        waiting = f" Not stored yet: {counts['frames_waiting']} frames." if counts["frames_waiting"] else ""
        if self.faults:
            return "NOT CLEAN: " + ", ".join(f"{number} {words}" for words, number in self.faults.items()) + "." + waiting
        if self.unproved:
            return "NOT PROVED: " + " ".join(self.unproved)
        return (
            f"CLEAN: {counts['ticks_equal']} ticks of {len(self.instruments)} instruments are stored once each "
            f"as {counts['frames_journalled']} journalled frames say." + waiting
        )

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        journal, store = self.day_hash
        return {
            "date": self.day.isoformat(),
            "from_ms": self.from_ms,
            "until_ms": self.until_ms,
            "clean": self.clean,
            "verdict": self.verdict,
            "journal_hash": journal,
            "store_hash": store,
            "counts": dict(self.counts),
            "sums": [row.as_dict() for row in self.sums],
            "shards": [asdict(proof) for proof in self.shards],
            "instruments": [asdict(proof) for proof in self.instruments],
            "findings": [finding._asdict() for finding in self.findings],
            "unproved": self.unproved,
            "notes": self.notes,
            "gaps": self.gaps,
            "continuity": [row.as_dict() for row in self.continuity],
            "seconds": round(self.seconds, 3),
        }

    def text(self) -> str:
        """Return the certificate for a person; the verdict is its last line."""
        journal, store = self.day_hash
        counts = self.counts
        lines = [
            f"Certificate of {self.day:%A} {self.day.isoformat()} (IST, by receipt), {_moment(self.from_ms)} to {_moment(self.until_ms)}",
            "",
            *(line for proof in self.shards for line in _shard_lines(proof)),
            "",
            f"frames   journalled {counts['frames_journalled']}, decoded {counts['frames_decoded']}, rejected {counts['frames_rejected']}, "
            f"damaged chunks {counts['chunks_damaged']}, not stored yet {counts['frames_waiting']}",
            f"ticks    expected {counts['ticks_expected']}, stored {counts['ticks_stored']}, equal {counts['ticks_equal']}, "
            f"missing {counts['ticks_missing']}, extra {counts['ticks_extra']}, altered {counts['ticks_altered']}",
            f"         not stored yet {counts['ticks_waiting']}, expired {counts['ticks_expired']}, unnamed {counts['ticks_unnamed']}, "
            f"stored before their frame could be read {counts['ticks_ahead']}, without a journal {counts['ticks_unproved']}",
            f"candles  expected {counts['candles_expected']} finished minutes, equal {counts['candles_equal']}, "
            f"missing {counts['candles_missing']}, altered {counts['candles_altered']}, not stored yet {counts['candles_waiting']}, "
            f"changed later {counts['candles_later']}",
            "",
            *continuity_text(self.sums),
            *continuity_text(self.continuity),
            "",
            f"instruments {len(self.instruments)}",
            *(
                f"{proof.instrument:>10}  {proof.key:<32} expected {proof.expected:>9}  stored {proof.stored:>9}  "
                f"{proof.journal_hash[:16]}{'' if proof.store_hash == proof.journal_hash else '  STORE ' + proof.store_hash[:16]}"
                for proof in self.instruments
            ),
            "",
            f"gaps {len(self.gaps)}",
            *(f"  shard {gap['shard']}  {gap['from']} to {gap['to'] or 'now'}  {gap['cause']}  {gap['detail']}" for gap in self.gaps),
            *self._finding_lines(),
            *self.notes,
            *(f"cannot be proved: {sentence}" for sentence in self.unproved),
            "",
            f"hash of the day, journal  {journal}",
            f"hash of the day, store    {store}",
            self.verdict,
        ]
        return "\n".join(lines)

    def _finding_lines(self) -> list[str]:
        lines = []
        for kind, words in MEANINGS.items():
            found = [finding for finding in self.findings if finding.kind == kind]
            if found:
                lines += ["", f"{self.counts[kind]} {words}"]
                lines += [
                    f"  {finding.id}  {finding.instrument}  {finding.key}  "
                    f"{'?' if finding.time_ms is None else _moment(finding.time_ms)}  {finding.detail}"
                    for finding in found[:PRINTED]
                ]
                if self.counts[kind] > PRINTED:
                    lines.append(f"  and {self.counts[kind] - PRINTED} more (--json names up to {NAMED} in all)")
        return lines


def _moment(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).astimezone(IST).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def _shard_lines(proof: ShardProof) -> list[str]:
    begins = "no journal" if proof.begins_ms is None else f"journal from {_moment(proof.begins_ms)}"
    last = "" if proof.last_ms is None else f", the last received {_moment(proof.last_ms)}"
    stored = "never" if proof.stored_until_ms is None else _moment(proof.stored_until_ms)
    names = ", ".join(proof.segments)
    return [
        f"shard {proof.shard}: {begins}, {proof.frames} frames{last}; stored until {stored}",
        f"  segments {len(proof.segments)}{': ' + names if names else ''}",
    ]
