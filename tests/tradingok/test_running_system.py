"""What the running system says of itself: its certificate, its counters that add up, the metrics that the documented alerts ask for."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from marketdata.domain.chain import SIDE_COLUMNS
from marketdata.domain.continuity import FEED_HOPS, HUB_HOPS
from tests.fakes.stack import Stack, stack  # noqa: F401 - a fixture
from tests.marketdata.way_out import market_client

pytestmark = pytest.mark.slow
TICKS = "tradingok_feed_ticks_decoded_total"
OPERATIONS = Path(__file__).resolve().parents[2] / "docs" / "operations.md"


def documented_rules() -> dict[str, str]:
    """Alert → its expression."""
    (block,) = re.findall(r"```yaml\ngroups:(.*?)```", OPERATIONS.read_text(), re.DOTALL)
    rules = re.findall(r"- alert: (\w+)\n\s+expr: (.*?)\n\s+(?:for|annotations):", block, re.DOTALL)
    return dict(rules)


def scraped(stack: Stack) -> dict[str, list[dict[str, str]]]:  # noqa: F811
    """Name of a sample → the labels of each."""
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(stack.request("/metrics").raise_for_status().text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


def float_of(stack: Stack, name: str) -> float:  # noqa: F811
    """The sum of a metric's samples."""
    families = text_string_to_metric_families(stack.request("/metrics").raise_for_status().text)
    return sum(sample.value for family in families for sample in family.samples if sample.name == name)


def test_there_are_five_rules_and_each_asks_for_what_the_running_system_tells(stack: Stack) -> None:  # noqa: F811
    rules = documented_rules()
    assert set(rules) == {"FeedNotLiveInHours", "StoreLags", "JournalInTrouble", "SomethingDropped", "HubLost"}
    asked = {name for expression in rules.values() for name in re.findall(r"tradingok_\w+", expression)}
    assert len(asked) >= 12
    stack.get("/api/marketdata/ticks/latest/", instruments="NSE_INDEX|Nifty 50")  # begins the web process's hub
    stack.wait_for(lambda: float_of(stack, "tradingok_hubs") == 1)
    found = scraped(stack)
    assert sorted(asked - set(found)) == []
    for name, metric_labels in found.items():
        if name.startswith("tradingok_feed_"):
            assert all("shard" in labels for labels in metric_labels), name


def test_what_is_scraped_is_what_the_feed_received(stack: Stack) -> None:  # noqa: F811
    sent = stack.exchange.state()["updates_sent_total"]
    assert sent > 0
    stack.wait_for(lambda: float_of(stack, TICKS) >= sent)
    assert float_of(stack, TICKS) <= stack.exchange.state()["updates_sent_total"]


def test_beside_a_running_feed_the_day_is_clean_as_far_as_it_has_come(stack: Stack) -> None:  # noqa: F811
    equal = []
    for _ in range(2):
        certificate = json.loads(stack.manage("verify", "--json", "--verbosity", "0"))
        assert certificate["clean"], certificate["verdict"]
        equal.append(certificate["counts"]["ticks_equal"])
    assert 0 < equal[0] < equal[1]


def subscribed(stack: Stack) -> set[str]:  # noqa: F811
    """The keys that the exchange was asked for."""
    return set(httpx.get(f"{stack.exchange.url}/simulator/state", params={"keys": ""}, timeout=30).json()["subscribed_keys"])


def test_what_a_client_demands_is_followed_until_the_last_who_wants_it_goes(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    followed = subscribed(stack)
    shares = stack.get("/api/marketdata/instruments/", instrument_type="EQ", limit=100)["results"]
    key = next(row["key"] for row in shares if row["key"] not in followed)
    began = 0.0
    seconds: dict[str, float] = {}

    async def asked(wanted: bool) -> None:
        async with asyncio.timeout(60):
            while (key in await asyncio.to_thread(subscribed, stack)) is not wanted:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.02)
        seconds.setdefault("asked of the exchange", time.monotonic() - began)

    async def demand() -> None:
        nonlocal began
        secret = stack.api_key
        async with (
            market_client(stack.ws_url, secret) as watching,
            market_client(stack.ws_url, secret) as one,
            market_client(stack.ws_url, secret) as two,
        ):
            await watching.send(id=1, op="subscribe", channels=["market"])
            await watching.next(id=1)
            began = time.monotonic()
            asking = asyncio.create_task(asked(wanted=True))
            await one.send(id=1, op="subscribe", instruments=[key])
            assert [result["status"] for result in (await one.next(id=1))["results"]] == ["accepted"]
            assert (await one.next(event="subscription", key=key))["status"] == "active"
            await one.next(event="market:tick")
            seconds["first tick"] = time.monotonic() - began
            await asking
            while key not in (told := await watching.next(event="universe"))["entered"]:
                pass  # the money may move meanwhile
            assert told["entered"][key] == "full"
            assert "demand" in told["causes"]
            await two.send(id=1, op="subscribe", instruments=[key])
            assert [result["status"] for result in (await two.next(id=1))["results"]] == ["active"]
            await one.send(id=2, op="unsubscribe", instruments=[key])
            await one.next(id=2)
            first = (await two.next(event="market:tick"))["ticks"][0][1]
            while (await two.next(event="market:tick"))["ticks"][0][1] < first + 5:
                pass
            assert key in await asyncio.to_thread(subscribed, stack), "another wants it still"
            await two.send(id=2, op="unsubscribe", instruments=[key])
            await asked(wanted=False)
            while key not in (told := await watching.next(event="universe"))["left"]:
                pass
            assert told["left"][key] == "demand"

    asyncio.run(demand())
    with capsys.disabled():
        print(f"\ndemand: {', '.join(f'{what} {after:.2f} s' for what, after in seconds.items())} after subscribe")


def test_a_chain_that_no_rule_follows_is_demanded_and_moves(stack: Stack) -> None:  # noqa: F811
    channel, before = "chain:BANKNIFTY:@m1:atm2", subscribed(stack)
    rows: dict[float, list[list[Any] | None]] = {}
    key, price, delta = (SIDE_COLUMNS.index(name) for name in ("key", "last_price", "delta"))

    def keys() -> set[str]:
        return {side[key] for sides in rows.values() for side in sides if side is not None}

    async def asked(wanted: set[str]) -> None:
        async with asyncio.timeout(60):
            while await asyncio.to_thread(subscribed, stack) & keys() != wanted:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)

    async def follow() -> None:
        async with market_client(stack.ws_url, stack.api_key) as client:
            await client.send(id=1, op="subscribe", channels=[channel])
            assert [result["status"] for result in (await client.next(id=1))["results"]] == ["active"]
            while not (rows and all(side is not None and side[price] and side[delta] for sides in rows.values() for side in sides)):
                push = await client.next(event="market:chain")
                if push.get("snapshot"):
                    rows.clear()
                rows.update({strike: sides for strike, *sides in push["rows"]})
            assert len(rows) == 5
            figures = push["aggregate"]
            assert figures["atm_strike"] == sorted(rows)[2]
            assert abs(figures["forward"] / figures["spot"] - 1) < 0.03
            await asked(keys())
            while (await client.next(event="market:chain", channel=channel)).get("snapshot"):
                pass  # the whole may come again at any time; changes alone come too
        await asked(keys() & before)

    asyncio.run(follow())
    assert not keys() & before, "no rule follows it"


def test_once_nothing_comes_any_more_every_hop_adds_up_exactly(stack: Stack) -> None:  # noqa: F811
    async def follow() -> None:
        """Be a client that takes some quotes."""
        async with market_client(stack.ws_url, stack.api_key) as client:
            await client.send(id=1, op="subscribe", instruments=["NSE_INDEX|Nifty 50"])
            for _ in range(5):
                await client.next(event="market:tick")

    asyncio.run(follow())
    stack.exchange.fault(kind="mute", seconds=600)
    rows: list[dict[str, Any]] = []

    def hops() -> list[dict[str, Any]]:
        rows[:] = stack.get("/api/marketdata/continuity/")["hops"]
        return rows

    stack.wait_for(lambda: all(row["holds"] for row in hops()))
    assert {row["hop"].split(": ")[1] for row in rows} == {hop for hop, _, _ in (*FEED_HOPS, *HUB_HOPS)}
    assert min(row["taken"] for row in rows) > 0
