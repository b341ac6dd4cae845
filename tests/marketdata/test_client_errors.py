"""How clients are refused."""

from __future__ import annotations

import json

from marketdata.client_errors import ERRORS, ClientError


def test_every_error_has_its_word_and_can_be_told() -> None:
    for code, word in ERRORS.items():
        push = json.loads(ClientError(code, "Why.", "field", 3).push())
        assert (push["code"], push["error"], push["field"], push["id"]) == (code, word, "field", 3)
