"""REST of the exchange: shapes, quirks, limits and errors of FACTS §2.3, §2.4 and §5; over HTTP and as plain calls."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from jsonschema import Draft202012Validator

from broker.simulator import calendar_rows, candles, quotes
from broker.simulator.calendar import midnight_ms
from broker.simulator.errors import ApiError
from broker.simulator.source import Bar
from broker.upstox import MarketDataFeedV3_pb2 as pb
from tests.broker.simulator.feed_client import open_feed, receive_until, request
from tests.fakes.exchange import RunningExchange, StartExchange, real_data, start_exchange  # noqa: F401

INDEX = "NSE_INDEX|Nifty 50"
IST = ZoneInfo("Asia/Kolkata")
MASTER = "/market-quote/instruments/exchange"


@pytest.fixture(scope="module")
def exchange() -> Iterator[RunningExchange]:
    running = RunningExchange("--seed", "5", "--from", "2026-11-20T11:00")  # far from midnight
    yield running
    running.stop()


@pytest.fixture(scope="module")
def rows(exchange: RunningExchange) -> list[dict[str, Any]]:
    content = httpx.get(f"{exchange.url}{MASTER}/NSE.json.gz").content
    found: list[dict[str, Any]] = json.loads(gzip.decompress(content))
    return found


def keys_of(rows: list[dict[str, Any]], kind: str) -> list[str]:
    return [row["instrument_key"] for row in rows if row["instrument_type"] == kind]


def data(exchange: RunningExchange, path: str, **parameters: str) -> Any:
    answer = exchange.get(path, **parameters)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["status"] == "success"
    return body["data"]


def error_code(answer: httpx.Response) -> tuple[int, str]:
    (error,) = answer.json()["errors"]
    assert answer.json()["status"] == "error"
    assert error["error_code"] == error["errorCode"]
    assert error.keys() >= {"message", "property_path", "propertyPath", "invalid_value", "invalidValue"}
    return answer.status_code, error["error_code"]


# --- master ---------------------------------------------------------------------------------------------------------------


def test_master_is_gzip_json_with_an_etag_and_needs_no_token(exchange: RunningExchange, rows: list[dict[str, Any]]) -> None:
    first = httpx.get(f"{exchange.url}{MASTER}/NSE.json.gz")
    assert first.content[:2] == b"\x1f\x8b"
    assert "content-encoding" not in first.headers
    again = httpx.get(f"{exchange.url}{MASTER}/NSE.json.gz", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert httpx.get(f"{exchange.url}{MASTER}/NSE.json.gz", headers={"If-None-Match": '"other"'}).status_code == 200
    assert {"INDEX", "EQ", "FUT", "CE", "PE"} <= {row["instrument_type"] for row in rows}
    assert len({row["instrument_key"] for row in rows}) == len(rows)
    complete = httpx.get(f"{exchange.url}{MASTER}/complete.json.gz").content
    assert len(json.loads(gzip.decompress(complete))) >= len(rows)
    assert error_code(httpx.get(f"{exchange.url}{MASTER}/NSE_FO.json.gz")) == (404, "UDAPI100012")


def test_a_given_master_is_served_as_it_is(start_exchange: StartExchange, tmp_path: Path, rows: list[dict[str, Any]]) -> None:  # noqa: F811
    path = tmp_path / "NSE.json.gz"
    path.write_bytes(gzip.compress(json.dumps(rows[:300]).encode()))
    exchange = start_exchange("--master", str(path))
    served = json.loads(gzip.decompress(httpx.get(f"{exchange.url}{MASTER}/NSE.json.gz").content))
    assert served == rows[:300]


@pytest.mark.realdata
@pytest.mark.slow
def test_the_real_master_is_served_whole_and_priced(start_exchange: StartExchange) -> None:  # noqa: F811
    (path,) = real_data("NSE_2026-07.json.gz")
    exchange = start_exchange("--master", path)
    served = json.loads(gzip.decompress(httpx.get(f"{exchange.url}{MASTER}/NSE.json.gz", timeout=60).content))
    assert served == json.loads(gzip.decompress(Path(path).read_bytes()))
    keys = [row["instrument_key"] for row in served if row["segment"] in ("NSE_FO", "NSE_EQ")][::100]
    with open_feed(exchange) as connection:
        connection.send(request("sub", keys, "full"))
        frames = receive_until(connection, lambda got: any(f.feeds for f in got))
    assert set(frames[-1].feeds) == set(keys)


# --- quotes ---------------------------------------------------------------------------------------------------------------


def test_quote_maps_are_keyed_by_segment_and_symbol(exchange: RunningExchange, rows: list[dict[str, Any]]) -> None:
    call, future = keys_of(rows, "CE")[0], keys_of(rows, "FUT")[0]
    found = data(exchange, "/v3/market-quote/ltp", instrument_key=f"{INDEX},{call},{future}")
    assert {quote["instrument_token"] for quote in found.values()} == {INDEX, call, future}
    assert "NSE_INDEX:Nifty 50" in found
    assert all(key.startswith(("NSE_INDEX:", "NSE_FO:")) and "|" not in key for key in found)
    assert all(quote["last_price"] > 0 and quote["cp"] > 0 for quote in found.values())


def test_quotes_agree_with_each_other(exchange: RunningExchange, rows: list[dict[str, Any]]) -> None:
    # the key in the middle of the option list is close to the money, so it has a price, depth and greeks
    options = keys_of(rows, "CE")
    key = options[len(options) // 2]
    (full,) = data(exchange, "/v2/market-quote/quotes", instrument_key=key).values()
    assert len(full["depth"]["buy"]) == len(full["depth"]["sell"]) == 5
    assert full["depth"]["buy"][0]["price"] < full["depth"]["sell"][0]["price"]
    assert full["ohlc"]["low"] <= full["last_price"] <= full["ohlc"]["high"]
    assert full["lower_circuit_limit"] < full["upper_circuit_limit"]
    assert full["last_trade_time"].isdigit()
    assert datetime.fromisoformat(full["timestamp"]).utcoffset() == timedelta(hours=5, minutes=30)
    (third,) = data(exchange, "/v3/market-quote/quotes", instrument_key=key).values()
    assert third.keys() - full.keys() == {"prev_close_price", "year_high", "year_low", "previous_oi"}
    (greek,) = data(exchange, "/v3/market-quote/option-greek", instrument_key=key).values()
    assert 0 < greek["iv"] < 5  # a fraction
    assert 0 <= greek["delta"] <= 1


@pytest.mark.parametrize("interval", ["1d", "I1", "I30"])
def test_ohlc_gives_the_bar_before_and_the_forming_one(exchange: RunningExchange, interval: str) -> None:
    (quote,) = data(exchange, "/v3/market-quote/ohlc", instrument_key=INDEX, interval=interval).values()
    live, previous = quote["live_ohlc"], quote["prev_ohlc"]
    assert live["low"] <= live["close"] <= live["high"]
    if previous is None:  # the day's first minute, or half hour, behind a day without trading
        assert (live["ts"] + 19_800_000) % 86_400_000 < {"I1": 60_000, "I30": 1_800_000}[interval]
        return
    assert previous["ts"] < live["ts"] <= exchange.state()["market_ms"]
    assert live["ts"] % {"1d": 60_000, "I1": 60_000, "I30": 900_000}[interval] == 0


@pytest.mark.parametrize(
    ("path", "parameters", "expected"),
    [
        ("/v3/market-quote/ltp", {}, (400, "UDAPI1009")),
        ("/v3/market-quote/ltp", {"instrument_key": f"{INDEX},NSE_FO|none"}, (400, "UDAPI1087")),
        ("/v3/market-quote/ltp", {"instrument_key": ",".join(["NSE_FO|1"] * 501)}, (400, "UDAPI100043")),
        ("/v2/market-quote/quotes", {"instrument_key": ",".join(["NSE_FO|1"] * 501)}, (400, "UDAPI100042")),
        ("/v3/market-quote/option-greek", {"instrument_key": ",".join(["NSE_FO|1"] * 51)}, (400, "UDAPI100076")),
        ("/v3/market-quote/option-greek", {"instrument_key": INDEX}, (400, "UDAPI100095")),
        ("/v3/market-quote/ohlc", {"instrument_key": INDEX, "interval": "1m"}, (400, "UDAPI1028")),
        ("/v2/option/contract", {"instrument_key": "NSE_INDEX|none"}, (400, "UDAPI100011")),
        ("/v2/option/contract", {"instrument_key": INDEX, "expiry_date": "tomorrow"}, (400, "UDAPI1021")),
        ("/v2/option/chain", {"instrument_key": INDEX}, (400, "UDAPI1021")),
        ("/v2/option/chain", {"expiry_date": "2026-11-23"}, (400, "UDAPI1009")),
        ("/v2/market/status/LSE", {}, (400, "UDAPI1089")),
        ("/v2/market/timings/2026-13-01", {}, (400, "UDAPI1088")),
        ("/v2/market/holidays/1", {}, (400, "UDAPI1088")),
        ("/v3/market-quote/none", {}, (404, "UDAPI100012")),
    ],
)
def test_errors_carry_the_broker_s_code(
    exchange: RunningExchange, path: str, parameters: dict[str, str], expected: tuple[int, str]
) -> None:
    assert error_code(exchange.get(path, **parameters)) == expected


def test_a_missing_or_wrong_token_is_401(exchange: RunningExchange) -> None:
    address = f"{exchange.url}/v3/market-quote/ltp"
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        assert error_code(httpx.get(address, headers=headers)) == (401, "UDAPI100050")
    assert error_code(httpx.post(address)) == (405, "UDAPI100012")


def test_too_many_requests_are_429(start_exchange: StartExchange) -> None:  # noqa: F811
    exchange = start_exchange("--instruments", "1")
    with httpx.Client(headers=exchange.headers) as client:
        answers = (client.get(f"{exchange.url}/v2/market/status/NSE") for _ in range(501))  # 50 a second, 500 a minute
        limited = next(answer for answer in answers if answer.status_code != 200)
    assert error_code(limited) == (429, "UDAPI10005")
    assert exchange.get("/v2/market/holidays").status_code == 200  # another API


# --- options --------------------------------------------------------------------------------------------------------------


def test_chain_and_contracts_of_an_underlying(exchange: RunningExchange, rows: list[dict[str, Any]]) -> None:
    contracts = data(exchange, "/v2/option/contract", instrument_key=INDEX)
    by_key = {row["instrument_key"]: row for row in rows}
    assert all(row["underlying_key"] == INDEX and row["instrument_type"] in ("CE", "PE") for row in contracts)
    for row in contracts[::50]:
        told = datetime.fromtimestamp(by_key[row["instrument_key"]]["expiry"] / 1000, UTC).astimezone(IST)
        assert row["expiry"] == told.date().isoformat()
    expiry = min(row["expiry"] for row in contracts)
    near = data(exchange, "/v2/option/contract", instrument_key=INDEX, expiry_date=expiry)
    assert 0 < len(near) < len(contracts)
    chain = data(exchange, "/v2/option/chain", instrument_key=INDEX, expiry_date=expiry)
    assert [line["strike_price"] for line in chain] == sorted({row["strike_price"] for row in near})
    spot = chain[0]["underlying_spot_price"]
    line = min(chain, key=lambda line: abs(line["strike_price"] - spot))
    assert abs(line["strike_price"] - spot) < 100
    greeks = line["call_options"]["option_greeks"]
    assert 1 < greeks["iv"] < 300  # percent, where quotes give a fraction
    assert line["call_options"]["market_data"]["ltp"] > 0
    assert line["pcr"] > 0
    assert data(exchange, "/v2/option/chain", instrument_key=INDEX, expiry_date="2020-01-02") == []


@pytest.mark.parametrize(
    ("changed", "symbol"),
    [
        ({}, "NIFTY26N2325000CE"),
        ({"weekly": False}, "NIFTY26NOV25000CE"),
        ({"strike_price": 132.5, "instrument_type": "PE"}, "NIFTY26N23132.5PE"),
        ({"instrument_type": "FUT", "strike_price": 0.0, "weekly": False}, "NIFTY26NOVFUT"),
        ({"instrument_type": "EQ", "trading_symbol": "RELIANCE"}, "RELIANCE"),
        ({"instrument_type": "INDEX", "instrument_key": INDEX}, "Nifty 50"),
    ],
)
def test_symbols_are_the_exchange_s_compact_ones(changed: dict[str, Any], symbol: str) -> None:
    expiry = int(datetime(2026, 11, 23, 23, 59, 59, tzinfo=IST).timestamp() * 1000)
    row = {"instrument_type": "CE", "underlying_symbol": "NIFTY", "expiry": expiry, "weekly": True, "strike_price": 25000.0}
    assert quotes.symbol(row | {"trading_symbol": "x"} | changed) == symbol


def test_a_key_without_a_feed_shows_zeros() -> None:
    quote = quotes.Quote(None)
    row = {"instrument_key": "NSE_FO|1", "instrument_type": "CE", "trading_symbol": "x"}
    assert quotes.full_quote(row, quote, 0)["last_price"] == 0
    assert quotes.chain_side(row, quote, 0.0)["market_data"]["bid_price"] == 0
    assert quotes.Quote(pb.Feed()).candles == {}


# --- calendar -------------------------------------------------------------------------------------------------------------


def test_market_status_names_its_exchange(exchange: RunningExchange) -> None:
    for name in ("NSE", "NFO", "BSE", "MCX"):
        status = data(exchange, f"/v2/market/status/{name}")
        assert (status["exchange"], status["status"]) == (name, "NORMAL_OPEN")
        assert status["last_updated"] > 1_700_000_000_000


def test_holidays_and_timings_over_http_need_no_token(exchange: RunningExchange) -> None:
    assert httpx.get(f"{exchange.url}/v2/market/holidays").json()["data"] == []
    assert httpx.get(f"{exchange.url}/v2/market/holidays/2026-11-24").json()["data"] == []
    sessions = httpx.get(f"{exchange.url}/v2/market/timings/2026-11-24").json()["data"]
    assert {(row["start_time"], row["end_time"]) for row in sessions} == {(1_795_458_600_000, 1_795_545_000_000)}, "it never closes"
    assert len(sessions) == 8


def test_holidays_and_timings_of_a_market_with_real_hours(start_exchange: StartExchange) -> None:  # noqa: F811
    real = start_exchange("--instruments", "20", "--hours", "real")
    year = httpx.get(f"{real.url}/v2/market/holidays").json()["data"]
    assert [row["date"] for row in year] == sorted(row["date"] for row in year)
    assert httpx.get(f"{real.url}/v2/market/holidays/2026-11-24").json()["data"][0]["description"]
    assert httpx.get(f"{real.url}/v2/market/holidays/2026-11-23").json()["data"] == []
    assert len(httpx.get(f"{real.url}/v2/market/timings/2026-11-23").json()["data"]) == 8


def test_calendar_rows() -> None:
    (holiday,) = calendar_rows.holidays_on(date(2026, 11, 24), "real")
    assert holiday["holiday_type"] == "TRADING_HOLIDAY"
    (muhurat,) = calendar_rows.holidays_on(date(2026, 11, 8), "real")
    assert muhurat["holiday_type"] == "SPECIAL_TIMING"
    start = muhurat["open_exchanges"][0]["start_time"]
    assert datetime.fromtimestamp(start / 1000, IST).hour == 18
    assert calendar_rows.timings(date(2026, 11, 24), "real") == []
    by_exchange = {row["exchange"]: row for row in calendar_rows.timings(date(2026, 11, 23), "real")}
    ends = {name: datetime.fromtimestamp(by_exchange[name]["end_time"] / 1000, IST).strftime("%H:%M") for name in ("NSE", "NFO")}
    assert ends == {"NSE": "15:30", "NFO": "15:40"}


# --- candles --------------------------------------------------------------------------------------------------------------


def test_historical_candles_are_newest_first_and_end_before_today(exchange: RunningExchange) -> None:
    today = datetime.fromtimestamp(exchange.state()["market_ms"] / 1000, IST).date()
    path = f"/v3/historical-candle/{INDEX}/minutes/1/{today}/{today - timedelta(days=4)}".replace("|", "%7C").replace(" ", "%20")
    found = data(exchange, path)["candles"]
    times = [datetime.fromisoformat(row[0]) for row in found]
    assert times == sorted(times, reverse=True)
    assert times[0].date() < today
    assert {len(row) for row in found} == {7}
    day = [time for time in times if time.date() == times[0].date()]
    assert len(day) == 375  # 09:15–15:29 of a trading day
    assert (day[-1].hour, day[-1].minute) == (9, 15)
    assert all(row[3] <= min(row[1], row[4]) and row[2] >= max(row[1], row[4]) for row in found)


def test_intraday_candles_gather_to_the_interval(exchange: RunningExchange) -> None:
    base = f"/v3/historical-candle/intraday/{INDEX}".replace("|", "%7C").replace(" ", "%20")
    fine, coarse = (data(exchange, f"{base}/minutes/{width}")["candles"] for width in (1, 5))
    assert len(coarse) < len(fine) or len(fine) <= 1
    assert {datetime.fromisoformat(row[0]).minute % 5 for row in coarse[:-1]} <= {0}
    (day,) = data(exchange, f"{base}/days/1")["candles"]
    assert day[2] >= max((row[2] for row in coarse[1:] or coarse), default=0.0)  # none in its first minute


@pytest.mark.parametrize(
    ("rest", "code"),
    [
        ("decades/1/2026-11-20", "UDAPI1146"),
        ("minutes/0/2026-11-20", "UDAPI1147"),
        ("minutes/301/2026-11-20", "UDAPI1147"),
        ("minutes/x/2026-11-20", "UDAPI1147"),
        ("hours/6/2026-11-20", "UDAPI1147"),
        ("days/1/20-11-2026", "UDAPI1022"),
        ("days/1/2026-11-20/soon", "UDAPI1015"),
        ("days/1/2026-11-19/2026-11-20", "UDAPI1015"),
        ("minutes/1/2026-11-20/2026-10-01", "UDAPI1148"),
        ("minutes/30/2026-11-20/2026-01-01", "UDAPI1148"),
        ("days/1/2026-11-20/2016-01-01", "UDAPI1148"),
        ("minutes/1/2021-11-20/2021-11-19", "UDAPI1148"),
        ("weeks/1/2026-11-20/1999-01-01", "UDAPI1148"),
    ],
)
def test_candle_errors(exchange: RunningExchange, rest: str, code: str) -> None:
    assert error_code(exchange.get(f"/v3/historical-candle/NSE_INDEX%7CNifty%2050/{rest}")) == (400, code)


def test_candles_of_an_unknown_key(exchange: RunningExchange) -> None:
    assert error_code(exchange.get("/v3/historical-candle/NSE_FO%7Cnone/days/1/2026-11-20")) == (400, "UDAPI100011")
    assert error_code(exchange.get("/v3/historical-candle/intraday/NSE_FO%7Cnone/minutes/1")) == (400, "UDAPI100011")


def bars(day: date, *minutes: int) -> list[Bar]:
    return [Bar(midnight_ms(day) + minute * 60_000, 10 + n, 20 + n, 5 - n, 11 + n, 100, n) for n, minute in enumerate(minutes)]


def test_gathering_counts_from_the_open_and_stays_within_a_day() -> None:
    day = date(2026, 11, 20)
    hours = candles.gathered(bars(day, 555, 556, 614, 615), "hours", 1)
    assert [(bar.start_ms - midnight_ms(day)) // 60_000 for bar in hours] == [555, 615]
    first = hours[0]
    assert (first.open, first.high, first.low, first.close, first.volume, first.open_interest) == (10, 22, 3, 13, 300, 2)
    night = candles.gathered(bars(day, 0, 14, 15), "minutes", 300)
    assert [bar.start_ms for bar in night] == [midnight_ms(day)]
    months = candles.gathered([*bars(date(2026, 10, 30), 0), *bars(date(2026, 11, 2), 0), *bars(day, 0)], "months", 1)
    assert [bar.start_ms for bar in months] == [midnight_ms(date(2026, 10, 1)), midnight_ms(date(2026, 11, 1))]
    weeks = candles.gathered([*bars(date(2026, 11, 15), 0), *bars(date(2026, 11, 16), 0), *bars(day, 0)], "weeks", 1)
    assert [bar.start_ms for bar in weeks] == [midnight_ms(date(2026, 11, 9)), midnight_ms(date(2026, 11, 16))]


def test_a_range_without_from_date_has_a_default() -> None:
    assert candles.checked_range("minutes", 1, "2026-11-20", None) == (date(2026, 11, 20), date(2026, 11, 20))
    first, last = candles.checked_range("days", 1, "2026-11-20", None)
    assert (last, first.year) == (date(2026, 11, 20), 2016)
    with pytest.raises(ApiError, match="UDAPI1022"):
        candles.checked_range("days", 1, "0000-00-00", None)


# --- the broker's own schema ----------------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_answers_fit_the_broker_s_schema(
    exchange: RunningExchange,
    rows: list[dict[str, Any]],
    start_exchange: StartExchange,  # noqa: F811
) -> None:
    (path,) = real_data("upstox_openapi_2026-06.json")
    document = json.loads(Path(path).read_text())
    call, put, future = (keys_of(rows, kind)[0] for kind in ("CE", "PE", "FUT"))
    keys = f"{INDEX},{call},{put},{future}"
    expiry = data(exchange, "/v2/option/contract", instrument_key=INDEX)[0]["expiry"]
    candle = "/v3/historical-candle/{}/NSE_INDEX%7CNifty%2050/minutes/5"
    asked: list[tuple[str, str, dict[str, str]]] = [
        ("/v3/market-quote/ltp", "", {"instrument_key": keys}),
        ("/v3/market-quote/ohlc", "", {"instrument_key": keys, "interval": "1d"}),
        ("/v3/market-quote/option-greek", "", {"instrument_key": f"{call},{put}"}),
        ("/v2/market-quote/quotes", "", {"instrument_key": keys}),
        ("/v2/option/contract", "", {"instrument_key": INDEX}),
        ("/v2/option/chain", "", {"instrument_key": INDEX, "expiry_date": expiry}),
        ("/v2/market/status/{exchange}", "/v2/market/status/NSE", {}),
        ("/v2/market/holidays", "", {}),
        ("/v2/market/timings/{date}", "/v2/market/timings/2026-11-23", {}),
        ("/v3/historical-candle/intraday/{instrumentKey}/{unit}/{interval}", candle.format("intraday"), {}),
    ]
    definitions = json.dumps(document["components"]["schemas"]).replace("#/components/schemas/", "#/$defs/")
    schemas: dict[str, Any] = {"$defs": json.loads(definitions)}
    real = start_exchange("--instruments", "20", "--hours", "real")  # the other one has no holidays
    for documented, path_, parameters in asked:
        content = document["paths"][documented]["get"]["responses"]["200"]["content"]
        reference = content["application/json"]["schema"]["$ref"].replace("#/components/schemas/", "#/$defs/")
        asked_of = real if documented.startswith("/v2/market/") else exchange
        answer = asked_of.get(path_ or documented, **parameters).json()
        problems = Draft202012Validator({"$ref": reference} | schemas).iter_errors(answer)
        assert [f"{documented}: {problem.json_path} {problem.message}" for problem in problems] == []
        assert answer["data"]
    (error,) = exchange.get("/v3/market-quote/ltp").json()["errors"]
    stated = {name: value for name, value in error.items() if value is not None}  # the broker sends null where the schema says string
    assert list(Draft202012Validator({"$ref": "#/$defs/Problem"} | schemas).iter_errors(stated)) == []
