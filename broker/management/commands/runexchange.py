"""`manage.py runexchange`: the simulated exchange. It needs neither MongoDB nor Redis."""

from __future__ import annotations

import logging
import time
from argparse import ArgumentParser, ArgumentTypeError
from datetime import datetime
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from broker.simulator.app import Exchange, create_app
from broker.simulator.captures import CaptureError, read_recording
from broker.simulator.clock import MarketClock
from broker.simulator.control import inject
from broker.simulator.cut_out import CutOutReplay, Stretch
from broker.simulator.faults import Pause
from broker.simulator.ledger import Ledger
from broker.simulator.login import IST, Access
from broker.simulator.market import Market as SimulatedMarket
from broker.simulator.market_port import Market
from broker.simulator.master_file import MasterError, read_master
from broker.simulator.replay import Replay
from broker.simulator.server import ExchangeServer, listening_socket, run

log = logging.getLogger(__name__)


def speed(text: str) -> float:
    """A speed: 0 or "max" for as fast as the clients read (replays only), else a multiple of the market's time."""
    return _number("0" if text == "max" else text, 0, 100_000, 'a number from 0 to 100000, or "max"')


def seconds(text: str) -> float:
    """A duration."""
    return _number(text, 0.05, 3600, "a number of seconds from 0.05 to 3600")


def pace(text: str) -> float:
    """A multiple of the real feed's pace."""
    return _number(text, 0.01, 100, "a number from 0.01 to 100")


def moment(text: str) -> int:
    """A moment, Indian time unless it names another; ms UTC."""
    try:
        given = datetime.fromisoformat(text)
        if not 2000 <= given.year < 2100:
            raise ValueError(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is not YYYY-MM-DDTHH:MM") from error
    return round((given if given.tzinfo else given.replace(tzinfo=IST)).timestamp() * 1000)


def port(text: str) -> int:
    """A port; 0 is any free one."""
    return _whole(text, 65_535)


def stretch(text: str) -> Stretch:
    """A stretch of the day, Indian time."""
    try:
        return Stretch.parse(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is not HH:MM-HH:MM, the first before the second") from error


def count(text: str) -> int:
    """A whole number."""
    return _whole(text, 2**31)


def _number(text: str, low: float, high: float, expected: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise ArgumentTypeError(f"{text!r} is not {expected}")
    return value


def _whole(text: str, high: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 12 and int(text) <= high):
        raise ArgumentTypeError(f"{text!r} is not a whole number from 0 to {high}")
    return int(text)


class Command(BaseCommand):
    """Serve a simulated Upstox on loopback."""

    help = "Runs the simulated exchange: login, instrument master, REST and V3 feed on the broker's own wire."
    requires_system_checks = []
    requires_migrations_checks = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
        parser.add_argument("--port", type=port, default=8090, help="port to listen on; 0: any free one (default: 8090)")
        parser.add_argument("--token", default="simulated-token", help="access token accepted from the start")
        parser.add_argument("--client-id", default="", help="the only API key that may sign in (default: any)")
        parser.add_argument("--client-secret", default="", help="its secret (default: any)")
        parser.add_argument("--plus", action="store_true", help="limits of the broker's Plus plan")
        parser.add_argument("--ping", type=seconds, default=20.0, help="seconds between WebSocket pings (default: 20)")
        parser.add_argument("--seed", type=count, default=1, help="seed of the simulated market")
        parser.add_argument("--rate", type=pace, default=1.0, help="pace of trades and updates; 1 is the real feed's")
        parser.add_argument("--instruments", type=count, default=None, help="at least so many instruments (default: about 1,800)")
        parser.add_argument("--hours", choices=("always", "real"), default="always", help="when the simulated market is open")
        parser.add_argument("--master", type=Path, help="serve this instrument master (JSON, may be gzipped)")
        parser.add_argument("--replay", type=Path, nargs="+", metavar="FILE", help="serve recorded frames or captures instead")
        parser.add_argument("--speed", type=speed, default=1.0, help='market seconds in a second; of a replay also "max": as clients read')
        parser.add_argument(
            "--from",
            type=moment,
            dest="start",
            metavar="TIME",
            help="when the simulated market begins, YYYY-MM-DDTHH:MM IST (default: now)",
        )
        parser.add_argument(
            "--stand",
            type=seconds,
            default=3.0,
            help="seconds for which its clock stands before and after a night that it skips (default: 3)",
        )
        parser.add_argument(
            "--paused", action="store_true", help="begin with the market standing still, until POST /simulator/faults clears it"
        )
        parser.add_argument("--cut-out", type=stretch, metavar="HH:MM-HH:MM", help="of the replay: send nothing recorded then (IST)")
        parser.add_argument("--loop", action="store_true", help="begin the replay again at its end")
        parser.add_argument("--ledger", type=Path, metavar="DIR", help="write down every message that is sent")

    def handle(self, *args: Any, **options: Any) -> None:
        """Build the exchange and serve until stopped."""
        try:
            bound = listening_socket(options["host"], options["port"])
        except OSError as error:
            raise CommandError(f"cannot listen on {options['host']}:{options['port']}: {error}. Choose another with --port.") from error
        with bound:
            exchange = self._exchange(options)
            host, port = bound.getsockname()[:2]
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            server = ExchangeServer(create_app(exchange), on_ready=lambda: self._say(url, exchange), ping_seconds=options["ping"])
            exchange.on_failure = lambda: setattr(server, "should_exit", True)
            run(server, bound)
        if exchange.failure is not None:
            raise CommandError(f"the exchange stopped: {exchange.failure!r}")

    def _exchange(self, options: dict[str, Any]) -> Exchange:
        try:
            market = self._market(options)
            ledger = Ledger(options["ledger"]) if options["ledger"] else None
        except (CaptureError, MasterError, OSError, ValueError) as error:
            raise CommandError(str(error)) from error
        access = Access(options["token"], client_id=options["client_id"], client_secret=options["client_secret"])
        unpaced = bool(options["replay"]) and not options["speed"]
        exchange = Exchange(market, access, clock=self._clock(market, options), ledger=ledger, unpaced=unpaced, plus=options["plus"])
        if options["paused"]:
            inject(exchange, Pause())
        return exchange

    def _clock(self, market: Market, options: dict[str, Any]) -> MarketClock | None:
        """A clock of the simulated market's own, where another time or speed is asked for than the host's."""
        if options["replay"] or (options["start"] is None and options["speed"] == 1.0):
            return None
        segments = {row["segment"] for row in market.master_rows()}
        return MarketClock(market.now_ms(), options["speed"], market.hours, segments, stand_seconds=options["stand"])

    def _market(self, options: dict[str, Any]) -> Market:
        rows = read_master(options["master"]) if options["master"] else None
        if options["cut_out"] and not options["replay"]:
            raise ValueError("--cut-out needs --replay")
        if options["start"] is not None and options["replay"]:
            raise ValueError("--from is for the simulated market; a replay begins where it was recorded")
        if options["cut_out"]:
            frames = read_recording(options["replay"])
            return CutOutReplay(frames, options["cut_out"], speed=options["speed"], loop=options["loop"], rows=rows)
        if options["replay"]:
            return Replay.from_files(options["replay"], speed=options["speed"], loop=options["loop"], rows=rows)
        if not options["speed"]:
            raise ValueError('--speed 0 or "max" needs --replay')
        return SimulatedMarket(
            seed=options["seed"],
            start_ms=options["start"] or time.time_ns() // 1_000_000,
            speed=options["speed"],
            rate=options["rate"],
            instruments=options["instruments"],
            master_rows=rows,
            hours=options["hours"],
        )

    def _say(self, url: str, exchange: Exchange) -> None:
        self.stdout.write(f"Exchange ready at {url} ({len(exchange.market.rows_by_key)} instruments)")
        self.stdout.flush()
