"""The watcher itself: of what a server may send it takes what the protocol allows, and names what breaks it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.sync.server import ServerConnection, serve

from tests.faults.servers import until
from tests.faults.watcher import Watcher

KEY = "TEST|1"


def tick(n: int, seq: int) -> dict[str, Any]:
    return {"event": "market:tick", "n": n, "ticks": [[KEY, seq, {"last_price": 1.0}]]}


def status(epoch: int) -> dict[str, Any]:
    return {"event": "feed:status", "state": "live", "epoch": epoch}


@contextmanager
def saying(messages: list[dict[str, Any]]) -> Iterator[str]:
    """A server that says hello, then these messages; gives its address."""

    def handle(connection: ServerConnection) -> None:
        for message in [{"event": "hello", "feed": {"state": "live", "epoch": 1}}, *messages]:
            connection.send(json.dumps(message))
        for _ in connection:  # until the client goes
            pass

    with serve(handle, "127.0.0.1", 0, ping_interval=None) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/"
        server.shutdown()


def watch(messages: list[dict[str, Any]]) -> None:
    with saying([*messages, {**status(1), "state": "closed"}]) as url, Watcher(url, "key", [KEY]) as watcher:
        until(lambda: watcher.state == "closed", "the watcher has taken all")


@pytest.mark.parametrize(
    "messages",
    [
        [tick(1, 5), tick(2, 5), tick(3, 9)],
        [tick(1, 5), status(2), tick(2, 1)],
        [tick(1, 5), tick(2, 1), status(2)],
        [tick(1, 5), status(2), tick(2, 6), tick(3, 1), status(2), tick(4, 2)],
    ],
)
def test_seqs_that_rise_and_begin_again_with_each_epoch_are_taken(messages: list[dict[str, Any]]) -> None:
    watch(messages)


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([tick(1, 5), tick(2, 4)], "the seq of TEST|1 went back 1 times in 1 epochs"),
        ([tick(1, 5), status(2), tick(2, 1), tick(3, 3), tick(4, 2)], "the seq of TEST|1 went back 2 times in 2 epochs"),
        ([tick(1, 5), tick(3, 6)], "frame 3 came where 2 was due"),
    ],
)
def test_what_breaks_the_protocol_is_named(messages: list[dict[str, Any]], complaint: str) -> None:
    with pytest.raises(AssertionError) as error:
        watch(messages)
    assert complaint in str(error.value)
