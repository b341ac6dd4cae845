"""Query parameters of the instrument API, and the MongoDB query each combination becomes.

Law of the list: it is ordered by id, and every combination of filters has an index that gives that order and holds the fields of all its
filters, so that only what is answered is fetched. The index is named in the query: the planner need not guess.

    filters given                       index
    underlying, and any other           instrument_underlying   (a strike range needs an underlying)
    expiry, without underlying          instrument_expiry
    lot, without these                  instrument_lot
    segment, with or without type       instrument_segment
    type alone                          instrument_type
    none                                instrument_active

`instruments`, `lot` and `as_of` go with any: all of them hold the id, the lot and the times. A list as of an older master is read from
three places, each in order of id, and merged (instruments/history.py): active instruments, retired ones, and versions (by
instrument_version_underlying or instrument_version). Of retired ones and versions, entries that are past are skipped in the index, not
fetched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request

from instruments.domain.expiry import check_expiry_word
from instruments.domain.instrument import IST, day_end
from instruments.history import is_present, states_as_of
from instruments.selectors import ID_PREFIX, followed, instrument_ids, underlying_expiries
from instruments.store import Document, instruments_collection

LIMIT = 50
LIMIT_MAX = 1000
NAMED_MAX = 500
"""Instruments that one request may name."""
STRIKE_MAX = 10_000_000.0
LOT_MAX = 2**31 - 1
EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
"""Other times are mistakes, most often seconds given for milliseconds."""


FIELDS = {"segment": "segment", "instrument_type": "instrument_type", "underlying": "underlying_symbol", "lot": "lot_size"}
"""Parameter of the list → field that equals it."""

_NUMBERED = re.compile(r"id:\d{1,18}", re.ASCII)


class QuerySerializer(serializers.Serializer[Any]):
    """Reads query parameters; one that it does not know is an error, so that a misspelt filter cannot silently return everything."""

    @classmethod
    def read(cls, request: Request) -> dict[str, Any]:
        """Return the validated parameters.

        Raises:
            ValidationError: naming the field.
        """
        fields = cls().fields
        unknown = next((name for name in request.query_params if name not in fields and name != "format"), None)
        if unknown is not None:
            raise serializers.ValidationError(
                {unknown[:40]: f"There is no such parameter. This address takes {', '.join(sorted(fields))}."}
            )
        repeated = next((name for name, values in request.query_params.lists() if len(values) > 1), None)
        if repeated is not None:
            raise serializers.ValidationError({repeated[:40]: "This parameter is given more than once."})
        serializer = cls(data=request.query_params.dict())
        serializer.is_valid(raise_exception=True)
        validated: dict[str, Any] = serializer.validated_data
        return validated


class NameField(serializers.RegexField):
    """A segment, type or symbol in any case."""

    def __init__(self, what: str, **options: Any) -> None:
        super().__init__(r"^[\w&.\- ]{1,40}$", required=False, error_messages={"invalid": f"This is no {what}."}, **options)

    def to_internal_value(self, data: Any) -> str:
        return str(super().to_internal_value(data)).upper()


@extend_schema_field(OpenApiTypes.STR)
class MomentField(serializers.Field[datetime, Any, Any, Any]):
    """A time: epoch milliseconds, or ISO 8601 (IST when it names no offset)."""

    default_error_messages = {"invalid": "Takes a time from 2000 to 2100: epoch milliseconds, or ISO 8601 as in 2026-11-20T09:15:00+05:30."}

    def to_internal_value(self, data: Any) -> datetime:
        text = str(data)
        try:
            if text.isascii() and text.isdigit():
                moment = datetime.fromtimestamp(int(text[:20]) / 1000, UTC)
            else:
                moment = datetime.fromisoformat(text.replace(" ", "+"))
                moment = moment if moment.tzinfo else moment.replace(tzinfo=IST)
        except (ValueError, OverflowError, OSError):
            self.fail("invalid")
        if not EARLIEST <= moment <= LATEST:
            self.fail("invalid")
        return moment

    def to_representation(self, value: datetime) -> int:
        return round(value.timestamp() * 1000)


class FilterQuery(QuerySerializer):
    """What instruments are narrowed to, in the list and in the search."""

    segment = NameField("segment", help_text="NSE_EQ, NSE_FO, NSE_INDEX, …")
    instrument_type = NameField("instrument type", help_text="INDEX, EQ, FUT, CE, PE, …")
    underlying = NameField("underlying", help_text="Symbol of the underlying: NIFTY, BANKNIFTY, RELIANCE.")
    expiry = serializers.CharField(required=False, max_length=12, help_text="YYYY-MM-DD; with an underlying also @w0, @w1, @m0, …")
    strike_min = serializers.FloatField(required=False, min_value=0, max_value=STRIKE_MAX, help_text="INR; needs `underlying`.")
    strike_max = serializers.FloatField(required=False, min_value=0, max_value=STRIKE_MAX, help_text="INR; needs `underlying`.")
    lot = serializers.IntegerField(required=False, min_value=1, max_value=LOT_MAX, help_text="Lot size, units.")
    subscribed = serializers.BooleanField(
        required=False, allow_null=True, default=None, help_text="true: only what the rules follow now; false: only the rest."
    )

    def validate_expiry(self, value: str) -> str:
        try:
            check_expiry_word(value)
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from None
        return value

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        for name in ("strike_min", "strike_max"):
            if attrs.get(name) is not None and "underlying" not in attrs:
                raise serializers.ValidationError({name: "A range of strikes needs `underlying`."})
            if attrs.get(name) != attrs.get(name):
                raise serializers.ValidationError({name: "Takes a number."})
        if attrs.get("strike_min", 0.0) > attrs.get("strike_max", STRIKE_MAX):
            raise serializers.ValidationError({"strike_min": "Must not be above `strike_max`."})
        if attrs.get("expiry", "").startswith("@") and "underlying" not in attrs:
            raise serializers.ValidationError({"expiry": f"{attrs['expiry']} needs `underlying`; without one give YYYY-MM-DD."})
        return attrs


class ListQuery(FilterQuery):
    """Filters and paging of the instrument list."""

    as_of = MomentField(
        required=False,
        help_text="What the master in force then listed, as it was; epoch ms or ISO 8601. `active` says what is so still. Default: now.",
    )
    instruments = serializers.CharField(
        required=False, help_text=f"Only these: keys or id:<n>, comma-separated, {NAMED_MAX} at the most; those not listed are left out."
    )
    after = serializers.IntegerField(required=False, min_value=0, max_value=2**63 - 1, help_text="Cursor: the last page's last id.")
    limit = serializers.IntegerField(required=False, default=LIMIT, min_value=1, max_value=LIMIT_MAX, help_text=f"1 to {LIMIT_MAX}.")

    def validate_instruments(self, value: str) -> list[str]:
        names = [name.strip() for name in value.split(",")]
        if len(names) > NAMED_MAX:
            raise serializers.ValidationError(f"Takes {NAMED_MAX} instruments at the most, not {len(names)}.")
        return names

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "as_of" in attrs and "instruments" in attrs:
            raise serializers.ValidationError({"instruments": "Keys change with time: leave out `as_of`, or ask for each instrument."})
        if "as_of" in attrs and attrs.get("subscribed") is not None:
            raise serializers.ValidationError({"subscribed": "What is followed is known for now only; leave out `as_of`."})
        return super().validate(attrs)


class SearchQuery(FilterQuery):
    """What was typed, and filters as of the list."""

    q = serializers.CharField(max_length=60, help_text="As typed: nifty 25000 ce, banknifty fut, reliance.")
    limit = serializers.IntegerField(required=False, default=20, min_value=1, max_value=100, help_text="1 to 100.")


class DetailQuery(QuerySerializer):
    """Parameters of one instrument."""

    as_of = MomentField(required=False, help_text="Whom the key meant then, and what that was like; epoch ms or ISO 8601. Default: now.")


class MomentQuery(QuerySerializer):
    """Parameters of the expiries."""

    at = MomentField(required=False, help_text="Market time; what the master in force then listed. Epoch ms or ISO 8601. Default: now.")


class NoQuery(QuerySerializer):
    """An address without parameters."""


class ListRequest(NamedTuple):
    """A query ready for MongoDB.

    Attributes:
        wanted: conditions on the master's fields.
        ids: condition on the id.
        hint: the index.
        limit: documents of a page.
        after: the last page's last id.
        as_of: the moment of an older master; None: the present one.
    """

    wanted: Document
    ids: Document
    hint: str
    limit: int
    after: int
    as_of: datetime | None

    def page(self) -> list[Document]:
        """Read the page, and the first of the next one, ascending by id."""
        if self.as_of is not None:
            return list(states_as_of(self.wanted, self.as_of, hint=self.hint, after=self.after, limit=self.limit + 1))
        present = {"active": True, **self.wanted, "_id": self.ids}
        return list(instruments_collection().find(present).sort("_id", 1).hint(self.hint).limit(self.limit + 1))


def list_request(asked: Mapping[str, Any], now: Callable[[], datetime]) -> ListRequest:
    """Turn validated ListQuery parameters into a query.

    Args:
        now: gives market time (aware); asked only for relative expiries and for what is followed.

    Raises:
        ValidationError: the underlying has no such expiry.
    """
    wanted: Document = {field: asked[parameter] for parameter, field in FIELDS.items() if parameter in asked}
    as_of: datetime | None = asked.get("as_of")
    if as_of is not None and is_present(as_of):
        as_of = None
    if "expiry" in asked:
        wanted["expiry"] = _expiry_moment(asked["expiry"], asked.get("underlying"), now, as_of)
    strikes = {operator: asked[name] for name, operator in (("strike_min", "$gte"), ("strike_max", "$lte")) if name in asked}
    if strikes:
        wanted["strike_price"] = strikes
    after = asked.get("after", 0)
    return ListRequest(wanted, _id_conditions(asked, now), _index_for(wanted), asked["limit"], after, as_of)


def _id_conditions(asked: Mapping[str, Any], now: Callable[[], datetime]) -> Document:
    after, subscribed = asked.get("after", 0), asked.get("subscribed")
    only = _ids_named(asked["instruments"]) if "instruments" in asked else None
    if subscribed is not None:
        ruled = set(followed(now()).ids)
        if subscribed:
            only = ruled if only is None else only & ruled
        elif only is None:
            return {"$gt": after, "$nin": sorted(number for number in ruled if number > after)}
        else:
            only -= ruled
    return {"$gt": after} if only is None else {"$in": sorted(number for number in only if number > after)}


def _ids_named(names: list[str]) -> set[int]:
    """The ids that are named, and those of who holds the keys that are."""
    keys = [name for name in names if not name.startswith(ID_PREFIX)]
    return {int(name[3:]) for name in names if _NUMBERED.fullmatch(name)} | set(instrument_ids(keys).values())


def _index_for(wanted: Document) -> str:
    for field, index in (
        ("underlying_symbol", "instrument_underlying"),
        ("expiry", "instrument_expiry"),
        ("lot_size", "instrument_lot"),
        ("segment", "instrument_segment"),
        ("instrument_type", "instrument_type"),
    ):
        if field in wanted:
            return index
    return "instrument_active"


def _expiry_moment(word: str, underlying: str | None, now: Callable[[], datetime], as_of: datetime | None) -> datetime:
    if not word.startswith("@") or underlying is None:
        return day_end(date.fromisoformat(word))
    listing = underlying_expiries(underlying, now() if as_of is None else as_of, as_of=as_of)
    found = next((listed for listed in listing if word in listed.words), None)
    if found is None:
        raise serializers.ValidationError({"expiry": f"{underlying} has no living expiry {word}."})
    return day_end(found.expiry.date)
