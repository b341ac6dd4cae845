"""A run of market days with exchange, feed and web as processes; and what the exchange saw of it, read from its ledger alone."""

from __future__ import annotations

import gzip
import json
import os
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import httpx
from django.conf import settings
from pytest_django import DjangoDbBlocker
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from accounts.models import User
from accounts.services import api_key_create
from broker.services import instruments_refresh_from
from broker.simulator.ledger import Asked, LedgerReader
from instruments.models import UniverseChange
from instruments.search import index_forget
from marketdata.calendar import calendar_forget
from marketdata.models import Gap
from tests.fakes.exchange import RunningExchange
from tests.fakes.stack import Process, empty_namespace
from tests.replay.test_real_data import answers, wait_until
from tradingok import ports

INDIA = ZoneInfo("Asia/Kolkata")
ALONE = {"ltpc": 5000, "option_greeks": 3000, "full": 2000}
MIXED = {"ltpc": 2000, "option_greeks": 2000, "full": 1500}
"""Keys of a mode on one connection, where it is the only mode and where it is not. Source: FACTS §3.2."""
Modes = dict[str, str]
"""Key → mode."""


class Contract(NamedTuple):
    """A row of the exchange's master. `expiry` YYYY-MM-DD, "" where it has none."""

    underlying: str
    kind: str
    strike: float
    expiry: str


def india(ms: float) -> datetime:
    """A moment in Indian time."""
    return datetime.fromtimestamp(ms / 1000, INDIA)


def moment(text: str) -> int:
    """Milliseconds UTC of a moment of Indian time."""
    return round(datetime.fromisoformat(text).replace(tzinfo=INDIA).timestamp() * 1000)


def listed(exchange: RunningExchange) -> dict[str, Contract]:
    """The exchange's master of now, key → contract, read without our code."""
    rows: list[dict[str, Any]] = json.loads(gzip.decompress(httpx.get(master_url(exchange), timeout=30).raise_for_status().content))
    return {
        row["instrument_key"]: Contract(
            row.get("underlying_key", ""),
            row["instrument_type"],
            row.get("strike_price", 0.0),
            f"{datetime.fromtimestamp(row['expiry'] / 1000, UTC).astimezone(INDIA):%Y-%m-%d}" if "expiry" in row else "",
        )
        for row in rows
    }


def master_url(exchange: RunningExchange) -> str:
    """Where its master is."""
    return f"{exchange.url}/market-quote/instruments/exchange/complete.json.gz"


class Moment(NamedTuple):
    """What the one connection subscribes after a request."""

    asked: Asked
    modes: Modes


def subscriptions(asked: Iterable[Asked]) -> list[Moment]:
    """Play the requests of one connection; what it subscribes after each. Nothing was refused, and the exchange counted the same."""
    found: list[Moment] = []
    modes: Modes = {}
    for each in asked:
        assert each.refused == [], each
        if each.method in ("open", "close"):
            modes = {}
        elif each.method == "unsub":
            assert modes.keys() >= set(each.keys), "what was not subscribed was left"
            modes = {key: mode for key, mode in modes.items() if key not in set(each.keys)}
        else:
            known = modes.keys() & set(each.keys)
            assert known == (set(each.keys) if each.method == "change_mode" else set()), each.method
            modes = modes | dict.fromkeys(each.keys, each.mode)
        assert each.modes == Counter(modes.values())
        found.append(Moment(each, modes))
    return found


def limits_of(modes: Counter[str]) -> dict[str, int]:
    """What the broker lets a connection have of each of these modes."""
    return ALONE if len(modes) == 1 else MIXED


def at(moments: list[Moment], market_ms: int) -> Modes:
    """What was subscribed at a moment of the market."""
    return [each.modes for each in moments if each.asked.market_ms <= market_ms][-1]


def asked_for(keys: Iterable[str], contracts: Mapping[str, Contract]) -> dict[str, list[str]]:
    """Underlying → expiries of its options that are among these keys, in order."""
    options = {(contracts[key].underlying, contracts[key].expiry) for key in keys if contracts[key].kind in ("CE", "PE")}
    found: defaultdict[str, list[str]] = defaultdict(list)
    for underlying, expiry in sorted(options):
        found[underlying].append(expiry)
    return dict(found)


def sent_times(ledger: LedgerReader) -> dict[str, list[int]]:
    """Key → market times of all that was sent of it, ms UTC."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for update in ledger.updates():
        found[update.key].append(update.broker_ms)
    return found


class Told:
    """A WebSocket client that keeps all that it is told."""

    def __init__(self, socket: ClientConnection) -> None:
        self.messages: list[dict[str, Any]] = []
        self._socket = socket

    def read(self) -> None:
        """Take what comes until the connection ends."""
        with suppress(ConnectionClosed):
            for text in self._socket:
                self.messages.append(json.loads(text))

    def say(self, **command: object) -> None:
        """Send a command."""
        self._socket.send(json.dumps(command))

    def pushes(self, event: str) -> list[dict[str, Any]]:
        """The pushes of one kind so far, in their order."""
        return [message for message in list(self.messages) if message.get("event") == event]


def is_hiccup(gap: Gap) -> bool:
    """Whether a hole lies within one day's session: at this pace, a host that is busy for a hundredth of a second makes one of a minute."""
    start, end = gap.start.astimezone(INDIA), (gap.end or gap.start).astimezone(INDIA)
    return start.date() == end.date() and (start.hour, start.minute) >= (9, 15) and (end.hour, end.minute) <= (15, 40)


class Run(NamedTuple):
    """What is left of a run.

    Attributes:
        began_ms, ended_ms: of the market, ms UTC.
        moments: what was asked of the exchange, and subscribed then.
        sent: key → market times of what was sent of it.
        contracts: all that were ever listed.
        masters: morning → the expiries of options then, all YYYY-MM-DD.
        holidays: MM-DD → kind, as the exchange tells them.
        rows: the log, oldest first.
        told: the client.
        held: what the client followed.
        counts: of the exchange's feed.
        counters: of ours.
        gaps: those that were recorded.
    """

    began_ms: int
    ended_ms: int
    moments: list[Moment]
    sent: dict[str, list[int]]
    contracts: dict[str, Contract]
    masters: dict[str, set[str]]
    holidays: dict[str, str]
    rows: list[UniverseChange]
    told: Told
    held: dict[str, Contract]
    counts: dict[str, int]
    counters: dict[str, float]
    gaps: list[str]


class TwoWeeks:
    """The processes, and a client that names the channel `market`."""

    def __init__(self, exchange: RunningExchange, folder: Path, stack: ExitStack, environment: Mapping[str, str]) -> None:
        self.exchange = exchange
        self.told: Told
        self.contracts: dict[str, Contract] = {}
        self.masters: dict[str, set[str]] = {}
        self.held: dict[str, Contract] = {}
        self.headers = {"Authorization": f"Bearer {api_key_create(user=User.objects.create_user('reader'), name='weeks')}"}
        port = ports.choose()
        self.url = f"http://127.0.0.1:{port}"
        environment = {
            **os.environ,
            **environment,
            "PORT": str(port),
            "TRADINGOK_VAR": str(folder),
            "SECRET_KEY": settings.SECRET_KEY,
            "TRADINGOK_EXCHANGE_URL": exchange.url,
            "UPSTOX_ACCESS_TOKEN": exchange.token,
        }
        self.web = Process("web", [sys.executable, "-m", "tradingok.server"], environment, folder)
        self.feed = Process("feed", [sys.executable, "manage.py", "runfeed"], environment, folder)
        for process in (self.web, self.feed):
            stack.callback(stop, process)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run web, client and feed, in this order: the client is told everything. The market must stand."""
        self.web.start()
        wait_until(lambda: answers(self.url), 60, self.web.told)
        address = f"{self.url.replace('http', 'ws')}/ws/market/"
        socket = connect(address, additional_headers=self.headers, max_size=None, ping_interval=None, proxy=None)
        with socket:
            self.told = Told(socket)
            reader = threading.Thread(target=self.told.read, daemon=True)
            reader.start()
            self.told.say(id=1, op="subscribe", channels=["market"])
            self.feed.start()
            hours = "/v2/market/timings"
            self.until(lambda: self.exchange.state()["requests"].get(hours, 0) >= CALENDAR_DAYS)  # else it judges the first day without
            yield
            self.until(self._is_through)
        reader.join(10)

    def _is_through(self) -> bool:
        """Whether all that the feed took and decided has arrived."""
        counters, told = self.counters(), len(self.told.pushes("universe"))
        stored = counters["ticks_stored_total"] == counters["ticks_decoded_total"] == self.exchange.state()["updates_sent_total"]
        return stored and told == counters["universe_changes_total"] == UniverseChange.objects.count()

    def counters(self) -> dict[str, float]:
        """The feed's, as it reported them last."""
        answer = httpx.get(f"{self.url}/api/broker-status", headers=self.headers, timeout=30).raise_for_status()
        counters: dict[str, float] = answer.json()["shards"][0]["counters"]
        return counters

    def refresh(self, day: str) -> None:
        """What beat does each morning; the master as it was is kept for the proof."""
        instruments_refresh_from(source=master_url(self.exchange), force=True)
        of_today = listed(self.exchange)
        self.masters[day] = {contract.expiry for contract in of_today.values() if contract.kind in ("CE", "PE")}
        self.contracts |= of_today

    def subscribed(self) -> set[str]:
        """Keys that the exchange is asked for now."""
        answer = httpx.get(f"{self.exchange.url}/simulator/state", params={"keys": "1"}, timeout=30).raise_for_status()
        return set(answer.json()["subscribed_keys"])

    def until(self, holds: Callable[[], bool], seconds: float = 60) -> None:
        """Poll; the processes must live on."""

        def held() -> bool:
            assert self.feed.running, self.feed.told()
            return holds()

        wait_until(held, seconds, lambda: f"{self.exchange.state()}\n{self.feed.told()}\n{self.web.told()}")

    def stand_at(self, market_ms: int) -> None:
        """Let the market go on to a moment, and stand there."""
        self.exchange.fault(kind="pause", at_market_ms=market_ms)
        self.until(lambda: int(self.exchange.state()["market_ms"]) >= market_ms, 120)

    def follow(self, underlying: str, expiry: str) -> None:
        """Have the client follow the six options round the money of a chain that is subscribed."""
        chain = [(self.contracts[key].strike, key) for key in self.subscribed() if is_option(self.contracts[key], underlying, expiry)]
        middle = [key for _, key in sorted(chain)[len(chain) // 2 - 3 : len(chain) // 2 + 3]]
        self.held |= {key: self.contracts[key] for key in middle}
        self.told.say(id=1 + len(self.held), op="subscribe", instruments=middle)


CALENDAR_DAYS = 22
"""Days of which the feed asks the hours when it starts: a week back, today, two weeks ahead."""


def stop(process: Process) -> None:
    """End what still runs."""
    if process.running:
        process.stop()


def is_option(contract: Contract, underlying: str, expiry: str) -> bool:
    """Whether it is an option of this chain."""
    return contract.kind in ("CE", "PE") and (contract.underlying, contract.expiry) == (underlying, expiry)


@contextmanager
def live_through(
    live: Callable[[TwoWeeks], None],
    options: tuple[str, ...],
    folder: Path,
    blocker: DjangoDbBlocker,
    environment: Mapping[str, str],
) -> Iterator[Run]:
    """Start everything, live, end everything; give what is left. The database is used outside of pytest-django's `db`, and emptied.

    Args:
        live: what happens; begins and ends with the market standing.
        options: of runexchange.
        folder: an empty one.
        blocker: pytest-django's.
        environment: settings of web and feed beside the usual ones.
    """
    with ExitStack() as stack:
        stack.enter_context(blocker.unblock())
        for forget in (index_forget, calendar_forget, lambda: empty_namespace(drop=False)):
            stack.callback(forget)
        exchange = RunningExchange(*options, "--paused", ledger=folder / "ledger")
        stack.callback(exchange.stop)
        began_ms = int(exchange.state()["market_ms"])
        weeks = TwoWeeks(exchange, folder, stack, environment)
        weeks.refresh(f"{india(began_ms):%Y-%m-%d}")
        with weeks.running():
            live(weeks)
        counters = weeks.counters()
        for process in (weeks.feed, weeks.web):
            assert process.stop() == 0, process.told()
        state = exchange.wait_for(lambda state: not state["connections"])
        ledger = LedgerReader(folder / "ledger")
        yield Run(
            began_ms=began_ms,
            ended_ms=int(state["market_ms"]),
            moments=subscriptions(ledger.requests()),
            sent=sent_times(ledger),
            contracts=weeks.contracts,
            masters=weeks.masters,
            holidays={row["date"][5:]: row["holiday_type"] for row in exchange.get("/v2/market/holidays").json()["data"]},
            rows=list(UniverseChange.objects.order_by("pk")),
            told=weeks.told,
            held=weeks.held,
            counts=state["counts"],
            counters=counters,
            gaps=[f"{gap.start} – {gap.end} {gap.cause}" for gap in Gap.objects.all() if not is_hiccup(gap)],
        )
