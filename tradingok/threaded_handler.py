"""Django on ASGI with one change of thread a request.

Django's own handler changes threads for each middleware that is written for both worlds, before and after the view, and
makes a new thread for each request: that alone held the server to about 250 requests a second. Here the whole chain,
which is synchronous from end to end, runs in one thread of a bounded pool.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, cast

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase

THREADS = 16
"""Requests that are worked on at once; the others wait. More threads make nothing faster under one interpreter lock."""


class ThreadedHandler(ASGIHandler):
    """Serves every HTTP request in one of THREADS threads. The event loop keeps sockets and streams."""

    def __init__(self) -> None:
        super().__init__()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="request")
        self._respond = sync_to_async(self.get_response, thread_sensitive=False, executor=self._threads)

    def load_middleware(self, is_async: bool = False) -> None:
        super().load_middleware(is_async=False)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await self.handle(scope, receive, send)

    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        response = await self._respond(request)
        if isinstance(response, StreamingHttpResponse) and not response.is_async:  # a file: else Django reads all of it before sending
            response.streaming_content = self._from_threads(iter(cast(Iterable[bytes], response.streaming_content)))
        return response

    async def _from_threads(self, parts: Iterator[bytes]) -> AsyncIterator[bytes]:
        advance = sync_to_async(partial(next, parts, None), thread_sensitive=False, executor=self._threads)
        while (part := await advance()) is not None:
            yield part
