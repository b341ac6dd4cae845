"""Minutes of the captures that show why candles made of ticks differ from the broker's: docs/candles.md quotes what this prints.

python -m tests.replay.telling_minutes
"""

from __future__ import annotations

from typing import Any, NamedTuple

from broker.simulator.captures import read_recording
from broker.upstox.decode import decode
from marketdata.domain.minutes import MinuteBuilder, Values
from marketdata.domain.tick import received_stamp_us
from tests.payloads import real_data
from tests.payloads.bars import CAPTURES, captured_bars, captured_updates
from tests.replay.test_minutes_of_captures import last_prices

OPENED_MS = 1_765_737_000_000
"""00:00 IST of the captures' day."""


class Minute(NamedTuple):
    """A minute, and which of its updates tell what happened: those traded from `first` to `last` seconds after its start."""

    key: str
    at: str
    first: float
    last: float
    why: str


TELLING = (
    Minute("NSE_FO|51414", "13:17", -5, 3, "the first trade of the minute was never shown"),
    Minute(
        "NSE_FO|51420",
        "11:52",
        36,
        40,
        "the highest price fell between two updates; it was the day's, whose high the feed sends: built has it",
    ),
    Minute("NSE_FO|51420", "11:57", 54, 60, "the highest price fell between two updates, and the day had been higher: nothing betrays it"),
    Minute("NSE_FO|51414", "14:08", 58, 61.5, "the last trade of the minute came to us only within the next update"),
    Minute("NSE_EQ|INE118H01025", "12:42", 56, 63, "volume of the minute's end was shown with a trade of the next minute"),
)


def clock_ms(time_ms: int) -> str:
    """Return the Indian time of day to the millisecond."""
    seconds, ms = divmod(time_ms - OPENED_MS, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{ms:03}"


def shown(update: dict[str, Any]) -> str:
    """Return one line about an update."""
    full = update["fullFeed"]["marketFF"]
    bars = {bar["interval"]: bar for bar in full.get("marketOHLC", {}).get("ohlc", [])}
    bar, day = bars.get("I1"), bars.get("1d", {})
    minute = f"bar of {clock_ms(int(bar['ts']))[:5]}" if bar else "no bar"
    price = full["ltpc"]
    traded = f"{clock_ms(int(price['ltt']))}  {price['ltp']:>8} × {price.get('ltq', 0)}"
    return f"{traded:<28} volume {full['vtt']}  day {day.get('high')} / {day.get('low')}  {minute}"


def built_minutes(key: str) -> dict[int, Values]:
    """Return what our own builder had made of each minute when its bar was first seen."""
    builder, bars, stamp = MinuteBuilder(lambda instrument, minute_ms: True), dict[int, bytes](), 0
    built: dict[int, Values] = {}
    for data in read_recording([real_data(CAPTURES[key])]):
        stamp = received_stamp_us(0, stamp, 0)
        frame = decode(data, {key: 1}, bars)
        builder.apply(frame, stamp)
        builder.advance(frame.broker_ms)
        built |= {told.candle.start_ms: told.built for told in builder.drain().finished if told.built is not None}
    return built


def main() -> None:
    """Print each minute as last prices make it, as we make it, as the broker has it, and the updates that explain it."""
    for minute in TELLING:
        updates = captured_updates(CAPTURES[minute.key])
        start = OPENED_MS + (int(minute.at[:2]) * 60 + int(minute.at[3:])) * 60_000
        print(f"\n{minute.key} {minute.at}: {minute.why}")
        built = built_minutes(minute.key)
        for at in (start, start + 60_000) if minute.last > 60 else (start,):
            print(f"  {clock_ms(at)[:5]}  last prices {tuple(last_prices(updates)[at])}")
            print(f"         built       {built[at]}")
            print(f"         broker      {tuple(captured_bars(updates)[at])}")
        before = None
        for update in updates:
            offset = (int(update["fullFeed"]["marketFF"].get("ltpc", {}).get("ltt", 0)) - start) / 1000
            line = shown(update) if minute.first <= offset <= minute.last else None
            if line and line != before:
                print(f"    {line}")
            before = line or before


if __name__ == "__main__":
    main()
