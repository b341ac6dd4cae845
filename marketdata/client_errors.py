"""How clients are refused: the numbers and words of errors, the codes of a close. Pure."""

from __future__ import annotations

import msgspec

ERRORS: dict[int, str] = {
    400: "bad_request",
    401: "not_authenticated",
    403: "forbidden",
    405: "symbol_limit",
    406: "connection_limit",
    407: "slow_client",
    411: "unknown_instrument",
    412: "expired_instrument",
    413: "too_large",
    429: "rate_limited",
    500: "internal",
    503: "feed_down",
}
"""Errors are words with numbers. Source: CLIENT_PROTOCOL.md, version 1."""
RETRY_CODES = frozenset({406, 407, 429, 500, 503})
"""Errors after which the same command may succeed later."""


class CloseCode:
    """WebSocket close codes: 4000–4099 come back, 4100–4199 do not."""

    TRY_AGAIN = 4000
    RESTART = 4001
    SLOW = 4008
    BAD_CREDENTIALS = 4101
    FORBIDDEN = 4103
    CONNECTION_LIMIT = 4104
    BAD_PROTOCOL = 4105


class ClientError(Exception):
    """A command or connection that is refused.

    Attributes:
        code: one of ERRORS.
        field: the field of the command that is wrong, None when it is the whole of it.
        message: one sentence for a person.
        command: the command's id where it could be read.
    """

    def __init__(self, code: int, message: str, field: str | None = None, command: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.field = field
        self.message = message
        self.command = command

    def push(self) -> bytes:
        """Return the `error` push that tells the client."""
        return msgspec.json.encode(
            {
                "event": "error",
                "id": self.command,
                "code": self.code,
                "error": ERRORS[self.code],
                "retry": self.code in RETRY_CODES,
                "message": self.message,
                "field": self.field,
            }
        )
