"""Market data in the admin: what it shows, and that no page of it reads more than it shows, however much is stored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import bson
import pytest
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from django.test import Client
from pymongo import WriteConcern

from accounts.models import User
from instruments.chain_listing import chain_listing
from instruments.models import Instrument
from marketdata import store
from marketdata.admin import PAGE_ROWS
from marketdata.calendar import sessions_record
from marketdata.chain_minutes import chain_view
from marketdata.chain_store import snapshot_write
from marketdata.domain.candle import SESSION_OPEN_MS, Candle, candle_id, day_start_ms
from marketdata.domain.chain import InterestBase
from marketdata.domain.session import Hours
from marketdata.interest import bases_write
from marketdata.models import CandleParity, Gap, MarketStatus
from tests.marketdata.option_market import DAY as CHAIN_DAY
from tests.marketdata.option_market import EXPIRY, OPEN_MS, option_market, quotes_of

pytestmark = pytest.mark.django_db

DAY = "2026-11-20"
DAY_MS = day_start_ms(round(datetime(2026, 11, 20, 6, tzinfo=UTC).timestamp() * 1000))
OPEN = datetime.fromtimestamp((DAY_MS + SESSION_OPEN_MS) / 1000, UTC)
TICKS = "/admin/marketdata/markettick/"
CANDLES = "/admin/marketdata/ohlc/"
PARITY = "/admin/marketdata/candleparity/"


@pytest.fixture
def staff() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("admin", "a@example.com", "a long password"))
    return client


def make_instrument(
    identifier: int, symbol: str, *, key: str = "", segment: str = "NSE_FO", since: int = 2020, until: int | None = None
) -> None:
    key = key or f"{segment}|{identifier}"
    Instrument.objects.create(
        id=identifier, identity=f"{key}-{identifier}", instrument_key=key, segment=segment, exchange="NSE",
        instrument_type="FUT" if segment == "NSE_FO" else "EQ",
        trading_symbol=symbol, name=symbol, active=until is None, active_from=datetime(since, 1, 1, tzinfo=UTC),
        active_to=None if until is None else datetime(until, 1, 1, tzinfo=UTC),
    )  # fmt: skip


def tick(identifier: int, instrument: int, second: float, price: float) -> bytes:
    at = OPEN + timedelta(seconds=second)
    return bson.encode({"_id": Int64(identifier), "i": instrument, "t": at, "r": at, "k": 1, "p": price, "v": identifier})


def text(client: Client, path: str, **query: Any) -> str:
    answer = client.get(path, query)
    assert answer.status_code == 200
    return answer.content.decode()


def shown(answer: Any) -> dict[str, Any]:
    """Return what the page was made of."""
    context: dict[str, Any] = answer.context_data
    return context


@contextmanager
def profiled() -> Iterator[list[dict[str, Any]]]:
    """Collect what MongoDB itself says of every operation inside."""
    database = store.ticks_collection().database
    operations: list[dict[str, Any]] = []
    database["system.profile"].drop()
    database.command({"profile": 2})
    try:
        yield operations
    finally:
        database.command({"profile": 0})
        operations += [row for row in database["system.profile"].find() if not row["ns"].endswith("system.profile")]
        database["system.profile"].drop()


# --- ticks ------------------------------------------------------------------------------------------------------------


def test_ticks_ask_for_an_instrument_and_a_day_first(staff: Client) -> None:
    store.ticks_write([tick(1, 7, 0, 123.25)])
    page = text(staff, TICKS)
    assert "behind an instrument and a day only" in page
    assert "About 1 market ticks" in page
    assert "123.25" not in page


def test_ticks_of_an_instrument_and_day_newest_first_page_by_page(staff: Client) -> None:
    make_instrument(7, "NIFTY FUT")
    store.ticks_write([tick(number, 7, number, 1000 + number) for number in range(1, 251)])
    store.ticks_write([tick(9001, 7, 86_400, 5.125), tick(9002, 8, 1, 6.125)])  # another day, another instrument
    seen: list[float] = []
    query = f"instrument=NSE_FO|7&day={DAY}"
    for _ in range(5):
        page = staff.get(f"{TICKS}?{query}")
        seen += [float(row.cells[2].replace(",", "")) for row in shown(page)["rows"]]
        query = shown(page)["older"]
        if not query:
            break
    assert seen == [float(1000 + number) for number in range(250, 0, -1)]


def test_words_find_the_instrument_or_ask_which_one(staff: Client) -> None:
    make_instrument(7, "INFY", segment="NSE_EQ")
    make_instrument(8, "INFYBEES", segment="NSE_EQ")
    make_instrument(9, "TCS", segment="NSE_EQ")
    store.ticks_write([tick(1, 7, 0, 22.5), tick(2, 9, 0, 33.5)])
    assert "22.5" in text(staff, TICKS, instrument="infy", day=DAY)
    assert "33.5" in text(staff, TICKS, instrument="tc", day=DAY)
    asked = staff.get(TICKS, {"instrument": "inf", "day": DAY})
    assert "Which one?" in asked.content.decode()
    assert {choice["label"] for choice in shown(asked)["choices"]} == {"INFY", "INFYBEES"}
    chosen = {choice["label"]: choice["query"] for choice in shown(asked)["choices"]}["INFY"]
    assert "22.5" in text(staff, f"{TICKS}?{chosen}")


def test_a_page_mark_of_another_time_or_instrument_shows_nothing_wrong(staff: Client) -> None:
    make_instrument(7, "NIFTY FUT")
    store.ticks_write([tick(1, 7, -5 * 86_400, 11.5), tick(2, 7, 0, 22.5), tick(3, 7, 5 * 86_400, 33.5), tick(4, 8, 0, 44.5)])
    pages = {after: text(staff, TICKS, instrument="id:7", day=DAY, after=after) for after in (1, 3, 999)}
    assert "22.5" not in pages[1]
    assert "22.5" not in pages[999]  # it has passed its retention, and all before it
    assert not any(price in page for page in pages.values() for price in ("11.5", "33.5", "44.5"))
    assert "22.5" not in text(staff, CANDLES, instrument="id:7", day=DAY, interval="1m", after=5)


def test_a_recycled_key_means_who_held_it_that_day(staff: Client) -> None:
    make_instrument(7, "OLD CONTRACT", key="NSE_FO|42", since=2019, until=2022)
    make_instrument(8, "NEW CONTRACT", key="NSE_FO|42", since=2022)
    assert "OLD CONTRACT" in text(staff, TICKS, instrument="NSE_FO|42", day="2021-06-01")
    assert "NEW CONTRACT" in text(staff, TICKS, instrument="NSE_FO|42", day=DAY)
    assert "OLD CONTRACT" in text(staff, TICKS, instrument="id:7", day=DAY)


@pytest.mark.parametrize(("query", "complaint"), [
    ({"instrument": "id:99", "day": DAY}, "No instrument has this name"),
    ({"instrument": "<script>alert(1)</script>", "day": DAY}, "No instrument has this name"),
    ({"instrument": "NSE_FO|7", "day": "yesterday"}, "Enter a valid date"),
    ({"instrument": "NSE_FO|7", "day": "0001-01-01"}, "greater than or equal"),
    ({"instrument": "x" * 500, "day": DAY}, "at most 80 characters"),
    ({"day": DAY}, "This field is required"),
    ({"instrument": "id:7", "day": DAY, "after": "9" * 40}, "ensure this value is less"),
])  # fmt: skip
def test_a_question_that_makes_no_sense_gets_a_sentence(staff: Client, query: dict[str, str], complaint: str) -> None:
    page = text(staff, TICKS, **query)
    assert complaint.lower() in page.lower()
    assert "<script>alert" not in page


def test_a_tick_can_be_looked_at_and_not_changed(staff: Client) -> None:
    store.ticks_write([tick(1, 7, 0, 123.25)])
    assert "123.25" in text(staff, f"{TICKS}1/change/")
    assert staff.post(f"{TICKS}1/change/", {"last_price": 1}).status_code == 403
    assert staff.post(f"{TICKS}1/delete/", {"post": "yes"}).status_code == 403
    assert staff.get(f"{TICKS}add/").status_code == 403
    assert store.ticks_collection().count_documents({}) == 1


def test_nobody_sees_ticks_without_the_permission() -> None:
    client = Client()
    assert client.get(TICKS).status_code == 302
    client.force_login(User.objects.create_user("clerk", password="a long password", is_staff=True))
    assert client.get(TICKS).status_code == 403


# --- candles ----------------------------------------------------------------------------------------------------------


def test_candles_of_an_interval_page_by_page(staff: Client) -> None:
    make_instrument(7, "NIFTY FUT")
    start = DAY_MS + SESSION_OPEN_MS
    minutes = [Candle(7, "1m", start + at * 60_000, 1.0, 2.0, 0.5, 100.0 + at, 10, None, "confirmed") for at in range(130)]
    store.candles_write([*minutes, Candle(7, "1d", DAY_MS, 1.0, 2.0, 0.5, 777.5, 10, None, "closed")])
    page = staff.get(CANDLES, {"instrument": "id:7", "day": DAY, "interval": "1m"})
    closes = [row.cells[4] for row in shown(page)["rows"]]
    assert closes == [f"{100 + at}" for at in range(129, 129 - PAGE_ROWS, -1)]
    page = staff.get(f"{CANDLES}?{shown(page)['older']}")
    assert [row.cells[4] for row in shown(page)["rows"]] == [f"{100 + at}" for at in range(29, -1, -1)]
    assert "777.5" in text(staff, CANDLES, instrument="id:7", day="2026-12-01", interval="1d")
    assert "not one of the available choices" in text(staff, CANDLES, instrument="id:7", day=DAY, interval="7m")
    assert "777.5" in text(staff, f"{CANDLES}{candle_id(7, '1d', DAY_MS)}/change/")


def test_a_candle_shows_its_state_revision_ticks_and_what_ticks_had_made_before(staff: Client) -> None:
    make_instrument(7, "NIFTY FUT")
    start = DAY_MS + SESSION_OPEN_MS
    minutes = [Candle(7, "1m", start + at * 60_000, 100.0, 102.0, 99.0, 101.0, 1200, None, "closed", ticks=40) for at in range(4)]
    store.candles_write(minutes[1:])
    built = {
        candle_id(7, "1m", start + at * 60_000): (100.0, high, 99.0, 101.0, volume)
        for at, high, volume in ((0, 102, 1200), (1, 101.5, 1100))
    }
    store.candles_write([candle._replace(state="confirmed") for candle in minutes[:2]], built)
    store.candles_write([minutes[2]._replace(close=100.5, state="confirmed")])
    page = staff.get(CANDLES, {"instrument": "id:7", "day": DAY, "interval": "1m"})
    assert [row.cells[7:] for row in shown(page)["rows"]] == [
        ["closed", "0", "40", ""],
        ["confirmed", "1", "40", ""],
        ["confirmed", "0", "40", "high 101.5, volume 1,100"],
        ["confirmed", "0", "40", "equal"],
    ]
    assert "By ticks before" in page.content.decode()


# --- the small ones ---------------------------------------------------------------------------------------------------


def test_statuses_and_gaps_are_listed_filtered_and_read_only(staff: Client) -> None:
    MarketStatus.objects.create(segment="NSE_EQ", status="NORMAL_OPEN", since=OPEN)
    MarketStatus.objects.create(segment="NSE_FO", status="NORMAL_CLOSE", since=OPEN)
    page = text(staff, "/admin/marketdata/marketstatus/", q="nse_fo")
    assert "NORMAL_CLOSE" in page
    assert "NORMAL_OPEN" not in page
    gap = Gap.objects.create(start=OPEN, cause="stale", detail="nothing for 20 s")
    assert "nothing for 20 s" in text(staff, "/admin/marketdata/gap/", cause__exact="stale")
    assert "nothing for 20 s" not in text(staff, "/admin/marketdata/gap/", cause__exact="stopped")
    assert staff.post(f"/admin/marketdata/gap/{gap.pk}/delete/", {"post": "yes"}).status_code == 403


def test_gaps_are_filtered_by_whether_they_healed_and_say_why_not(staff: Client) -> None:
    Gap.objects.create(start=OPEN, cause="stale", heal_state="impossible", heal_detail="the broker has no minutes of it", heal_attempts=3)
    Gap.objects.create(start=OPEN, cause="stale", heal_state="healed", heal_detail="14 candles of 2 instruments", candles_healed=14)
    page = text(staff, "/admin/marketdata/gap/", heal_state__exact="impossible")
    assert "the broker has no minutes of it" in page
    assert "14 candles" not in page
    gap = Gap.objects.get(heal_state="healed")
    detail = text(staff, f"/admin/marketdata/gap/{gap.pk}/change/")
    assert "14 candles of 2 instruments" in detail
    assert "stale 2026-11-20 09:15:00<" in detail
    assert 'name="_save"' not in detail
    assert staff.post(f"/admin/marketdata/gap/{gap.pk}/change/", {"heal_state": "open"}).status_code == 403


def test_sessions_are_listed_by_day_and_read_only(staff: Client) -> None:
    sessions_record([
        Hours("NSE", DAY_MS, DAY_MS + 33_300_000, DAY_MS + 55_800_000),
        Hours("MCX", DAY_MS, DAY_MS + 32_400_000, DAY_MS + 84_600_000),
        Hours("NSE", DAY_MS + 4 * 86_400_000, 0, 0, "Guru Nanak Jayanti"),
    ])  # fmt: skip
    page = text(staff, "/admin/marketdata/marketsession/")
    assert page.index("2026-11-24") < page.index("2026-11-20")
    assert "Guru Nanak Jayanti" in page
    only = text(staff, "/admin/marketdata/marketsession/", exchange__exact="MCX")
    assert "Guru Nanak Jayanti" not in only
    assert "9 a.m." in only
    assert staff.get("/admin/marketdata/marketsession/add/").status_code == 403
    assert staff.post("/admin/marketdata/marketsession/NSE:2026-11-20/delete/", {"post": "yes"}).status_code == 403


def write_parity(instrument: int, days_ago: int, **counts: int) -> None:
    day_ms = DAY_MS - days_ago * 86_400_000
    CandleParity.objects.create(
        id=instrument << 20 | (day_ms + 19_800_000) // 86_400_000, instrument=instrument,
        day=datetime.fromtimestamp(day_ms / 1000, UTC), updated_at=OPEN, **counts,
    )  # fmt: skip


def test_parity_is_listed_of_the_newest_day_or_the_chosen_one_with_percents(staff: Client) -> None:
    assert text(staff, PARITY)
    make_instrument(7, "NIFTY FUT")
    write_parity(7, 0, confirmed=300, missing=5, compared=200, open_equal=150, prices_equal=133, volume_compared=200, volume_equal=1)
    write_parity(8, 0, closed=77)
    write_parity(7, 1, confirmed=11, compared=3, close_equal=3)
    page = text(staff, PARITY)
    assert [words in page for words in ("NIFTY FUT", "id:8", "75.0 %", "66.5 %", "0.5 %", "100.0 %")] == [True] * 5 + [False]
    assert ("2026-11-20" in page, "Prices equal" in page) == (True, True)
    yesterday = text(staff, PARITY, day=DAY_MS - 86_400_000)
    assert ("100.0 %" in yesterday, "66.5 %" in yesterday, "id:8" in yesterday) == (True, False, False)
    for nonsense in ("yesterday", "9" * 40, "-5"):
        assert "NIFTY FUT" not in text(staff, PARITY, day=nonsense)
    row = CandleParity.objects.filter(instrument=8).get()
    assert "8 2026-11-20" in text(staff, f"{PARITY}{row.pk}/change/"), "the day in India, not that of its 00:00 in UTC"
    assert staff.post(f"{PARITY}{row.pk}/delete/", {"post": "yes"}).status_code == 403


def test_the_list_of_parities_reads_one_day_however_many_there_are(staff: Client) -> None:
    for days_ago in range(40):
        for instrument in range(1, 41):
            write_parity(instrument, days_ago, confirmed=1)
    with profiled() as operations:
        text(staff, PARITY)
    read = [row for row in operations if row["ns"].endswith(".marketdata_candleparity")]
    assert read
    for row in read:
        assert "COLLSCAN" not in row.get("planSummary", ""), row
        assert row.get("docsExamined", 0) <= 2 * 40, row


def test_one_day_of_a_chain_is_listed_the_newest_minute_first_and_no_more_is_read(staff: Client) -> None:
    chains = "/admin/marketdata/chainsnapshot/"
    assert text(staff, chains)
    made = option_market()
    listing = chain_listing("NIFTY", EXPIRY, datetime.fromtimestamp(OPEN_MS / 1000, UTC))
    for minute in (-1440, 0, 1, 2):
        view = chain_view(listing, quotes_of(made, OPEN_MS, move=float(minute)), {})
        for underlying in ("NIFTY", "NIFTYNXT50"):
            assert snapshot_write(view._replace(underlying=underlying), OPEN_MS + minute * 60_000)
    with profiled() as operations:
        page = text(staff, chains, chain=f"NIFTY:{EXPIRY}:{CHAIN_DAY}")
    assert [page.count(f">{straddle:g}<") for straddle in (132.5, 134.5, 136.5)] == [1, 1, 1]
    assert page.index(">136.5<") < page.index(">132.5<")
    assert f"NIFTYNXT50 {EXPIRY}, on 2026-11-15" in page
    assert text(staff, chains).count(">NIFTYNXT50<") == 3  # of the newest day
    assert ">132.5<" not in text(staff, chains, chain=f"NIFTY:{EXPIRY}:soon")
    read = [row for row in operations if row["ns"].endswith(".marketdata_chainsnapshot")]
    assert read
    for row in read:
        assert "COLLSCAN" not in row.get("planSummary", ""), row
        assert row.get("docsExamined", 0) <= 3, row
    change = text(staff, f"{chains}NIFTY:{EXPIRY}:{OPEN_MS}/change/")
    assert "max_pain" in change
    assert staff.post(f"{chains}NIFTY:{EXPIRY}:{OPEN_MS}/delete/", {"post": "yes"}).status_code == 403


def test_what_open_interest_is_compared_with_is_listed_by_day(staff: Client) -> None:
    make_instrument(7, "NIFTY 25000 CE")
    bases_write({7: InterestBase(1234.0, None), 8: InterestBase(None, 650.0)}, DAY_MS)
    bases_write({7: InterestBase(77.0, None)}, DAY_MS - 86_400_000)
    page = text(staff, "/admin/marketdata/interestbase/")
    assert [words in page for words in ("NIFTY 25000 CE", "1234.0", "id:8", "650.0", "77.0")] == [True] * 4 + [False]


# --- however much is stored -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_page_scans_or_sorts_with_200_000_ticks_and_50_000_candles(staff: Client) -> None:
    instruments, per_instrument = 100, 2000
    for number in range(1, instruments + 1):
        make_instrument(number, f"CONTRACT {number}")
    table = store.ticks_collection().with_options(write_concern=WriteConcern(w=1))
    for number in range(1, instruments + 1):
        rows = (tick(number * 10_000 + step, number, step * 7.5, 100 + step) for step in range(per_instrument))
        table.insert_many(map(RawBSONDocument, rows), ordered=False)
    start = DAY_MS + SESSION_OPEN_MS
    for number in range(1, instruments + 1):
        store.candles_write(Candle(number, "1m", start + step * 60_000, 1.0, 2.0, 0.5, 1.5, 10, None, "closed") for step in range(500))

    query = {"instrument": "NSE_FO|50", "day": DAY}
    with profiled() as operations:
        page = staff.get(TICKS, query)
        older = staff.get(f"{TICKS}?{shown(page)['older']}")
        candles = staff.get(CANDLES, {**query, "interval": "1m"})
        tick_page = text(staff, f"{TICKS}{50 * 10_000 + 5}/change/")
        text(staff, TICKS)
    assert len(shown(page)["rows"]) == len(shown(older)["rows"]) == len(shown(candles)["rows"]) == PAGE_ROWS
    assert "CONTRACT" in page.content.decode()
    assert "105" in tick_page

    large = [row for row in operations if row["ns"].endswith((".marketdata_markettick", ".marketdata_ohlc"))]
    assert len([row for row in large if row["op"] == "query"]) >= 3
    for row in large:
        assert "COLLSCAN" not in row.get("planSummary", ""), row
        assert not row.get("hasSortStage", False), row
        assert row.get("docsExamined", 0) <= 2 * PAGE_ROWS, row
