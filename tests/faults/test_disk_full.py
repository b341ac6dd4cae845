"""The journal's disk takes nothing more: it is told loudly, quotes go on, and when there is room again everything is journalled."""

from __future__ import annotations

import os
import resource
import shutil
import threading
import time

import pytest

from tests.fakes.exchange import ROOT
from tests.fakes.stack import Process
from tests.faults.oracle import journalled_frames
from tests.faults.servers import until
from tests.faults.system import System
from tests.faults.test_store_away import assert_quotes_go_on
from tradingok.children import spawn

pytestmark = pytest.mark.long


class PipedProcess(Process):
    """A process that writes its output into a pipe, which another copies to `log`: so that its own limit on files does not silence it."""

    def start(self) -> None:
        assert not self.running, f"{self.name} is running"
        ours, its = os.pipe()
        self._child = spawn(self._command, output=its, cwd=ROOT, environment=self._environment)
        os.close(its)
        threading.Thread(target=self._copy, args=(ours,), name=f"output of {self.name}", daemon=True).start()

    def _copy(self, ours: int) -> None:
        with open(ours, "rb", buffering=0) as output, self.log.open("ab", buffering=0) as log:
            shutil.copyfileobj(output, log, 4096)


def test_a_full_disk_is_told_loudly_holds_up_nobody_and_costs_no_frame(system: System, full: bool) -> None:
    system.replace_feed(PipedProcess)
    unlimited = resource.prlimit(system.feed.pid, resource.RLIMIT_FSIZE)
    with system.watched() as watcher, system.memory_bounded():
        for _ in range(5 if full else 1):
            failures, logged = system.counter("journal_failures_total"), system.log(system.feed).count("journal")
            resource.prlimit(system.feed.pid, resource.RLIMIT_FSIZE, (0, unlimited[1]))  # each write to a file fails from now on
            until(lambda failures=failures: system.counter("journal_failures_total") > failures, "the disk refuses")  # type: ignore[misc]
            there, began = sum(1 for _ in journalled_frames(system.journal)), time.monotonic()
            while time.monotonic() < began + (10 if full else 2):
                assert_quotes_go_on(watcher)
            until(lambda: "journal" in system.shard()["detail"], "the status says what is wrong")
            waiting, detail = system.counter("frames_waiting"), system.shard()["detail"]
            assert waiting > 0
            assert watcher.state == "live"
            assert system.log(system.feed).count("journal") > logged
            assert sum(1 for _ in journalled_frames(system.journal)) == there
            resource.prlimit(system.feed.pid, resource.RLIMIT_FSIZE, unlimited)
            until(lambda there=there: sum(1 for _ in journalled_frames(system.journal)) > there, "journalling goes on")  # type: ignore[misc]
            until(lambda: "journal" not in system.shard()["detail"], "the status says that it is over")
            print(f"  {waiting:.0f} frames waited in memory; told: {detail}")
        system.prove(lost_ms=0)
        assert system.counter("frames_unjournalled_total") == 0
