"""The ASGI application: HTTP to Django, WebSocket to marketdata's routing. Any ASGI server can serve it."""

from __future__ import annotations

import os

import django
from channels.routing import ProtocolTypeRouter

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tradingok.settings")
django.setup(set_prefix=False)  # the imports below need it

from django.conf import settings  # noqa: E402

from marketdata.routing import websocket_application  # noqa: E402
from tradingok.body_limit import BodyLimit  # noqa: E402
from tradingok.threaded_handler import ThreadedHandler  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": BodyLimit(ThreadedHandler(), limit=settings.DATA_UPLOAD_MAX_MEMORY_SIZE),
        "websocket": websocket_application,
    }
)
