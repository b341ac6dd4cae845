"""Rows as text."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from bson.int64 import Int64
from hypothesis import given
from hypothesis import strategies as st

from marketdata.api.formats import csv_rows, json_rows, ndjson_rows

WIDE = 2**40
ROWS: list[dict[str, Any]] = [
    {"id": "1", "price": 100.05, "name": 'a "quoted", name'},
    {"id": "2", "price": None, "name": "é"},
    {"id": "3", "price": 5, "name": WIDE},
]


def test_mongos_wide_integers_are_integers() -> None:
    assert json_rows([{"v": Int64(WIDE)}]) == b'{"v":1099511627776}'
    assert ndjson_rows([{"v": Int64(WIDE)}]) == b'{"v":1099511627776}\n'
    assert csv_rows([{"v": Int64(WIDE)}], ("v",), header=False) == b"1099511627776\r\n"


def test_json_rows_are_the_inside_of_an_array() -> None:
    assert json.loads(b"[" + json_rows(ROWS) + b"]") == ROWS
    assert json_rows([]) == b""


def test_ndjson_has_a_line_for_each_row() -> None:
    assert [json.loads(line) for line in ndjson_rows(ROWS).splitlines()] == ROWS
    assert ndjson_rows([]) == b""


def test_csv_names_its_columns_once_and_leaves_the_unknown_empty() -> None:
    text = csv_rows(ROWS, ("id", "price", "name"), header=True) + csv_rows(ROWS[:1], ("id", "price", "name"), header=False)
    first = '1,100.05,"a ""quoted"", name"\r\n'
    assert text.decode() == f"id,price,name\r\n{first}2,,é\r\n3,5,1099511627776\r\n{first}"


@given(st.lists(st.fixed_dictionaries({"a": st.floats(allow_nan=False, allow_infinity=False), "b": st.integers(-(2**53), 2**53)})))
def test_numbers_come_back_exactly_from_every_format(rows: list[dict[str, Any]]) -> None:
    assert json.loads(b"[" + json_rows(rows) + b"]") == rows
    assert [json.loads(line) for line in ndjson_rows(rows).splitlines()] == rows
    read = list(csv.DictReader(io.StringIO(csv_rows(rows, ("a", "b"), header=True).decode())))
    assert [{"a": float(row["a"]), "b": int(row["b"])} for row in read] == rows
