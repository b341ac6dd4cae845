"""Where one Redis primary ends, and how evenly the kernel spreads connections: figures of docs/scaling.md. `python -m tests.bench.scale`

The first is CPU time of the server alone, so that it holds on a busy machine; the second is a count.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import redis
import uvloop

from tests.bench.table import HEADER, Row, show
from tradingok.embedded import Valkey, start_server, stop_server

DELIVERIES = 60_000
PROCESSES = 3
CONNECTIONS = 900
SUBSCRIBERS = """
import select, socket, sys
poll, sockets = select.poll(), {}
for _ in range(int(sys.argv[2])):
    one = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    one.sendall(b"SUBSCRIBE x\\r\\n")
    one.recv(1000)
    sockets[one.fileno()] = one
    poll.register(one, select.POLLIN)
print("ready", flush=True)
into = bytearray(1 << 20)
while True:
    for number, _ in poll.poll():
        sockets[number].recv_into(into)
"""


def run() -> list[Row]:
    """Measure both."""
    return [*_publishing(), *_spreading()]


def _publishing() -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        server = Valkey(Path(folder))
        url = start_server(server)
        try:
            known = server.remembered()
            assert known is not None
            for size, subscribers in ((2000, 100), (9000, 10), (9000, 100), (9000, 300), (30_000, 100)):
                seconds = _publish(url, known.pid, known.port, size, subscribers)
                rows.append(Row(f"batches of {size:,} B delivered to {subscribers} hubs", DELIVERIES / seconds, "/CPU-second"))
                rows.append(Row("  the same in bytes", DELIVERIES * size / seconds / 1e6, "MB"))
        finally:
            stop_server(server)
    return rows


def _publish(url: str, pid: int, port: int, size: int, subscribers: int) -> float:
    """Return the server's CPU seconds for DELIVERIES messages."""
    payload = secrets.token_bytes(size)
    command = [sys.executable, "-c", SUBSCRIBERS, str(port), str(subscribers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as readers, redis.Redis.from_url(url) as client:
        try:
            assert readers.stdout is not None
            readers.stdout.readline()
            before = _cpu_seconds(pid)
            for _ in range(DELIVERIES // subscribers):
                assert client.publish("x", payload) == subscribers, "a reader was cut off"
            return _cpu_seconds(pid) - before
        finally:
            readers.kill()


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _spreading() -> list[Row]:
    rows = []
    for how, shared in (("SO_REUSEPORT", True), ("one inherited socket", False)):
        for burst in (False, True):
            counts = sorted(_spread(shared, burst), reverse=True)
            name = f"{CONNECTIONS} connections{' at once' if burst else ''}, {how}: the busiest of {PROCESSES}"
            rows.append(Row(f"{name} {counts}", counts[0], "of them"))
    return rows


def _spread(shared: bool, burst: bool) -> list[int]:
    """Return how many connections each server got."""
    first = _listener(0, shared)
    port = first.getsockname()[1]
    servers = []
    for number in range(PROCESSES):
        listener = first if number == 0 or not shared else _listener(port, shared)
        pid = os.fork()
        if pid == 0:
            _serve(listener)
        servers.append(pid)
    try:
        return list(asyncio.run(_connect(port, burst)).values())
    finally:
        first.close()
        for pid in servers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _listener(port: int, shared: bool) -> socket.socket:
    made = socket.socket()
    if shared:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("127.0.0.1", port))
    made.listen(2048)
    return made


def _serve(listener: socket.socket) -> None:
    """Tell each connection this process's number; never returns."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"%d\n" % os.getpid())
        await reader.read()
        writer.close()

    async def serve() -> None:
        async with await asyncio.start_server(greet, sock=listener, backlog=2048) as server:
            await server.serve_forever()

    try:
        uvloop.run(serve())
    finally:
        os._exit(1)


async def _connect(port: int, burst: bool) -> Counter[int]:
    writers = []

    async def connect() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writers.append(writer)
        return int(await reader.readline())

    await asyncio.sleep(1)  # all servers listen
    if burst:
        served = Counter(await asyncio.gather(*(connect() for _ in range(CONNECTIONS))))
    else:
        served = Counter([await connect() for _ in range(CONNECTIONS)])
    for writer in writers:
        writer.close()
    return served


if __name__ == "__main__":
    print(HEADER)
    show(run())
