"""What `manage.py up` runs, in order: the one place that names the processes of a copy (ARCHITECTURE §1)."""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from tradingok import ports
from tradingok.supervisor import Program, StartFailed, Supervisor

MANAGE = (sys.executable, str(Path(__file__).resolve().parent.parent / "manage.py"))
CELERY = (sys.executable, "-m", "celery", "-A", "tradingok")
NORMAL_CONNECTIONS = 2
"""Feed connections of one user; the Plus plan has 5. Source: FACTS §3.2, read 2026-11-22."""

SIMULATED_RATE = "0.5"
"""Half the real feed's pace: the market that nobody needs to keep runs around the clock, and what it trades is stored."""


def check_port(host: str, port: int) -> None:
    """Raise StartFailed when the web server could not listen there."""
    try:
        free = ports.is_free(port, host)
    except OSError as error:
        raise StartFailed(f"TRADINGOK_HOST={host} is no address of this machine ({error.strerror}).") from error
    if not free:
        raise StartFailed(f"Port {port} is in use, or not allowed. Choose another: PORT={port + 1} make run")


def programs(supervisor: Supervisor, *, var: Path, host: str, port: int, feeds: int = 1, webs: int = 1) -> Iterator[Program]:
    """Give the programs one by one; each is ready before the next is asked for.

    Args:
        feeds: connections to the broker, each a process of its own.
        webs: web processes on the one port.
    """
    environment = supervisor.environment
    address = var / "exchange" / "address.json"
    forget_exchange(address)
    yield Program("migrate", [*MANAGE, "migrate", "--no-input"], once=True, required=True)
    if not environment.get("TRADINGOK_EXCHANGE_URL") and supervisor.ask([*MANAGE, "whichbroker"]) == "exchange":
        exchange_port = remember_exchange(address)
        environment["TRADINGOK_EXCHANGE_URL"] = f"http://{ports.LOOPBACK}:{exchange_port}"
        plus = ["--plus"] if feeds > NORMAL_CONNECTIONS else []
        command = [*MANAGE, "runexchange", "--port", str(exchange_port), "--rate", SIMULATED_RATE, *plus]
        yield Program("exchange", command, ready=lambda: ports.accepts(exchange_port))
    yield Program("instruments", [*MANAGE, "refresh_instruments"], once=True)
    for name, number in numbered("feed", feeds).items():
        yield Program(name, [*MANAGE, "runfeed", "--shard", f"{number}/{feeds}"], feed_environment(number, feeds))
    for name, number in numbered("web", webs).items():
        shared = {"TRADINGOK_WEB_PROCESSES": str(webs)}
        yield Program(name, [sys.executable, "-m", "tradingok.server"], shared, ready=partial(are_live, host, port, number))
    yield Program("worker", [*CELERY, "worker", "--pool", "threads", "--concurrency", "2", "--without-gossip", "--without-mingle"])
    yield Program("beat", [*CELERY, "beat"])


def numbered(name: str, count: int) -> dict[str, int]:
    """Return what each of `count` equal programs is called, with its number from 1: `web` alone, else `web-1`, `web-2`…"""
    return {name: 1} if count == 1 else {f"{name}-{number}": number for number in range(1, count + 1)}


def feed_environment(number: int, feeds: int) -> Mapping[str, str]:
    """Return the settings of one of several feeds; a shell's own are of the whole copy."""
    return {"TRADINGOK_FEED_SHARD": str(number - 1), "TRADINGOK_FEED_SHARDS": str(feeds)}


def remember_exchange(file: Path) -> int:
    """Choose the exchange's port, the last one if it is free, and let `file` name its address to commands in other terminals."""
    port = ports.choose(_last_port(file))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"url": f"http://{ports.LOOPBACK}:{port}", "port": port}))
    return port


def forget_exchange(file: Path) -> None:
    """Leave only the port in `file`: the exchange does not run, and other commands must not look for it."""
    if port := _last_port(file):
        file.write_text(json.dumps({"port": port}))


def _last_port(file: Path) -> int | None:
    try:
        port = json.loads(file.read_text())["port"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return port if isinstance(port, int) and 0 < port < 65536 else None


def are_live(host: str, port: int, number: int) -> bool:
    """Whether so many web servers listen on the port they share, and one answers: any of them may, so an answer alone says little.

    Where listeners cannot be counted (other systems than Linux), the answer has to do.
    """
    return is_live(host, port) and ports.listeners(port) not in range(1, number)


def is_live(host: str, port: int) -> bool:
    """Whether the web server answers `/api/health/live`. Over plain HTTP a production server answers with a redirect: that is life, too."""
    connection = http.client.HTTPConnection(reachable(host), port, timeout=2)
    try:
        connection.request("GET", "/api/health/live", headers={"Host": "localhost"})
        return connection.getresponse().status in {200, 301}
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def reachable(host: str) -> str:
    """The address under which this machine reaches a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
