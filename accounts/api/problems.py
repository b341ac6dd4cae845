"""Errors of the REST API as problem details (RFC 9457), each with a word of the client protocol as its `code`.

An exception of any app that carries such a word as `code` (and, if it concerns one, the input's name as `field`) becomes
that answer; its text is shown to the user. What is not known is `internal`, without detail, and goes to the log.
"""

from __future__ import annotations

import logging
import math
from http import HTTPStatus
from typing import Any

import msgspec
from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.http import Http404, HttpRequest, HttpResponse
from django.views import defaults
from pymongo.errors import ConnectionFailure
from rest_framework import exceptions
from rest_framework.response import Response

log = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"

STATUS = {
    "bad_request": 400,
    "not_authenticated": 401,
    "forbidden": 403,
    "not_found": 404,
    "unknown_instrument": 404,
    "method_not_allowed": 405,
    "not_acceptable": 406,
    "expired_instrument": 410,
    "too_large": 413,
    "unsupported_media_type": 415,
    "symbol_limit": 422,
    "rate_limited": 429,
    "internal": 500,
    "feed_down": 503,
    "store_down": 503,
}
"""Protocol word → HTTP status. The client protocol's own numbers belong to the WebSocket."""

WORDS = {
    exceptions.AuthenticationFailed: "not_authenticated",
    exceptions.NotAuthenticated: "not_authenticated",
    exceptions.PermissionDenied: "forbidden",
    exceptions.NotFound: "not_found",
    exceptions.MethodNotAllowed: "method_not_allowed",
    exceptions.NotAcceptable: "not_acceptable",
    exceptions.UnsupportedMediaType: "unsupported_media_type",
    exceptions.Throttled: "rate_limited",
}

DETAILS = {
    "not_authenticated": "Sign in, or send `Authorization: Bearer <api key>`.",
    "not_found": "There is nothing at this address. /api/ lists what there is.",
    "too_large": "The body is larger than this server takes.",
    "internal": "Something went wrong on the server. Its log has the request id.",
    "store_down": "The database does not answer. Try again in a few seconds.",
}


class BadInput(Exception):
    """What the client sent is wrong: `field` names the input, the text says what it takes, `code` is a word of STATUS."""

    def __init__(self, field: str | None, detail: str, *, code: str = "bad_request") -> None:
        super().__init__(detail)
        self.code = code
        self.field = field


def problem(request: HttpRequest | None, code: str, detail: str = "", field: str | None = None) -> dict[str, Any]:
    """Return the body of an error.

    Args:
        request: the request, for its id.
        code: a word of STATUS.
        detail: one sentence for a person; empty: the word's own.
        field: name of the input that is wrong.
    """
    number = STATUS[code]
    return {
        "type": f"urn:tradingok:problem:{code}",
        "title": HTTPStatus(number).phrase,
        "status": number,
        "detail": detail or DETAILS.get(code, HTTPStatus(number).description),
        "code": code,
        "field": field,
        "request_id": getattr(request, "request_id", None),
    }


def problem_response(request: HttpRequest | None, code: str, detail: str = "", field: str | None = None) -> HttpResponse:
    """Return an error as an HTTP response, whatever the client accepts."""
    return HttpResponse(msgspec.json.encode(problem(request, code, detail, field)), status=STATUS[code], content_type=CONTENT_TYPE)


def exception_handler(exc: Exception, context: dict[str, Any]) -> Response | HttpResponse:
    """Turn what a REST view raised into a problem. Named by REST_FRAMEWORK."""
    request = context["request"]
    code, detail, field = _described(exc)
    if isinstance(exc, Http404) and not hasattr(request, "accepted_renderer"):  # raised by the negotiation, for an unknown format=
        formats = ", ".join(renderer.format for renderer in context["view"].renderer_classes)
        code, detail, field = "not_acceptable", f"Takes one of {formats}.", "format"
    if code == "internal":
        log.error("%s %s failed (request %s)", request.method, request.path, _request_id(request), exc_info=exc)
    elif code == "store_down":
        log.error("%s %s: the database does not answer: %s", request.method, request.path, type(exc).__name__)
    body = problem(request._request, code, detail, field)
    headers = {}
    if header := getattr(exc, "auth_header", None):
        headers["WWW-Authenticate"] = header
    if wait := getattr(exc, "wait", None):
        headers["Retry-After"] = str(math.ceil(wait))
    if getattr(getattr(request, "accepted_renderer", None), "format", "") == "api":
        return Response(body, status=body["status"], headers=headers)
    return HttpResponse(msgspec.json.encode(body), status=body["status"], headers=headers, content_type=CONTENT_TYPE)


def _described(exc: Exception) -> tuple[str, str, str | None]:
    """Return an exception's word, its sentence for the user ("": the word's own) and the input's name."""
    word = getattr(exc, "code", None)
    if isinstance(word, str) and word in STATUS:
        return word, str(exc), getattr(exc, "field", None)
    if isinstance(exc, exceptions.ValidationError):
        field, detail = _first_error(exc.detail)
        return "bad_request", detail, field
    if isinstance(exc, Http404):
        return "not_found", "", None
    if isinstance(exc, PermissionDenied):
        return "forbidden", "", None
    if isinstance(exc, RequestDataTooBig):
        return "too_large", "", None
    if isinstance(exc, ConnectionFailure) or isinstance(exc.__cause__, ConnectionFailure):
        return "store_down", "", None
    if isinstance(exc, exceptions.APIException) and exc.status_code < 500:
        word = next((name for kind, name in WORDS.items() if isinstance(exc, kind)), "bad_request")
        return word, "" if isinstance(exc, exceptions.NotAuthenticated) else str(exc.detail), None
    return "internal", "", None


def _first_error(detail: Any, field: str | None = None) -> tuple[str | None, str]:
    """Return the first field that a serializer or filter refused, dotted when nested, and why."""
    if isinstance(detail, dict) and detail:
        name, inner = next(iter(detail.items()))
        path = None if name == "non_field_errors" else name if field is None else f"{field}.{name}"
        return _first_error(inner, path if path is not None else field)
    if isinstance(detail, list) and detail:
        return _first_error(next((item for item in detail if item), ""), field)
    return field, str(detail)


def _request_id(request: Any) -> str:
    return getattr(request._request, "request_id", "-")


def _in_api(request: HttpRequest) -> bool:
    return request.path_info.startswith("/api/")


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's handler400: outside REST views, a problem under /api/, else Django's page."""
    if not _in_api(request):
        return defaults.bad_request(request, exception)
    return problem_response(request, "too_large" if isinstance(exception, RequestDataTooBig) else "bad_request")


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's handler403."""
    return problem_response(request, "forbidden") if _in_api(request) else defaults.permission_denied(request, exception)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's handler404."""
    return problem_response(request, "not_found") if _in_api(request) else defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    """Django's handler500."""
    return problem_response(request, "internal") if _in_api(request) else defaults.server_error(request)
