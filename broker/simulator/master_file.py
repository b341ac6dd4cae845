"""The instrument master as a file: gzipped JSON with an ETag, made once and kept."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from broker.simulator.captures import GZIP_MAGIC
from broker.simulator.market_port import Market

FOLDER = "/market-quote/instruments/exchange"
"""Source: FACTS §4."""


class MasterError(Exception):
    """A master file that cannot be used; the message says why. Not worth a retry."""


class _Packed(NamedTuple):
    content: bytes
    etag: str


def read_master(path: Path) -> list[dict[str, Any]]:
    """Read a master as the broker publishes it: a JSON array of rows, gzipped or not.

    Raises:
        MasterError: the file is missing, damaged or no such array.
    """
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if content[:2] == GZIP_MAGIC else content
        rows: list[dict[str, Any]] = msgspec.json.decode(content, type=list[dict[str, Any]])
    except (OSError, EOFError, msgspec.DecodeError, zlib.error) as error:
        raise MasterError(f"{path} is not an instrument master: {error}") from error
    if not rows or not all("instrument_key" in row for row in rows):
        raise MasterError(f"{path} is not an instrument master: it has no rows, or rows without instrument_key")
    return rows


def pack(rows: list[dict[str, Any]]) -> _Packed:
    """Rows as the file's bytes; the same rows always give the same bytes."""
    content = gzip.compress(msgspec.json.encode(rows), compresslevel=6, mtime=0)
    return _Packed(content, f'"{hashlib.blake2b(content, digest_size=16).hexdigest()}"')


def routes(market: Market, requests: Counter[str]) -> list[BaseRoute]:
    """NSE.json.gz and complete.json.gz; neither asks for a token. They are packed again when the market has other rows."""
    return [Route(f"{FOLDER}/{name}.json.gz", _file(market, requests, name)) for name in ("NSE", "complete")]


def _file(market: Market, requests: Counter[str], name: str) -> Callable[[Request], Awaitable[Response]]:
    kept: list[tuple[list[dict[str, Any]], _Packed]] = []
    lock = asyncio.Lock()

    async def file(request: Request) -> Response:
        requests[f"{name}.json.gz"] += 1
        rows = market.master_rows()
        async with lock:
            if not kept or kept[0][0] != rows:
                chosen = [row for row in rows if name == "complete" or row.get("exchange") == name]
                kept[:] = [(rows, await asyncio.to_thread(pack, chosen))]
        content, etag = kept[0][1]
        headers = {"ETag": etag, "Cache-Control": "public, max-age=60"}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type="application/gzip", headers=headers)

    return file
