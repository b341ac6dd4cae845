"""The broker's REST errors: one exception, one table of codes, one envelope.

ApiError is the only way an endpoint of the exchange fails; `app` turns it into the envelope.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

CODES: dict[str, tuple[int, str]] = {
    "UDAPI10000": (400, "This request is not supported by Upstox API"),
    "UDAPI100012": (404, "Invalid endpoint"),
    "UDAPI10005": (429, "Too Many Request Sent"),
    "UDAPI100050": (401, "Invalid token used to access API"),
    "UDAPI100036": (400, "Invalid Input"),
    "UDAPI100057": (401, "Invalid Auth code"),
    "UDAPI100068": (401, "Check your 'client_id' and 'redirect_uri'; one or both are incorrect."),
    "UDAPI100069": (401, "Check your 'client_id' and 'client_secret'; one or both are incorrect."),
    "UDAPI100070": (401, "Check your 'redirect_uri'; it is incorrect."),
    "UDAPI100500": (500, "Something went wrong... please contact us"),
    "UDAPI100011": (400, "Invalid Instrument key"),
    "UDAPI1087": (400, "One of either symbol or instrument_key is invalid"),
    "UDAPI1009": (400, "symbol or instrument_key is required"),
    "UDAPI100042": (400, "Maximum instrument key limit of 500 exceeded"),
    "UDAPI100043": (400, "Too many instrument keys"),
    "UDAPI100076": (400, "Maximum instrument key limit of 50 exceeded"),
    "UDAPI100095": (400, "This instrument is not served by this endpoint"),
    "UDAPI1028": (400, "Invalid interval"),
    "UDAPI1015": (400, "to_date must be greater than or equal to from_date"),
    "UDAPI1022": (400, "to_date is required in YYYY-MM-DD format"),
    "UDAPI1021": (400, "expiry_date must be in YYYY-MM-DD format"),
    "UDAPI1146": (400, "Invalid unit"),
    "UDAPI1147": (400, "Invalid interval for the unit"),
    "UDAPI1148": (400, "Invalid date range"),
    "UDAPI1088": (400, "Invalid date"),
    "UDAPI1089": (400, "Invalid exchange"),
}
"""Code → HTTP status and message. Source: FACTS §2.1, §2.3 (codes), the broker's error pages; wording is approximate. Read 2026-11-22."""


class ApiError(Exception):
    """One of the broker's errors; its status and text come from CODES."""

    def __init__(self, code: str, *, field: str | None = None, value: Any = None, status: int | None = None) -> None:
        """Make an error.

        Args:
            code: a key of CODES.
            field: name of the parameter at fault.
            value: what was given for it.
            status: HTTP status, where it differs from the table's.
        """
        self.code, self.field, self.value = code, field, value
        default, self.message = CODES[code]
        self.status = status or default
        super().__init__(f"{code}: {self.message}")


def envelope(error: ApiError) -> dict[str, Any]:
    """The error's JSON body, with the deprecated camelCase twins that the broker still sends."""
    return {
        "status": "error",
        "errors": [
            {
                "errorCode": error.code,
                "message": error.message,
                "propertyPath": error.field,
                "invalidValue": error.value,
                "error_code": error.code,
                "property_path": error.field,
                "invalid_value": error.value,
            }
        ],
    }


def error_response(error: ApiError) -> Response:
    """The HTTP answer for an error."""
    return JSONResponse(envelope(error), status_code=error.status)


async def on_api_error(request: Request, error: Exception) -> Response:
    """Starlette's handler of ApiError."""
    return error_response(error if isinstance(error, ApiError) else ApiError("UDAPI100500"))


async def on_unknown_path(request: Request, error: Exception) -> Response:
    """Starlette's handler of 404 and 405: the broker answers both with its own envelope."""
    return error_response(ApiError("UDAPI100012", status=getattr(error, "status_code", 404)))


async def on_bug(request: Request, error: Exception) -> Response:
    """Starlette's handler of anything else; the traceback is logged by the server."""
    return error_response(ApiError("UDAPI100500"))
