"""The real web process: streams, large bodies, many requests at once, a database or Redis that is away."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import settings
from django.contrib.staticfiles import finders
from django.utils import timezone

from accounts.models import User
from accounts.services import api_key_create
from instruments.models import Instrument
from marketdata.models import LatestQuote
from marketdata.wire import entry_pack
from tests.fakes.web import web_process
from tests.marketdata.api.fixtures import OPEN_MS, make_instrument, publish_latest, store_minutes, store_ticks
from tests.marketdata.way_out import entry_of
from tradingok import ports

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]
TICKS = "/api/marketdata/ticks/"


@pytest.fixture(scope="module")
def port(django_db_setup: None) -> Iterator[int]:
    with web_process(TRADINGOK_API_BURST="100000") as number:
        yield number


def client_of(port: int) -> httpx.Client:
    user, _ = User.objects.get_or_create(username="asha")
    headers = {"Authorization": f"Bearer {api_key_create(user=user, name='test')}"}
    return httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60)


@pytest.fixture
def web(port: int, db: None) -> Iterator[httpx.Client]:
    with client_of(port) as client:
        yield client


@pytest.fixture
def reliance(db: None) -> Instrument:
    return make_instrument(7, "NSE_EQ|INE002A01018")


def test_a_page_of_ten_thousand_ticks_is_streamed_in_every_format(web: httpx.Client, reliance: Instrument) -> None:
    identifiers = [str(number) for number in store_ticks(7, [OPEN_MS + n for n in range(10_500)])]
    query: dict[str, Any] = {"instrument": "id:7", "limit": 10_000, "order": "oldest"}

    page = web.get(TICKS, params=query)
    assert page.headers.get("transfer-encoding") == "chunked"
    body = page.json()
    assert [row["id"] for row in body["results"]] == identifiers[:10_000]
    rest = web.get(body["next"]).json()
    assert [row["id"] for row in rest["results"]] == identifiers[10_000:]
    assert rest["next"] is None

    lines = web.get(TICKS, params={**query, "format": "ndjson"}).content.splitlines()
    assert [json.loads(line) for line in lines] == body["results"]
    table = csv.DictReader(io.StringIO(web.get(TICKS, params={**query, "format": "csv"}).text))
    assert [row["id"] for row in table] == identifiers[:10_000]


@pytest.mark.parametrize("count", [999, 1000, 1001, 2000, 2500])
def test_pieces_join_without_a_seam(web: httpx.Client, reliance: Instrument, count: int) -> None:
    store_ticks(7, [OPEN_MS + n for n in range(count)])
    for limit in (999, 1000, 1001, 2000, 10_000):
        body = web.get(TICKS, params={"instrument": "id:7", "limit": limit, "order": "oldest"}).json()
        assert [row["volume"] for row in body["results"]] == list(range(min(count, limit)))
        assert (body["next"] is None) == (count <= limit)


def test_candles_are_streamed_too(web: httpx.Client, reliance: Instrument) -> None:
    store_minutes(7, 3000)
    for order in ("oldest", "newest"):
        body = web.get("/api/marketdata/ohlc/", params={"instrument": "id:7", "limit": 2500, "order": order}).json()
        opened = [row["candle"][1] for row in body["results"]]
        assert opened == (list(range(2500)) if order == "oldest" else list(range(2999, 499, -1)))
        assert len(web.get(body["next"]).json()["results"]) == 500


def test_a_static_file_comes_whole_or_not_at_all(web: httpx.Client) -> None:
    for path in ("drf_spectacular_sidecar/swagger-ui-dist/swagger-ui-bundle.js", "accounts/signin.css"):
        found = finders.find(path)
        assert isinstance(found, str)
        whole = Path(found).read_bytes()
        answer = web.get(f"/static/{path}")
        assert answer.content == whole
        again = web.get(f"/static/{path}", headers={"If-Modified-Since": answer.headers["Last-Modified"]})
        assert (again.status_code, again.content) == (304, b"")
        part = web.get(f"/static/{path}", headers={"Range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, whole[10:20])
        assert web.head(f"/static/{path}").headers["Content-Length"] == str(len(whole))
    assert web.get("/static/../settings.py").status_code == 404
    assert web.get("/static/nothing.css").status_code == 404


def test_a_client_that_leaves_in_the_middle_of_a_stream_harms_nobody(web: httpx.Client, reliance: Instrument) -> None:
    store_ticks(7, [OPEN_MS + n for n in range(5000)])
    for _ in range(20):
        with web.stream("GET", TICKS, params={"instrument": "id:7", "limit": 5000}) as answer:
            next(answer.iter_raw(1000))
    assert web.get("/api/health").json()["components"]["mongodb"]["state"] == "ok"


def test_a_giant_body_is_refused_whether_or_not_it_says_how_long_it_is(web: httpx.Client) -> None:
    answer = web.post("/api/keys/", content=b"x" * 2_000_000, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")

    def endless() -> Iterator[bytes]:
        for _ in range(200):
            yield b"x" * 65_536

    with contextlib.suppress(httpx.WriteError, httpx.RemoteProtocolError):  # the server may close while we are still sending
        chunked = web.post("/api/keys/", content=endless(), headers={"Content-Type": "application/json"})
        assert (chunked.status_code, chunked.json()["code"]) == (413, "too_large")
    assert web.get("/api/").status_code == 200


def test_garbage_in_place_of_http_harms_nobody(port: int, web: httpx.Client) -> None:
    long, odd = b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n", b"POST /api/ HTTP/1.1\r\nContent-Length: x\r\n\r\n"
    for garbage in (b"\x00" * 5000, b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", long, odd):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(garbage)
            answer = connection.recv(4096)
            assert not answer or answer.startswith(b"HTTP/1.1 4"), garbage[:20]
    assert web.get("/api/").status_code == 200


def test_many_requests_at_once_are_all_answered(port: int, reliance: Instrument) -> None:
    store_ticks(7, [OPEN_MS + n for n in range(1000)])
    with client_of(port) as client, ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda n: client.get(TICKS, params={"instrument": "id:7", "limit": 1 + n % 1000}), range(200)))
    assert [len(answer.json()["results"]) for answer in answers] == [1 + n % 1000 for n in range(200)]
    assert len({answer.headers["X-Request-Id"] for answer in answers}) == 200


def test_the_process_keeps_the_newest_quotes_in_memory(web: httpx.Client, reliance: Instrument) -> None:
    publish_latest([entry_of(7, 1, 101.5, key=reliance.instrument_key)])
    with web_process() as port, client_of(port) as fresh:  # its hub loads what is known
        body = fresh.get("/api/marketdata/ticks/latest/", params={"instruments": reliance.instrument_key}).json()
    assert body["results"][0]["quote"]["last_price"] == 101.5
    assert body["state"] == "reconnecting"


@pytest.mark.slow
def test_without_redis_rest_answers_from_what_is_stored(reliance: Instrument) -> None:
    entry = entry_of(7, 1, 101.5, key=reliance.instrument_key)
    LatestQuote.objects.create(id=7, entry=entry_pack(entry), updated_at=timezone.now())
    store_ticks(7, [OPEN_MS])
    with web_process(REDIS_URL=f"redis://127.0.0.1:{ports.choose()}/0") as port, client_of(port) as client:
        assert client.get(TICKS, params={"instrument": "id:7"}).json()["results"][0]["last_price"] == 100.0
        health = client.get("/api/health").json()
        assert (health["state"], health["components"]["redis"]["state"]) == ("degraded", "down")
        assert health["components"]["mongodb"]["state"] == "ok"
        deadline = time.monotonic() + 30
        body: dict[str, Any] = {}
        while not body.get("results") and time.monotonic() < deadline:
            body = client.get("/api/marketdata/ticks/latest/", params={"instruments": "id:7"}).json()
        assert body["results"][0]["quote"]["last_price"] == 101.5
        assert body["state"] == "reconnecting"
        for path in ("/api/broker-status", "/api/marketdata/status/", "/api/marketdata/stats/", "/api/marketdata/gaps/"):
            assert client.get(path).status_code == 200, path


@pytest.mark.slow
def test_without_the_database_it_says_so_and_stays_alive(db: None) -> None:
    relay = _Relay(settings.MONGODB_URI)
    with web_process(MONGODB_URI=relay.uri) as port, client_of(port) as client:
        assert client.get("/api/keys/").status_code == 200
        relay.cut()
        assert client.get("/api/health/live").status_code == 200
        assert httpx.get(f"http://127.0.0.1:{port}/api/health/ready", timeout=30).status_code == 503
        answer = client.get("/api/keys/")  # the key is remembered; the list is not
        assert (answer.status_code, answer.json()["code"]) == (503, "store_down")
        assert client.get("/api/health").json()["state"] == "down"


class _Relay:
    """Hands bytes on to mongod, until it is cut: then nothing answers there any more."""

    def __init__(self, uri: str) -> None:
        host, number = uri.removeprefix("mongodb://").split("/")[0].split(":")
        self._target = (host, int(number))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.uri = f"mongodb://127.0.0.1:{self._listener.getsockname()[1]}/?directConnection=true"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Close everything, as a server that was killed."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._open:
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            self._open += [near, far]
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(source, target), daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        try:
            while piece := source.recv(65_536):
                target.sendall(piece)
        except OSError:
            pass  # cut
        finally:
            target.close()
