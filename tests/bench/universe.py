"""What the subscription rules cost to resolve: the default ones on the real instrument master. `python -m tests.bench universe`.

Processor time, so that what else the machine does has no part in it. The pure resolution is given every row of the master, as if nobody
had looked for the right ones first; `universe_resolve` is what a feed waits for, with MongoDB.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from statistics import median

from django.core.management import call_command

from instruments.anchors import strike_ladders
from instruments.contracts import contract_of
from instruments.domain.instrument import IST, ms_of
from instruments.domain.universe import resolve
from instruments.models import SubscriptionRule
from instruments.selectors import broker_limits, rule_of, universe_resolve
from instruments.services import rules_default_create, spots_record
from instruments.store import instruments_collection
from tests.bench.table import Row
from tests.fakes.exchange import ROOT
from tests.payloads import REAL_DATA

MASTER = "NSE_2026-07.json.gz"
AT_MS = ms_of(datetime(2026, 7, 6, 10, 0, tzinfo=IST))
PRICES = {"NSE_INDEX|Nifty 50": 25_312.0, "NSE_INDEX|Nifty Bank": 57_230.0}
TURNS = 10
PURE_MS = 100.0
"""The most that resolving may take: the issue's figure."""


def run() -> list[Row]:
    """Measure; raises when the rules select nothing."""
    master = REAL_DATA / MASTER
    if not master.exists():
        print(f"  not measured: {master.name} is not beside this project")
        return []
    call_command("refresh_instruments", "--source", str(master), "--as-of", "2026-07-06", verbosity=0)
    rules_default_create()
    spots = spots_record(spots=PRICES, at_ms=AT_MS).spots
    rules = [rule_of(row) for row in SubscriptionRule.objects.all()]
    contracts = [contract_of(row, 1) for row in instruments_collection().find({"active": True})]
    limits = broker_limits()
    followed = resolve(contracts, spots, rules, limits, now_ms=AT_MS)
    if not followed.by_mode.get("full"):
        raise RuntimeError("the default rules select nothing of the real master")
    print(f"  {len(contracts)} contracts, {len(rules)} rules, {len(followed.by_mode['full'])} followed")
    strike_ladders()
    return [
        Row(
            "resolving the default rules on the whole master",
            _ms(lambda: resolve(contracts, spots, rules, limits, now_ms=AT_MS)),
            "ms",
            PURE_MS,
            None,
            True,
        ),
        Row("    with the database, as a feed asks", _ms(lambda: universe_resolve(spots=spots, at_ms=AT_MS)), "ms"),
        Row("    anchoring a feed's prices", _ms(lambda: spots_record(spots=PRICES, at_ms=AT_MS)), "ms"),
    ]


def _ms(work: Callable[[], object]) -> float:
    """The median processor time of a few turns."""
    turns = []
    for _ in range(TURNS):
        began = time.process_time()
        work()
        turns.append(time.process_time() - began)
    return median(turns) * 1000


if __name__ == "__main__":
    sys.exit(subprocess.call([sys.executable, "-m", "tests.bench", "universe"], cwd=Path(ROOT)))
