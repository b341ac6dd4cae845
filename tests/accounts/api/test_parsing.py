"""JSON bodies."""

from __future__ import annotations

import io

import pytest
from rest_framework.exceptions import ParseError

from accounts.api.parsing import StrictJSONParser


def test_json_is_read() -> None:
    assert StrictJSONParser().parse(io.BytesIO('{"a": [1, null, "é"]}'.encode())) == {"a": [1, None, "é"]}


NONSENSE = [b"", b"{", b"[" * 100_000, b'{"a":' * 100_000, b"\xff", b"NaN", b"{'a': 1}", b'{"a": 1} x', b'"\xed\xa0\x80"']


@pytest.mark.parametrize("body", NONSENSE)
def test_nonsense_is_the_clients_error(body: bytes) -> None:
    with pytest.raises(ParseError, match="Not JSON"):
        StrictJSONParser().parse(io.BytesIO(body))
