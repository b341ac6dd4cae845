"""How REST answers become bytes: JSON by msgspec, and ready-made JSON passed through unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from django.utils.functional import Promise
from rest_framework.renderers import JSONRenderer


def plain(value: Any) -> Any:
    """Return what JSON has for a value that msgspec does not know: lazy text, PyMongo's 64-bit integers, mappings.

    Raises:
        TypeError: there is nothing for it.
    """
    if isinstance(value, int):
        return int(value)
    if isinstance(value, Promise):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


_encoder = msgspec.json.Encoder(enc_hook=plain)


class FastJSONRenderer(JSONRenderer):
    """JSON. Data that is `bytes` is JSON already. Indented where a person reads it (the browsable API, `indent=` in Accept)."""

    def render(self, data: Any, accepted_media_type: str | None = None, renderer_context: Mapping[str, Any] | None = None) -> bytes:
        if data is None:
            return b""
        encoded = data if isinstance(data, bytes) else _encoder.encode(data)
        if (accepted_media_type and "indent" in accepted_media_type) or (renderer_context and renderer_context.get("indent")):
            indent = self.get_indent(accepted_media_type or "", dict(renderer_context or {}))
            return msgspec.json.format(encoded, indent=indent or 4)
        return encoded
