"""HTTP of the login: the dialog page, code → token, logout."""

from __future__ import annotations

import html
import time
from collections import Counter
from urllib.parse import parse_qsl, urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from broker.simulator.bodies import bounded_body
from broker.simulator.errors import ApiError
from broker.simulator.login import Access

FORM_BYTES = 16_384
PAGE = """<!doctype html><html lang="en"><title>Simulated sign-in</title>
<body style="font-family:sans-serif;max-width:30em;margin:4em auto">
<h1>Simulated exchange</h1><p>This is not the broker. <b>{client}</b> asks to read market data.</p>
<p><a href="?{query}" style="font-size:1.3em">Allow</a></p></body></html>"""


def routes(access: Access, requests: Counter[str]) -> list[BaseRoute]:
    """The login's paths."""

    async def dialog(request: Request) -> Response:
        requests["dialog"] += 1
        query = dict(request.query_params)
        allowed = query.pop("allow", "") == "yes"
        target = access.dialog(query, time.time())
        if allowed:
            return RedirectResponse(target, status_code=302)
        page = PAGE.format(client=html.escape(query["client_id"]), query=html.escape(urlencode(query | {"allow": "yes"})))
        return HTMLResponse(page)

    async def token(request: Request) -> Response:
        requests["token"] += 1
        return JSONResponse(access.exchange(await _form(request), time.time()))

    async def logout(request: Request) -> Response:
        requests["logout"] += 1
        access.revoke(access.bearer(request.headers.get("authorization"), time.time()))
        return JSONResponse({"status": "success", "data": True})

    return [
        Route("/v2/login/authorization/dialog", dialog),
        Route("/v2/login/authorization/token", token, methods=["POST"]),
        Route("/v2/logout", logout, methods=["DELETE"]),
    ]


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form body; a body that is too long or no form is refused."""
    body = await bounded_body(request, FORM_BYTES)
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise ApiError("UDAPI100036", field="Content-Type", value=request.headers.get("content-type"))
    try:
        return dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=50))
    except ValueError as error:
        raise ApiError("UDAPI100036") from error
