"""What changes instruments: the refresh from a master, placeholders, the default subscription rules."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar

from django.conf import settings
from django_mongodb_backend import transaction
from pymongo.errors import OperationFailure

from instruments import store
from instruments.anchors import anchors_of, strike_ladders
from instruments.domain.change import Change, Passing, Plan, plan_changes
from instruments.domain.instrument import InstrumentRow, split_key
from instruments.models import Instrument, MasterLoad, SubscriptionRule
from instruments.selectors import instrument_ids

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""
SMALLEST_SHARE = 0.5
"""A master with fewer rows than this share of the last one's is taken for a broken file."""
PASSES = 4
"""How often a refresh plans again when the feed creates placeholders under its hands."""
TRANSACTION_CHANGES = 400
"""Changes in one transaction: well inside MongoDB's 60 s and its 1,000-document advice, and large enough to be fast."""
ABANDONED_SECONDS = 120.0
"""How long a refresh waits for the transaction of a killed one. MongoDB ends it after 60 s, and looks each 30 s (measured: 81 s)."""
CONFLICT_PAUSE_SECONDS = 1.0
LOCK_SECONDS = 10.0
"""Renewed between chunks, which take a second or two. A holder that is late keeps it as long as nobody else wants it."""
LOCK_WAIT_SECONDS = 20.0
"""Longer than LOCK_SECONDS: a refresh after a killed one waits for the dead lock's end and goes on."""

_Item = TypeVar("_Item")


class RefreshRefused(Exception):
    """The rows may not be applied; nothing was changed. The message is for a person and says what would help."""


def instruments_refresh(
    *,
    rows: Sequence[InstrumentRow],
    source: str,
    as_of: datetime | None = None,
    etag: str = "",
    force: bool = False,
    progress: Progress | None = None,
) -> MasterLoad:
    """Make the active instruments those of a master, writing only what differs.

    May be killed at any moment: what was written is right by itself, and the next run writes the rest.

    Args:
        rows: the whole master, each key once.
        source: where it came from, for the record; no credentials.
        as_of: when it was true (aware); default now.
        force: apply it although it has less than half of the last one's rows.

    Returns:
        the record of this load.

    Raises:
        RefreshRefused: no rows, too few rows, an `as_of` in the future or older than the last load's.
        store.LockHeld: another refresh is running; worth a retry. store.LockLost: this one was stopped too long; worth a retry.
    """
    as_of = _whole_ms(as_of or datetime.now(UTC))
    with store.Lock("instruments_refresh", seconds=LOCK_SECONDS, wait=LOCK_WAIT_SECONDS) as lock:
        _refuse_if_implausible(len(rows), as_of, force)
        store.refresh_begin(as_of)
        counts = _apply_until_equal(rows, as_of, lock, progress or _no_progress)
        load = MasterLoad.objects.create(as_of=as_of, source=source[:300], rows=len(rows), etag=etag[:200], **counts)
    if load.created or load.retired or load.changed:
        log.info("instruments as of %s: %s", as_of.isoformat(), counts)
    return load


def _whole_ms(moment: datetime) -> datetime:
    """As MongoDB stores it, so that what is compared with stored times is equal to them."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def instruments_unchanged(*, last: MasterLoad) -> MasterLoad:
    """Record that the server says its master is the one of the last load still."""
    return MasterLoad.objects.create(
        as_of=datetime.now(UTC), source=last.source, rows=last.rows, etag=last.etag, created=0, changed=0, retired=0
    )


def _refuse_if_implausible(rows: int, as_of: datetime, force: bool) -> None:
    if not rows:
        raise RefreshRefused("the master has no rows")
    if as_of > datetime.now(UTC) + timedelta(minutes=5):
        raise RefreshRefused(f"as-of {as_of.isoformat()} is in the future")
    last = MasterLoad.objects.order_by("-as_of").first()
    begun, loaded = store.refresh_begun(), None if last is None else last.as_of
    newest = max(moment for moment in (as_of, begun, loaded) if moment is not None)
    if as_of < newest:
        raise RefreshRefused(
            f"as-of {as_of.isoformat()} is older than the last load, {newest.isoformat()}: contracts would return to the past"
        )
    if last is None:
        return
    if rows < last.rows * SMALLEST_SHARE and not force:
        raise RefreshRefused(
            f"the master has {rows} rows, the last one had {last.rows} ({last.source}): more than half is missing. "
            "If that is right (another exchange, a smaller simulated market), use --force"
        )


def _apply_until_equal(rows: Sequence[InstrumentRow], as_of: datetime, lock: store.Lock, progress: Progress) -> dict[str, int]:
    counts = {"created": 0, "changed": 0, "retired": 0, "keys_passed": 0}
    for _ in range(PASSES):
        plan = plan_changes(store.known_instruments(), rows)
        lock.renew()
        if _apply(plan, as_of, lock, progress, counts):
            return counts
    raise RefreshRefused(
        f"instruments still differ from the master after {PASSES} passes: something else keeps changing them. Run it again"
    )


def _apply(plan: Plan, as_of: datetime, lock: store.Lock, progress: Progress, counts: dict[str, int]) -> bool:
    """Write a plan in an order that holds at each step: first end what is gone, then pass keys, then what needs nobody's key.

    Returns:
        whether all of it was written; not, when a key was taken meanwhile, and then there is more to plan.
    """
    complete = True
    step = _Steps(plan.size, lock, progress)
    for ids in _chunks(plan.gone, store.CHUNK):
        counts["retired"] += store.instruments_retire(ids, as_of)
        step("retired", len(ids))
    returning = store.retired_ids([change.identity for change in _without_id(plan)])
    for groups in _packed(plan.passing):
        settled = [Passing(group.leaving, [_with_old_id(change, returning) for change in group.taking]) for group in groups]
        if not _transact(partial(store.keys_pass, settled, as_of), lock):
            complete = False
            continue
        _count_passing(settled, counts)
        step("keys passed on", sum(len(group.leaving) + len(group.taking) for group in groups))
    back = [_with_old_id(change, returning) for change in plan.entering if change.identity in returning]
    for counter, what, changes in (("changed", "changed", plan.changed), ("created", "returned", back)):
        for chunk in _chunks(changes, TRANSACTION_CHANGES):
            if _transact(partial(store.instruments_update, chunk, as_of), lock):
                counts[counter] += len(chunk)
            else:
                complete = False
            step(what, len(chunk))
    fresh = sorted((change for change in plan.entering if change.identity not in returning), key=_order)
    for chunk in _chunks(fresh, store.CHUNK):
        written = store.instruments_insert(chunk, as_of)
        complete = complete and written == len(chunk)
        counts["created"] += written
        step("created", len(chunk))
    return complete


def _transact(write: Callable[[], None], lock: store.Lock) -> bool:
    """Run a transaction; while another one has written what it writes, as that of a killed refresh, wait for its end.

    Returns:
        whether it was written; not, when a key was taken meanwhile: then nothing was changed, and the next pass plans it again.
    """
    deadline = time.monotonic() + ABANDONED_SECONDS
    waiting = False
    while True:
        try:
            write()
        except OperationFailure as error:  # includes BulkWriteError
            conflict = error.has_error_label("TransientTransactionError") and time.monotonic() < deadline
            if not (waiting and conflict):
                log.warning("a transaction was rolled back%s: %s", ", trying again until the other ends" if conflict else "", error)
            if not conflict:
                return False
            waiting = True
        else:
            return True
        time.sleep(CONFLICT_PAUSE_SECONDS)
        lock.renew()


class _Steps:
    """Counts what is done, tells `progress`, and renews the lock between chunks."""

    def __init__(self, total: int, lock: store.Lock, progress: Progress) -> None:
        self._total, self._lock, self._progress = total, lock, progress
        self._done = 0

    def __call__(self, what: str, count: int) -> None:
        self._done += count
        self._progress(what, self._done, self._total)
        self._lock.renew()


def _without_id(plan: Plan) -> Iterator[Change]:
    yield from (change for change in plan.entering if change.id is None)
    yield from (change for group in plan.passing for change in group.taking if change.id is None)


def _with_old_id(change: Change, returning: Mapping[str, int]) -> Change:
    """Give a contract that comes back the id it had."""
    return change if change.id is not None else change._replace(id=returning.get(change.identity))


def _count_passing(groups: Iterable[Passing], counts: dict[str, int]) -> None:
    for group in groups:
        staying = {change.id for change in group.taking}
        counts["retired"] += sum(instrument not in staying for instrument in group.leaving)
        known = sum(change.id in group.leaving for change in group.taking)
        counts["changed"] += known
        counts["created"] += len(group.taking) - known
        counts["keys_passed"] += len(group.leaving)


def _order(change: Change) -> tuple[str, str, int, float, str]:
    """Ids of one load follow the eye: segment, underlying, expiry, strike, symbol. The API lists by id."""
    row = change.row
    return row.segment, row.underlying_symbol or "", row.expiry_ms or 0, row.strike_price or 0.0, row.trading_symbol


def _packed(groups: Iterable[Passing]) -> Iterator[list[Passing]]:
    """Put whole groups together until a transaction is full; a group is never cut."""
    pack: list[Passing] = []
    size = 0
    for group in groups:
        pack.append(group)
        size += len(group.taking)
        if size >= TRANSACTION_CHANGES:
            yield pack
            pack, size = [], 0
    if pack:
        yield pack


def _chunks(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _no_progress(what: str, done: int, total: int) -> None:
    """Tell nobody."""


def instrument_placeholder_create(*, keys: Iterable[str], at: datetime) -> dict[str, int]:
    """Give keys that the master does not know an instrument of their own, so that their ticks have a place.

    Safe from several processes at once and beside a refresh, and without waiting for either: the unique index on active keys decides.

    Args:
        keys: as the feed named them.
        at: since when (aware); the feed's market time.

    Returns:
        the id of each key that is a key: of the placeholder, or of the instrument that holds the key already. Malformed ones are left out.
    """
    wanted = [key for key in dict.fromkeys(keys) if _is_key(key)]
    found = instrument_ids(wanted)
    missing = [key for key in wanted if key not in found]
    if not missing:
        return found
    created = store.placeholders_insert(missing, at)
    log.warning("%d instruments unknown to the master were seen in the feed, first %s", created, missing[0])
    return instrument_ids(wanted)


def _is_key(key: str) -> bool:
    try:
        split_key(key)
    except ValueError:
        return False
    return True


RULES_MADE = "rules_default"
INDIA_VIX = "INDIA VIX"
"""Trading symbol of the volatility index; followed by the default rules beside the underlyings' own indices."""

NEAR_STRIKES = 40
"""Strikes on each side of the money that the default rules want of every underlying before any underlying's wings."""
ALL_STRIKES = 500
"""TRADINGOK_STRIKES that means all of them."""


def rules_default_create() -> int:
    """Make the subscription rules that the settings describe, if there has never been any rule.

    Idempotent, and never brings back a rule that a person has deleted or changed: that they were made is remembered.

    Returns:
        how many rules were made; 0 on every call but the first.
    """
    with store.Lock("rules_default", seconds=LOCK_SECONDS, wait=LOCK_WAIT_SECONDS):
        if store.is_marked(RULES_MADE) or SubscriptionRule.objects.exists():
            return 0
        made = _default_rules()
        with transaction.atomic():
            SubscriptionRule.objects.bulk_create(made)
        store.mark(RULES_MADE)
    return len(made)


def _default_rules() -> list[SubscriptionRule]:
    weeklies = [f"@w{number}" for number in range(settings.UNIVERSE_WEEKLIES)]
    monthlies = [f"@m{number}" for number in range(settings.UNIVERSE_MONTHLIES)]
    most = settings.UNIVERSE_STRIKES
    symbols = list(dict.fromkeys(settings.UNIVERSE_UNDERLYINGS))
    indices = [
        SubscriptionRule(name=f"{symbol} index", what="index", underlying=symbol, priority=10 + place)
        for place, symbol in enumerate(dict.fromkeys([*symbols, INDIA_VIX]))
    ]
    futures = [
        SubscriptionRule(name=f"{symbol} near future", what="futures", underlying=symbol, expiries=["@m0"], priority=50 + place)
        for place, symbol in enumerate(symbols)
    ]
    options = []
    for place, symbol in enumerate(symbols):
        expiries = [*weeklies, *monthlies] if _may_have_weeklies(symbol) else monthlies
        near = SubscriptionRule(what="options", underlying=symbol, expiries=expiries, strikes=f"atm{min(most, NEAR_STRIKES)}")
        near.name, near.priority = f"{symbol} options", 100 + place
        wings = SubscriptionRule(
            what="options", underlying=symbol, expiries=expiries, strikes="all" if most == ALL_STRIKES else f"atm{most}"
        )
        wings.name, wings.priority = f"{symbol} wings", 200 + place
        options += [near, wings] if most > NEAR_STRIKES else [near]
    return [*indices, *futures, *(rule for rule in options if rule.expiries)]


def spots_record(*, spots: Mapping[str, float], at_ms: int, shard: int = 0, shards: int = 1) -> store.RecordedSpots:
    """Keep what a feed's prices make of the anchors, and return the anchors of all feeds: what the rules are resolved with.

    An underlying's price comes on one connection only, but each feed resolves all rules; and the API shows what they mean without a
    feed of its own. Equal anchors mean equal windows: whoever sees them unchanged need not resolve again for a price's sake.

    Cheap enough for each second: three reads and a write of single small documents.

    Args:
        spots: last price by key · INR, of whatever the feed has; only underlyings of options are kept.
        at_ms: market time of them · ms UTC.
        shard, shards: the feed's number from 0, and how many there are.
    """
    ladders = strike_ladders()
    anchors = anchors_of(spots, store.spots_read().spots, ladders)
    store.spots_write(anchors, at_ms, shard=shard, shards=shards, priced=bool(spots), underlyings=ladders)
    return store.spots_read()


def _may_have_weeklies(symbol: str) -> bool:
    """True unless the master is loaded and lists none (only NIFTY has them at NSE since November 2024)."""
    contracts = Instrument.objects.filter(active=True, underlying_symbol=symbol)
    return contracts.filter(weekly=True).exists() or not contracts.exists()
