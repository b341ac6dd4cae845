"""The ASGI application: HTTP to Django, WebSocket to marketdata's routing. Any ASGI server can serve it."""

from __future__ import annotations

import os

from channels.routing import ProtocolTypeRouter
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tradingok.settings")
django_application = get_asgi_application()  # sets Django up: the imports below need it

from django.conf import settings  # noqa: E402

from marketdata.routing import websocket_application  # noqa: E402
from tradingok.body_limit import BodyLimit  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": BodyLimit(django_application, limit=settings.DATA_UPLOAD_MAX_MEMORY_SIZE),
        "websocket": websocket_application,
    }
)
