"""Reads the broker's instrument master from a file or over HTTP, in bounded time and memory. What it says is `master`'s business."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

import httpx

from broker.upstox.master import MasterRejected, unpack_master

CHUNK_BYTES = 1 << 20
PACKED_BYTES_MAX = 128 * 1024 * 1024
"""Largest download in bytes; the largest master seen has 3.9 MB."""
TIMEOUT = httpx.Timeout(30.0, connect=10.0)
"""Seconds without a byte after which a server counts as dead."""


class MasterUnavailable(Exception):
    """The master could not be read at all: no such file, no connection, an HTTP error. Worth a retry; the message says what happened."""


class Fetched(NamedTuple):
    """A master as read. `text`: unpacked JSON, None when the server says that it is the version we know. `etag`: "" where there is none."""

    text: bytes | None
    etag: str


def is_url(source: str) -> bool:
    """True for http and https addresses; everything else is a file."""
    return urlsplit(source).scheme in ("http", "https")


def shown(source: str) -> str:
    """A source as it may be shown and kept: without user, password and query."""
    if not is_url(source):
        return source
    parts = urlsplit(source)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def fetch_master(source: str, *, etag: str = "") -> Fetched:
    """Read and unpack a master.

    Args:
        source: http(s) address, or a file's path.
        etag: of the version we have; the server then need not send it again.

    Raises:
        MasterUnavailable: it could not be read; worth a retry.
        MasterRejected: it is not a gzip file, damaged or cut off.
    """
    if not is_url(source):
        return Fetched(unpack_master(_file_chunks(Path(source).expanduser())), "")
    headers = {"Accept-Encoding": "identity", **({"If-None-Match": etag} if etag else {})}
    try:
        with httpx.stream("GET", source, headers=headers, timeout=TIMEOUT, follow_redirects=True) as response:
            if response.status_code == httpx.codes.NOT_MODIFIED and etag:
                return Fetched(None, etag)
            if response.status_code != httpx.codes.OK:
                raise MasterUnavailable(f"{shown(source)} answered HTTP {response.status_code}")
            return Fetched(unpack_master(_bounded(response.iter_raw(CHUNK_BYTES))), response.headers.get("ETag", ""))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise MasterUnavailable(f"{shown(source)} could not be read: {error or type(error).__name__}") from error


def _file_chunks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise MasterUnavailable(f"{path} could not be read: {error.strerror or error}") from error


def _bounded(chunks: Iterator[bytes]) -> Iterator[bytes]:
    total = 0
    for chunk in chunks:
        total += len(chunk)
        if total > PACKED_BYTES_MAX:
            raise MasterRejected(f"the instrument master is larger than {PACKED_BYTES_MAX} bytes")
        yield chunk
