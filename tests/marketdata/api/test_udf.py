"""TradingView's protocol: each call, and the library's own sequence of calls, played as its adapter makes and reads them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from rest_framework.test import APIClient

from accounts.models import User
from instruments.models import Instrument
from instruments.store import spots_write
from marketdata import store
from marketdata.api.ohlc import NewestKnown
from marketdata.api.udf import RESOLUTIONS, history, price_scale, session_fields
from marketdata.calendar import calendar_forget, sessions_record
from marketdata.domain.candle import DAY_MS, INTERVAL_MINUTES, MINUTE_MS, Candle, day_start_ms
from marketdata.domain.session import Calendar, Hours
from tests.marketdata.api.fixtures import OPEN_MS, make_instrument, store_minutes
from tests.zones import host_zone, ist  # noqa: F401

OPEN = OPEN_MS // 1000
"""2026-11-20 09:15 IST, a Friday · epoch seconds."""


pytestmark = pytest.mark.usefixtures("valkey")


@pytest.fixture(autouse=True)
def unknown_calendar(db: None) -> None:
    """What an earlier test recorded is not remembered."""
    calendar_forget()


def udf(client: APIClient, call: str, **query: Any) -> Any:
    answer = client.get(f"/udf/{call}", query)
    assert answer.status_code == 200, answer.content
    assert answer["Content-Type"] == "application/json"
    return answer.json()


# --- the library --------------------------------------------------------------------------------------------------------


class Library:
    """TradingView's charting library with its UDF adapter, as far as it concerns a server: what it asks, and how it reads answers.

    Its addresses, parameters and judgements are those of the adapter's `history-provider.ts`, `data-pulse-provider.ts` and
    `udf-compatible-datafeed-base.ts` (read 2026-11-22); it looks at no HTTP status.
    """

    PAGE = 40

    def __init__(self, client: APIClient, symbol: str, resolution: str, now: int) -> None:
        self.client, self.resolution, self.now = client, resolution, now
        self.config = self.send("config")
        assert self.config["supports_search"] or self.config["supports_group_request"]
        self.symbol = self.send("symbols", symbol=symbol)
        assert "s" not in self.symbol, "unknown_symbol"
        self.bars: list[tuple[float, ...]] = []
        self.last_bar = 0
        self.requests = 0

    def send(self, call: str, **query: Any) -> Any:
        return self.client.get(f"/udf/{call}", query).json()

    def get_bars(self, start: float, end: int, count: int) -> tuple[list[tuple[float, ...]], bool]:
        """Return bars as (ms, o, h, l, c, v), and whether there are none any more."""
        self.requests += 1
        query = {"symbol": self.symbol["ticker"], "resolution": self.resolution, "from": start, "to": end, "countback": count}
        answer = self.send("history", **query, firstDataRequest="false", currencyCode=self.symbol["currency_code"])
        assert answer["s"] in ("ok", "no_data"), answer
        if answer["s"] == "no_data":
            return [], "nextTime" not in answer
        table = zip(*(answer[name] for name in "tohlcv"), strict=True)
        return [(at * 1000, *map(float, values)) for at, *values in table], False

    def open_chart(self) -> None:
        """Page backwards from the newest bar until there are no more."""
        end, done = self.now + 1, False
        while not done:
            page, done = self.get_bars(end - self.PAGE * 60, end, self.PAGE)
            assert done or len(page) <= self.PAGE
            assert [bar[0] for bar in page] == sorted({bar[0] for bar in page})
            assert not page or page[-1][0] < end * 1000
            self.bars = page + self.bars
            end = int(page[0][0] // 1000) if page else end
        self.last_bar = int(self.bars[-1][0])

    def pulse(self) -> None:
        """Ask for the two newest bars, as every ten seconds."""
        period = 10 * 60 * int(self.resolution) / (24 * 60) * 24
        bars, _ = self.get_bars(self.now - period, self.now, 2)
        assert bars[-1][0] >= self.last_bar
        for bar in bars[-2:] if bars[-1][0] > self.last_bar else bars[-1:]:
            if bar[0] == self.bars[-1][0]:
                self.bars[-1] = bar
            else:
                assert bar[0] > self.bars[-1][0], "a hole, or an old bar"
                self.bars.append(bar)
        self.last_bar = int(self.bars[-1][0])


def bar(minute: int, close: float | None = None) -> tuple[float, ...]:
    """The n-th minute as `store_minutes` makes it."""
    return (OPEN_MS + minute * MINUTE_MS, minute, minute + 1, minute - 1, minute + 0.5 if close is None else close, 10)


@pytest.mark.usefixtures("host_zone")
def test_the_librarys_sequence_from_config_to_the_live_end(client: APIClient, reliance: Instrument) -> None:
    store_minutes(7, 100)
    store_minutes(8, 100)  # another's
    chart = Library(client, "TEST7", "1", OPEN + 99 * 60 + 5)
    assert chart.resolution in chart.config["supported_resolutions"]
    chart.open_chart()
    assert chart.bars == [bar(minute) for minute in range(100)]
    assert chart.requests == 4  # 40, 40, 20, and that there are no more

    live = Candle(7, "1m", OPEN_MS + 99 * MINUTE_MS, 99, 100, 98, 99.75, 10, None, "confirmed")
    store.candles_write([live])
    chart.now += 10
    chart.pulse()
    assert chart.bars[-1] == bar(99, 99.75)
    store.candles_write([live._replace(start_ms=OPEN_MS + minute * MINUTE_MS, state="closed") for minute in (100, 101)])
    chart.now += 110
    chart.pulse()
    assert [bar[0] for bar in chart.bars[-3:]] == [OPEN_MS + minute * MINUTE_MS for minute in (99, 100, 101)]
    assert len(chart.bars) == 102


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_the_library_pages_through_every_resolution_without_hole_or_double(
    client: APIClient, reliance: Instrument, resolution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    interval = RESOLUTIONS[resolution]
    stored = next(name for name in ("1d", "1h", "15m", "5m", "1m") if INTERVAL_MINUTES[interval] % INTERVAL_MINUTES[name] == 0)
    if stored == "1d":
        for day in range(-200, 1):
            store_minutes(7, 1, day_start_ms(OPEN_MS) + day * DAY_MS, "1d", "closed")
    else:
        store_minutes(7, 375 * 60 // 60 // INTERVAL_MINUTES[stored], OPEN_MS, stored)
    monkeypatch.setattr(Library, "PAGE", 5)
    chart = Library(client, "id:7", resolution, OPEN + 7 * 3600)
    chart.open_chart()
    whole = udf(client, "history", symbol="id:7", resolution=resolution, **{"from": 0, "to": OPEN + 86_400})
    assert [at // 1000 for at, *_ in chart.bars] == whole["t"]
    assert len(whole["t"]) == len(set(whole["t"])) > 1
    assert chart.requests == -(-len(whole["t"]) // 5) + 1


# --- history ------------------------------------------------------------------------------------------------------------


def minutes(answer: dict[str, Any]) -> list[int]:
    assert answer["s"] == "ok"
    return [(at - OPEN) // 60 for at in answer["t"]]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({"from": OPEN, "to": OPEN + 180}, [0, 1, 2]),
        ({"from": OPEN + 1, "to": OPEN + 181}, [1, 2, 3]),
        ({"from": OPEN + 180, "to": OPEN + 300, "countback": 4}, [1, 2, 3, 4]),
        ({"from": OPEN, "to": OPEN + 300, "countback": 2}, [3, 4]),
        ({"to": OPEN + 300, "countback": 2}, [3, 4]),
        ({"from": OPEN, "to": OPEN + 86_400 * 3650}, list(range(10))),
        ({"from": -5_000_000_000, "to": OPEN + 60}, [0]),
        ({"from": OPEN + 60.0000001, "to": OPEN + 180}, [1, 2]),
        ({"from": OPEN + 120, "to": OPEN + 180, "countback": 0}, [2]),
        ({"countback": 3}, [7, 8, 9]),
    ],
)
def test_bars_from_inclusive_to_exclusive_and_countback_before_from(
    client: APIClient, reliance: Instrument, query: dict[str, Any], wanted: list[int]
) -> None:
    store_minutes(7, 10)
    assert minutes(udf(client, "history", symbol="TEST7", resolution="1", **query)) == wanted


def test_a_table_has_the_candles_values(client: APIClient, reliance: Instrument) -> None:
    store.candles_write([Candle(7, "1m", OPEN_MS, 100.05, 102.1, 99.5, 101.0, 1200, 5000.0, "closed")])
    answer = udf(client, "history", symbol="NSE:TEST7", resolution="1", **{"from": OPEN, "to": OPEN + 60})
    assert answer == {"s": "ok", "t": [OPEN], "o": [100.05], "h": [102.1], "l": [99.5], "c": [101.0], "v": [1200]}


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_the_forming_bar_is_there_in_every_resolution(reliance: Instrument, resolution: str) -> None:
    store_minutes(7, 30)
    forming = [Candle(7, "1m", OPEN_MS + at * MINUTE_MS, 500.0, 501.0, 499.0, close, 3, None, "live", 0, 2) for at, close in ((30, 500.5),)]
    known = NewestKnown(OPEN_MS + 30 * MINUTE_MS + 20_000, forming)
    table = history(reliance, RESOLUTIONS[resolution], known, from_s=OPEN - 86_400, to_s=OPEN + 31 * 60)
    assert (table["c"][-1], table["h"][-1]) == (500.5, 501.0)
    assert sum(table["v"]) == 30 * 10 + 3
    assert len(table["t"]) == max(1, -(-31 // INTERVAL_MINUTES[RESOLUTIONS[resolution]]))
    nothing = NewestKnown(OPEN_MS, [])
    assert sum(history(reliance, RESOLUTIONS[resolution], nothing, from_s=OPEN - 86_400, to_s=OPEN + 31 * 60)["v"]) == 300


def test_what_traded_outside_of_the_session_is_no_bar(client: APIClient, reliance: Instrument) -> None:
    day = day_start_ms(OPEN_MS)
    sessions_record([Hours("NSE", day, OPEN_MS, OPEN_MS + 375 * MINUTE_MS)])
    for minute in (-5, 0, 374, 375, 380):  # before the open, and after the close
        store.candles_write([Candle(7, "1m", OPEN_MS + minute * MINUTE_MS, 1, 1, 1, 1, 1, None, "closed")])
    assert minutes(udf(client, "history", symbol="TEST7", resolution="1", countback=10)) == [0, 374]


def test_where_nothing_is_the_nearest_older_bar_is_named_and_before_the_first_there_is_none(
    client: APIClient, reliance: Instrument
) -> None:
    store_minutes(7, 3)
    query = {"symbol": "TEST7", "resolution": "1"}
    weekend = udf(client, "history", **query, **{"from": OPEN + 86_400, "to": OPEN + 90_000})
    assert weekend == {"s": "no_data", "nextTime": OPEN + 120}
    assert udf(client, "history", **query, **{"from": OPEN - 600, "to": OPEN}) == {"s": "no_data"}
    assert udf(client, "history", **query, **{"from": OPEN - 600, "to": OPEN, "countback": 10}) == {"s": "no_data"}


@pytest.mark.usefixtures("host_zone")
def test_days_weeks_and_months_have_midnight_utc_of_their_first_trading_day(client: APIClient, reliance: Instrument) -> None:
    days = ["2026-10-29", "2026-10-30", "2026-11-02", "2026-11-03", "2026-11-10", "2026-11-11", "2026-12-01"]
    for number, day in enumerate(days):
        store.candles_write([Candle(7, "1d", ist(f"{day} 00:00"), 10, 20 + number, 5, 15, 100, None, "closed")])
    told = {
        resolution: [
            f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"
            for at in udf(client, "history", symbol="TEST7", resolution=resolution, countback=100)["t"]
        ]
        for resolution in ("1D", "1W", "1M", "D", "W", "M")
    }
    assert told["1D"] == told["D"] == [f"{day} 00:00" for day in days]
    weeks = ["2026-10-29", "2026-11-02", "2026-11-10", "2026-12-01"]  # on the 9th, a Monday, nothing traded
    assert told["1W"] == told["W"] == [f"{day} 00:00" for day in weeks]
    assert told["1M"] == told["M"] == [f"{day} 00:00" for day in ("2026-10-29", "2026-11-02", "2026-12-01")]
    november = ist("2026-11-02 05:30") // 1000
    span = {"from": november, "to": november + 1}
    found = udf(client, "history", symbol="TEST7", resolution="1M", **span)
    assert (found["t"], found["h"], found["v"]) == ([november], [25], [400])
    assert udf(client, "history", symbol="TEST7", resolution="1D", **span)["h"] == [22]


def test_a_page_is_bounded_and_has_the_newest(client: APIClient, reliance: Instrument, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("marketdata.api.udf.MOST_BARS", 5)
    store_minutes(7, 12)
    assert minutes(udf(client, "history", symbol="TEST7", resolution="1", **{"from": OPEN, "to": OPEN + 3600})) == [7, 8, 9, 10, 11]
    assert minutes(udf(client, "history", symbol="TEST7", resolution="1", to=OPEN + 3600, countback=9)) == [7, 8, 9, 10, 11]


# --- symbols ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def market(client: APIClient) -> APIClient:
    """An index, a share of two exchanges and its debt under one symbol, a future, an option, and a contract that is over."""
    make_instrument(1, "NSE_INDEX|Nifty 50", trading_symbol="NIFTY", name="Nifty 50", instrument_type="INDEX")
    make_instrument(2, "NSE_EQ|INE1N1", trading_symbol="RELIANCE", name="Reliance 8 %", instrument_type="N1")
    make_instrument(3, "BSE_EQ|INE1", trading_symbol="RELIANCE", name="Reliance", instrument_type="A", exchange="BSE", tick_size=0.05)
    make_instrument(4, "NSE_EQ|INE1", trading_symbol="RELIANCE", name="Reliance", instrument_type="EQ", tick_size=0.1)
    expiry = datetime(2026, 11, 24, 18, 29, 59, tzinfo=UTC)
    option: dict[str, Any] = {"underlying_symbol": "NIFTY", "name": "NIFTY", "expiry": expiry, "tick_size": 0.05, "weekly": True}
    make_instrument(5, "NSE_FO|5", trading_symbol="NIFTY FUT 24 NOV 26", instrument_type="FUT", **option)
    make_instrument(6, "NSE_FO|6", trading_symbol="NIFTY 25000 CE 24 NOV 26", instrument_type="CE", strike_price=25000.0, **option)
    over: dict[str, Any] = option | {"expiry": datetime(2026, 10, 27, 18, 29, 59, tzinfo=UTC), "active": False}
    make_instrument(9, "NSE_FO|9", trading_symbol="NIFTY FUT 27 OCT 26", instrument_type="FUT", **over)
    spots_write({}, OPEN_MS, shard=0, shards=1, priced=False, underlyings=())  # the market's time
    return client


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("NIFTY", 1),
        ("nifty", 1),
        ("NSE:NIFTY", 1),
        ("RELIANCE", 4),
        ("NSE:RELIANCE", 4),
        ("BSE:RELIANCE", 3),
        ("bse:reliance", 3),
        ("NIFTY 25000 CE 24 NOV 26", 6),
        ("NSE_INDEX|Nifty 50", 1),
        ("NSE_EQ|INE1N1", 2),
        ("id:2", 2),
        ("ID:2", 2),
        ("id:9", 9),
    ],
)
def test_a_symbol_is_found_by_every_name_it_has(market: APIClient, name: str, number: int) -> None:
    assert udf(market, "symbols", symbol=name)["ticker"] == f"id:{number}"


def test_a_symbol_tells_what_the_library_needs(market: APIClient) -> None:
    sessions_record([Hours("NFO", day_start_ms(OPEN_MS), OPEN_MS, OPEN_MS + 385 * MINUTE_MS)])
    assert udf(market, "symbols", symbol="id:5") == {
        "name": "NIFTY FUT 24 NOV 26",
        "ticker": "id:5",
        "full_name": "NSE:NIFTY FUT 24 NOV 26",
        "description": "NIFTY FUT 24 NOV 26",
        "type": "futures",
        "exchange": "NSE",
        "listed_exchange": "NSE",
        "currency_code": "INR",
        "format": "price",
        "pricescale": 100,
        "minmov": 5,
        "minmove2": 0,
        "timezone": "Asia/Kolkata",
        "session": "0915-1540",
        "session_holidays": "",
        "corrections": "",
        "has_intraday": True,
        "intraday_multipliers": ["1", "3", "5", "10", "15", "30", "60", "120", "240"],
        "has_daily": True,
        "has_weekly_and_monthly": True,
        "supported_resolutions": ["1", "3", "5", "10", "15", "30", "60", "120", "240", "1D", "1W", "1M"],
        "visible_plots_set": "ohlcv",
        "volume_precision": 0,
        "data_status": "streaming",
    }
    index = udf(market, "symbols", symbol="NIFTY")
    assert (index["visible_plots_set"], index["type"], index["description"], index["session"]) == ("ohlc", "index", "Nifty 50", "24x7")
    gone = udf(market, "symbols", symbol="id:9")
    assert (gone["expired"], gone["expiration_date"]) == (True, 1_793_125_799)


@pytest.mark.parametrize(
    ("tick", "wanted"),
    [(0.05, (100, 5)), (0.01, (100, 1)), (0.0025, (10_000, 25)), (1.0, (100, 100)), (5, (100, 500)), (0.1, (100, 10)), (None, (100, 1))],
)
def test_price_scale_and_minmov_are_the_tick(tick: float | None, wanted: tuple[int, int]) -> None:
    assert price_scale(tick) == wanted


def hours(day: str, opens: str = "", closes: str = "", exchange: str = "NSE") -> Hours:
    midnight = ist(f"{day} 00:00")
    until = midnight + DAY_MS if closes == "24:00" else ist(f"{day} {closes}") if closes else 0
    return Hours(exchange, midnight, ist(f"{day} {opens}") if opens else 0, until)


@pytest.mark.usefixtures("host_zone")
def test_session_is_the_usual_one_of_the_newest_days_with_holidays_and_other_days_told() -> None:
    week = [hours(f"2026-11-{day}", "09:15", "15:30") for day in (16, 17, 18, 19, 20)]
    holiday, weekend, muhurat = hours("2026-11-24"), hours("2026-11-21"), hours("2026-11-08", "18:00", "19:15")
    early = hours("2026-11-13", "09:15", "13:00")
    told = session_fields(Calendar([*week, holiday, weekend, muhurat, early]), "NSE_EQ")
    assert told == {"session": "0915-1530", "session_holidays": "20261124", "corrections": "1800-1915:20261108;0915-1300:20261113"}


def test_hours_that_have_changed_become_the_usual_ones_and_the_former_days_keep_theirs() -> None:
    july = [hours(f"2026-07-{day}", "09:15", "15:30", "NFO") for day in (27, 28, 29, 30, 31)]
    august = [hours(f"2026-08-{day:02}", "09:15", "15:40", "NFO") for day in (3, 4, 5, 6, 7, 10)]
    assert session_fields(Calendar([*july, august[0]]), "NSE_FO")["session"] == "0915-1530"
    told = session_fields(Calendar([*july, *august]), "NSE_FO")
    assert told["session"] == "0915-1540"
    assert told["corrections"] == "0915-1530:20260727,20260728,20260729,20260730,20260731"


@pytest.mark.parametrize(
    ("segment", "wanted"),
    [("MCX_FO", "0900-2330"), ("NSE_EQ", "24x7"), ("NCD_FO", "24x7"), ("WEATHER", "24x7")],
)
def test_each_segment_has_its_own_and_one_that_is_not_known_or_never_closes_trades_always(segment: str, wanted: str) -> None:
    known = [
        hours("2026-11-20", "09:00", "23:30", "MCX"),
        hours("2026-11-20", "00:00", "24:00", "NSE"),
        hours("2026-11-20", exchange="CDS"),
    ]
    assert session_fields(Calendar(known), segment)["session"] == wanted


# --- search and time ----------------------------------------------------------------------------------------------------


def test_search_finds_as_a_trader_types_and_in_the_librarys_form(market: APIClient) -> None:
    found = udf(market, "search", query="RELIANCE", limit=30, type="", exchange="")
    assert [(row["ticker"], row["full_name"]) for row in found][:1] == [("id:4", "NSE:RELIANCE")]
    assert set(found[0]) == {"symbol", "full_name", "description", "exchange", "ticker", "type"}
    assert {row["ticker"] for row in found} == {"id:2", "id:3", "id:4"}
    assert udf(market, "search", query="") == []
    for row in found:
        assert udf(market, "symbols", symbol=row["ticker"])["ticker"] == row["ticker"]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({"query": "NIFTY", "type": "option"}, ["id:6"]),
        ({"query": "NIFTY", "type": "futures"}, ["id:5"]),
        ({"query": "NIFTY", "type": "index"}, ["id:1"]),
        ({"query": "NIFTY", "limit": 1}, ["id:1"]),
        ({"query": "RELIANCE", "exchange": "BSE"}, ["id:3"]),
        ({"query": "RELIANCE", "exchange": "MCX"}, []),
    ],
)
def test_search_obeys_type_exchange_and_limit(market: APIClient, query: dict[str, Any], wanted: list[str]) -> None:
    assert [row["ticker"] for row in udf(market, "search", **query)] == wanted


def test_time_is_the_markets_in_seconds_as_text(market: APIClient) -> None:
    answer = market.get("/udf/time")
    assert answer["Content-Type"] == "text/plain"
    assert OPEN <= int(answer.content) < OPEN + 600


def test_who_looks_at_the_root_finds_calls_that_answer(market: APIClient) -> None:
    found = market.get("/udf/").json()
    calls = {found[call] for call in ("config", "symbols", "search", "history", "time")}
    assert {market.get(address).status_code for address in calls} == {200}
    assert {address.removeprefix(found["datafeed"]).partition("?")[0] for address in calls} == {
        "/config", "/symbols", "/search", "/history", "/time",
    }  # fmt: skip


def test_config_lists_what_is_there(client: APIClient) -> None:
    config = udf(client, "config")
    assert config["supported_resolutions"] == ["1", "3", "5", "10", "15", "30", "60", "120", "240", "1D", "1W", "1M"]
    assert (config["supports_search"], config["supports_group_request"], config["supports_time"]) == (True, False, True)
    assert not config["supports_marks"]
    assert {entry["value"] for entry in config["exchanges"]} == {"", "NSE", "BSE", "MCX"}


# --- what goes wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "query", "status", "named"),
    [
        ("symbols", {"symbol": "NOSUCH"}, 404, "symbol: no instrument is called 'NOSUCH'"),
        ("symbols", {"symbol": "id:99"}, 404, "symbol: "),
        ("symbols", {"symbol": "MCX:TEST7"}, 404, "symbol: "),
        ("symbols", {}, 400, "symbol: "),
        ("history", {"resolution": "1"}, 400, "symbol: "),
        ("history", {"symbol": "TEST7"}, 400, "resolution: "),
        ("history", {"symbol": "TEST7", "resolution": "7"}, 400, "resolution: Takes one of 1, 3, 5"),
        ("history", {"symbol": "TEST7", "resolution": "1", "from": OPEN_MS}, 400, "from: "),
        ("history", {"symbol": "TEST7", "resolution": "1", "to": "tomorrow"}, 400, "to: "),
        ("history", {"symbol": "TEST7", "resolution": "1", "to": "nan"}, 400, "to: "),
        ("history", {"symbol": "TEST7", "resolution": "1", "to": "1e400"}, 400, "to: "),
        ("history", {"symbol": "TEST7", "resolution": "1", "from": OPEN + 1, "to": OPEN}, 400, "from: "),
        ("history", {"symbol": "TEST7", "resolution": "1", "countback": -3}, 400, "countback: "),
        ("history", {"symbol": "NOSUCH", "resolution": "1"}, 404, "symbol: "),
        ("search", {"query": "x", "limit": "many"}, 400, "limit: "),
    ],
)
def test_an_error_is_in_the_librarys_form_and_names_the_parameter(
    client: APIClient, reliance: Instrument, call: str, query: dict[str, Any], status: int, named: str
) -> None:
    answer = client.get(f"/udf/{call}", query)
    body = answer.json()
    assert (answer.status_code, body["s"]) == (status, "error")
    assert body["errmsg"].startswith(named)


@pytest.mark.parametrize("call", ["config", "symbols", "search", "history", "time"])
def test_credentials_are_needed_a_session_will_do(call: str, reliance: Instrument) -> None:
    stranger = APIClient()
    answer = stranger.get(f"/udf/{call}", {"symbol": "TEST7", "resolution": "1"})
    assert (answer.status_code, answer.json()["s"], answer.json()["code"]) == (401, "error", "not_authenticated")
    assert answer["WWW-Authenticate"].startswith("Bearer")
    stranger.force_login(User.objects.create_user("ravi"))
    assert stranger.get(f"/udf/{call}", {"symbol": "TEST7", "resolution": "1"}).status_code == 200


def test_requests_are_counted_against_the_users_rate(client: APIClient, settings: Any) -> None:
    settings.API_BURST, settings.API_REQUESTS_PER_SECOND = 3, 1
    answers = [client.get("/udf/config") for _ in range(10)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert (refused[0].json()["s"], refused[0]["Retry-After"]) == ("error", "1")
