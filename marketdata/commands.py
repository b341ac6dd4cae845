"""What clients say: commands as typed structs, names of channels. What is neither is refused with the field that is wrong. Pure."""

from __future__ import annotations

import re
from typing import Annotated, Literal, NamedTuple

import msgspec

from instruments.domain.expiry import check_expiry_word
from marketdata.client_errors import ClientError
from marketdata.domain.candle import INTERVAL_MINUTES
from marketdata.domain.chain_rows import check_window

CommandId = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
"""Integers that JavaScript holds exactly."""


class _Command(msgspec.Struct, tag_field="op", forbid_unknown_fields=True, frozen=True):
    id: CommandId


CANDLES_MAX = 500
"""A channel of candles begins with so many at the most."""


class Subscribe(_Command, tag="subscribe", frozen=True):
    """Follow instruments or channels; a channel of candles begins with the newest `candles`."""

    instruments: list[str] = []
    channels: list[str] = []
    mode: Literal["ltpc", "full"] = "full"
    candles: Annotated[int, msgspec.Meta(ge=1, le=CANDLES_MAX)] = 300


class Unsubscribe(_Command, tag="unsubscribe", frozen=True):
    """Stop following them; what is not followed is no error."""

    instruments: list[str] = []
    channels: list[str] = []
    mode: Literal["ltpc", "full"] = "full"


class Resume(_Command, tag="resume", frozen=True):
    """Follow instruments again after a reconnect: whole quotes come only of those that moved."""

    epoch: int
    seq: dict[str, int]
    mode: Literal["ltpc", "full"] = "full"


class List(_Command, tag="list", frozen=True):
    """Ask what is followed."""


class Ping(_Command, tag="ping", frozen=True):
    """Ask for a sign of life."""


Command = Subscribe | Unsubscribe | Resume | List | Ping

_parse = msgspec.json.Decoder(Command).decode
_FIELD = re.compile(r"`\$\.([^.`\[]+)|field `([^`]+)`")


class _Identified(msgspec.Struct):
    id: CommandId | None = None


def parse_command(text: str) -> Command:
    """Parse one command.

    Raises:
        ClientError: 400, with the field that is wrong and, where it could be read, the command's id. Not worth a retry.
    """
    try:
        command: Command = _parse(text)
    except msgspec.ValidationError as error:
        raise _invalid(text, str(error)) from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ClientError(400, f"Not JSON: {error}.") from error
    if isinstance(command, Subscribe | Unsubscribe) and not command.instruments and not command.channels:
        raise ClientError(400, "Name at least one instrument or channel.", "instruments", command.id)
    return command


def _invalid(text: str, reason: str) -> ClientError:
    found = _FIELD.search(reason)
    field = (found.group(1) or found.group(2)) if found else None
    if field == "op":
        reason = "op must be one of subscribe, unsubscribe, resume, list, ping"
    try:
        command = msgspec.json.decode(text, type=_Identified).id
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        command = None
    return ClientError(400, f"{reason}.", field, command)


# --- channels -------------------------------------------------------------------------------------------------------------
OHLC = "ohlc"
CHAIN = "chain"


class OhlcChannel(NamedTuple):
    """The channel `ohlc:<interval>:<name>`.

    Attributes:
        interval: one of INTERVAL_MINUTES.
        name: of the instrument: its key, or `id:<n>`.
    """

    interval: str
    name: str


class ChainChannel(NamedTuple):
    """The channel `chain:<underlying>:<expiry>:<strikes>`.

    Attributes:
        underlying: symbol, upper case.
        expiry: @w0, @m1 … or YYYY-MM-DD, as asked: a word moves on at expiry.
        strikes: all, or atm10.
    """

    underlying: str
    expiry: str
    strikes: str

    @property
    def name(self) -> str:
        """The channel's name in pushes."""
        return f"{CHAIN}:{self.underlying}:{self.expiry}:{self.strikes}"


def parse_channel(channel: str) -> OhlcChannel | ChainChannel:
    """Parse the name of a channel of candles or of an option chain.

    Raises:
        ClientError: 400, it is none. Not worth a retry.
    """
    kind, _, rest = channel.partition(":")
    if kind == CHAIN:
        return _chain_channel(rest)
    interval, _, name = rest.partition(":")
    if kind != OHLC or not name:
        channels = "market, feed, ohlc:<interval>:<key or id:n>, chain:<underlying>:<expiry>:<strikes>"
        raise ClientError(400, f"No channel is called so: {channels}.", "channels")
    if interval not in INTERVAL_MINUTES:
        raise ClientError(400, f"There is no such interval; there are {', '.join(INTERVAL_MINUTES)}.", "channels")
    return OhlcChannel(interval, name)


def _chain_channel(rest: str) -> ChainChannel:
    parts = rest.split(":")
    if len(parts) != 3 or not parts[0]:
        raise ClientError(400, "An option chain is chain:<underlying>:<expiry>:<strikes>, as in chain:NIFTY:@w0:atm10.", "channels")
    underlying, expiry, strikes = parts
    try:
        check_expiry_word(expiry)
        check_window(strikes)
    except ValueError as error:
        raise ClientError(400, f"{error}.", "channels") from error
    return ChainChannel(underlying.upper(), expiry, strikes)
