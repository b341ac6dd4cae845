"""Keeps the processes of one copy running: starts them in order, restarts what ends, stops all of it in the reverse order.

It knows neither Django nor what its programs do: `manage.py up` gives it the plan. One thread; `Supervisor.tick` is one step.
Nothing is read from programs but their exit codes and, to show why they ended, the last lines of what they wrote.
"""

from __future__ import annotations

import random
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE, Popen

from tradingok import children
from tradingok.embedded import EmbeddedServer, EmbeddedServerError, start_server, stop_server

TICK_SECONDS = 0.1
QUICK_SECONDS = 10.0  # a program that ends sooner has failed quickly; one that runs longer begins at the first delay again
QUICK_FAILURES_SHOWN = 2  # from so many quick failures in a row on, its last lines are shown
READY_SECONDS = 60.0
STOP_SECONDS = 10.0
OUTPUT_BYTES = 5_000_000  # a larger output file is moved aside
TRIM_SECONDS = 60.0
TAIL_LINES = 12

Say = Callable[[str], None]


class Stopped(Exception):
    """Somebody asked the supervisor to stop."""


class StartFailed(Exception):
    """Something without which the rest makes no sense could not be had; the text says what to do."""


def restart_delays(jitter: Callable[[], float] = random.random) -> Iterator[float]:
    """Seconds to wait before each restart: 1, 2, 4… up to 30, each up to a fifth longer by chance."""
    delay = 1.0
    while True:
        yield delay * (1 + 0.2 * jitter())
        delay = min(30.0, delay * 2)


@dataclass(frozen=True)
class Program:
    """A child process of the plan.

    Attributes:
        name: what it is called in the terminal, its log (`<name>.log`, by TRADINGOK_PROCESS) and its output file (`<name>.out`).
        once: it has a task and ends: exit code 0 is its end, after a failure it is tried again.
        required: its first failure ends the supervisor (for `once`).
        ready: whether it serves; what follows in the plan waits for it. None: it is ready when started.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    once: bool = False
    required: bool = False
    ready: Callable[[], bool] | None = None


class Part(ABC):
    """Something that runs and may end: an embedded server or a program."""

    name: str
    once = False
    required = False

    @abstractmethod
    def start(self) -> str:
        """Start it. Returns what to say of it. Raises OSError or EmbeddedServerError."""

    @abstractmethod
    def ended(self) -> str | None:
        """How it ended, in words; None while it runs."""

    @abstractmethod
    def stop(self, hurry: Callable[[], bool]) -> None:
        """End it in bounded time, at once when `hurry` becomes true."""

    @abstractmethod
    def last_lines(self) -> list[str]:
        """What it wrote last in its present or latest run."""

    @abstractmethod
    def trim(self) -> None:
        """Keep its output file bounded."""


class ServerPart(Part):
    """An embedded server; where it was found running, somebody else ends it, and then it is started here."""

    def __init__(self, server: EmbeddedServer, environment: MutableMapping[str, str]) -> None:
        self.server = server
        self.name = server.name
        self.environment = environment

    def start(self) -> str:
        url = start_server(self.server)
        self.environment[self.server.environment_name] = url
        known = self.server.remembered()
        return f"running (pid {known.pid}, port {known.port})" if known else "running"

    def ended(self) -> str | None:
        return None if self.server.running() else "ended"

    def stop(self, hurry: Callable[[], bool]) -> None:
        stop_server(self.server)

    def last_lines(self) -> list[str]:
        return _last_lines(self.server.log, 0)

    def trim(self) -> None:
        _trim(self.server.log)


class ProgramPart(Part):
    """A program of the plan as a child process."""

    def __init__(self, program: Program, environment: Mapping[str, str], folder: Path) -> None:
        self.program = program
        self.name = program.name
        self.once = program.once
        self.required = program.required
        self.environment = environment
        self.output = folder / f"{program.name}.out"
        self._child: Popen[bytes] | None = None
        self._begin = 0

    def start(self) -> str:
        self.trim()
        environment = {**self.environment, **self.program.environment, "TRADINGOK_PROCESS": self.name}
        with self.output.open("ab") as output:
            self._begin = output.tell()
            self._child = children.spawn(self.program.command, output=output, environment=environment)
        return f"started (pid {self._child.pid})"

    def ended(self) -> str | None:
        code = self._child.poll() if self._child else 0
        if code is None:
            return None
        return f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"

    @property
    def succeeded(self) -> bool:
        """Whether it ended with exit code 0."""
        return self._child is not None and self._child.poll() == 0

    def stop(self, hurry: Callable[[], bool]) -> None:
        if self._child is None or self._child.poll() is not None:
            return
        self._child.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        while self._child.poll() is None:
            if hurry() or time.monotonic() > deadline:
                self._child.kill()
                self._child.wait()
            time.sleep(0.02)

    def last_lines(self) -> list[str]:
        return _last_lines(self.output, self._begin) or _last_lines(self.output.with_suffix(".log"), 0)

    def trim(self) -> None:
        if _trim(self.output):
            self._begin = 0


class Kept:
    """A part with its restarts."""

    def __init__(self, part: Part, say: Say) -> None:
        self.part = part
        self.running = False
        self.done = False
        self.failures = 0
        self._say = say
        self._delays = restart_delays()
        self._started = 0.0
        self._due = 0.0

    def step(self, now: float) -> None:
        """Notice an end, or start when it is time."""
        if self.done:
            return
        if self.running:
            if how := self.part.ended():
                self._note_end(how, now)
        elif now >= self._due:
            self.start(now)

    def start(self, now: float) -> None:
        """Start the part, or plan the next attempt."""
        self._started = now
        try:
            text = self.part.start()
        except (OSError, EmbeddedServerError) as error:
            self._plan_restart(f"not started: {error}", now)
            return
        self.running = True
        self._say(f"{self.part.name}: {text}")

    def _note_end(self, how: str, now: float) -> None:
        self.running = False
        if isinstance(self.part, ProgramPart) and self.part.once and self.part.succeeded:
            self.done = True
            self._say(f"{self.part.name}: done in {now - self._started:.1f} s")
            return
        if now - self._started >= QUICK_SECONDS:
            self.failures = 0
            self._delays = restart_delays()
        self._plan_restart(how, now)

    def _plan_restart(self, how: str, now: float) -> None:
        self.failures += 1
        delay = next(self._delays)
        self._due = now + delay
        again = "" if self.part.required else f", {'trying again' if self.part.once else 'restarting'} in {delay:.0f} s"
        self._say(f"{self.part.name}: {how}{again}")
        if self.failures >= QUICK_FAILURES_SHOWN or self.part.once:
            for line in self.part.last_lines():
                self._say(f"    {line}")


class Supervisor:
    """Runs a plan until SIGINT, SIGTERM or SIGHUP.

    Args:
        environment: what children get; servers put their addresses into it, a plan may add to it.
        logs: folder of output files; exists.
        say: shows one line to the person at the terminal.
        marker: children carry it in their environment as TRADINGOK_SUPERVISED, so that what a killed supervisor left behind is
            known to be ours and ended at the next start.
    """

    def __init__(self, *, environment: MutableMapping[str, str], logs: Path, say: Say, marker: str) -> None:
        self.environment = environment
        self.environment["TRADINGOK_SUPERVISED"] = marker
        self.logs = logs
        self.say = say
        self.marker = marker
        self.kept: list[Kept] = []
        self.stop_requests = 0
        self._trim_due = 0.0

    def run(self, servers: Iterable[EmbeddedServer], plan: Callable[[Supervisor], Iterable[Program]], announce: Callable[[], None]) -> int:
        """Start all, keep all, and stop all when asked to.

        Args:
            plan: gives the programs one by one; it is asked for the next when the one before is ready (or done).
            announce: called once when the plan is under way.

        Returns:
            The exit code: 0 after a clean stop, 1 when the start failed.
        """
        previous = {number: signal.signal(number, self._request_stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            self._end_leftovers()
            for server in servers:
                self._start_server(server)
            for program in plan(self):
                self._start_program(program)
            announce()
            while True:
                self.tick()
        except Stopped:
            return 0
        except (StartFailed, EmbeddedServerError) as error:
            self.say(str(error))
            return 1
        finally:
            self._stop_all()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def tick(self) -> None:
        """Look after every part once, then wait a little. Raises Stopped."""
        if self.stop_requests:
            raise Stopped
        addresses = self._server_addresses()
        for kept in self.kept:
            kept.step(time.monotonic())
        if addresses != self._server_addresses():
            self._restart_programs()
        if time.monotonic() > self._trim_due:
            self._trim_due = time.monotonic() + TRIM_SECONDS
            for kept in self.kept:
                kept.part.trim()
        time.sleep(TICK_SECONDS)

    def ask(self, command: Sequence[str]) -> str:
        """Run a short command and return what it printed. Raises StartFailed with its output when it fails, Stopped."""
        child = Popen(list(command), stdout=PIPE, stderr=PIPE, env=dict(self.environment), start_new_session=True)
        while child.poll() is None:  # its few lines fit into the pipes
            try:
                self.tick()
            except Stopped:
                child.kill()
                child.communicate()
                raise
        output, errors = child.communicate()
        if child.returncode:
            raise StartFailed(f"{' '.join(command[-2:])} failed: {errors.decode(errors='replace').strip()[-2000:]}")
        return output.decode().strip()

    def wait_for(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Go on looking after all parts until `condition` holds. False after `seconds`. Raises Stopped."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            self.tick()
        return True

    def _request_stop(self, _number: int, _frame: object) -> None:
        self.stop_requests += 1

    def _start_server(self, server: EmbeddedServer) -> None:
        part = ServerPart(server, self.environment)
        kept = Kept(part, self.say)
        self.kept.append(kept)
        self.say(f"{part.name}: {part.start()}")  # an error here ends the start, with its own explanation
        kept.running = True

    def _start_program(self, program: Program) -> None:
        kept = Kept(ProgramPart(program, self.environment, self.logs), self.say)
        self.kept.append(kept)
        kept.start(time.monotonic())
        if program.once:
            self.wait_for(lambda: kept.done or kept.failures > 0, float("inf"))
            if program.required and not kept.done:
                raise StartFailed(f"{program.name} failed: what it wrote is above, and in {self.logs}.")
        elif program.ready and not self.wait_for(program.ready, READY_SECONDS):
            self.say(f"{program.name}: does not answer after {READY_SECONDS:.0f} s; going on without it")

    def _server_addresses(self) -> list[str | None]:
        return [self.environment.get(name) for name in ("MONGODB_URI", "REDIS_URL")]

    def _restart_programs(self) -> None:
        """A server came back at another address: children know only the old one."""
        for kept in reversed(self.kept):
            if isinstance(kept.part, ProgramPart) and kept.running:
                kept.part.stop(lambda: self.stop_requests > 1)

    def _end_leftovers(self) -> None:
        """End what a killed supervisor of the same data folder left behind: processes with our marker in their environment."""
        leftovers = children.processes_with("TRADINGOK_SUPERVISED", self.marker)
        if not leftovers:
            return
        self.say(f"ending {len(leftovers)} processes that a killed run left behind")
        children.end_strangers(leftovers, seconds=STOP_SECONDS)

    def _stop_all(self) -> None:
        if self.kept:
            self.say("stopping (Ctrl-C again to hurry)")
        asked = self.stop_requests
        for kept in reversed(self.kept):
            if kept.running:
                kept.part.stop(lambda: self.stop_requests > max(1, asked))
                if not kept.done:
                    self.say(f"{kept.part.name}: stopped")


def _last_lines(file: Path, begin: int) -> list[str]:
    try:
        with file.open("rb") as stream:
            stream.seek(max(begin, stream.seek(0, 2) - 20_000))
            return stream.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
    except OSError:
        return []


def _trim(file: Path) -> bool:
    """Move what is in a file that grew over OUTPUT_BYTES aside, to `<file>.1`. Its writers append, so they go on at its new end."""
    try:
        if not file.exists() or file.stat().st_size <= OUTPUT_BYTES:
            return False
        file.with_name(file.name + ".1").write_bytes(file.read_bytes())
        with file.open("r+b") as stream:
            stream.truncate(0)
    except OSError as error:
        sys.stderr.write(f"{file}: {error.strerror}\n")
        return False
    return True
