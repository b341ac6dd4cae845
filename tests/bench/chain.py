"""The option chain of a hub: what a moving chain of 240 contracts costs, and what each further subscriber adds.

One web process gets 2,000 ticks/s of one chain through the bus, in windows of 25 ms, and nothing else. Its processor time is measured
without a subscriber (receiving, decoding, keeping quotes), with one, and with SUBSCRIBERS of them, all on all strikes: the first
difference is what the chain costs (taking the quotes, figures, encoding, one client's line), the second what the other lines cost.
Volatilities and greeks are the broker's.
Every tick changes what its row shows, so that every push has all rows: the worst case. Clients check that they get every turn.

Then, in this process and with nobody else, what a turn costs the hub (quotes read, figures, rows and one push encoded) when the broker
sends volatilities and greeks, and when they all have to be computed.

`python -m tests.bench chain`
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any, NamedTuple

import httpx
import numpy as np

from accounts.services import api_key_create, owner_user
from broker.simulator import pricing
from instruments.models import Instrument
from marketdata import live_state
from marketdata.chain_channels import CHAIN_SECONDS
from marketdata.chain_series import ChainBook, ChainSeries
from marketdata.commands import ChainChannel
from marketdata.domain.chain import Chain
from marketdata.domain.quote import FIELDS, Quote
from marketdata.ohlc_series import NOTHING
from marketdata.option_quotes import option_quote
from marketdata.wire import QuoteEntry, quote_entry
from tests.bench.fanout import COUNTERS_SECONDS, RAISED, SEED
from tests.bench.fanout_worker import Worker, cpu_seconds
from tests.bench.table import Row
from tests.fakes.web import web_process
from tests.marketdata.domain.hand_chains import ENDS_MS, ladder
from tradingok.children import processes_with

STRIKES = 120
RATE = 2000
SUBSCRIBERS = 500
CHANNEL = "chain:NIFTY:@w0:all"
SECONDS = 12.0
SETTLE_SECONDS = 3.0
TURNS = 40
SPOT = 25_000.0
VOLATILITY = 0.15
DAYS_LEFT = 30
"""So that the farthest strikes have a volatility too: all 240 are computed."""


class Run(NamedTuple):
    """What one stretch of publishing cost.

    Attributes:
        cpu: the server's share of a core.
        seconds: how long it was.
        delivered: pushes that all clients got.
        wrong: of them, those that came behind a hole.
        bytes: WebSocket payload of all.
        pushes, rows: how often the hub encoded one.
    """

    cpu: float
    seconds: float
    delivered: int
    wrong: int
    bytes: int
    pushes: float
    rows: float


def make_chain() -> None:
    """Make the index (instrument 1) and its options, on keys that the source of the fan-out's benchmark publishes."""
    expiry = datetime.now(UTC).replace(hour=18, minute=29, second=59, microsecond=0) + timedelta(days=4)
    common: dict[str, Any] = {"exchange": "NSE", "underlying_symbol": "NIFTY", "active_from": datetime(2026, 1, 1, tzinfo=UTC)}
    index = Instrument(
        id=1,
        identity="index",
        instrument_key="TEST|1",
        segment="NSE_INDEX",
        instrument_type="INDEX",
        trading_symbol="NIFTY",
        name="NIFTY",
        **common,
    )
    options = [
        Instrument(
            id=number,
            identity=f"option {number}",
            instrument_key=f"TEST|{number}",
            segment="NSE_FO",
            instrument_type="PE" if number % 2 else "CE",
            trading_symbol=f"NIFTY {number}",
            name="NIFTY",
            underlying_key="TEST|1",
            expiry=expiry,
            weekly=True,
            strike_price=40.0 + number // 2,
            lot_size=75,
            **common,
        )
        for number in range(2, 2 + 2 * STRIKES)
    ]
    Instrument.objects.bulk_create([index, *options])


class Place:
    """One server, its source, and how many clients as wanted."""

    def __init__(self, port: int, source: Worker) -> None:
        (self.pid,) = processes_with("PORT", str(port))
        self._port, self._source = port, source
        self._headers = {"Authorization": f"Bearer {api_key_create(user=owner_user(), name='bench')}"}
        httpx.get(f"http://127.0.0.1:{port}/api/marketdata/ticks/latest/?instruments=TEST|1", headers=self._headers, timeout=60)  # its hub

    @contextmanager
    def clients(self, count: int) -> Iterator[Worker | None]:
        if not count:
            yield None
            return
        url = f"ws://127.0.0.1:{self._port}/ws/market/"
        task = {"kind": "chain", "url": url, "headers": self._headers, "keys": [[CHANNEL]] * count}
        with Worker("tests.bench.fanout_clients", task) as load:
            load.answer(120)
            yield load

    def run(self, subscribers: int) -> Run:
        """Publish RATE ticks a second to so many subscribers and count."""
        with self.clients(subscribers) as load:
            time.sleep(SETTLE_SECONDS)
            before = _encoded()
            if load is not None:
                load.ask("mark")
            cpu = cpu_seconds(self.pid)
            sent = self._source.ask(f"go {RATE} {SECONDS}")
            cpu = cpu_seconds(self.pid) - cpu
            time.sleep(2 * CHAIN_SECONDS)  # the last turn
            seen = {"delivered": 0, "wrong": 0, "bytes": 0} if load is None else load.ask("count")
            pushes, rows = (after - earlier for after, earlier in zip(_encoded(), before, strict=True))
        run = Run(cpu / sent["seconds"], sent["seconds"], seen["delivered"], seen["wrong"], seen["bytes"], pushes, rows)
        print(
            f"    {subscribers} subscribers: {run.cpu:.1%} of a core, {run.pushes:.0f} pushes and {run.rows:.0f} rows encoded, "
            f"{run.delivered:,} pushes delivered ({run.delivered / sent['seconds']:,.0f}/s), {run.bytes / 1e6:,.0f} MB, "
            f"{run.wrong} behind a hole; source late {sent['late_ms']:.0f} ms",
            flush=True,
        )
        return run


def _encoded() -> tuple[float, float]:
    """Return how many pushes and rows the only hub has encoded, as it writes next."""
    began = time.time()
    deadline = began + COUNTERS_SECONDS
    first = live_state.hub_counters_read()
    while (counters := live_state.hub_counters_read()) == first and time.time() < deadline:
        time.sleep(0.1)
    (hub,) = counters.values()
    return hub["chain_pushes_encoded_total"], hub["chain_rows_encoded_total"]


def run() -> list[Row]:
    """Measure with nobody, one and SUBSCRIBERS; return the figures."""
    make_chain()
    with ExitStack() as stack:
        port = stack.enter_context(web_process(**RAISED))
        task = {"instruments": 1 + 2 * STRIKES, "seed": SEED, "way": "bus"}
        source = stack.enter_context(Worker("tests.bench.fanout_source", task))
        source.answer()
        place = Place(port, source)
        nobody, one, many = place.run(0), place.run(1), place.run(SUBSCRIBERS)
    return [
        Row("the server without a subscriber, its share of a core", 100 * nobody.cpu, "%"),
        Row("with one subscriber", 100 * one.cpu, "%"),
        Row("the chain alone", 100 * (one.cpu - nobody.cpu), "%", 10, 5, lower_is_better=True),
        Row(f"with {SUBSCRIBERS} subscribers", 100 * many.cpu, "%", 10, 7, lower_is_better=True),
        Row("a push for each subscriber", 1e6 * (many.cpu - one.cpu) * many.seconds / many.delivered, "µs"),
        Row("bytes of a push", many.bytes / many.delivered, "B"),
        Row("subscribers served by one encoding", many.delivered / many.pushes, "", 0.99 * SUBSCRIBERS),
        Row("pushes that came behind a hole", many.wrong + one.wrong, "", 0, lower_is_better=True),
        *_turn_rows(),
    ]


def _turn_rows() -> list[Row]:
    rows = []
    for name, sent in (("valued by the broker", True), ("valued by us, with QuantLib", False)):
        turn_ms = _turn_ms(sent=sent)
        rows.append(Row(f"a turn of {2 * STRIKES} options {name}", turn_ms, "ms"))
        rows.append(Row(f"    at a turn each {CHAIN_SECONDS} s, of a core", turn_ms / CHAIN_SECONDS / 10, "%"))
    return rows


def _turn_ms(*, sent: bool) -> float:
    """The median processor time of a turn, between two of which every option has another price and the forward has moved by 0.1 %.

    Raises:
        RuntimeError: an option has no values, or other than those that are meant.
    """
    strikes = SPOT + 50 * np.arange(-STRIKES // 2, STRIKES // 2)
    book = ChainBook(Chain(ladder(strikes.tolist()), interest_rate=0.0), Counter())
    series, seen, taken = ChainSeries(ChainChannel("NIFTY", "@w0", "all")), NOTHING, []
    for turn in range(1, TURNS + 1):
        spot = SPOT * (1 + 0.001 * (turn % 2))
        entries = _priced(strikes, spot, turn, sent=sent)
        began = time.process_time()
        for entry in entries:
            book.chain.take(entry.instrument, option_quote(entry), entry.broker_ms)
        book.chain.take_spot(spot, entries[-1].broker_ms)
        book.turn([series], entries[-1].broker_ms)
        seen = series.drain(seen).seen
        taken.append(time.process_time() - began)
    sides = [side for row in book.chain.rows() for side in (row.call, row.put)]
    if any(side is None or side.implied_volatility is None or side.computed is sent for side in sides):
        raise RuntimeError("not every option has the values that are meant")
    return 1000 * median(taken)


def _priced(strikes: np.ndarray[Any, Any], spot: float, turn: int, *, sent: bool) -> list[QuoteEntry]:
    """Quotes of a call and a put at each strike, as the simulated exchange prices them; with volatility and greeks if they are `sent`."""
    now_ms = ENDS_MS - DAYS_LEFT * 86_400_000 + turn * int(1000 * CHAIN_SECONDS)
    both, signs = np.repeat(strikes, 2), np.tile([1, -1], len(strikes))
    spots, years = np.full(len(both), spot), np.full(len(both), (ENDS_MS - now_ms) / pricing.YEAR_MS)
    sigmas = pricing.volatility(spots, both, years, np.full(len(both), VOLATILITY))
    prices = pricing.to_tick(pricing.option_price(signs, spots, both, years, sigmas), np.full(len(both), 0.05))
    greeks = pricing.option_greeks(signs, spots, both, years, sigmas)
    found = []
    for number, (price, sigma, *values) in enumerate(zip(prices, sigmas, *greeks, strict=True), start=1):
        quote = Quote(number)
        quote.seq, quote.broker_ms = turn, now_ms
        told: dict[str, float] = {"last_price": float(price), "last_trade_ms": now_ms, "previous_close": 100.0}
        told |= {"bid_price": float(price) - 0.05, "bid_quantity": 75, "ask_price": float(price) + 0.05, "ask_quantity": 150}
        told |= {"volume": 75 * turn, "open_interest": 1e6}
        if sent:
            told |= {"implied_volatility": float(sigma)} | dict(zip(pricing.Greeks._fields, map(float, values), strict=True))
        quote.values = tuple(told.get(name) for name in FIELDS)
        found.append(quote_entry(quote, f"NSE_FO|{number}", False))
    return found
