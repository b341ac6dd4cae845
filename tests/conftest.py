"""What every test may use. The servers are real: one mongod and one valkey for the whole run, started here, ended with it.

- They start when this file is imported, before Django reads its settings, and their addresses are in `os.environ`, as are
  TRADINGOK_VAR (an empty folder) and TRADINGOK_NAMESPACE (unique to this run and worker): the database is named so, each
  Redis key and channel begins with it. Child processes that inherit `os.environ` therefore see the test's own data.
- `MONGODB_URI` and `REDIS_URL` of the environment are honoured.
- **Use pytest-django's `db` fixture (or `@pytest.mark.django_db`)** for whatever touches MongoDB, in sync and async tests.
  Transactions do not isolate tests on MongoDB (Django's `atomic` is a no-op there), so after each such test *every
  collection is emptied*, also those without a model (counters), and also what migrations inserted: a test makes its own rows.
  Data is committed at once, so child processes, threads and `live_server` see it; `transactional_db` is the same thing.
- **Use `valkey`** for whatever touches Redis: the keys of this namespace are removed after the test.
- Without one of the two, touching the database is an error (pytest-django blocks it), touching Redis is a leak.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

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


_start_servers()
logging.getLogger("tradingok.embedded").setLevel(logging.WARNING)

import django  # noqa: E402 - settings are read now, after the servers' addresses are known

django.setup()

from django.conf import settings  # noqa: E402
from django.db import connection  # noqa: E402


def pytest_unconfigure() -> None:
    _run.close()


@pytest.fixture(scope="session")
def django_db_modify_db_settings() -> None:
    """Let the test database be the namespace's own, as child processes see it, instead of `test_<name>`."""
    connection.settings_dict["TEST"]["NAME"] = settings.NAMESPACE


@pytest.fixture
def _django_db_helper(_django_db_helper: None) -> Iterator[None]:
    """pytest-django's own fixture empties the collections of models; this one empties the others."""
    yield
    models = set(connection.introspection.django_table_names())
    database = connection.get_database()  # type: ignore[attr-defined] # of django-mongodb-backend
    for name in database.list_collection_names():
        if name not in models and name != "django_migrations" and not name.startswith("system."):
            database[name].delete_many({})


@pytest.fixture
def valkey() -> Iterator[redis.Redis]:
    """A client of this run's valkey. Keys that begin with the namespace are removed after the test."""
    with redis.Redis.from_url(settings.REDIS_URL, decode_responses=False) as client:
        yield client
        for key in client.scan_iter(match=f"{settings.NAMESPACE}*", count=1000):
            client.delete(key)
