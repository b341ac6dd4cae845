"""The plan of `manage.py up`: ports, the exchange's remembered address, whether the web server lives."""

from __future__ import annotations

import http.server
import io
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import call_command
from django.utils import timezone
from pytest_django.fixtures import Settings

from broker.models import BrokerSession
from tradingok import plan, ports
from tradingok.places import remembered_url
from tradingok.supervisor import Program, StartFailed, Supervisor


@contextmanager
def answering(status: int) -> Iterator[int]:
    """A web server that answers everything with `status`; gives its port."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with http.server.HTTPServer((ports.LOOPBACK, 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize(("status", "lives"), [(200, True), (301, True), (500, False), (404, False)])
def test_a_web_server_lives_when_it_answers_well_or_sends_to_https(status: int, lives: bool) -> None:
    with answering(status) as port:
        assert plan.is_live("127.0.0.1", port) is lives
        assert plan.is_live("0.0.0.0", port) is lives


def test_a_web_server_that_is_not_there_does_not_live() -> None:
    assert not plan.is_live("127.0.0.1", ports.choose())


def test_a_web_server_that_shares_a_port_is_not_ready_by_the_answer_of_another() -> None:
    with answering(200) as port:
        assert plan.are_live(ports.LOOPBACK, port, 1)
        assert not plan.are_live(ports.LOOPBACK, port, 2)


def test_a_port_in_use_is_refused_with_another_to_try() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartFailed, match=rf"Port {port} is in use.*PORT={port + 1} make run"):
            plan.check_port("127.0.0.1", port)
    plan.check_port("127.0.0.1", port)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(StartFailed, match=r"TRADINGOK_HOST=192\.0\.2\.1"):
        plan.check_port("192.0.2.1", 8080)


def test_the_exchange_is_remembered_while_it_runs_and_its_port_afterwards(tmp_path: Path) -> None:
    file = tmp_path / "exchange" / "address.json"
    port = plan.remember_exchange(file)
    assert remembered_url(tmp_path, "exchange") == f"http://127.0.0.1:{port}"
    plan.forget_exchange(file)
    assert remembered_url(tmp_path, "exchange") == ""
    assert plan.remember_exchange(file) == port


def test_forgetting_an_exchange_that_never_ran_writes_nothing(tmp_path: Path) -> None:
    plan.forget_exchange(tmp_path / "exchange" / "address.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"port": "x"}', '{"port": 99999999}', json.dumps({"port": None})])
def test_an_unreadable_memory_gives_another_port(tmp_path: Path, content: str) -> None:
    file = tmp_path / "address.json"
    file.write_text(content)
    assert ports.is_free(plan.remember_exchange(file))


@pytest.mark.parametrize(
    ("host", "expected"), [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("127.0.0.1", "127.0.0.1"), ("10.0.0.5", "10.0.0.5")]
)
def test_every_listening_address_has_one_to_reach_it(host: str, expected: str) -> None:
    assert plan.reachable(host) == expected


def which_broker() -> str:
    """What `manage.py whichbroker` prints."""
    output = io.StringIO()
    call_command("whichbroker", stdout=output)
    return output.getvalue().strip()


@pytest.mark.django_db
@pytest.mark.parametrize("setting", ["UPSTOX_ACCESS_TOKEN", "UPSTOX_CLIENT_ID"])
def test_any_credentials_mean_the_real_broker(settings: Settings, setting: str) -> None:
    assert which_broker() == "exchange"
    setattr(settings, setting, "hunter2")
    assert which_broker() == "upstox"
    settings.EXCHANGE_URL = "http://127.0.0.1:1"
    assert which_broker() == "exchange"


@pytest.mark.django_db
def test_a_session_that_has_expired_still_means_the_real_broker() -> None:
    long_ago = timezone.now() - timedelta(days=30)
    session = BrokerSession.objects.create(broker="upstox", token_encrypted=b"", issued_at=long_ago, expires_at=long_ago)
    assert which_broker() == "upstox"
    BrokerSession.objects.filter(pk=session.pk).update(revoked_at=timezone.now())
    assert which_broker() == "exchange"


def planned(tmp_path: Path, **counts: int) -> dict[str, Program]:
    """The programs of a copy whose exchange runs elsewhere, by name."""
    supervisor = Supervisor(environment={"TRADINGOK_EXCHANGE_URL": "http://127.0.0.1:1"}, logs=tmp_path, say=print, marker="test")
    return {program.name: program for program in plan.programs(supervisor, var=tmp_path, host="127.0.0.1", port=8080, **counts)}


def test_one_feed_and_one_web_process_have_plain_names(tmp_path: Path) -> None:
    assert list(planned(tmp_path)) == ["migrate", "instruments", "feed", "web", "worker", "beat"]


def test_several_feeds_and_web_processes_are_numbered_and_know_how_many_they_are(tmp_path: Path) -> None:
    programs = planned(tmp_path, feeds=2, webs=3)
    assert list(programs) == ["migrate", "instruments", "feed-1", "feed-2", "web-1", "web-2", "web-3", "worker", "beat"]
    assert [programs[name].command[-2:] for name in ("feed-1", "feed-2")] == [["--shard", "1/2"], ["--shard", "2/2"]]
    assert programs["feed-2"].environment == {"TRADINGOK_FEED_SHARD": "1", "TRADINGOK_FEED_SHARDS": "2"}
    assert programs["web-3"].environment == {"TRADINGOK_WEB_PROCESSES": "3"}
    assert programs["web-3"].ready is not None
