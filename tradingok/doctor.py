"""Looks at the set-up of this copy, part by part, and says of each finding what to do. It changes nothing.

It must work when nothing else does: each look is on its own, and a server that is down is a finding, not a traceback.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import redis
from django.conf import settings
from django.core import checks
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from broker.journal_segments import segment_paths, segment_stamp
from broker.sessions import token_current
from broker.upstox.protocol import AuthExpired
from instruments.models import Instrument, MasterLoad
from marketdata import live_state
from marketdata.domain.feed_status import FeedStatus
from marketdata.domain.tick import stamp_to_ms
from tradingok import children, plan, ports
from tradingok.checks import TAG
from tradingok.embedded import EmbeddedServerError, needed_servers
from tradingok.embedded.errors import cannot_run, make_folders, missing_libraries
from tradingok.findings import Finding, Level, fail, ok, warn
from tradingok.locks import FileLock

Findings = Iterable[Finding]

DAY_BYTES = 9_000_000_000  # a full day at 1,600 ticks/s, the upper figure of ARCHITECTURE §5; ticks, candles and journal
LEAST_BYTES = 2_000_000_000
CLOCK_SECONDS = 2.0  # a larger difference is shown
MASTER_HOURS = 36  # the master changes each trading day, weekends apart
TOKEN_HOURS = 1
LAG_MS = 10_000
STATUS_MS = 5_000  # the feed reports each second
START = "`make run` starts it"


class Look(NamedTuple):
    """One look at one part.

    Attributes:
        what: the part's name in findings.
        take: looks, and gives what it found.
        needs: the look that must have found nothing failed, else this one can know nothing.
    """

    what: str
    take: Callable[[], Findings]
    needs: str = ""


def looks() -> list[Look]:
    """Return the looks in the order in which they are taken: what others need comes first."""
    return [
        Look("python", python_version),
        Look("requirements", requirements),
        Look("settings", settings_values),
        Look("data folder", data_folder),
        Look("libraries", libraries),
        Look("supervisor", supervisor),
        Look("port", web_port),
        Look("web", web_processes),
        Look("mongodb", mongodb),
        Look("redis", redis_server),
        Look("migrations", migrations, needs="mongodb"),
        Look("disk", disk),
        Look("journal", journals),
        Look("mongodb's disk", mongodb_disk, needs="mongodb"),
        Look("instruments", instruments, needs="mongodb"),
        Look("credentials", credentials, needs="mongodb"),
        Look("clock", broker_clock),
        Look("feed", feed, needs="redis"),
    ]


def examine(chosen: Sequence[Look] | None = None) -> Iterator[Finding]:
    """Take all looks; one that fails in a way nobody thought of is a finding as well."""
    failed: set[str] = set()
    for look in looks() if chosen is None else chosen:
        if look.needs in failed:
            yield fail(look.what, f"cannot be known without {look.needs}", START)
            continue
        try:
            for finding in look.take():
                if finding.level == Level.FAIL:
                    failed.add(look.what)
                yield finding
        except Exception as error:  # the remaining looks are worth more than this one's traceback
            yield fail(look.what, f"the look itself failed: {type(error).__name__}: {error}", "please report this")


def python_version() -> Findings:
    """Python's version, and the system's."""
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.platform != "linux":
        yield warn("python", text, "only Linux is tested; on Windows use WSL")
    else:
        yield ok("python", text)


def requirements(file: Path = settings.BASE_DIR / "requirements.txt") -> Findings:
    """Whether what is installed is what is pinned."""
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)", file.read_text(), re.MULTILINE))
    different = []
    for name, wanted in pinned.items():
        try:
            installed = version(name)
        except PackageNotFoundError:
            installed = "missing"
        if installed != wanted:
            different.append(f"{name} {installed} instead of {wanted}")
    if different:
        yield fail("requirements", ", ".join(different), "make setup")
    else:
        yield ok("requirements", f"all {len(pinned)} installed as pinned")


def settings_values() -> Findings:
    """The system checks of the settings."""
    messages = checks.run_checks(tags=[TAG])
    for message in messages:
        make = fail if message.level >= checks.ERROR else warn
        yield make("settings", f"{message.msg} ({message.id})", message.hint or "")
    if not messages:
        yield ok("settings", "no contradiction")


def data_folder() -> Findings:
    """Whether the data folder can be written."""
    try:
        make_folders(settings.VAR)
    except EmbeddedServerError as error:
        yield fail("data folder", error.what, error.way_out)
    else:
        yield ok("data folder", str(settings.VAR))


def libraries() -> Findings:
    """Whether the embedded servers' programs find their shared libraries."""
    for server in needed_servers(settings.VAR):
        try:
            binary = server.find_binary()
        except EmbeddedServerError as error:
            yield fail("libraries", error.what, error.way_out)
            continue
        if missing_libraries(binary, ""):
            reason = cannot_run(server.name, server.environment_name, binary, 127, "")
            yield fail("libraries", reason.what, reason.way_out)
        else:
            yield ok("libraries", f"{server.name} finds all it needs")


def supervisor() -> Findings:
    """Whether `make run` is at work on this data folder."""
    holder = FileLock(settings.VAR / "supervisor.lock").holder()
    if holder and not children.process_ended(holder):
        yield ok("supervisor", f"runs (pid {holder})")
    else:
        yield warn("supervisor", f"nothing runs on {settings.VAR}", "`make run`, unless each process is its own service here")


def web_port() -> Findings:
    """Whether our own web server answers, or could."""
    address = f"{settings.HOST}:{settings.PORT}"
    if plan.is_live(settings.HOST, settings.PORT):
        yield ok("port", f"the web server answers on {address}")
        return
    try:
        free = ports.is_free(settings.PORT, settings.HOST)
    except OSError as error:
        yield fail("port", f"{settings.HOST} is no address of this machine: {error.strerror}", "set TRADINGOK_HOST")
        return
    if free:
        yield ok("port", f"{address} is free")
    else:
        yield fail("port", f"{address} is used by another program, or not allowed", f"PORT={settings.PORT + 1} make run")


def web_processes() -> Findings:
    """How many web processes share the port."""
    count, wanted = ports.listeners(settings.PORT), settings.WEB_PROCESSES
    text = f"{count} process{'' if count == 1 else 'es'} listen{'s' if count == 1 else ''} on port {settings.PORT}"
    if count == wanted:
        yield ok("web", text)
    elif count:
        yield warn("web", f"{text}, TRADINGOK_WEB_PROCESSES says {wanted}", f"start all with the same setting; see {_log('web')}")
    else:
        yield warn("web", text, START)


def mongodb() -> Findings:
    """Whether MongoDB answers, is a primary of the right version, and has our time."""
    with MongoClient[dict[str, Any]](settings.MONGODB_URI, serverSelectionTimeoutMS=3000, connectTimeoutMS=3000) as client:
        try:
            client.admin.command("ping")
            begun = time.perf_counter()
            hello = client.admin.command("hello")
            latency_ms = (time.perf_counter() - begun) * 1000
            number = client.server_info()["version"]
        except PyMongoError as error:
            yield fail("mongodb", f"does not answer ({type(error).__name__})", f"{START}; or set MONGODB_URI")
            return
    drift = abs((datetime.now(UTC) - hello["localTime"].replace(tzinfo=UTC)).total_seconds())
    text = f"{number} answers in {latency_ms:.1f} ms"
    if not hello.get("setName"):
        yield fail("mongodb", f"{text}, but is no replica set", "transactions need one: start it with --replSet, then rs.initiate()")
    elif not hello["isWritablePrimary"]:
        yield fail("mongodb", f"{text}, but is not the primary", "name all members in MONGODB_URI, or wait for the election")
    elif not 6 <= int(number.split(".")[0]) <= 8:
        yield warn("mongodb", text, "tested are 6.0 to 8.x")
    else:
        yield ok("mongodb", f"{text}, primary of {hello['setName']}")
    if drift > CLOCK_SECONDS:
        yield warn("mongodb", f"its clock differs from ours by {drift:.1f} s", "set both by NTP: retention and sessions follow it")


def redis_server() -> Findings:
    """Whether Redis or Valkey answers, and never throws keys away."""
    with redis.Redis.from_url(settings.REDIS_URL, socket_timeout=3, socket_connect_timeout=3, decode_responses=True) as client:
        try:
            client.ping()
            begun = time.perf_counter()
            client.ping()
            latency_ms = (time.perf_counter() - begun) * 1000
            facts = client.info()
        except redis.RedisError as error:
            yield fail("redis", f"does not answer ({type(error).__name__})", f"{START}; or set REDIS_URL")
            return
    text = f"{facts.get('server_name', 'redis')} {facts.get('valkey_version', facts['redis_version'])} answers in {latency_ms:.1f} ms"
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield warn("redis", f"{text}, but throws keys away ({policy})", "set maxmemory-policy noeviction: queued tasks would be lost")
    else:
        yield ok("redis", text)


def migrations() -> Findings:
    """Whether all migrations are applied."""
    executor = MigrationExecutor(connection)
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if missing:
        names = ", ".join(f"{migration.app_label}.{migration.name}" for migration, _ in missing[:4])
        yield fail("migrations", f"{len(missing)} not applied: {names}", "manage.py migrate (`make run` does it)")
    else:
        yield ok("migrations", "all applied")


def disk() -> Findings:
    """How much room there is where the data folder is: journal, logs, and MongoDB's data where it is the embedded one."""
    free = shutil.disk_usage(_existing(settings.VAR)).free
    text = f"{free / 1e9:.1f} GB free under {settings.VAR}"
    if free < LEAST_BYTES:
        yield fail("disk", text, "free some space, or move TRADINGOK_VAR to another disk")
    elif free < settings.DISK_FLOOR_GB * 1e9:
        yield warn(
            "disk", f"{text}, below TRADINGOK_DISK_FLOOR_GB: the oldest stored journal segments are being removed", "free some space"
        )
    else:
        yield ok("disk", text)


HOUR_DAYS = 1 / 24
"""A start is no measure of how fast a journal grows."""


def journals() -> Findings:
    """How large each feed's journal is, how far back it goes, and for how many more days there is room."""
    segments = {folder.name: segment_paths(folder) for folder in sorted((settings.VAR / "journal").glob("[0-9]"))}
    segments = {name: paths for name, paths in segments.items() if paths}
    if not segments:
        yield ok("journal", "none on this machine yet")
        return
    room = shutil.disk_usage(settings.VAR).free - settings.DISK_FLOOR_GB * 1e9
    for name, paths in segments.items():
        held = sum(path.stat().st_size for path in paths)
        days = max(time.time() - stamp_to_ms(segment_stamp(paths[0])) / 1000, 1.0) / 86_400
        a_day = held / max(days, HOUR_DAYS) * len(segments)
        left = min(max(room, 0) / max(a_day, 1), 9999)
        kept = f"at most {settings.JOURNAL_DAYS:g} days or {settings.JOURNAL_GB:g} GB are kept"
        room_for = f"room for {left:.0f} more days above the floor" if days > HOUR_DAYS else "too young to say for how long there is room"
        text = f"feed {int(name) + 1}: {held / 1e9:.2f} GB of {days:.1f} days ({kept}); {room_for}"
        needed = min(settings.JOURNAL_DAYS * a_day, settings.JOURNAL_GB * 1e9 * len(segments)) - held * len(segments)
        if needed > room:
            yield warn("journal", text, "free some space, or keep less (TRADINGOK_JOURNAL_DAYS, TRADINGOK_JOURNAL_GB)")
        else:
            yield ok("journal", text)


def mongodb_disk() -> Findings:
    """How many more days of ticks there is room for on MongoDB's own disk."""
    sizes = connection.get_database().command("dbStats")  # type: ignore[attr-defined] # of django-mongodb-backend
    free, held, kept = int(sizes["fsTotalSize"] - sizes["fsUsedSize"]), int(sizes["totalSize"]), settings.TICK_RETENTION_DAYS
    room = f"room for {free / DAY_BYTES:.1f} more full days at 1,600 ticks/s"
    text = f"{free / 1e9:.1f} GB free: {room}; {kept} are kept ({held / 1e9:.1f} GB held now)"
    if free < LEAST_BYTES:
        yield fail("mongodb's disk", text, "free some space, or keep fewer days (TRADINGOK_TICK_DAYS)")
    elif free + held < kept * DAY_BYTES:
        days = max(1, int((free + held) / DAY_BYTES))
        yield warn("mongodb's disk", text, f"keep fewer days (TRADINGOK_TICK_DAYS={days}), or free some space")
    else:
        yield ok("mongodb's disk", text)


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())


def instruments() -> Findings:
    """Whether there are instruments, and how old their master is."""
    count = Instrument.objects.filter(active=True).count()
    load = MasterLoad.objects.order_by("-as_of").first()
    if load is None or not count:
        yield fail("instruments", "none is loaded", "manage.py refresh_instruments (`make run` does it)")
        return
    hours = (timezone.now() - load.loaded_at).total_seconds() / 3600
    text = f"{count} active, master loaded {hours:.0f} h ago"
    if hours > MASTER_HOURS:
        yield warn("instruments", text, "manage.py refresh_instruments; beat does it before each open")
    else:
        yield ok("instruments", text)


def credentials() -> Findings:
    """Which broker is used, with what, and how long it works."""
    now_ms = round(time.time() * 1000)
    try:
        token = token_current(now_ms)
    except AuthExpired as error:
        if settings.UPSTOX_ACCESS_TOKEN or settings.UPSTOX_CLIENT_ID:
            yield fail("credentials", str(error), "sign in at /admin/, or `manage.py brokerlogin`")
        else:
            yield ok("credentials", "none: `make run` uses the simulated exchange, whose prices are made up")
        return
    if token.source == "exchange":
        yield ok("credentials", f"none needed: the simulated exchange at {settings.EXCHANGE_URL}, whose prices are made up")
        return
    if not token.expires_ms:
        yield ok("credentials", f"a token from the {token.source}; when it expires is not known")
        return
    hours = (token.expires_ms - now_ms) / 3_600_000
    text = f"a token from the {token.source}, valid for {hours:.1f} h"
    if hours < TOKEN_HOURS:
        yield warn("credentials", text, "sign in again at /admin/, or `manage.py brokerlogin`")
    else:
        yield ok("credentials", text)


def broker_clock() -> Findings:
    """How far our clock is from the broker's, by the Date header of an answer."""
    begun = time.time()
    try:
        answer = httpx.get(settings.UPSTOX_API_URL, timeout=5)
        theirs = parsedate_to_datetime(answer.headers["date"]).timestamp()
    except (httpx.HTTPError, LookupError, ValueError) as error:
        yield warn("clock", f"{settings.UPSTOX_API_URL} cannot be asked for the time ({type(error).__name__})", "is this machine online?")
        return
    drift = abs((begun + time.time()) / 2 - theirs - 0.5)  # the header is cut to whole seconds
    if drift > CLOCK_SECONDS:
        yield warn("clock", f"differs from the broker's by {drift:.0f} s", "set it by NTP: timedatectl set-ntp true")
    else:
        yield ok("clock", f"within {CLOCK_SECONDS:.0f} s of {settings.UPSTOX_API_URL}")


def feed() -> Findings:
    """What each feed reports, and how far the store is behind its journal."""
    statuses = {status.shard: status for status in live_state.statuses_read()}
    now_ms = round(time.time() * 1000)
    if not statuses:
        yield warn("feed", "no feed has reported", START)
        return
    newest = max(statuses.values(), key=lambda status: status.epoch)
    count = int(newest.counters.get("feed_shards", settings.FEED_SHARDS))
    for shard in range(count):
        name = f"feed {shard + 1} of {count}"
        if shard in statuses:
            yield _feed(name, statuses[shard], now_ms)
        else:
            yield fail("feed", f"{name} has not reported for {live_state.STATUS_SECONDS} s", f"{START}; see {_log('feed')}")


def _feed(name: str, status: FeedStatus, now_ms: int) -> Finding:
    age_ms = now_ms - status.reported_ms
    lag_ms = status.counters.get("store_lag_ms", 0)
    text = f"{name}: {status.state}, store {lag_ms / 1000:.1f} s behind the journal"
    if age_ms > STATUS_MS:
        return fail("feed", f"{name}: last report {age_ms / 1000:.0f} s ago ({status.state})", f"{START}; see {_log('feed')}")
    if status.state not in {"live", "quiet", "closed"}:
        return fail("feed", f"{text}. {status.detail}", f"see {_log('feed')}")
    if lag_ms > LAG_MS:
        return warn("feed", text, "is MongoDB slow? The journal holds what is missing")
    return ok("feed", text)


def _log(process: str) -> str:
    return os.path.relpath(settings.VAR / "log" / f"{process}*.log")
