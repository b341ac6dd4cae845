"""The embedded servers, run for real on data folders of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from pymongo import MongoClient, WriteConcern

from tests.tradingok.embedded_runs import PROJECT, SERVERS, address, ended, environment, holding, until
from tradingok import ports
from tradingok.embedded import EmbeddedServerError, Mongod, Valkey, embedded_servers, needed_servers, start_server, stop_server
from tradingok.embedded import server as server_module


@pytest.fixture
def var(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MONGODB_URI", "REDIS_URL"):
        monkeypatch.delenv(name)
    return tmp_path / "data of ₹"


@contextmanager
def mongo(uri: str) -> Iterator[MongoClient[dict[str, Any]]]:
    with MongoClient[dict[str, Any]](uri, serverSelectionTimeoutMS=5000) as client:
        yield client


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_both_servers_serve_and_end_with_the_block(var: Path) -> None:
    with embedded_servers(var) as addresses:
        with mongo(addresses["MONGODB_URI"]) as client, client.start_session() as session:
            with session.start_transaction():
                client.shop.orders.insert_one({"_id": 1}, session=session)
            assert client.shop.orders.count_documents({}) == 1
            listening = client.admin.command("getCmdLineOpts")["parsed"]["net"]["bindIp"]
        with redis.Redis.from_url(addresses["REDIS_URL"]) as client_of_valkey:
            assert client_of_valkey.config_get("bind", "maxmemory-policy") == {"bind": "127.0.0.1", "maxmemory-policy": "noeviction"}
        assert listening == "127.0.0.1"
        assert not ended(var)
    assert ended(var)


def test_data_and_ports_are_found_again(var: Path) -> None:
    with embedded_servers(var) as first:
        with mongo(first["MONGODB_URI"]) as client:
            client.shop.orders.insert_one({"_id": 1})
        with redis.Redis.from_url(first["REDIS_URL"]) as client_of_valkey:
            client_of_valkey.set("key", "value")
    with embedded_servers(var) as second:
        assert second == first
        with mongo(second["MONGODB_URI"]) as client:
            assert client.shop.orders.count_documents({}) == 1
        with redis.Redis.from_url(second["REDIS_URL"]) as client_of_valkey:
            assert client_of_valkey.get("key") == b"value"


def test_a_second_process_uses_the_running_servers_and_leaves_them(var: Path) -> None:
    with embedded_servers(var) as ours:
        pids = [address(var, server)["pid"] for server in SERVERS]
        with holding(var) as other:
            assert read_line(other) == f"{ours['MONGODB_URI']} {ours['REDIS_URL']}"
        assert other.returncode == 128 + signal.SIGTERM
        assert [address(var, server)["pid"] for server in SERVERS] == pids
        with mongo(ours["MONGODB_URI"]) as client:
            assert client.admin.command("ping")["ok"] == 1


def test_two_concurrent_starters_share_one_pair_of_servers(var: Path) -> None:
    with holding(var) as one, holding(var) as two:
        lines = {read_line(one), read_line(two)}
        assert len(lines) == 1
        assert lines != {""}


def test_two_copies_run_side_by_side(var: Path, tmp_path: Path) -> None:
    with embedded_servers(var) as one, embedded_servers(tmp_path / "other") as two:
        assert len({*one.values(), *two.values()}) == 4
        with mongo(one["MONGODB_URI"]) as client:
            client.shop.orders.insert_one({"_id": 1})
        with mongo(two["MONGODB_URI"]) as client:
            assert client.shop.orders.count_documents({}) == 0


def test_a_taken_port_is_given_up_and_the_replica_set_follows(var: Path) -> None:
    with embedded_servers(var) as before, mongo(before["MONGODB_URI"]) as client:
        client.shop.orders.insert_one({"_id": 1})
    with ExitStack() as stack:
        for server in SERVERS:
            thief = stack.enter_context(socket.socket())
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            thief.bind(("127.0.0.1", address(var, server)["port"]))
            thief.listen()
        after = stack.enter_context(embedded_servers(var))
        assert not set(after.values()) & set(before.values())
        with mongo(after["MONGODB_URI"]) as client:
            client.shop.orders.insert_one({"_id": 2})
            assert client.shop.orders.count_documents({}) == 2


def test_nothing_acknowledged_is_lost_when_a_killed_mongod_comes_back_on_another_port(var: Path) -> None:
    server = Mongod(var)
    try:
        with mongo(start_server(server)) as client:
            for batch in range(20):
                client.shop.get_collection("orders", write_concern=WriteConcern(w="majority")).insert_many(
                    {"_id": batch * 1000 + n, "text": "x" * 200} for n in range(1000)
                )
            os.kill(address(var, "mongod")["pid"], signal.SIGKILL)
        until(lambda: not server.running(), "the killed mongod is gone")
        with socket.socket() as thief:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            thief.bind(("127.0.0.1", address(var, "mongod")["port"]))
            thief.listen()
            with mongo(start_server(server)) as client:
                assert client.shop.orders.count_documents({}) == 20_000
    finally:
        stop_server(server)


def test_another_program_that_answers_on_our_port_is_not_taken_for_ours(var: Path, tmp_path: Path) -> None:
    stranger = Valkey(tmp_path / "stranger")
    mine = Valkey(var)
    start_server(mine)
    stop_server(mine)
    remembered = address(var, "valkey")
    (tmp_path / "stranger" / "valkey").mkdir(parents=True)
    (tmp_path / "stranger" / "valkey" / "address.json").write_text(json.dumps(remembered))
    try:
        assert start_server(stranger) == remembered["url"]
        assert start_server(mine) != remembered["url"]
    finally:
        stop_server(mine)
        stop_server(stranger)


def test_servers_and_command_end_with_a_killed_owner(var: Path) -> None:
    with holding(var) as owner:
        assert read_line(owner)
        owner.kill()
        until(lambda: ended(var), "the servers end after kill -9 of their owner")
    with embedded_servers(var) as again, mongo(again["MONGODB_URI"]) as client:
        assert client.admin.command("ping")["ok"] == 1


def test_a_start_right_after_a_killed_owner_does_not_use_its_dying_servers(var: Path) -> None:
    with holding(var) as owner:
        assert read_line(owner)
        before = {address(var, server)["pid"] for server in SERVERS}
        owner.kill()
        owner.wait()
        with embedded_servers(var) as addresses:
            assert not before & {address(var, server)["pid"] for server in SERVERS}
            with mongo(addresses["MONGODB_URI"]) as client:
                client.shop.orders.insert_one({"_id": 1})


def test_killed_servers_leave_locks_that_do_not_matter(var: Path) -> None:
    with embedded_servers(var) as addresses:
        with mongo(addresses["MONGODB_URI"]) as client:
            client.shop.get_collection("orders").insert_one({"_id": 1})
        for server in SERVERS:
            os.kill(address(var, server)["pid"], signal.SIGKILL)
        until(lambda: ended(var), "killed servers are gone")
        assert (var / "mongod" / "mongod.lock").read_text().strip()
        with embedded_servers(var) as again, mongo(again["MONGODB_URI"]) as client:
            assert client.shop.orders.count_documents({}) == 1


def test_a_recycled_pid_is_left_alone(var: Path) -> None:
    (var / "valkey").mkdir(parents=True)
    port = ports.choose()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as innocent:
        remembered = {"url": f"redis://127.0.0.1:{port}/0", "port": port, "pid": innocent.pid, "owner": os.getpid()}
        (var / "valkey" / "address.json").write_text(json.dumps(remembered))
        server = Valkey(var)
        try:
            assert start_server(server) == remembered["url"]
            assert innocent.poll() is None
        finally:
            stop_server(server)
        innocent.communicate(b"\n")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"port": 1}', '{"url": 1, "port": "x", "pid": null, "owner": {}}'])
def test_an_unreadable_address_is_as_none(var: Path, content: str) -> None:
    (var / "valkey").mkdir(parents=True)
    (var / "valkey" / "address.json").write_text(content)
    server = Valkey(var)
    try:
        with redis.Redis.from_url(start_server(server)) as client:
            assert client.ping()
    finally:
        stop_server(server)


@pytest.mark.parametrize("kind", [Mongod, Valkey])
def test_a_server_that_runs_but_does_not_answer_is_replaced(
    var: Path, kind: type[Mongod] | type[Valkey], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "ANSWER_SECONDS", 1.0)
    hung, fresh = kind(var), kind(var)
    start_server(hung)
    pid = address(var, hung.name)["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        assert hung.running()
        start_server(fresh)
        assert address(var, hung.name)["pid"] != pid
        assert not hung.running()
        assert fresh.running()
    finally:
        stop_server(fresh)
        stop_server(hung)


def test_own_servers_are_not_started_embedded(var: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGODB_URI", "mongodb://example.invalid/")
    assert [server.name for server in needed_servers(var)] == ["valkey"]
    monkeypatch.setenv("REDIS_URL", "redis://example.invalid/")
    with embedded_servers(var) as addresses:
        assert addresses == {"MONGODB_URI": "mongodb://example.invalid/", "REDIS_URL": "redis://example.invalid/"}
    assert not var.exists()


def test_a_missing_library_is_named_with_its_package_and_the_way_around(var: Path, tmp_path: Path) -> None:
    binary = tmp_path / "mongod"
    real = Path(shutil.which("bash") or "/bin/bash").read_bytes()  # any dynamic program, with one library renamed
    binary.write_bytes(real.replace(b"libc.so.6\0", b"libcurl.s\0"))
    binary.chmod(0o755)
    with pytest.raises(EmbeddedServerError) as caught:
        start_server(Mongod(var, binary=binary))
    assert "missing libcurl.s" in caught.value.what
    assert "apt-get install libcurl4" in caught.value.way_out
    assert "MONGODB_URI=" in caught.value.way_out


def test_a_program_that_ends_at_once_shows_its_last_words(var: Path, tmp_path: Path) -> None:
    binary = tmp_path / "valkey"
    binary.write_text("#!/bin/sh\necho 'Bad option at line 3' >&2\nexit 7\n")
    binary.chmod(0o755)
    with pytest.raises(EmbeddedServerError, match=r"(?s)ended with code 7.*Bad option at line 3.*REDIS_URL="):
        start_server(Valkey(var, binary=binary))


def test_an_illegal_instruction_is_explained(var: Path, tmp_path: Path) -> None:
    binary = tmp_path / "mongod"
    binary.write_text("#!/bin/sh\nkill -ILL $$\n")
    binary.chmod(0o755)
    with pytest.raises(EmbeddedServerError, match="AVX"):
        start_server(Mongod(var, binary=binary))


def test_a_file_in_place_of_the_data_folder_is_named(var: Path) -> None:
    var.write_text("not a folder")
    with pytest.raises(EmbeddedServerError, match=r"(?s)data of ₹ is a file.*TRADINGOK_VAR"):
        start_server(Valkey(var))


def test_a_folder_that_cannot_be_made_is_named() -> None:
    with pytest.raises(EmbeddedServerError, match=r"(?s)/proc/tradingok cannot be written.*TRADINGOK_VAR"):
        start_server(Valkey(Path("/proc/tradingok")))


def test_too_little_disk_is_said_before_anything_starts(var: Path) -> None:
    with pytest.raises(EmbeddedServerError, match=r"(?s)MB are free under .*TRADINGOK_VAR"):
        start_server(Mongod(var, free_bytes=10**18))
    assert not (var / "mongod" / "address.json").exists()


def test_the_command_line_gives_the_commands_exit_code(tmp_path: Path) -> None:
    line = [
        sys.executable,
        "-m",
        "tradingok.embedded",
        "--temporary",
        "--",
        sys.executable,
        "-c",
        "import os; print(os.environ['TRADINGOK_VAR']); exit(3)",
    ]
    done = subprocess.run(line, cwd=PROJECT, env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert not Path(done.stdout.strip()).exists()


@pytest.mark.parametrize("words", [[], ["--"], ["true"], ["--wrong", "--", "true"]])
def test_wrong_usage_is_explained(tmp_path: Path, words: list[str]) -> None:
    line = [sys.executable, "-m", "tradingok.embedded", *words]
    done = subprocess.run(line, cwd=PROJECT, env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "usage:" in done.stderr
