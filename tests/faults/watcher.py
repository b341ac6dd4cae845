"""A client that stays on through every fault: follows instruments over WebSocket, connects anew when it must, remembers what it got."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection, connect

RETRY_SECONDS = 0.2


class Watcher:
    """Reads in a thread of its own; use it in a `with` block.

    Attributes:
        keys: what it follows.
        quotes: key → the newest quote.
        seqs: key → its seq, of the present connection: another web process may begin with an older quote.
        epochs: those that were told; each may begin the seqs again, once.
        rewound: key → how often its seq went back.
        states: feed states in the order in which they were told, of `hello` and of `feed:status`.
        counts: `ticks`, `connections`, `closed`.
        broken: complaints about the protocol: a hole in `n`; at the end, a seq that went back more often than a new epoch explains.
        stepped_back: (key, field, before, after) of each volume or time of the last trade that became less.
        blanked: (key, field) of each figure that was known and became unknown.
        tick_at: monotonic time of the newest tick.
    """

    def __init__(self, url: str, api_key: str, keys: list[str]) -> None:
        self.quotes: dict[str, dict[str, Any]] = {}
        self.seqs: dict[str, int] = {}
        self.epochs: set[int] = set()
        self.rewound: Counter[str] = Counter()
        self.states: list[str] = []
        self.counts: Counter[str] = Counter()
        self.broken: list[str] = []
        self.stepped_back: list[tuple[str, str, float, float]] = []
        self.blanked: list[tuple[str, str]] = []
        self.tick_at = 0.0
        self.keys = keys
        self._url, self._headers = url, {"Authorization": f"Bearer {api_key}"}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join(20)
        most = max(0, len(self.epochs) - 1)
        self.broken += [
            f"the seq of {key} went back {times} times in {most + 1} epochs" for key, times in self.rewound.items() if times > most
        ]
        if error is None:
            assert not self._thread.is_alive()
            assert self.broken == [], self.broken

    @property
    def state(self) -> str:
        """The feed's state as it was told last; "" before the first."""
        return self.states[-1] if self.states else ""

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with connect(self._url, additional_headers=self._headers, max_size=None, ping_interval=None, open_timeout=5) as socket:
                    self.counts["connections"] += 1
                    socket.send(json.dumps({"id": 1, "op": "subscribe", "instruments": self.keys, "mode": "full"}))
                    self._read(socket)
            except (OSError, ConnectionClosed, InvalidHandshake, TimeoutError):
                self.counts["closed"] += 1
                time.sleep(RETRY_SECONDS)

    def _read(self, socket: ClientConnection) -> None:
        frames = 0
        self.seqs.clear()
        while not self._stopping.is_set():
            try:
                message = json.loads(socket.recv(timeout=0.2))
            except TimeoutError:
                continue
            match message.get("event"):
                case "hello":
                    self._tell(message["feed"])
                case "feed:status":
                    self._tell(message)
                case "market:tick":
                    frames += 1
                    if message["n"] != frames:
                        self.broken.append(f"frame {message['n']} came where {frames} was due")
                        frames = message["n"]
                    self._take(message["ticks"])

    def _tell(self, feed: dict[str, Any]) -> None:
        self.states.append(feed["state"])
        self.epochs.add(feed["epoch"])

    def _take(self, ticks: list[list[Any]]) -> None:
        self.tick_at = time.monotonic()
        self.counts["ticks"] += len(ticks)
        for key, seq, quote in ticks:
            known = self.quotes.get(key, {})
            figures = ((name, value) for name, value in known.items() if name != "depth")
            self.blanked += [(key, name) for name, value in figures if value is not None and quote.get(name) is None]
            for name in ("volume", "last_trade_ms"):
                if (quote.get(name) or 0) < (known.get(name) or 0):
                    self.stepped_back.append((key, name, known[name], quote[name]))
            self.quotes[key] = {**({"depth": known["depth"]} if "depth" in known else {}), **quote}
            self.rewound[key] += seq < self.seqs.get(key, 0)
            self.seqs[key] = seq
