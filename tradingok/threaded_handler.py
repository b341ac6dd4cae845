"""Django on ASGI with one change of thread a request.

Django's own handler changes threads for each middleware that is written for both worlds, before and after the view, and for
its signals, and makes a new thread for each request: that alone held the server to about 250 requests a second. Here the
whole chain, which is synchronous from end to end, runs in one thread of a bounded pool.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import IO, Any, ParamSpec, TypeVar, cast

from asgiref.sync import sync_to_async
from django.core import signals
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, get_script_prefix
from django.http import StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import set_script_prefix

THREADS = 16
"""Requests that are worked on at once; the others wait. More threads make nothing faster under one interpreter lock."""

_P = ParamSpec("_P")
_R = TypeVar("_R")


class ThreadedHandler(ASGIHandler):
    """Serves every HTTP request in one of THREADS threads. The event loop keeps sockets and streams."""

    def __init__(self) -> None:
        super().__init__()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="request")
        self._answer_in_thread = self._in_thread(self._answer)

    def _in_thread(self, call: Callable[_P, _R]) -> Callable[_P, Coroutine[Any, Any, _R]]:
        return sync_to_async(call, thread_sensitive=False, executor=self._threads)

    def load_middleware(self, is_async: bool = False) -> None:
        super().load_middleware(is_async=False)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await self.handle(scope, receive, send)

    async def handle(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Serve one request. A client that leaves in the middle of a stream ends it."""
        try:
            body = await self.read_body(receive)
        except RequestAborted:
            return
        response = await self._answer_in_thread(scope, body)
        if isinstance(response, StreamingHttpResponse):
            await self._stream(response, receive, send)
        else:
            await self.send_response(response, send)

    def _answer(self, scope: dict[str, Any], body: IO[bytes]) -> HttpResponseBase:
        """Do in a thread all that Django does for a request; a response that is not a stream is closed already."""
        set_script_prefix(get_script_prefix(scope))
        signals.request_started.send(sender=self.__class__, scope=scope)
        request, refusal = self.create_request(scope, body)
        response = self.get_response(request) if request is not None else cast(HttpResponseBase, refusal)
        response._handler_class = self.__class__  # type: ignore[attr-defined]  # request_finished names it
        if not response.streaming:
            response.close()
            body.close()
        return response

    async def _stream(self, response: StreamingHttpResponse, receive: Any, send: Any) -> None:
        if not response.is_async:  # a file: Django would read all of it before sending
            response.streaming_content = self._from_threads(iter(cast(Iterable[bytes], response.streaming_content)))
        sending = asyncio.create_task(self.send_response(response, send))
        leaving = asyncio.create_task(self.listen_for_disconnect(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            sending.cancel()
            leaving.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
            await self._in_thread(response.close)()

    async def _from_threads(self, parts: Iterator[bytes]) -> AsyncIterator[bytes]:
        advance = self._in_thread(partial(next, parts, None))
        while (part := await advance()) is not None:
            yield part
