/** The live page: brings feed, watchlist, detail, search box and status together. */
import { connect } from "./tradingok.js";
import { ApiError, instrument } from "./api.js";
import { ChainView } from "./chain.js";
import { onColoursChange } from "./colours.js";
import { Detail } from "./detail.js";
import { lastChain, lastView, remember, rememberView, watchlist as rememberedWatchlist } from "./remembered.js";
import { hashOf, routeOf, WATCHLIST } from "./route.js";
import { SearchBox } from "./searchbox.js";
import { Status } from "./status.js";
import { Watchlist } from "./watchlist.js";

const RETRY_MS = 3000;
const NOTICE_MS = 8000;
const wide = matchMedia("(min-width: 1000px)");
const at = (id) => document.getElementById(id);
const feed = connect();
const status = new Status(document.querySelector("header"), stateChanged);
const idOfKey = new Map(); // also keys that an instrument had before: what is under way may still name it so
const told = new Set(); // instruments whose quote this connection has told: the first may be old
let marketMs = 0;
let selectedBefore = null;
let chain = null;
let noticeEnd = 0;

const list = new Watchlist(at("watchlist"), {
  onSelect(id) {
    const row = list.rows.get(id);
    detail.show(row?.instrument ?? null, row?.quote);
  },
  onRemove: remove,
});
const detail = new Detail(at("detail"), feed, () => marketMs || status.serverMs(), () => list.select(null));
new SearchBox(at("search"), at("found"), (instrument) => {
  add([instrument]);
  list.select(instrument.id);
  list.rows.get(instrument.id).element.scrollIntoView({ block: "nearest" });
});
onColoursChange(() => list.redraw());
chain = new ChainView(at("chain"), at("chain-charts"), feed, {
  onRoute: (route) => { location.hash = hashOf(route); },
  onChoose: (side) => watch(side.instrument),
  nowMs: () => marketMs || status.serverMs(),
});
stateChanged(...status.state());
at("strikes").addEventListener("keydown", ({ key }) => key === "Escape" && list.select(null));

/** What the badge says: old prices are dimmed, and an end that only a reload mends stays written. */
function stateChanged(state, word, reason) {
  document.body.dataset.feed = state;
  chain?.feedIs(state, word, reason);
  if (status.isFinal()) notice(`${word}. ${reason}`, true);
}

/** Show what the address names: the watchlist, or an option chain. */
function go() {
  const route = routeOf(location.hash, lastChain()) ?? lastView() ?? WATCHLIST;
  const isChain = route.view === "chain";
  if (isChain && location.hash !== hashOf(route)) history.replaceState(null, "", hashOf(route));
  rememberView(route);
  document.title = isChain ? `${route.underlying} option chain · TradingOK` : "TradingOK";
  for (const link of document.querySelectorAll("nav a")) {
    link.toggleAttribute("aria-current", false);
    if (link.dataset.view === route.view) link.setAttribute("aria-current", "page");
    else if (link.dataset.view === "chain") link.hash = hashOf(lastChain());
  }
  if (document.body.dataset.view !== route.view) switchView(route.view);
  chain.open(isChain ? route : null);
}

function switchView(view) {
  const isFirst = !document.body.dataset.view;
  document.body.dataset.view = view;
  at("list").hidden = view !== "watchlist";
  at("chain").hidden = at("chain-charts").hidden = view !== "chain";
  if (isFirst) return;
  const selected = list.selected;
  list.select(view === "chain" ? null : (selected ?? selectedBefore));
  selectedBefore = selected;
}

/** Add one instrument to the watchlist, and show it. */
async function watch(id) {
  try {
    const found = list.rows.get(id)?.instrument ?? (await instrument(`id:${id}`));
    if (!found) return;
    add([found]);
    list.select(id);
  } catch (error) {
    notice(error.message);
  }
}

function add(instruments) {
  for (const instrument of instruments) {
    idOfKey.set(instrument.key, instrument.id);
    list.add(instrument);
  }
  feed.subscribe(instruments.map(({ id }) => `id:${id}`));
  changed();
}

function remove(id) {
  idOfKey.delete(list.rows.get(id)?.instrument.key);
  list.remove(id);
  feed.unsubscribe([`id:${id}`]);
  changed();
}

function changed() {
  remember([...list.rows.values()].map((row) => row.instrument));
  at("empty").hidden = list.rows.size > 0;
}

feed.on("connection", (connection) => status.connectionChanged(connection));
feed.on("hello", (hello) => {
  told.clear();
  chain.reconnected();
  status.connectionChanged({ state: "open" });
  status.serverTime(hello.time);
  status.feedChanged(hello.feed);
  status.marketChanged(hello.market);
});
feed.on("feed:status", (message) => status.feedChanged(message));
feed.on("market:status", (message) => status.marketChanged(message.segments));
feed.on("heartbeat", (message) => status.serverTime(message.time));
feed.on("error", (error) => notice(error.message));
feed.on("subscribe", ({ results }) => {
  for (const result of results) {
    if (result.status !== "error") {
      if (result.instrument != null) idOfKey.set(result.key, result.instrument); // a key may have passed to another contract
    } else if (result.item.startsWith("id:")) list.refuse(Number(result.item.slice(3)), result.message);
    else [detail.chart, chain].forEach((view) => view.refused(result.item, result.message));
  }
});
feed.on("subscription", ({ key, instrument: id, status, reason, follows }) => {
  if (id === null) chain.lacks(key, reason);
  else if (status === "removed" && follows) idOfKey.set(follows, id); // it goes on under another key
  else list.refuse(id, status === "active" ? "" : reason || status.replace("_", " "));
});
feed.on("market:ohlc", (message) => detail.chart.take(message, idOfKey.get(message.key)));
feed.on("market:chain", (message) => {
  if (!message.snapshot) status.ticked();
  marketMs = Math.max(marketMs, message.market_ms);
  chain.take(message);
});
feed.on("gap", (message) => detail.chart.gap(message, message.keys?.map((key) => idOfKey.get(key))));
feed.on("market:tick", ([key, , quote]) => {
  const id = idOfKey.get(key);
  if (id === undefined) return;
  if (told.has(id)) status.ticked();
  told.add(id);
  marketMs = Math.max(marketMs, quote.broker_ms);
  list.update(id, quote);
  if (id === list.selected) detail.update(quote);
});

/** Say something for a while, or for good. */
function notice(text, forGood = false) {
  if (!at("reload").hidden) return;
  at("notice").firstElementChild.textContent = text;
  at("reload").hidden = !forGood;
  at("notice").hidden = false;
  clearTimeout(noticeEnd);
  if (!forGood) noticeEnd = setTimeout(() => { at("notice").hidden = true; }, NOTICE_MS);
}

async function begin() {
  try {
    add(await rememberedWatchlist());
    if (wide.matches && document.body.dataset.view === "watchlist") list.select(list.rows.keys().next().value ?? null);
  } catch (error) {
    if (error instanceof ApiError && [401, 403].includes(error.status)) return location.reload(); // to the sign-in page
    at("empty").hidden = false;
    at("empty").textContent = `The watchlist cannot be loaded (${error.message}). Trying again…`;
    setTimeout(begin, RETRY_MS);
  }
  return undefined;
}

at("reload").addEventListener("click", () => location.reload());
addEventListener("hashchange", go);
go();
begin();
