"""Reading a master from files and over HTTP, against a scripted server."""

from __future__ import annotations

import gzip
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.upstox import master_source
from broker.upstox.master import MasterRejected
from broker.upstox.master_source import Fetched, MasterUnavailable, fetch_master, is_url, shown
from tests.broker.scripted_http import Reply, ScriptedServer, scripted_server
from tests.instruments.rows import broker_json, market, master_file

TEXT = broker_json(market())


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as running:
        yield running


def test_a_file_is_read(tmp_path: Path) -> None:
    assert fetch_master(str(master_file(tmp_path / "NSE.json.gz", market()))) == Fetched(TEXT, "")


@pytest.mark.parametrize("name", ["missing.json.gz", ""])
def test_no_file_and_a_folder_are_unavailable(tmp_path: Path, name: str) -> None:
    with pytest.raises(MasterUnavailable, match="could not be read"):
        fetch_master(str(tmp_path / name))


def test_a_server_is_asked_and_its_mark_kept(server: ScriptedServer) -> None:
    server.will(Reply(200, gzip.compress(TEXT), (("ETag", '"v1"'), ("Content-Type", "application/gzip"))))
    assert fetch_master(f"{server.url}/NSE.json.gz") == Fetched(TEXT, '"v1"')
    assert "If-None-Match" not in server.requests[0].headers
    assert server.requests[0].headers["Accept-Encoding"] == "identity"


def test_an_unchanged_master_is_not_sent_again(server: ScriptedServer) -> None:
    server.will(Reply(304, b"", ()))
    assert fetch_master(f"{server.url}/NSE.json.gz", etag='"v1"') == Fetched(None, '"v1"')
    assert server.requests[0].headers["If-None-Match"] == '"v1"'


def test_a_redirect_is_followed(server: ScriptedServer) -> None:
    server.will(Reply(302, b"", (("Location", f"{server.url}/elsewhere"),)), Reply(200, gzip.compress(TEXT)))
    assert fetch_master(f"{server.url}/NSE.json.gz").text == TEXT


@pytest.mark.parametrize("status", [304, 403, 404, 429, 500, 503])
def test_another_status_is_unavailable(server: ScriptedServer, status: int) -> None:
    server.will(Reply(status, b"" if status == 304 else b"no"))
    with pytest.raises(MasterUnavailable, match=f"HTTP {status}"):
        fetch_master(f"{server.url}/NSE.json.gz?secret=1")


def test_a_connection_that_breaks_is_unavailable(server: ScriptedServer) -> None:
    server.will(Reply(200, gzip.compress(TEXT), close_after=100))
    with pytest.raises(MasterUnavailable, match="could not be read"):
        fetch_master(f"{server.url}/NSE.json.gz")


def test_nobody_there_is_unavailable_and_no_secret_is_shown() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(MasterUnavailable) as caught:
        fetch_master(f"http://user:pass@127.0.0.1:{port}/NSE.json.gz?token=x")
    assert str(caught.value).startswith(f"http://127.0.0.1:{port}/NSE.json.gz could not be read")
    assert "pass" not in str(caught.value)


def test_a_page_with_status_200_is_rejected(server: ScriptedServer) -> None:
    server.will(Reply(200, b"<html>Just a moment</html>", (("Content-Type", "text/html"),)))
    with pytest.raises(MasterRejected, match="a web page"):
        fetch_master(f"{server.url}/NSE.json.gz")


def test_an_endless_download_is_cut(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(master_source, "PACKED_BYTES_MAX", 500)
    server.will(Reply(200, gzip.compress(TEXT, 0)))
    with pytest.raises(MasterRejected, match="larger than 500 bytes"):
        fetch_master(f"{server.url}/NSE.json.gz")


def test_sources_are_told_apart() -> None:
    assert is_url("https://x/NSE.json.gz")
    assert not is_url("/data/NSE.json.gz")
    assert shown("/data/NSE.json.gz") == "/data/NSE.json.gz"
