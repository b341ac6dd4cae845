"""Rows of series as JSON, NDJSON or CSV. Encodes; knows no view and no database."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from rest_framework.renderers import BaseRenderer

from accounts.api.rendering import plain

_encoder = msgspec.json.Encoder(enc_hook=plain)

Row = dict[str, Any]


class _TextRenderer(BaseRenderer):
    """For negotiation, and for errors; the rows themselves are written by the functions below."""

    charset = "utf-8"

    def render(self, data: Any, accepted_media_type: str | None = None, renderer_context: Mapping[str, Any] | None = None) -> bytes:
        return _encoder.encode(data)


class NDJSONRenderer(_TextRenderer):
    """One JSON object a line."""

    media_type = "application/x-ndjson"
    format = "ndjson"


class CSVRenderer(_TextRenderer):
    """Comma-separated, with a line of names."""

    media_type = "text/csv"
    format = "csv"


def json_rows(rows: Iterable[Row]) -> bytes:
    """Return rows as the inside of a JSON array, without its brackets."""
    return b",".join(map(_encoder.encode, rows))


def ndjson_rows(rows: Iterable[Row]) -> bytes:
    """Return rows as lines of JSON."""
    return _encoder.encode_lines(rows)


def csv_rows(rows: Iterable[Row], columns: Sequence[str], *, header: bool) -> bytes:
    """Return rows as CSV. What is not known is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    if header:
        writer.writerow(columns)
    writer.writerows([row.get(column) for column in columns] for row in rows)
    return text.getvalue().encode()
