"""The minutes of four real whole days: decode and builder against the broker's own bars, which the test reads from the captures itself."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

import pytest

from broker.simulator.captures import read_recording
from broker.upstox.decode import decode
from marketdata.domain.candle import Candle
from marketdata.domain.minutes import MinuteBuilder, Values
from marketdata.domain.tick import received_stamp_us
from tests.payloads import real_data
from tests.payloads.bars import CAPTURES, Bar, Minutes, captured_bars, captured_updates
from tests.zones import ist

pytestmark = [pytest.mark.realdata, pytest.mark.slow]
OPEN_MS, CLOSE_MS = ist("2025-12-15 09:15"), ist("2025-12-15 15:30")
FIELDS = Bar._fields
Shares = tuple[int, int, int, int, int, int]
"""Minutes equal in percent, rounded: open, high, low, close, volume, all of OHLC."""
README: dict[str, Shares] = {
    "NSE_FO|51414": (73, 83, 83, 95, 91, 52),
    "NSE_FO|51420": (70, 82, 80, 96, 94, 51),
    "NSE_FO|51461": (64, 83, 74, 96, 91, 43),
    "NSE_EQ|INE118H01025": (61, 80, 76, 87, 65, 35),
}
"""Last prices by minute of `ltt` against the bars: the table of ../shared/upstox/data/README.md."""


def shares(built: dict[int, Bar], bars: Minutes) -> Shares:
    """Return how many of the minutes that have both are equal."""
    both = [(built[start], bars[start]) for start in bars if start in built]
    equal = [sum(mine[number] == theirs[number] for mine, theirs in both) for number in range(5)]
    equal.append(sum(mine[:4] == theirs[:4] for mine, theirs in both))
    return tuple(round(100 * count / len(both)) for count in equal)  # type: ignore[return-value]  # six of them


def last_prices(updates: list[dict[str, Any]]) -> dict[int, Bar]:
    """Build minutes by `ltt` of last prices and the day's volume alone, in the order in which they were recorded."""
    minutes: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for update in updates:
        full = update["fullFeed"]["marketFF"]
        minutes[int(full["ltpc"]["ltt"]) // 60_000 * 60_000].append((full["ltpc"]["ltp"], int(full["vtt"])))
    built, volume = {}, min(volume for _, volume in next(iter(minutes.values())))
    for start, trades in minutes.items():
        prices = [price for price, _ in trades]
        highest = max(volume, *(traded for _, traded in trades))
        built[start] = Bar(prices[0], max(prices), min(prices), prices[-1], highest - volume)
        volume = highest
    return built


class Told(NamedTuple):
    """A finished candle as it was told, and whether the frame before it carried its bar."""

    candle: Candle
    built: Values | None
    carried: bool


@pytest.fixture(scope="module")
def told() -> dict[str, list[Told]]:
    """Every finished candle of the four captures, played together as one feed, by key."""
    builder = MinuteBuilder(lambda instrument, minute_ms: OPEN_MS <= minute_ms < CLOSE_MS)
    keys = list(CAPTURES)
    instruments = {key: number for number, key in enumerate(keys)}
    minutes: dict[int, bytes] = {}
    found: dict[str, list[Told]] = {key: [] for key in keys}
    stamp = 0
    for data in read_recording([real_data(name) for name in CAPTURES.values()]):
        stamp = received_stamp_us(0, stamp, 0)
        frame = decode(data, instruments, minutes)
        builder.apply(frame, stamp)
        builder.advance(frame.broker_ms)
        carried = {(bar.instrument, bar.start_ms) for bar in frame.bars}
        for candle, built in builder.drain().finished:
            found[keys[candle.instrument]].append(Told(candle, built, (candle.instrument, candle.start_ms) in carried))
    return found


@pytest.mark.parametrize("key", CAPTURES)
def test_every_minute_whose_bar_was_in_the_stream_ends_confirmed_and_equal_at_once(
    key: str, told: dict[str, list[Told]], capsys: pytest.CaptureFixture[str]
) -> None:
    updates = captured_updates(CAPTURES[key])
    bars = captured_bars(updates)
    last: dict[int, Candle] = {}
    built: dict[int, Bar] = {}
    for candle, values, carried in told[key]:
        assert carried == (candle.state == "confirmed"), "confirmed with the first update that has the bar, and told no more"
        last[candle.start_ms] = candle
        if values is not None:
            built[candle.start_ms] = Bar(*values)
    confirmed = {start: Bar(*candle[3:8]) for start, candle in last.items() if candle.state == "confirmed"}
    assert confirmed == bars, "all of them, in all five figures"
    traded = {int(update["fullFeed"]["marketFF"]["ltpc"]["ltt"]) // 60_000 * 60_000 for update in updates}
    in_session = {start for start in traded if OPEN_MS <= start < CLOSE_MS}
    assert set(last) == in_session | set(bars), "no other candle; trades after the close are none"

    plain, ours = shares(last_prices(updates), bars), shares(built, bars)
    with capsys.disabled():
        closed = [candle for candle, _, _ in told[key] if candle.state == "closed"]
        revised = sum(candle.revision > 0 for candle in last.values())
        print(f"\n{key}: {len(confirmed)} of {len(bars)} bars confirmed and equal; {len(last) - len(confirmed)} minutes without a bar")
        print(f"  {len(closed)} told as closed before, {revised} of them revised by their bar")
        print(f"  equal before, in percent: last prices {plain}, built {ours}: {', '.join(FIELDS)}, all of OHLC")
    assert plain == README[key], "what the data's README says"
    for mine, theirs in zip(ours, plain, strict=True):
        assert theirs <= mine <= theirs + 3, "the day's extremes sharpen ours, and nothing is worse"
