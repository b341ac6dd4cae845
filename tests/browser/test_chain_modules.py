"""The option chain's modules, and the page round them, against a server that follows a script."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

import pytest
from django.template.loader import render_to_string
from django.test import RequestFactory
from playwright.sync_api import Locator, Page, expect
from websockets.sync.server import ServerConnection

from dashboard.views import INTERVALS, LEVELS, RANGES
from marketdata.domain.chain_rows import SIDE_COLUMNS, Aggregate
from tests.browser.conftest import OpenPage
from tests.browser.test_client_module import ScriptedServer, server  # noqa: F401 - a fixture

CHANNEL = "chain:NIFTY:@w0:atm5"
STRIKES = (24_400.0, 24_450.0, 24_500.0, 24_550.0)
MINUTE = 60_000
NOW = round(datetime.fromisoformat("2026-11-23T14:03:10+05:30").timestamp() * 1000)
ENDS = round(datetime.fromisoformat("2026-11-24T15:40:00+05:30").timestamp() * 1000)


def side(number: int, **fields: Any) -> list[Any]:
    """One side by the wire's columns; what is not given is not known."""
    known: dict[str, Any] = {"instrument": number, "key": f"NSE_FO|{number}", "computed": False, "moneyness": "otm", **fields}
    return [known.get(name) for name in SIDE_COLUMNS]


def row(strike: float, call: dict[str, Any], put: dict[str, Any]) -> list[Any]:
    return [strike, side(round(strike), **call), side(round(strike) + 1, **put)]


ROWS = [
    row(strike, {"last_price": 100.0, "open_interest": 650_000}, {"last_price": 50.05, "open_interest": 1_300_000}) for strike in STRIKES
]
AGGREGATE = dict.fromkeys(Aggregate._fields) | {
    "spot": 24_486.0,
    "forward": 24_491.3,
    "atm_strike": 24_500.0,
    "max_pain": 24_450.0,
}


def push(rows: list[Any], *, whole: bool = False, expiry: str = "2026-11-24", at: int = NOW, **figures: Any) -> str:
    snapshot = {"columns": list(SIDE_COLUMNS), "snapshot": True} if whole else {}
    told = {"event": "market:chain", "channel": CHANNEL, "expiry": expiry, "seq": 1, "market_ms": at}
    return json.dumps({**told, **snapshot, "aggregate": AGGREGATE | figures, "rows": rows})


def facts(ends: int = ENDS) -> dict[str, Any]:
    return {"underlying": "NIFTY", "underlying_key": "NSE_INDEX|Nifty 50", "kind": "monthly", "ends": ends}


@pytest.fixture
def modules(open_page: OpenPage, server: ScriptedServer) -> Page:  # noqa: F811
    """A page with what the pure modules export."""
    server.page = '<!doctype html><link rel=icon href="data:,"><script src="/static/vendor/lightweight-charts.js"></script>'
    opened = open_page(f"http://{server.address}/")
    names = ["route", "chainrows", "chaincolumns", "chainfigures", "oichart", "daychart", "chain"]
    opened.evaluate("async (names) => { for (const name of names) Object.assign(window, await import(`/${name}.js`)); }", names)
    return opened


@pytest.fixture
def chain_page(open_page: OpenPage, server: ScriptedServer) -> Page:  # noqa: F811
    """The whole page at NIFTY's nearest chain, with nothing told yet."""
    request = RequestFactory().get("/")
    server.page = render_to_string("dashboard/page.html", {"intervals": INTERVALS, "levels": LEVELS, "ranges": RANGES}, request=request)
    server.answers |= {
        "/api/marketdata/instruments/": {"results": []},
        "/api/marketdata/ticks/latest/": {"results": [{"instrument": 1, "quote": {"previous_close": 24_386.0}}]},
        "/api/marketdata/underlyings/NIFTY/expiries/": {
            "results": [{"expiry": "2026-11-24", "kind": "monthly", "words": ["@w0"], "strikes": 4}]
        },
        "/api/marketdata/instruments/id%3A24400/": {"tick_size": 0.05},
        "/api/marketdata/chain/": {"results": [{"underlying": "NIFTY", "expiry": "2026-11-24"}]},
        "/api/marketdata/chain/NIFTY/": facts(),
        "/api/marketdata/chain/NIFTY/history/": {"results": [], "next": None},
    }
    return open_page(f"http://{server.address}/#chain/nifty/@w0/atm5")


@pytest.fixture
def connection(chain_page: Page, server: ScriptedServer) -> ServerConnection:  # noqa: F811
    """The page's connection, with a live feed, after the chain was asked for."""
    opened = server.connection()
    assert server.command() == {"id": 1, "op": "subscribe", "channels": [CHANNEL]}
    opened.send(json.dumps(feed_status("live")))
    return opened


def feed_status(state: str) -> dict[str, Any]:
    return {"event": "feed:status", "state": state, "since_ms": NOW, "age_ms": 0, "scope": "all", "detail": ""}


def cell(page: Page, strike: float, side_and_column: str) -> Locator:
    return page.locator(f"#strikes tr[data-strike='{strike:g}'] td.{side_and_column}")


# --- pure -----------------------------------------------------------------------------------------------------------------
def test_an_address_names_a_view_and_what_it_leaves_out_is_filled_in(modules: Page) -> None:
    expected = {
        "#chain/NIFTY/@w0/atm10": "#chain/NIFTY/@w0/atm10",
        "#chain/m%26m/@m1/all": "#chain/M%26M/@m1/all",
        "#chain/NIFTY/2026-11-24/atm20": "#chain/NIFTY/2026-11-24/atm20",
        "#chain/NIFTY/tomorrow/atm0": "#chain/NIFTY/@w0/atm10",
        "#chain/%E0%A4%A/@w0/all": "#chain/NIFTY/@w0/atm10",
        "#chain": "#chain/NIFTY/@w0/atm10",
        "#watchlist": "#watchlist",
        "#elsewhere": None,
        "": None,
    }
    script = "(address) => { const route = routeOf(address); return route && hashOf(route); }"
    assert {address: modules.evaluate(script, address) for address in expected} == expected


def test_a_chain_is_replaced_by_a_snapshot_and_changed_by_strikes(modules: Page) -> None:
    found = modules.evaluate(
        """([early, whole, later]) => {
            const chain = new ChainRows();
            const told = [chain.take(early), chain.take(whole), chain.take(later)];
            return [told.map((each) => each && [each.snapshot, [...each.changed]]), chain.strikes, chain.rows.get(24450).call.last_price,
              chain.rows.get(24450).put, chain.peak("call", "open_interest"), chain.most("open_interest"),
              [chain.below(24486), chain.below(24400), chain.below(24399), chain.below(null)]];
        }""",
        [
            json.loads(text)
            for text in (push(ROWS[:1]), push(ROWS, whole=True), push([[24_450.0, [*ROWS[1][1][:2], 101.5, *ROWS[1][1][3:]], None]]))
        ],
    )
    assert found == [[None, [True, list(STRIKES)], [False, [24_450]]], list(STRIKES), 101.5, None, 24_400, 1_300_000, [2, 0, None, None]]


def test_columns_that_fit_are_the_most_important_and_a_put_s_side_mirrors_the_call_s(modules: Page) -> None:
    assert modules.evaluate("fitting(390)") == ["interestClose", "interest", "last"]
    fitted = modules.evaluate("fitting(1080)")
    assert fitted == ["delta", "volatility", "volume", "interestClose", "interest", "bid", "ask", "change", "last"]
    assert modules.evaluate("(names) => putOrder(names)", fitted) == [
        *("last", "change", "bid", "ask", "interest", "interestClose", "volume", "volatility", "delta")
    ]
    assert modules.evaluate("fitting(4000).length === NAMES.length")


def test_times_axes_and_choices_are_told_in_words(modules: Page) -> None:
    day = 86_400_000
    listed = [
        {"expiry": "2026-11-24", "kind": "monthly", "words": ["@w0", "@m0"]},
        {"expiry": "2026-12-01", "kind": "weekly", "words": ["@w1"]},
    ]
    expected = {
        f"ending({ENDS}, {NOW})": "Ends Tue 24 Nov 15:40 · 1 d 1 h left",
        f"ending({ENDS}, {ENDS})": "Ended Tue 24 Nov 15:40",
        f"remaining({day - 1})": "23 h 59 min",
        "remaining(59000)": "0 min",
        "steps(0, 7700000)": [0, 2_000_000, 4_000_000, 6_000_000],
        "steps(-40, 60)": [-25, 0, 25, 50],
        "widened({ minValue: 800, maxValue: 800 }, 0.01)": {"minValue": 796, "maxValue": 804},
        "widened({ minValue: 700, maxValue: 800 }, 0.01)": {"minValue": 700, "maxValue": 800},
        "[0, 900, 42000, 500000, 12500000].map(axisText)": ["0", "900", "42 k", "5 L", "1.25 Cr"],
        f"expiryChoices({json.dumps(listed)}).words.map(([word]) => word)": ["@w0", "@w1", "@m0"],
        f"expiryChoices({json.dumps(listed)}).words[1][1]": "Next · 01 Dec · weekly",
        f"expiryChoices({json.dumps(listed)}).days[0]": ["2026-11-24", "24 Nov 2026 · monthly"],
    }
    assert {call: modules.evaluate(call) for call in expected} == expected


# --- the page -------------------------------------------------------------------------------------------------------------
def test_only_cells_that_differ_are_touched(chain_page: Page, connection: ServerConnection) -> None:
    connection.send(push(ROWS, whole=True))
    expect(cell(chain_page, 24_400, "call.last")).to_have_text("100.00")
    chain_page.evaluate(
        """() => {
            window.touched = [];
            new MutationObserver((records) => touched.push(...records.map(({ target }) =>
              [target.closest("tr").dataset.strike, target.closest("td").className])))
              .observe(document.querySelector("#strikes tbody"), { subtree: true, childList: true, characterData: true });
        }"""
    )
    changed = row(24_450.0, {"last_price": 100.0, "open_interest": 650_000}, {"last_price": 50.05, "open_interest": 1_250_000})
    connection.send(push([ROWS[0], changed]))
    expect(cell(chain_page, 24_450, "put.interest")).to_have_text("12.50 L")
    assert chain_page.evaluate("touched") == [["24450", "put interest"]]


def test_money_price_line_and_computed_figures_are_marked(chain_page: Page, connection: ServerConnection) -> None:
    greeks = {"implied_volatility": 0.1082, "delta": 0.51, "computed": True, "moneyness": "itm", "change": -12.5}
    connection.send(push([row(STRIKES[0], greeks, {}), *ROWS[1:], [24_600.0, None, side(9)]], whole=True))
    volatility = cell(chain_page, 24_400, "call.volatility")
    expect(volatility).to_have_text("10.8")
    expect(volatility).to_have_attribute("title", "Computed here: the broker sent none")
    expect(cell(chain_page, 24_400, "call.change")).to_have_attribute("data-way", "down")
    expect(cell(chain_page, 24_600, "call.last").locator("button")).to_be_disabled()
    expect(chain_page.locator("#strikes tr[data-money=at] th")).to_have_text("24,500ATM")
    expect(chain_page.locator("#strikes tr[data-strike='24450'] th")).to_have_text("24,450Max pain")
    line = chain_page.locator("#strikes tr.money")
    expect(line).to_have_text("Spot 24,486.00  ·  Forward 24,491.30")
    assert line.evaluate("(row) => [row.previousElementSibling.dataset.strike, row.nextElementSibling.dataset.strike]") == [
        "24450",
        "24500",
    ]
    expect(chain_page.locator("[data-figure=spot]")).to_have_text("Spot24,486.00+100.00 (+0.41 %)")
    connection.send(push([], spot=24_510.0, atm_strike=24_500.0))
    expect(line).to_contain_text("Spot 24,510.00")
    assert line.evaluate("(row) => row.previousElementSibling.dataset.strike") == "24500"


def test_a_feed_that_is_not_live_is_seen_on_the_chain(chain_page: Page, connection: ServerConnection) -> None:
    told, section = chain_page.locator("#chain-feed"), chain_page.locator("#chain")
    connection.send(push(ROWS, whole=True))
    expect(told).to_have_text("as of 14:03:10")
    connection.send(json.dumps(feed_status("stale")))
    expect(told).to_have_text("Stale · as of 14:03:10")
    expect(section).to_have_attribute("data-feed", "stale")
    connection.send(json.dumps(feed_status("closed")))  # the feed's end, not the market's
    expect(told).to_have_text("Feed stopped · as of 14:03:10")
    expect(section).to_have_attribute("data-feed", "closed")
    connection.send(json.dumps(feed_status("quiet")))
    expect(told).to_have_text("No trading now · as of 14:03:10")
    expect(section).to_have_attribute("data-feed", "")


def test_prices_have_the_decimals_that_the_tick_of_the_options_needs(
    chain_page: Page,
    connection: ServerConnection,
    server: ScriptedServer,  # noqa: F811
) -> None:
    server.answers["/api/marketdata/instruments/id%3A85/"] = {"tick_size": 0.0025}
    option = {"last_price": 0.4525, "bid_price": 0.45, "change": -0.0125}
    connection.send(push([[85.25, side(85, **option), None]], whole=True, spot=None, forward=85.2375, straddle=0.9))
    expect(cell(chain_page, 85.25, "call.last")).to_have_text("0.4525")
    expect(cell(chain_page, 85.25, "call.bid")).to_have_text("0.4500")
    expect(cell(chain_page, 85.25, "call.change")).to_have_text("\u22120.0125")
    expect(chain_page.locator("#strikes th.strike[scope=row]")).to_have_text("85.25")
    expect(chain_page.locator("[data-figure=forward]")).to_contain_text("85.2375")
    chain_page.get_by_text("Straddle", exact=True).last.click()
    expect(chain_page.locator("#day-legend")).to_contain_text("Straddle 0.9000")


def test_old_data_does_not_look_new_because_the_page_was_opened_now(
    chain_page: Page,
    server: ScriptedServer,  # noqa: F811
) -> None:
    connection = server.connection()
    connection.send(json.dumps(feed_status("stale") | {"age_ms": 600_000}))
    connection.send(push(ROWS, whole=True))
    expect(cell(chain_page, 24_450, "call.last")).to_have_text("100.00")
    expect(chain_page.locator("#age")).to_contain_text("data 10 min")
    connection.send(push([]))
    expect(chain_page.locator("#age")).to_have_text(re.compile(r"^data [\d.]+ s old$"))


def test_a_session_that_has_ended_is_told_and_a_reload_is_offered(chain_page: Page, connection: ServerConnection) -> None:
    connection.send(push(ROWS, whole=True))
    connection.close(4101)
    expect(chain_page.get_by_role("alert")).to_contain_text("Signed out. Prices no longer come: reload the page.")
    expect(chain_page.locator("#chain-feed")).to_have_text("Signed out · as of 14:03:10")
    chain_page.evaluate("window.marked = true")
    chain_page.get_by_role("button", name="Reload").click()
    chain_page.wait_for_function("!window.marked")
    chain_page.wait_for_load_state("networkidle")


def test_a_row_that_is_not_seen_is_drawn_when_it_comes_into_sight(chain_page: Page) -> None:
    chain_page.get_by_role("link", name="Watchlist").click()
    chain_page.evaluate(
        """async () => {
            const { Watchlist } = await import("/static/dashboard/watchlist.js");
            window.list = new Watchlist(document.getElementById("watchlist"), {});
            for (let id = 1; id <= 200; id++) list.add({ id, segment: "NSE_FO", trading_symbol: `R${id}`, tick_size: 0.05 });
            for (let id = 1; id <= 200; id++) list.update(id, { last_price: 1, previous_close: 1 });
        }"""
    )
    first, last = (chain_page.locator("#watchlist tbody .last").nth(number) for number in (0, 199))
    expect(last).to_have_text("1.00")  # whatever is told first is drawn at once
    chain_page.evaluate("[1, 200].forEach((id) => list.update(id, { last_price: 2, previous_close: 1 }))")
    expect(first).to_have_text("2.00")
    assert last.inner_text() == "1.00"
    last.scroll_into_view_if_needed()
    expect(last).to_have_text("2.00")


def test_a_day_begins_without_history_and_goes_on_where_it_was_stored(
    chain_page: Page,
    connection: ServerConnection,
    server: ScriptedServer,  # noqa: F811
) -> None:
    connection.send(push(ROWS, whole=True, pcr_oi=0.9))
    note = chain_page.locator("#day-note")
    expect(note).to_have_text("No history stored yet for today: the lines begin here.")
    minute = NOW // MINUTE * MINUTE
    stored = [{"minute": minute - ago * MINUTE, **AGGREGATE, "pcr_oi": 0.8} for ago in (1500, 2, 1, 0)]
    server.answers["/api/marketdata/chain/NIFTY/history/"] = {"results": stored, "next": None}
    connection.close(4000)
    again = server.connection()
    again.send(push(ROWS, whole=True, pcr_oi=0.91))
    expect(note).to_have_text("")
    chain_page.wait_for_function("document.getElementById('day-chart').drawn().pcr_oi.length === 3")
    again.send(push([], pcr_oi=0.92, at=NOW + MINUTE))
    chain_page.wait_for_function("document.getElementById('day-chart').drawn().pcr_oi.length === 4")
    drawn = chain_page.evaluate("document.getElementById('day-chart').drawn().pcr_oi.map(({ value }) => value)")
    assert drawn == [0.8, 0.8, 0.91, 0.92]  # the last day's is gone, and what was seen outweighs what was stored of the same minute
    chain_page.get_by_text("Pain", exact=True).click()
    expect(chain_page.locator("#day-legend")).to_have_text("Max pain 24,450.00Spot 24,486.00")


def test_a_chain_that_no_rule_follows_says_why_it_has_no_history_and_no_change(
    chain_page: Page,
    connection: ServerConnection,
    server: ScriptedServer,  # noqa: F811
) -> None:
    server.answers["/api/marketdata/chain/"] = {"results": [{"underlying": "NIFTY", "expiry": "2026-12-01"}]}
    connection.send(push(ROWS, whole=True))
    expect(chain_page.locator("#day-note")).to_have_text("No history: no rule follows this chain.")
    legend = chain_page.locator("#oi-legend")
    expect(legend).to_have_text("Most open calls at 24,400, most open puts at 24,400")
    chain_page.locator("#oi-what").get_by_text("Change", exact=True).click()
    expect(legend).to_have_text("No change against the previous close is known.")
    connection.send(push([row(24_450.0, {"oi_change_close": -65}, {"oi_change_close": 130})]))
    expect(legend).to_have_text("Most calls added at –, most puts added at 24,450")


def test_at_expiry_a_word_moves_on_to_the_next_chain(
    chain_page: Page,
    connection: ServerConnection,
    server: ScriptedServer,  # noqa: F811
) -> None:
    connection.send(push(ROWS, whole=True))
    expect(chain_page.locator("#strikes caption")).to_have_text("Option chain of NIFTY, expiry 24 Nov 2026")
    expect(chain_page.locator("#chain-ends")).to_contain_text("Tue 24 Nov")
    server.answers["/api/marketdata/chain/NIFTY/"] = facts(ENDS + 7 * 86_400_000)
    connection.send(push(ROWS[:2], whole=True, expiry="2026-12-01"))
    expect(chain_page.locator("#strikes caption")).to_have_text("Option chain of NIFTY, expiry 01 Dec 2026")
    expect(chain_page.locator("#chain-ends")).to_contain_text("Tue 01 Dec")
    expect(chain_page.locator("#strikes tr[data-strike]")).to_have_count(2)


def test_figures_over_a_part_of_the_chain_say_so(chain_page: Page, connection: ServerConnection) -> None:
    connection.send(push(ROWS, whole=True, options=182, options_known=22))
    cover = chain_page.locator("#chain-cover")
    expect(cover).to_have_text("Totals, PCR and max pain are over the 22 of 182 options that are followed. All has all of them followed.")
    connection.send(push([], options=182, options_known=182))
    expect(cover).to_have_text("")


def test_how_much_of_a_chain_has_no_data_is_told_with_its_reason(
    chain_page: Page,
    connection: ServerConnection,
    server: ScriptedServer,  # noqa: F811
) -> None:
    def tell(channel: str, missing: int, reason: str | None) -> None:
        told = {"event": "subscription", "key": channel, "instrument": None, "follows": None, "missing": missing, "wanted": 15}
        connection.send(json.dumps(told | {"status": "no_data" if missing else "active", "reason": reason}))

    said = chain_page.locator("#chain-missing")
    tell(CHANNEL, 2, "2 of 15: The broker's limit is reached.")
    tell("chain:NIFTY:@w1:atm5", 3, "3 of 15: of a chain that was left")
    connection.send(push(ROWS, whole=True))
    expect(cell(chain_page, 24_400, "call.last")).to_have_text("100.00")
    expect(said).to_have_text("No data for 2 of 15: The broker's limit is reached.")
    tell(CHANNEL, 0, None)
    expect(said).to_have_text("")
    tell(CHANNEL, 1, "1 of 15: The broker has sent nothing for it yet.")
    expect(said).to_be_visible()
    connection.close(4000)
    server.connection()
    expect(said).to_have_text("")  # it is told anew, if it is so still


def test_columns_are_chosen_and_remembered(chain_page: Page, connection: ServerConnection) -> None:
    connection.send(push(ROWS, whole=True))
    names = chain_page.locator("#strikes thead tr:nth-child(2) th.call")
    expect(names.last).to_have_text("Call LTP")
    before = names.count()
    chain_page.get_by_text("Columns", exact=True).click()
    chain_page.get_by_label("Gamma: delta for one rupee").check()
    expect(names).to_have_count(before + 1)
    expect(names.filter(has_text="Gamma")).to_be_visible()
    assert chain_page.evaluate("JSON.parse(localStorage.getItem('tradingok.chain-columns.v1')).includes('gamma')")
    chain_page.get_by_role("button", name="Those that fit").click()
    expect(names).to_have_count(before)


def test_a_refused_chain_is_told_in_the_server_s_words(chain_page: Page, connection: ServerConnection) -> None:
    result = {"key": CHANNEL, "item": CHANNEL, "status": "error", "code": 411, "message": "no options of 'NIFTY' are listed"}
    connection.send(json.dumps({"id": 1, "op": "subscribe", "results": [result]}))
    expect(chain_page.locator("#chain-note")).to_have_text("no options of 'NIFTY' are listed")
