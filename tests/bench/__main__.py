"""`make bench`: every benchmark, or those that are named; exits non-zero when one is below its "at least"."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from pathlib import Path

import tests.conftest as servers  # starts the embedded servers and sets the environment
from tests.bench.table import HEADER, Row, show

BENCHES = ("decode", "pipeline", "fanout", "endtoend", "demand", "rest", "candles", "chain", "universe", "scale")


def main() -> int:
    """Run what is asked for and say what fell short."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("benches", nargs="*", default=list(BENCHES), help=f"of {', '.join(BENCHES)}; all by default")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the pipeline and the end-to-end run are measured")
    parser.add_argument("--instruments", type=int, default=1000, help="of the end-to-end run")
    options = parser.parse_args()
    unknown = set(options.benches) - set(BENCHES)
    if unknown:
        parser.error(f"no benchmark named {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
    print(f"{os.cpu_count()} cores, {_processor()}, Python {platform.python_version()}")
    failures: list[str] = []
    try:
        for name in options.benches:
            print(f"\n{name}", flush=True)
            _start_afresh()
            rows = _run(name, options)
            print(HEADER)
            failures += [f"{name}: {text}" for text in show(rows)]
    finally:
        servers.pytest_unconfigure()
    print()
    for text in failures:
        print(f"below its least: {text}", file=sys.stderr)
    return 1 if failures else 0


def _processor() -> str:
    """Return the processor's name, where the system tells it."""
    try:
        names = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()


def _start_afresh() -> None:
    """Empty the database and our part of Redis: one benchmark's master and feed are no predecessors of the next one's."""
    import redis
    from django.conf import settings
    from django.core.management import call_command
    from django.db import connection

    database = connection.get_database()  # type: ignore[attr-defined] # of django-mongodb-backend
    database.client.drop_database(database.name)
    call_command("migrate", verbosity=0)
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        for key in client.scan_iter(match=f"{settings.NAMESPACE}*", count=1000):
            client.delete(key)


def _run(name: str, options: argparse.Namespace) -> list[Row]:
    from tests.bench import candles, chain, decode, demand, endtoend, fanout, pipeline, rest, scale, universe

    match name:
        case "decode":
            return decode.run()
        case "pipeline":
            return pipeline.run(options.seconds)
        case "fanout":
            return fanout.run()
        case "endtoend":
            return endtoend.run(seconds=options.seconds, instruments=options.instruments)
        case "demand":
            return demand.run()
        case "rest":
            return rest.run()
        case "universe":
            return universe.run()
        case "candles":
            return candles.run()
        case "chain":
            return chain.run()
        case _:
            return scale.run()


if __name__ == "__main__":
    sys.exit(main())
