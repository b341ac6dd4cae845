"""What the exchange sent and was asked, kept so that anyone can check it without this code.

Append-only files in one folder, integers big-endian:
- `frames.bin`: repeated [uint64 sent_ns][uint32 connection][uint32 length][bytes]: every binary message, before it went to the socket.
- `updates.tsv`: one line per key of each feed frame, tab-separated: number of the frame in frames.bin (from 0), connection,
  broker_ms (`currentTs`), instrument key, BLAKE2b-64 hex digest of the `Feed` (serialised deterministically).
- `requests.jsonl`: one JSON object a line for each request of a client (`sub`, `change_mode`, `unsub`), and for each connection that was
  opened or closed (`open`, `close`): as `Asked` below says.
sent_ns is nanoseconds UTC since 1970. A folder that holds a ledger is continued; a record torn by a kill is cut off first.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from broker.upstox import MarketDataFeedV3_pb2 as pb

HEADER = struct.Struct(">QII")
FRAMES = "frames.bin"
UPDATES = "updates.tsv"
REQUESTS = "requests.jsonl"


class LedgerError(Exception):
    """The ledger cannot be written (disk full, folder gone). Not worth a retry: what was sent since is not on record."""


class SentFrame(NamedTuple):
    """One message. `number` from 0 · `sent_ns` ns UTC · `connection` the exchange's number of the connection."""

    number: int
    sent_ns: int
    connection: int
    content: bytes


class SentUpdate(NamedTuple):
    """One key of one frame. `broker_ms` ms UTC · `digest` as `feed_digest` makes it."""

    frame: int
    connection: int
    broker_ms: int
    key: str
    digest: str


class Asked(msgspec.Struct):
    """One request.

    Attributes:
        at_ns: when it came, ns UTC of the host.
        market_ms: the market's time then, ms UTC.
        connection: the exchange's number of the connection.
        method: sub, change_mode, unsub; open, close.
        mode: as asked, "" where none was.
        keys: as asked.
        refused: those of them that the connection does not have in this mode afterwards, where it asked for that: unknown, past the limit.
        modes: mode → keys that the connection subscribes afterwards.
    """

    at_ns: int
    market_ms: int
    connection: int
    method: str
    mode: str = ""
    keys: list[str] = []
    refused: list[str] = []
    modes: dict[str, int] = {}


_ASKED = msgspec.json.Decoder(Asked)


def feed_digest(feed: pb.Feed) -> str:
    """BLAKE2b-64 of the feed's deterministic serialisation, as 16 hex digits."""
    return hashlib.blake2b(feed.SerializeToString(deterministic=True), digest_size=8).hexdigest()


class Ledger:
    """Writes a ledger. One writer a folder. Nothing is on disk for sure before `flush` or `close`."""

    def __init__(self, folder: Path) -> None:
        """Open or continue the ledger in `folder`, which is made when missing. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        self._count, self.connections = _mend(folder)
        self._frames = (folder / FRAMES).open("ab")
        self._updates = (folder / UPDATES).open("ab")
        self._requests = (folder / REQUESTS).open("ab")

    def record(self, sent_ns: int, connection: int, content: bytes, frame: pb.FeedResponse | None = None) -> None:
        """Write down one message before it is sent.

        Args:
            sent_ns: now, ns UTC.
            connection: number of the connection.
            content: the message.
            frame: the same, decoded, when it carries feeds; each becomes a line of updates.tsv.

        Raises:
            LedgerError: it cannot be written.
        """
        lines = []
        if frame is not None:
            for key in sorted(frame.feeds):
                lines.append(f"{self._count}\t{connection}\t{frame.currentTs}\t{key}\t{feed_digest(frame.feeds[key])}\n")
        try:
            self._frames.write(HEADER.pack(sent_ns, connection, len(content)) + content)
            self._updates.write("".join(lines).encode())
        except OSError as error:
            raise LedgerError(f"the ledger cannot be written: {error}") from error
        self._count += 1

    def ask(self, asked: Asked) -> None:
        """Write down one request. Raises LedgerError."""
        try:
            self._requests.write(msgspec.json.encode(asked) + b"\n")
        except OSError as error:
            raise LedgerError(f"the ledger cannot be written: {error}") from error

    def flush(self) -> None:
        """Hand everything to the operating system, so that a reader sees it."""
        for file in (self._frames, self._updates, self._requests):
            file.flush()

    def close(self) -> None:
        """Flush and close; the ledger cannot be used after that."""
        for file in (self._frames, self._updates, self._requests):
            file.close()


class LedgerReader:
    """Reads a ledger, also while it is written (it ends at the last whole record)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def frames(self) -> Iterator[SentFrame]:
        """Every message, in the order it was sent."""
        with (self._folder / FRAMES).open("rb") as file:
            number = 0
            while len(header := file.read(HEADER.size)) == HEADER.size:
                sent_ns, connection, length = HEADER.unpack(header)
                content = file.read(length)
                if len(content) < length:
                    return
                yield SentFrame(number, sent_ns, connection, content)
                number += 1

    def updates(self) -> Iterator[SentUpdate]:
        """Every update, in the order it was sent; keys of one frame in byte order."""
        with (self._folder / UPDATES).open(encoding="utf-8", newline="\n") as file:
            for line in file:
                if not line.endswith("\n"):
                    return
                frame, connection, broker_ms, key, digest = line[:-1].split("\t")
                yield SentUpdate(int(frame), int(connection), int(broker_ms), key, digest)

    def requests(self) -> Iterator[Asked]:
        """Every request, in the order it came."""
        with (self._folder / REQUESTS).open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    return
                yield _ASKED.decode(line)

    def counts(self) -> Counter[str]:
        """Instrument key → updates sent, over all connections."""
        return Counter(update.key for update in self.updates())


def _mend(folder: Path) -> tuple[int, int]:
    """Cut torn records off; return the number of whole frames and the highest connection number."""
    frames, updates, requests = folder / FRAMES, folder / UPDATES, folder / REQUESTS
    count = connections = size = 0
    if frames.exists():
        for frame in LedgerReader(folder).frames():
            count, connections, size = frame.number + 1, max(connections, frame.connection), size + HEADER.size + len(frame.content)
        with frames.open("r+b") as file:
            file.truncate(size)
    if updates.exists():
        lines = updates.read_bytes().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n") and int(line.split(b"\t")[0]) < count]
        updates.write_bytes(b"".join(whole))
    if requests.exists():
        requests.write_bytes(b"".join(line for line in requests.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")))
    return count, connections
