"""What clients say: commands and channels, parsed or refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata import commands
from marketdata.client_errors import ClientError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '{"op":"subscribe","id":1,"instruments":["A"],"mode":"ltpc"}',
            commands.Subscribe(id=1, instruments=["A"], mode="ltpc"),
        ),
        ('{"op":"subscribe","id":1,"channels":["feed"]}', commands.Subscribe(id=1, channels=["feed"])),
        ('{"op":"subscribe","id":1,"channels":["ohlc:1m:A"],"candles":7}', commands.Subscribe(id=1, channels=["ohlc:1m:A"], candles=7)),
        ('{"id":2,"op":"unsubscribe","instruments":["A"]}', commands.Unsubscribe(id=2, instruments=["A"])),
        ('{"op":"list","id":-3}', commands.List(id=-3)),
        ('{"op":"ping","id":0}', commands.Ping(id=0)),
        ('{"op":"resume","id":4,"epoch":9,"seq":{"A":1}}', commands.Resume(id=4, epoch=9, seq={"A": 1})),
    ],
)
def test_commands_are_parsed(text: str, expected: commands.Command) -> None:
    assert commands.parse_command(text) == expected


@pytest.mark.parametrize(
    ("text", "field", "command"),
    [
        ("", None, None),
        ("{", None, None),
        ("[" * 100_000, None, None),
        ('{"op":"ping","id":1,"x":' + "[" * 5_000 + "]" * 5_000 + "}", "x", None),
        ("[]", None, None),
        ('"subscribe"', None, None),
        ("null", None, None),
        ("{}", "op", None),
        ('{"op":"subscribe"}', "id", None),
        ('{"op":"shout","id":5}', "op", 5),
        ('{"op":7,"id":5}', "op", 5),
        ('{"op":"list","id":"5"}', "id", None),
        ('{"op":"list","id":1.5}', "id", None),
        ('{"op":"list","id":true}', "id", None),
        ('{"op":"list","id":9007199254740993}', "id", None),
        ('{"op":"subscribe","id":5}', "instruments", 5),
        ('{"op":"subscribe","id":5,"instruments":[]}', "instruments", 5),
        ('{"op":"subscribe","id":5,"instruments":"A"}', "instruments", 5),
        ('{"op":"subscribe","id":5,"instruments":["A",1]}', "instruments", 5),
        ('{"op":"subscribe","id":5,"instruments":["A"],"mode":"depth"}', "mode", 5),
        ('{"op":"subscribe","id":5,"instrument":["A"]}', "instrument", 5),
        ('{"op":"resume","id":5,"epoch":1,"seq":{"A":"1"}}', "seq", 5),
        ('{"op":"resume","id":5,"seq":{}}', "epoch", 5),
        ('{"op":"subscribe","id":5,"channels":"A"}', "channels", 5),
        ('{"op":"subscribe","id":5,"channels":["ohlc:1m:A"],"candles":0}', "candles", 5),
        ('{"op":"subscribe","id":5,"channels":["ohlc:1m:A"],"candles":501}', "candles", 5),
        ('{"op":"unsubscribe","id":5,"channels":["ohlc:1m:A"],"candles":5}', "candles", 5),
    ],
)
def test_bad_commands_are_refused_with_the_field_and_the_id(text: str, field: str | None, command: int | None) -> None:
    with pytest.raises(ClientError) as caught:
        commands.parse_command(text)
    push = json.loads(caught.value.push())
    assert (push["event"], push["code"], push["error"], push["retry"]) == ("error", 400, "bad_request", False)
    assert (push["field"], push["id"]) == (field, command)
    assert push["message"].endswith(".")


@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_whatever_comes_is_parsed_or_refused(text: str) -> None:
    try:
        outcome: object = commands.parse_command(text)
    except ClientError as error:
        outcome = error
    assert isinstance(outcome, commands.Command) or (isinstance(outcome, ClientError) and outcome.code == 400)


@pytest.mark.parametrize(
    ("channel", "interval", "name"),
    [
        ("ohlc:1m:NSE_INDEX|Nifty 50", "1m", "NSE_INDEX|Nifty 50"),
        ("ohlc:1M:id:5", "1M", "id:5"),
        ("ohlc:4h:A:B:C", "4h", "A:B:C"),
    ],
)
def test_channels_of_candles_are_parsed(channel: str, interval: str, name: str) -> None:
    assert commands.parse_channel(channel) == commands.OhlcChannel(interval, name)


@pytest.mark.parametrize(
    "channel", ["", "ohlc", "ohlc:", "ohlc:1m", "ohlc:1m:", "ohlc:7m:A", "ohlc::A", "OHLC:1m:A", "chain:NIFTY", "gossip"]
)
def test_other_channels_are_refused_with_the_field(channel: str) -> None:
    with pytest.raises(ClientError) as caught:
        commands.parse_channel(channel)
    assert (caught.value.code, caught.value.field) == (400, "channels")
