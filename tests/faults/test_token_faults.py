"""The token dies, or the feed dies again and again: authorise is asked as often as allowed, and a new login needs no restart."""

from __future__ import annotations

import subprocess
import sys
import time

import httpx
import pytest

from broker.pacing import WINDOWS
from tests.fakes.exchange import ROOT
from tests.faults.proxied import ProxiedSystem
from tests.faults.servers import until


@pytest.fixture(scope="module")
def system_class() -> type[ProxiedSystem]:
    return ProxiedSystem


def sign_in(system: ProxiedSystem) -> None:
    """As a person does: `brokerlogin`, the dialog's only button, the address of the page that follows."""
    app = {"UPSTOX_CLIENT_ID": "client", "UPSTOX_CLIENT_SECRET": "s3cret", "UPSTOX_REDIRECT_URI": "http://127.0.0.1:1/back"}
    command = [sys.executable, "manage.py", "brokerlogin"]
    with subprocess.Popen(
        command, cwd=ROOT, env={**system.environment, **app}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as login:
        assert login.stdin is not None
        assert login.stdout is not None
        dialog = next(line.strip() for line in login.stdout if line.strip().startswith("http"))
        login.stdin.write(httpx.get(f"{dialog}&allow=yes", follow_redirects=False, timeout=30).headers["Location"] + "\n")
        login.stdin.close()
        assert "Signed in" in login.stdout.read()


def test_the_roll_over_is_told_once_refused_and_a_new_login_needs_no_restart(system: ProxiedSystem, full: bool) -> None:
    pid = system.feed.pid
    for _ in range(2 if full else 1):
        opened, authorised, asked = system.opened(), system.authorised(), system.counter("authorize_calls_total")
        with system.watched() as watcher:
            # as at 03:30: at a time of the market's clock the token dies, and with it the open connections
            market_ms = system.exchange.state()["market_ms"]
            assert system.inject("expire_token", 1, drop=True, at_market_ms=market_ms + 1000) >= 1
            system.proved = False
            system.wait_for(lambda: watcher.state == "token_expired")
            time.sleep(30 if full else 12)  # only time can show that nothing is asked
            refused = system.authorised() - authorised
            assert system.get("/api/broker-status")["state"] == "token_expired"
            sign_in(system)
            system.wait_for(lambda: watcher.state == "live" and system.is_reconnected(opened))  # noqa: B023 - called at once
            print(f"\n  {refused} refused authorise calls, then signed in; told: {' → '.join(watcher.states)}")
        assert refused == 1
        assert system.authorised() == authorised + 2
        assert system.counter("authorize_calls_total") == asked + 2
        assert system.feed.pid == pid
        system.prove()


def test_a_token_that_dies_while_the_socket_lives_ends_nothing(system: ProxiedSystem) -> None:
    opened, authorised = system.opened(), system.authorised()
    frames = system.counter("frames_received_total")
    assert system.inject("expire_token", 1) >= 1  # the tokens of the login before are dead too
    system.wait_for(lambda: system.counter("frames_received_total") > frames + 20)
    assert (system.opened(), system.authorised()) == (opened, authorised)
    assert system.is_live()
    system.exchange.fault(kind="clear")
    sign_in(system)
    system.prove()


@pytest.mark.long
def test_a_crash_loop_stays_inside_the_authorise_limits(system: ProxiedSystem, full: bool) -> None:
    seen: list[tuple[float, int]] = []

    def authorised() -> int:
        seen.append((time.monotonic(), system.authorised()))
        return seen[-1][1]

    def is_waiting() -> bool:
        return "waiting" in system.log(system.feed)[told:]

    starts = 30 if full else 10
    for _ in range(starts):
        told = len(system.log(system.feed))
        before = authorised()
        system.kill(system.feed)
        system.feed.start()
        until(lambda before=before: authorised() > before or is_waiting(), "it has authorised, or waits")  # type: ignore[misc]
    if full:
        until(lambda: bool(authorised()) and system.is_live(), "live again", 120)
    seconds, calls = seen[-1][0] - seen[0][0], seen[-1][1] - seen[0][1]
    print(f"\n  {starts} kills in {seconds:.0f} s: {calls} authorise calls")
    assert "waiting" in system.log(system.feed)
    assert calls < starts
    for span, most in WINDOWS:
        assert all(late[1] - early[1] <= most for early in seen for late in seen if 0 < late[0] - early[0] <= span)
    if not full:
        system.begin_authorise_windows()
    system.prove()
