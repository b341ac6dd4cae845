"""Reads a request's body up to a bound."""

from __future__ import annotations

from starlette.requests import Request

from broker.simulator.errors import ApiError


async def bounded_body(request: Request, limit: int) -> bytes:
    """The whole body.

    Raises:
        ApiError: UDAPI100036 with HTTP 413 when it is longer than `limit` bytes.
    """
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise ApiError("UDAPI100036", status=413)
    return body
