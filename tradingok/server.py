"""The web server of `make run` and of production: `python -m tradingok.server`. One process; as many as wanted share a port."""

from __future__ import annotations

import gc
import logging
import sys

from tradingok.asgi import application  # first: it sets Django up

# isort: split
from django.conf import settings

from instruments.search import index_warm
from marketdata.hub import close_hub
from tradingok.bounded_server import serve

logger = logging.getLogger(__name__)

# The consumer answers 413 `too_large` to what is over WS_COMMAND_BYTES; so much more only closes the connection.
MESSAGE_HEADROOM = 16


def main() -> int:
    """Serve until SIGTERM. Returns the exit code: 1 when the address cannot be had."""
    gc.collect()
    gc.freeze()  # the 130,000 objects of Django and us live as long as the process: no collection need look at them again
    index_warm()
    try:
        serve(
            application,
            host=settings.HOST,
            port=settings.PORT,
            message_bytes=MESSAGE_HEADROOM * settings.WS_COMMAND_BYTES,
            before_stop=close_hub,
            share_port=settings.WEB_PROCESSES > 1,
        )
    except OSError as error:
        text = f"Cannot listen on {settings.HOST}:{settings.PORT}: {error.strerror}. Set PORT or TRADINGOK_HOST to another."
        logger.error(text)
        sys.stderr.write(text + "\n")
        return 1
    logger.info("Web server stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
