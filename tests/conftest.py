"""What every test may use. The servers are real: one mongod and one valkey for the whole run, started here, ended with it.

- They start when this file is imported, before Django reads its settings, and their addresses are in `os.environ`, as are
  TRADINGOK_VAR (an empty folder) and TRADINGOK_NAMESPACE (unique to this run and worker): the database is named so, each
  Redis key and channel begins with it. Child processes that inherit `os.environ` therefore see the test's own data.
- `MONGODB_URI` and `REDIS_URL` of the environment are honoured.
- **Use pytest-django's `db` fixture (or `@pytest.mark.django_db`)** for whatever touches MongoDB, in sync and async tests.
  Transactions do not isolate tests on MongoDB (Django's `atomic` is a no-op there), so after each such test *every
  collection is emptied*, also those without a model (counters), and also what migrations inserted: a test makes its own rows.
  Only content types and permissions stay: Django would make them anew after each test, which takes longer than most tests do.
  Data is committed at once, so child processes, threads and `live_server` see it; `transactional_db` is the same thing.
- **Use `valkey`** for whatever touches Redis: the keys of this namespace are removed after the test.
- Without one of the two, touching the database is an error (pytest-django blocks it), touching Redis is a leak.
- Hypothesis tries the same examples in each run, however long they take; `--hypothesis-profile=default` looks for new ones.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import hypothesis
import pytest
import redis

from tests.fakes import MADE_BY_MIGRATE
from tradingok.embedded import embedded_servers

_run = ExitStack()


def _start_servers() -> None:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    var = Path(tempfile.mkdtemp(prefix="tradingok-test-"))
    _run.callback(shutil.rmtree, var, ignore_errors=True)
    os.environ["TRADINGOK_VAR"] = str(var)
    os.environ["TRADINGOK_NAMESPACE"] = f"test_{os.getpid()}_{worker}"
    for name in ("UPSTOX_ACCESS_TOKEN", "TRADINGOK_EXCHANGE_URL", "TRADINGOK_PRODUCTION", "TRADINGOK_PROCESS", "SECRET_KEY"):
        os.environ.pop(name, None)  # a developer's shell must not reach into tests
    os.environ.update(_run.enter_context(embedded_servers(var)))
    os.environ["DJANGO_SETTINGS_MODULE"] = "tradingok.settings"


def _only_distributes() -> bool:
    """Whether this process runs no test itself but hands them to pytest-xdist's workers, which have servers of their own."""
    asked = any(word.startswith(("-n", "--numprocesses")) for word in sys.argv)
    return asked and "PYTEST_XDIST_WORKER" not in os.environ


if _only_distributes():
    os.environ["DJANGO_SETTINGS_MODULE"] = "tradingok.settings"
else:
    _start_servers()
logging.getLogger("tradingok.embedded").setLevel(logging.WARNING)

import django  # noqa: E402 - settings are read now, after the servers' addresses are known

django.setup()
if _only_distributes():
    del os.environ["DJANGO_SETTINGS_MODULE"]  # a worker that inherits it would read the settings before its servers are there

from django.conf import settings  # noqa: E402
from django.contrib.contenttypes.management import create_contenttypes  # noqa: E402
from django.db import connection  # noqa: E402
from django.db.models.signals import post_migrate  # noqa: E402

from instruments.search import index_forget  # noqa: E402
from marketdata.calendar import calendar_forget  # noqa: E402

hypothesis.settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("same")
settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # the real one is slow on purpose


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--faults", choices=("short", "full"), default="short", help="How long tests/faults go on: seconds each, or as `make faults` does."
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files with the most long tests first: `make test` hands out whole files, and a long one that begins last ends last."""
    long = Counter(item.path for item in items if item.get_closest_marker("slow") or "faults" in item.path.parts)
    items.sort(key=lambda item: -long[item.path])


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Whether a fault is to be tried in its long form (`--faults=full`)."""
    return bool(request.config.getoption("--faults") == "full")


def pytest_unconfigure() -> None:
    _run.close()


@pytest.fixture(scope="session")
def django_db_modify_db_settings() -> None:
    """Let the test database be the namespace's own, as child processes see it, instead of `test_<name>`."""
    connection.settings_dict["TEST"]["NAME"] = settings.NAMESPACE


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None) -> Iterator[None]:
    """Migrate as pytest-django does; then take content types and permissions out of what each test's end empties and fills."""
    post_migrate.disconnect(create_contenttypes)
    post_migrate.disconnect(dispatch_uid="django.contrib.auth.management.create_permissions")
    flush = connection.ops.execute_sql_flush
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection.ops, "execute_sql_flush", lambda names: flush([name for name in names if name not in MADE_BY_MIGRATE]))
        yield


@pytest.fixture
def _django_db_helper(_django_db_helper: None) -> Iterator[None]:
    """pytest-django's own fixture empties the collections of models; this one empties the others, and what is remembered of them."""
    yield
    calendar_forget()
    index_forget()
    models = set(connection.introspection.django_table_names())
    database = connection.get_database()  # type: ignore[attr-defined] # of django-mongodb-backend
    for name in database.list_collection_names():
        if name not in models and name not in MADE_BY_MIGRATE and not name.startswith("system."):
            database[name].delete_many({})


@pytest.fixture
def valkey() -> Iterator[redis.Redis]:
    """A client of this run's valkey. Keys that begin with the namespace are removed after the test."""
    with redis.Redis.from_url(settings.REDIS_URL, decode_responses=False) as client:
        yield client
        for key in client.scan_iter(match=f"{settings.NAMESPACE}*", count=1000):
            client.delete(key)
