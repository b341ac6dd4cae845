"""REST under load: one web process, credentials and throttle on, the real instrument master. `python -m tests.bench rest`.

The throttle counts every request; its limit alone is raised, so that one user can make them all.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlencode

import httpx
from django.core.management import call_command

from accounts.services import api_key_create, owner_user
from instruments.models import Instrument
from marketdata import live_state
from marketdata.domain.quote import FIELDS
from marketdata.domain.tick import Level
from marketdata.wire import QuoteEntry, quote_entry
from tests.bench.http_load import load
from tests.bench.table import Row
from tests.fakes.exchange import ROOT
from tests.fakes.web import web_process
from tests.marketdata.way_out import Levels, quote_of
from tests.payloads import REAL_DATA

MASTER = "NSE_2026-07.json.gz"
CONNECTIONS = 8
SECONDS = 6.0
WARM_SECONDS = 1.5
PAGE = 50
"""Instruments or quotes in one answer."""
FILTERS = (
    {"segment": "NSE_FO", "underlying": "NIFTY"},
    {"segment": "NSE_FO", "instrument_type": "CE"},
    {"underlying": "BANKNIFTY", "instrument_type": "PE"},
    {"segment": "NSE_EQ", "instrument_type": "EQ"},
    {"underlying": "NIFTY", "strike_min": "24000", "strike_max": "26000"},
)


SEARCHES = (
    *(
        "nifty 25000 ce",
        "banknifty 58000 pe",
        "reliance",
        "bank nifty",
        "nifty 25mar 24000 pe",
        "nifty25000ce",
        "tata",
        "n",
        "hdfc bank",
    ),
    *("bankinfty 58000 pe", "relaince", "hdfc bnak", "nifty 25000 cee", "finifty", "india vx"),
)
"""As they are typed, the last ones with mistakes."""
SEARCH_P95_MS = 30.0


class Case(NamedTuple):
    """What is asked for, and how many answers a second there must be at least; None: as many as there are."""

    name: str
    targets: list[str]
    at_least: float | None


def run() -> list[Row]:
    """Measure; raises when an answer is no 200."""
    master = REAL_DATA / MASTER
    if not master.exists():
        print(f"  not measured: {master.name} is not beside this project")
        return []
    call_command("refresh_instruments", "--source", str(master), "--as-of", "2026-07-15", verbosity=0)
    keys = _publish_quotes()
    headers = {"Authorization": f"Bearer {api_key_create(user=owner_user(), name='bench')}", "Accept": "application/json"}
    rows = []
    with web_process(TRADINGOK_API_RATE="100000", TRADINGOK_API_BURST="1000000") as port:
        _check_answers(port, headers, keys)
        print(f"  {Instrument.objects.count()} instruments, {CONNECTIONS} connections, {SECONDS:.0f} s each, one web process")
        for case in _cases(keys):
            asyncio.run(load(port, case.targets, headers, connections=CONNECTIONS, seconds=WARM_SECONDS))
            measured = asyncio.run(load(port, case.targets, headers, connections=CONNECTIONS, seconds=SECONDS))
            if measured.failures:
                raise RuntimeError(f"{case.name}: answers that were no 200: {measured.failures}")
            rows.append(Row(case.name, measured.per_second, "requests/s", at_least=case.at_least))
            rows.append(Row("    its p50", measured.percentile_ms(0.5), "ms"))
            rows.append(Row("    its p99", measured.percentile_ms(0.99), "ms"))
        rows += _searches(port, headers)
    return rows


def _searches(port: int, headers: dict[str, str]) -> list[Row]:
    """How long a trader who types waits: one request after the other, and beside seven others who type too."""
    targets = [f"/api/marketdata/instruments/search/?q={quote(query)}" for query in SEARCHES]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30) as client:
        missing = [target for target in targets if not client.get(target).raise_for_status().json()["results"]]
    if missing:
        raise RuntimeError(f"nothing is found by {missing}")
    rows = []
    for connections, most in ((1, SEARCH_P95_MS), (CONNECTIONS, None)):
        measured = asyncio.run(load(port, targets, headers, connections=connections, seconds=SECONDS))
        name = f"a search of {Instrument.objects.count()} instruments, {connections} at a time: p95"
        rows.append(Row(name, measured.percentile_ms(0.95), "ms", at_least=most, lower_is_better=True))
    return rows


def _cases(keys: list[str]) -> list[Case]:
    pages = [f"/api/marketdata/instruments/?{urlencode({**fields, 'limit': PAGE})}" for fields in FILTERS]
    chunks = [keys[start : start + PAGE] for start in range(0, len(keys), PAGE)]
    latest = [f"/api/marketdata/ticks/latest/?instruments={quote(','.join(chunk))}" for chunk in chunks]
    return [
        Case(f"a filtered page of {PAGE} instruments", pages, 50),
        Case(f"the latest quotes of {PAGE} keys", latest, 250),
        Case(f"the latest prices of {PAGE} keys (ltpc)", [f"{target}&mode=ltpc" for target in latest], None),
        Case("one instrument by its key", [f"/api/marketdata/instruments/{quote(key)}/" for key in keys[:PAGE]], None),
        Case("the root: credentials and throttle alone", ["/api/"], None),
    ]


def _publish_quotes() -> list[str]:
    """Put whole quotes of 2,000 options where the web process finds them; return their keys."""
    rows = list(Instrument.objects.filter(active=True, segment="NSE_FO").order_by("pk").values_list("pk", "instrument_key")[:2000])
    asyncio.run(_write([_entry(number, key) for number, key in rows]))
    return [key for _, key in rows]


async def _write(entries: list[QuoteEntry]) -> None:
    await live_state.aquotes_write(entries, 1)
    await live_state.aclose()


def _entry(number: int, key: str) -> QuoteEntry:
    """An option's quote in which nothing is missing."""
    price = 100 + number % 1000 / 20
    quote = quote_of(number, 1, price, depth=Levels(*[Level(price - n / 20, 75 * n, price + n / 20, 75 * n) for n in range(1, 6)]))
    known = zip(FIELDS, quote.values, strict=True)
    quote.values = tuple(0.125 + number % 100 if value is None else value for _, value in known)
    return quote_entry(quote, key, True)


def _check_answers(port: int, headers: dict[str, str], keys: list[str]) -> None:
    """See that what is measured is what it should be."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30) as client:
        for case in _cases(keys)[:2]:
            for target in case.targets:
                body = client.get(target).raise_for_status().json()
                if len(body["results"]) != PAGE:
                    raise RuntimeError(f"{target} gave {len(body['results'])} results instead of {PAGE}")


if __name__ == "__main__":
    sys.exit(subprocess.call([sys.executable, "-m", "tests.bench", "rest"], cwd=Path(ROOT)))
