"""Answers as bytes."""

from __future__ import annotations

import json

import pytest
from bson.int64 import Int64
from django.utils.translation import gettext_lazy
from rest_framework.serializers import Serializer
from rest_framework.utils.serializer_helpers import ReturnDict

from accounts.api.rendering import FastJSONRenderer


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, b""),
        ({"a": None, "b": [1.5, "x"]}, b'{"a":null,"b":[1.5,"x"]}'),
        (b'{"ready":"made"}', b'{"ready":"made"}'),
        ({"lazy": gettext_lazy("Sign in")}, b'{"lazy":"Sign in"}'),
        ({"wide": Int64(2**60)}, b'{"wide":1152921504606846976}'),
        (ReturnDict({"a": 1}, serializer=Serializer()), b'{"a":1}'),
    ],
)
def test_plain_values_and_ready_bytes_become_json(value: object, written: bytes) -> None:
    assert FastJSONRenderer().render(value) == written


def test_what_has_no_form_in_json_is_an_error() -> None:
    with pytest.raises(TypeError, match="object has no form"):
        FastJSONRenderer().render({"a": object()})


def test_it_is_indented_for_a_reader() -> None:
    indented = json.dumps({"a": [1]}, indent=4).encode()
    assert FastJSONRenderer().render(b'{"a":[1]}', None, {"indent": 4}) == indented
    assert FastJSONRenderer().render(b'{"a":[1]}', "application/json; indent=4", {}) == indented
